"""The debug board: which part is slow, what the tokenizer does, which fields moved, which segment fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.catalog import attach, drift, requests
from mlmon.grafana.promql import LIVE, WHOLE, newest, of, per_second, quantile, ratio
from mlmon.grafana.spec import Board, Column, Grid, Heat, Lines, Query, Row, Step

if TYPE_CHECKING:
    from mlmon.catalog import Metric

__all__ = ["BOARD"]

_LATENCY = requests.LATENCY.estimated
_REQUESTS = requests.REQUESTS.estimated
_TOTAL = 'part="total"'
_FAILED = 'status=~"error|timeout"'
_VERSION = "service, model, version"
_NAME = "{{model}} {{version}}"
_SERIES = "service, model, version, deployment, segment"
_BUCKETS = of(_LATENCY, LIVE, _TOTAL, part="bucket")

_TIME = Row(
    "Latency",
    (
        Heat(
            title="Latency of requests",
            about="How many requests took how long; the dots are traces. Two bands are two kinds of "
            "requests: see the parts and the segments.",
            unit="s",
            queries=(
                Query(f"sum by (le) (increase({_BUCKETS}[$__rate_interval]))", "{{le}}", exemplar=True),
            ),
            width=12,
        ),
        Lines(
            title="Latency p95 by part",
            about="Where the time goes: total, queue, tokenize, inference, as far as the server reports "
            "them. A queue that grows against inference is too little capacity, not a slower model.",
            unit="s",
            queries=(Query(quantile(0.95, _LATENCY, LIVE, by="part"), "{{part}}"),),
            low=0.0,
            width=6,
        ),
        Lines(
            title="Mean latency by part",
            about="The parts' means add up to the total's, which quantiles do not.",
            unit="s",
            queries=(
                Query(
                    ratio(
                        per_second(_LATENCY, LIVE, by="part", part="sum"),
                        per_second(_LATENCY, LIVE, by="part", part="count"),
                    ),
                    "{{part}}",
                ),
            ),
            low=0.0,
            width=6,
        ),
        Lines(
            title="Latency p95 by version",
            about="A version that is slower than its predecessor, with the traces of single requests.",
            unit="s",
            queries=(Query(quantile(0.95, _LATENCY, _TOTAL, by=_VERSION), _NAME, exemplar=True),),
            low=0.0,
        ),
        Lines(
            title="Requests in a batch",
            about="How many requests shared a forward pass: p50 and p95. Empty where the server does not "
            "report it.",
            unit="short",
            queries=(
                Query(quantile(0.5, requests.BATCH_SIZE.estimated, LIVE), "p50"),
                Query(quantile(0.95, requests.BATCH_SIZE.estimated, LIVE), "p95"),
            ),
            low=0.0,
        ),
        Grid(
            title="Segments that fail",
            about="The twenty series with the largest share of errors and timeouts.",
            unit="none",
            queries=(
                Query(
                    "topk(20, "
                    + ratio(per_second(_REQUESTS, _FAILED, by=_SERIES), per_second(_REQUESTS, by=_SERIES))
                    + ")"
                ),
            ),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column("version", "Version"),
                Column("deployment", "Deployment"),
                Column("segment", "Segment"),
                Column("Value", "Failed", "percentunit", steps=(Step(None, "green"), Step(0.01, "red"))),
            ),
            sort="Failed",
            none="nothing fails",
            width=8,
        ),
    ),
)


def _gauge(metric: Metric, title: str, about: str, unit: str = "percentunit") -> Lines:
    """A reading of the newest window by version; segments apart would be too many lines, so the largest."""
    queries = (Query(newest(metric, by=_VERSION), _NAME),)
    return Lines(title=title, about=about, unit=unit, queries=queries, low=0.0, width=6)


def _share(part: Metric, whole: Metric, title: str, about: str) -> Lines:
    """A share of counters over all segments, from Σw: exact over any span."""
    query = ratio(per_second(part, by=_VERSION), per_second(whole, by=_VERSION))
    return Lines(
        title=title, about=about, unit="percentunit", queries=(Query(query, _NAME),), low=0.0, width=6
    )


_TOKENS = requests.TOKENS.estimated

_TOKENIZER = Row(
    "Tokenizer",
    (
        _share(
            requests.UNKNOWN_TOKENS.estimated,
            _TOKENS,
            "Unknown tokens",
            "Share of tokens that the tokenizer has no name for. A step at a release is a wrong tokenizer; a "
            "slow rise is a new language or a new kind of text.",
        ),
        _share(
            requests.CONTINUATION_TOKENS.estimated,
            _TOKENS,
            "Continuation tokens",
            "Share of tokens that continue a word: how much words are cut up.",
        ),
        _share(
            requests.TRUNCATED_REQUESTS.estimated,
            requests.TOKENIZED_REQUESTS.estimated,
            "Truncated requests",
            "Share of requests that lost tokens: the model does not see the end of them.",
        ),
        _gauge(
            requests.TOKENS_PER_WORD,
            "Tokens for a word",
            "Fertility, the largest of the segments. It rises when the text does not fit the vocabulary.",
            "none",
        ),
        _gauge(
            requests.CHARACTERS_PER_TOKEN,
            "Characters for a token",
            "The largest of the segments. It falls when the text does not fit the vocabulary.",
            "none",
        ),
        Lines(
            title="Tokens of a request",
            about="Length of requests: p50 and p95. Longer requests cost more time for each.",
            unit="short",
            queries=(
                Query(quantile(0.5, requests.TOKENS_PER_REQUEST.estimated, LIVE), "p50"),
                Query(quantile(0.95, requests.TOKENS_PER_REQUEST.estimated, LIVE), "p95"),
            ),
            low=0.0,
            width=6,
        ),
        Lines(
            title="Tokens",
            about="Tokens a second that the models read.",
            unit="short",
            queries=(Query(per_second(_TOKENS, LIVE, by=_VERSION), _NAME),),
            low=0.0,
            width=6,
        ),
        Lines(
            title="Byte tokens and masks",
            about="Tokens a second of the forms <0xNN> and of masks.",
            unit="short",
            queries=(
                Query(per_second(requests.BYTE_FALLBACK_TOKENS.estimated, LIVE), "bytes"),
                Query(per_second(requests.MASKED_TOKENS.estimated, LIVE), "masks"),
            ),
            low=0.0,
            width=6,
        ),
    ),
)

_FIELD = "service, model, version, monitor, field"
_DRIFTED = (Step(None, "green"), Step(1.0, "red"))
_FIELDS = "/d/mlmon-drift?var-service=${__data.fields.Service}&var-model=${__data.fields.Model}"
_FIELDS += "&var-version=${__data.fields.Version}&var-field=${__value.raw}"

_MOVED = Row(
    "Fields that moved",
    (
        Grid(
            title="Top drifting fields",
            about="The twenty fields with the most evidence. Effect: how far it moved, as a multiple of what "
            "is tolerated. Evidence: as a share of what pages. A click on the field shows its course.",
            unit="none",
            queries=(
                Query(
                    "topk(20, "
                    + ratio(
                        newest(drift.EVIDENCE, WHOLE, by=_FIELD),
                        newest(drift.FIELD_THRESHOLD, WHOLE, by=_FIELD),
                    )
                    + ")"
                ),
                Query(
                    ratio(newest(drift.EFFECT, WHOLE, by=_FIELD), newest(drift.TOLERANCE, WHOLE, by=_FIELD))
                ),
                Query(newest(drift.SAMPLE_SIZE, WHOLE, by=_FIELD)),
            ),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column("version", "Version"),
                Column("monitor", "Monitor"),
                Column("field", "Field", link=_FIELDS),
                Column("Value #A", "Evidence", "none", steps=_DRIFTED),
                Column("Value #B", "Effect", "none", steps=_DRIFTED),
                Column("Value #C", "Effective events", "short"),
            ),
            sort="Evidence",
            none="no baseline, or too little data yet",
            width=16,
            height=10,
        ),
        Grid(
            title="Cause of the open page",
            about="The likely root cause of a drift page and the field that carries most of it.",
            unit="none",
            queries=(Query(f"max by ({_VERSION}, segment, cause, field) ({of(drift.PAGER_CAUSE)})"),),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column("version", "Version"),
                Column("segment", "Segment"),
                Column("cause", "Cause"),
                Column("field", "Field"),
            ),
            none="no page is open",
            width=8,
            height=10,
        ),
    ),
)

_GPU = Row(
    "GPU, where the server reports it in its events",
    (
        _gauge(
            requests.GPU_UTILIZATION,
            "GPU utilisation",
            "Mean over the window's requests, busiest segment.",
        ),
        _gauge(requests.GPU_MEMORY_USED, "GPU memory in use", "Mean over the window's requests.", "bytes"),
        Lines(
            title="GPU memory full",
            about="Share in use at the window's last request. From 90 % on an allocation may fail.",
            unit="percentunit",
            queries=(
                Query(
                    ratio(
                        newest(requests.GPU_MEMORY_USED_LAST, by=_VERSION),
                        newest(requests.GPU_MEMORY_TOTAL, by=_VERSION),
                    ),
                    _NAME,
                ),
            ),
            low=0.0,
            high=1.0,
            steps=(Step(None, "transparent"), Step(0.9, "red")),
            width=12,
        ),
    ),
    collapsed=True,
)

_EMITTER = Row(
    "Emitters, where Prometheus scrapes the model servers too",
    (
        Lines(
            title="Events of the emitters",
            about="Per second: offered, acknowledged by the log, and dropped because the queue was full.",
            unit="eps",
            queries=(
                Query(per_second(attach.EMITTED), "offered"),
                Query(per_second(attach.SENT), "acknowledged"),
                Query(per_second(attach.DROPPED), "dropped"),
            ),
            low=0.0,
        ),
        Lines(
            title="Queues of the emitters",
            about="Events that wait to be sent. A queue that stays full means a log that cannot be written.",
            unit="short",
            queries=(Query(f"max by (instance) ({of(attach.QUEUE)})", "{{instance}}"),),
            low=0.0,
        ),
        Lines(
            title="Faults of the emitters",
            about="Per second: writes to the log that failed and are retried, exceptions in the tap, bodies "
            "that could not be read. None of them reaches a request.",
            unit="cps",
            queries=(
                Query(per_second(attach.SINK_ERRORS), "log"),
                Query(per_second(attach.ERRORS), "tap"),
                Query(per_second(attach.UNPARSED), "bodies that are not JSON"),
                Query(per_second(attach.TRUNCATED), "bodies too long"),
            ),
            low=0.0,
        ),
    ),
    collapsed=True,
)

BOARD = Board(
    name="debug",
    title="mlmon / debug",
    about="Which part is slow, what the tokenizer does, which fields moved, which segment fails.",
    since="3h",
    rows=(_TIME, _TOKENIZER, _MOVED, _GPU, _EMITTER),
)
