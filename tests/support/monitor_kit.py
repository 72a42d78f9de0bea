"""Events for monitors: batches from rows, and rows whose sums are exact in floating point.

Times, latencies and weights are small multiples of powers of two, so that a sum is the same in any order and
summaries can be compared byte by byte.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from mlmon.events.batch import EventBatch
from mlmon.events.schema import DEPLOYMENTS, FIELDS, STATUSES
from mlmon.monitors.base import SeriesKey

Row = dict[str, Any]

START_US = 1_700_000_000_000_000
SERIES = SeriesKey("search", "intent", "1", "stable", "language=en")
_REQUIRED = {"event_id": "e", "event_time": START_US, "service": "search", "model_name": "intent"}


def batch_of(rows: list[Row]) -> EventBatch:
    """A batch with the columns that any row has; what a row lacks is null."""
    rows = [{**_REQUIRED, **row} for row in rows]
    columns = {}
    for field in FIELDS:
        if field.required or any(field.name in row for row in rows):
            values = [row.get(field.name) for row in rows]
            columns[field.name] = (
                pa.array(values, field.type) if field.type else _features(field.name, values)
            )
    return EventBatch(pa.record_batch(columns))


def _features(field: str, values: list[dict[str, Any] | None]) -> pa.StructArray:
    """A feature struct, never null itself, with the names that any row has."""
    kind = pa.float64() if field == "numeric_features" else pa.string()
    names = sorted({name for features in values for name in features or {}}) or ["none"]
    children = [pa.array([(features or {}).get(name) for features in values], kind) for name in names]
    return pa.StructArray.from_arrays(children, names=names)


def _eighths(most: int) -> st.SearchStrategy[float]:
    return st.integers(0, most * 8).map(lambda number: number / 8)


_COUNTS = st.integers(0, 600)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "status": st.sampled_from(STATUSES),
    "deployment": st.sampled_from(DEPLOYMENTS),
    "latency_seconds": _eighths(12),
    "queue_seconds": _eighths(2),
    "tokenize_seconds": _eighths(1),
    "inference_seconds": _eighths(4),
    "batch_size": st.integers(1, 300),
    "gpu_utilization_ratio": _eighths(1),
    "gpu_memory_used_bytes": st.integers(0, 2**33).map(float),
    "gpu_memory_total_bytes": st.just(2.0**34),
    "tokens": _COUNTS,
    "unknown_tokens": _COUNTS,
    "continuation_tokens": _COUNTS,
    "byte_fallback_tokens": _COUNTS,
    "truncated_tokens": st.integers(0, 3),
    "masked_tokens": st.integers(0, 3),
    "words": _COUNTS,
    "characters": _COUNTS,
    "model_version": st.sampled_from(["1", "2"]),
    "model_digest": st.sampled_from(["aa", "bb", "cc"]),
    "tokenizer_version": st.sampled_from(["7", "8"]),
    "tokenizer_digest": st.sampled_from(["dd", "ee"]),
    "sampling_weight": st.sampled_from([1.0, 2.0, 4.5, 20.0]),
    "probe_id": st.sampled_from([None, "probe"]),
    "prediction": st.sampled_from(["yes", "no", "maybe", "never seen"]),
    "confidence": _eighths(1),
    "entropy": _eighths(3),
    "top_labels": st.lists(st.sampled_from(["yes", "no", "maybe", "never seen"]), max_size=3),
    "top_scores": st.lists(_eighths(1), max_size=3),
    "numeric_features": st.dictionaries(
        st.sampled_from(["age", "price", "new"]), st.none() | _eighths(9), max_size=3
    ),
    "categorical_features": st.dictionaries(
        st.sampled_from(["country", "new"]), st.none() | st.sampled_from(["de", "fr", "xx"]), max_size=2
    ),
    "reference": st.sampled_from(["large 3", "large 4"]),
    **dict.fromkeys(("agreement", "echo"), st.integers(0, 1)),
    **dict.fromkeys(("topk_overlap", "rank_biased_overlap", "probability_difference"), _eighths(1)),
    "kl_divergence": _eighths(3),
    "embedding_cosine": st.integers(-8, 8).map(lambda number: number / 8),
    "trace_id": st.sampled_from(["", "0a" * 16, "0b" * 16, "0c" * 16]),
}


def rows_strategy(max_size: int = 24) -> st.SearchStrategy[list[Row]]:
    """Rows of any content the contract allows, every optional field now and then absent."""
    times = st.integers(0, 7).map(lambda second: START_US + second * 1_000_000)
    row = st.fixed_dictionaries({"event_time": times}, optional=_VALUES)
    return st.lists(row, max_size=max_size)
