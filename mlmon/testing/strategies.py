"""Hypothesis strategies for events: whatever the contract allows, and bytes that are no event.

Needs Hypothesis, which is no dependency of mlmon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import strategies as st

from mlmon.events.event import Event
from mlmon.events.schema import DEPLOYMENTS, STATUSES

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["NOW_US", "events", "labels", "mutations"]

#: The wall clock that `events` keeps to: none of its times is later.
NOW_US = 1_767_225_600_000_000
_EARLIEST_US = 946_684_800_000_000


def labels(min_size: int = 0, max_size: int = 24) -> SearchStrategy[str]:
    """Strings that can be encoded as UTF-8."""
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=min_size, max_size=max_size)


def events(now_us: int = NOW_US, max_features: int = 4) -> SearchStrategy[Event]:
    """Events with any of the contract's fields, all of whose values survive every codec exactly.

    Some are label events; `event.request_time is None` tells the others.

    Args:
        now_us: no event is later.
        max_features: most feature names of a kind, and most segments.
    """
    optional = {name: st.none() | strategy for name, strategy in _optional(max_features).items()}
    plain = st.builds(
        Event,
        event_id=labels(1),
        event_time=st.integers(_EARLIEST_US, now_us),
        service=labels(1),
        model_name=labels(1),
        **optional,
    )
    return st.builds(_with_truth, plain, st.none() | st.sampled_from(("request", "label event")), _truths())


def _truths() -> SearchStrategy[dict[str, Any]]:
    """What may be said of the truth: a label, masked counts, or both; and how long it took to come."""
    counts = st.tuples(st.integers(0, 2**31 - 1), st.floats(0, 1)).map(lambda c: (c[0], int(c[0] * c[1])))
    label: dict[str, SearchStrategy[Any]] = {"label": labels(), "prediction": labels()}
    masked: dict[str, SearchStrategy[Any]] = {"counts": counts}
    delay: dict[str, SearchStrategy[Any]] = {"delay_us": st.integers(0, 10**12)}
    return st.one_of([st.fixed_dictionaries(said | delay) for said in (label, masked, label | masked)])


def _with_truth(event: Event, kind: str | None, truth: dict[str, Any]) -> Event:
    """The event as it is, with the truth known at once, or as a label event."""
    if kind is None:
        return event
    changes: dict[str, Any] = {name: truth[name] for name in ("label", "prediction") if name in truth}
    if "counts" in truth:
        changes["labelled_masked_tokens"], changes["right_masked_tokens"] = truth["counts"]
    if kind == "label event":
        changes["request_time"] = max(_EARLIEST_US, event.event_time - truth["delay_us"])
    return msgspec.structs.replace(event, **changes)


def mutations(value: bytes) -> SearchStrategy[bytes]:
    """What transport or a bug may make of a record: cut, bits turned, a stretch replaced, or bytes added."""
    size = len(value)
    places = st.integers(0, max(size - 1, 0))
    return st.one_of(
        places.map(lambda stop: value[:stop]),
        st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=8).map(
            lambda flips: _flip(value, flips)
        ),
        st.builds(lambda at, new: value[:at] + new + value[at + len(new) :], places, st.binary(min_size=1)),
        st.binary(min_size=1, max_size=16).map(lambda tail: value + tail),
    )


def _flip(value: bytes, flips: list[tuple[int, int]]) -> bytes:
    out = bytearray(value)
    for place, bit in flips:
        out[place] ^= 1 << bit
    return bytes(out)


def _float16(low: float, high: float) -> SearchStrategy[float]:
    return st.floats(low, high, width=16)


def _optional(max_features: int) -> dict[str, SearchStrategy[Any]]:
    seconds = st.floats(0, 1e6)
    count = st.integers(0, 2**31 - 1)
    digest = st.text("0123456789abcdef", min_size=32, max_size=64)
    strings = ("model_version", "tokenizer_version", "instance", "task", "language", "prediction", "probe_id")
    digests = ("model_digest", "tokenizer_digest", "input_hash", "trace_id", "span_id")
    durations = ("latency_seconds", "queue_seconds", "tokenize_seconds", "inference_seconds")
    gpu = ("gpu_utilization_ratio", "gpu_memory_used_bytes", "gpu_memory_total_bytes")
    counts = (
        *("batch_size", "characters", "words", "tokens", "unknown_tokens", "continuation_tokens"),
        *("byte_fallback_tokens", "truncated_tokens", "masked_tokens"),
    )
    return {
        **dict.fromkeys(strings, labels()),
        **dict.fromkeys(digests, digest),
        **dict.fromkeys(durations, seconds),
        **dict.fromkeys(gpu, seconds),
        **dict.fromkeys(counts, count),
        "deployment": st.sampled_from(DEPLOYMENTS),
        "status": st.sampled_from(STATUSES),
        "token_ids": st.lists(count, max_size=8),
        "confidence": st.floats(0, 1),
        "entropy": st.floats(0, 20),
        "top_labels": st.lists(labels(), max_size=4),
        "top_scores": st.lists(st.floats(0, 1, width=32), max_size=4),
        "embedding": st.lists(_float16(-100, 100), max_size=8)
        | st.lists(_float16(-100, 100), min_size=4, max_size=4),
        "numeric_features": st.dictionaries(
            labels(1, 8), st.floats(allow_nan=False, allow_infinity=False), max_size=max_features
        ),
        "categorical_features": st.dictionaries(labels(1, 8), labels(), max_size=max_features),
        "segments": st.dictionaries(labels(1, 8), labels(), max_size=max_features),
        "sampling_weight": st.floats(1, 1e9),
        "reference": labels(),
        **dict.fromkeys(("agreement", "echo"), st.integers(0, 1)),
        **dict.fromkeys(("topk_overlap", "rank_biased_overlap", "probability_difference"), st.floats(0, 1)),
        "kl_divergence": st.floats(0, 100),
        "embedding_cosine": st.floats(-1, 1),
    }
