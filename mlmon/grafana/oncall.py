"""The on-call board: what users meet now, what burns, what fires, what changed, and whether to believe it."""

from __future__ import annotations

from mlmon.catalog import drift, requests, sidecar
from mlmon.grafana.promql import LIVE, newest, of, per_second, quantile, ratio
from mlmon.grafana.recorded import BUDGET, BURN, recorded
from mlmon.grafana.spec import Board, Column, Figure, Grid, Lines, Query, Row, Step, Variable

__all__ = ["RUNBOOK_URL", "board"]

#: Where runbooks are unless somebody says otherwise, with `{alert}` where the alert's name goes.
RUNBOOK_URL = "https://runbooks.example/{alert}.md"

_REQUESTS = requests.REQUESTS.estimated
_LATENCY = requests.LATENCY.estimated
_TOTAL = 'part="total"'
_FAILED = 'status=~"error|timeout"'
_MODEL = "service, model"
_NAME = "{{service}} / {{model}}"
_ERROR_RATIO = ratio(per_second(_REQUESTS, LIVE, _FAILED), per_second(_REQUESTS, LIVE))
_ERRORS_BY_MODEL = ratio(
    per_second(_REQUESTS, LIVE, _FAILED, by=_MODEL), per_second(_REQUESTS, LIVE, by=_MODEL)
)
_ZERO_GOOD = (Step(None, "green"), Step(0.000001, "red"))
#: Seconds that the objective of the p95 allows.
_P95 = 0.2

_FIGURES = (
    Figure(
        title="Requests",
        about="Requests a second that somebody waits for (no shadow traffic).",
        unit="reqps",
        queries=(Query(per_second(_REQUESTS, LIVE)),),
    ),
    Figure(
        title="Failed",
        about="Share of requests that ended in an error or a timeout; mistakes of the client are not "
        "among them.",
        unit="percentunit",
        queries=(Query(_ERROR_RATIO),),
        steps=(Step(None, "green"), Step(0.001, "orange"), Step(0.01, "red")),
    ),
    Figure(
        title="Latency p95",
        about="95 % of the requests are answered within this time; the objective is 200 ms.",
        unit="s",
        queries=(Query(quantile(0.95, _LATENCY, LIVE, _TOTAL)),),
        steps=(Step(None, "green"), Step(_P95, "red")),
    ),
    Figure(
        title="Fastest burn",
        about="Of all objectives over the last hour: 1 spends the budget exactly by the end of the "
        "period, from 14.4 on somebody is paged.",
        unit="none",
        queries=(Query(f"max({recorded(BURN)})"),),
        steps=(Step(None, "green"), Step(1.0, "orange"), Step(6.0, "red")),
    ),
    Figure(
        title="Drift page",
        about="1 while a page for drift is due for any model chosen; the drift board says why.",
        unit="none",
        queries=(Query(f"max({of(drift.PAGER_ALARM)})"),),
        words={"0": ("none", "green"), "1": ("due", "red")},
        sparkline=False,
    ),
    Figure(
        title="Wrong version",
        about="Share of checked requests that another version answered than the registry expects.",
        unit="percentunit",
        queries=(Query(f"max({of(requests.VERSION_MISMATCH_RATIO, LIVE)})"),),
        steps=_ZERO_GOOD,
    ),
)

_BURN = Lines(
    title="Burn",
    about="Speed at which each objective spends its budget, over the last hour. The band ends at 1: "
    "above it the budget does not last the period.",
    unit="none",
    queries=(Query(recorded(BURN), f"{{{{slo}}}} · {_NAME}"),),
    low=0.0,
    steps=(Step(None, "green"), Step(1.0, "transparent"), Step(14.4, "red")),
    width=10,
    height=9,
)

_USERS = Row(
    "What users meet",
    (
        Lines(
            title="Requests by status",
            about="Requests a second by how they ended.",
            unit="reqps",
            queries=(Query(per_second(_REQUESTS, LIVE, by="status"), "{{status}}"),),
            stacked=True,
            low=0.0,
        ),
        Lines(
            title="Failed by model",
            about="Share of requests that ended in an error or a timeout.",
            unit="percentunit",
            queries=(Query(_ERRORS_BY_MODEL, _NAME),),
            low=0.0,
        ),
        Lines(
            title="Latency",
            about="Quantiles over all chosen, interpolated in the buckets of the histogram; the dots are "
            "traces of single requests. The red band begins at the objective of the p95.",
            unit="s",
            queries=(
                Query(quantile(0.5, _LATENCY, LIVE, _TOTAL), "p50"),
                Query(quantile(0.95, _LATENCY, LIVE, _TOTAL), "p95", exemplar=True),
                Query(quantile(0.99, _LATENCY, LIVE, _TOTAL), "p99"),
            ),
            low=0.0,
            steps=(Step(None, "transparent"), Step(_P95, "red")),
        ),
        Lines(
            title="Latency p95 by model",
            about="Which model is slow.",
            unit="s",
            queries=(Query(quantile(0.95, _LATENCY, LIVE, _TOTAL, by=_MODEL), _NAME),),
            low=0.0,
        ),
        Lines(
            title="Latency p99 by model",
            about="The slowest in a hundred, by model.",
            unit="s",
            queries=(Query(quantile(0.99, _LATENCY, LIVE, _TOTAL, by=_MODEL), _NAME),),
            low=0.0,
        ),
        Lines(
            title="Budget left",
            about="What is left of each objective's budget for the period.",
            unit="percentunit",
            queries=(Query(recorded(BUDGET), f"{{{{slo}}}} · {_NAME}"),),
            high=1.0,
            steps=(Step(None, "red"), Step(0.0, "transparent")),
        ),
    ),
)

_IDENTITY = "service, model, deployment, model_version, tokenizer_version"

_CHANGES = Row(
    "What changed",
    (
        Lines(
            title="Traffic by version",
            about="Share of each version of model and tokenizer in the newest window. A step without a "
            "release is a surprise.",
            unit="percentunit",
            queries=(
                Query(
                    f"sum by ({_IDENTITY}) ({of(requests.VERSION_TRAFFIC)})",
                    "{{model}} {{model_version}} · tokenizer {{tokenizer_version}} ({{deployment}})",
                ),
            ),
            low=0.0,
            high=1.0,
            width=10,
        ),
        Grid(
            title="Versions that serve",
            about="Newest first: when each version was first seen.",
            unit="none",
            queries=(
                Query(f"max by (service, model, deployment, version) ({of(requests.VERSION_SINCE)}) * 1000"),
            ),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column("deployment", "Deployment"),
                Column("version", "Version"),
                Column("Value", "Since", "dateTimeFromNow"),
            ),
            sort="Since",
            width=7,
        ),
        Lines(
            title="Wrong versions",
            about="Requests a second that differ from the registry, by what differs. Zero is normal: look "
            "for the pod that was left behind.",
            unit="reqps",
            queries=(Query(per_second(requests.VERSION_MISMATCHES.estimated, by="kind"), "{{kind}}"),),
            low=0.0,
            width=7,
        ),
    ),
)

_PIPELINE = Row(
    "Whether these figures are true: the sidecars",
    (
        Figure(
            title="Sidecars up",
            about="Sidecars that Prometheus reaches.",
            unit="none",
            queries=(Query(f"count({of(sidecar.BUILD)})"),),
            steps=(Step(None, "red"), Step(1.0, "green")),
        ),
        Figure(
            title="Lag",
            about="Age of the oldest record not yet read, the worst partition.",
            unit="s",
            queries=(Query(f"max({of(sidecar.LAG_SECONDS)})"),),
            steps=(Step(None, "green"), Step(60.0, "orange"), Step(300.0, "red")),
        ),
        Figure(
            title="Age of the watermark",
            about="Event time up to which windows are closed, as an age: window, lateness and lag together. "
            "Every reading here is at least that old.",
            unit="s",
            queries=(Query(f"max({of(sidecar.WATERMARK_AGE)})"),),
            steps=(Step(None, "green"), Step(300.0, "orange"), Step(900.0, "red")),
        ),
        Figure(
            title="Since the last commit",
            about="Time since a sidecar made its state safe. It grows when a loop hangs.",
            unit="s",
            queries=(Query(f"max({of(sidecar.CHECKPOINT_AGE)})"),),
            steps=(Step(None, "green"), Step(30.0, "orange"), Step(120.0, "red")),
        ),
        Figure(
            title="Series",
            about="Series that the sidecars keep.",
            unit="short",
            queries=(Query(f"sum({of(sidecar.SERIES)})"),),
        ),
        Figure(
            title="Split series",
            about="Series that several sidecars see a part of: their windows are partial. Key the records by "
            "service and model.",
            unit="none",
            queries=(Query(f"max({of(sidecar.SPLIT_SERIES)})"),),
            steps=_ZERO_GOOD,
        ),
        Lines(
            title="Events read",
            about="Sampled events a second that each sidecar counts.",
            unit="eps",
            queries=(Query(per_second(sidecar.EVENTS, by="instance"), "{{instance}}"),),
            low=0.0,
        ),
        Lines(
            title="Lag by partition",
            about="Events not yet read, the ten partitions with most.",
            unit="short",
            queries=(Query(f"topk(10, max by (partition) ({of(sidecar.LAG_EVENTS)}))", "{{partition}}"),),
            low=0.0,
        ),
        Lines(
            title="Lost on the way",
            about="Per second: records that became dead letters, events too late for their window, events "
            "emitters dropped, records that retention removed unread. All zero is normal.",
            unit="cps",
            queries=(
                Query(per_second(sidecar.DEAD_LETTERS), "dead letters"),
                Query(per_second(sidecar.LATE), "late events"),
                Query(per_second(sidecar.DROPPED), "dropped by emitters"),
                Query(per_second(sidecar.LOST), "lost to retention"),
            ),
            low=0.0,
        ),
        Lines(
            title="Commits that failed",
            about="Per second, by kind: fenced (another sidecar took the partitions over), error.",
            unit="cps",
            queries=(
                Query(per_second(sidecar.CHECKPOINT_FAILURES, by="kind"), "{{kind}}"),
                Query(per_second(sidecar.SOURCE_ERRORS), "log cannot be read"),
            ),
            low=0.0,
        ),
        Lines(
            title="Over the caps",
            about="Events a second counted under `other`, or windows closed early, because a cap was "
            "reached.",
            unit="eps",
            queries=(Query(per_second(sidecar.OVERFLOW, by="kind"), "{{kind}}"),),
            low=0.0,
        ),
        Lines(
            title="Time of a commit",
            about="Duration of the last commit of each sidecar.",
            unit="s",
            queries=(Query(newest(sidecar.CHECKPOINT_SECONDS, by="instance"), "{{instance}}"),),
            low=0.0,
        ),
    ),
)


def _alerts(link: str) -> Grid:
    """The alerts, each with a link to its runbook."""
    return Grid(
        title="Alerts",
        about="Alerts that fire or wait to. A click on the name opens its runbook.",
        unit="none",
        queries=(
            Query(
                "max by (alertname, severity, alertstate, service, model, slo, root_cause, team) "
                '(ALERTS{service=~"$service|mlmon"})'
            ),
        ),
        columns=(
            Column("alertname", "Alert", link=link),
            Column("severity", "Severity"),
            Column("alertstate", "State"),
            Column("service", "Service"),
            Column("model", "Model"),
            Column("slo", "Objective"),
            Column("root_cause", "Root cause"),
            Column("team", "Team"),
        ),
        none="nothing fires",
        width=14,
        height=9,
    )


def board(runbook_url: str = RUNBOOK_URL) -> Board:
    """The board; what stands before the alert's name in the address of a runbook can be changed on it.

    Args:
        runbook_url: with `{alert}` where the alert's name goes.
    """
    before, _, after = runbook_url.partition("{alert}")
    link = "${runbooks}${__value.raw}" + after.replace("{alert}", "${__value.raw}")
    return Board(
        name="oncall",
        title="mlmon / on call",
        about="What users meet now, what burns and fires, what changed, and whether the figures can be "
        "believed.",
        since="6h",
        rows=(Row("Now", (*_FIGURES, _alerts(link), _BURN)), _USERS, _CHANGES, _PIPELINE),
        variables=(
            Variable(
                "runbooks",
                "Runbooks",
                "Where the runbooks can be read: the address up to the alert's name.",
                default=before,
            ),
        ),
    )
