"""Events for monitors: batches from rows, and rows whose sums are exact in floating point.

Times, latencies and weights are small multiples of powers of two, so that a sum is the same in any order and
summaries can be compared byte by byte.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from hypothesis import strategies as st

from mlmon.events.batch import EventBatch
from mlmon.events.schema import DEPLOYMENTS, FIELDS, STATUSES
from mlmon.monitors.base import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def _eighths(most: int) -> list[float]:
    return [number / 8 for number in range(most * 8 + 1)]


def _lists(values: Sequence[Any]) -> list[list[Any]]:
    """All of up to three values."""
    return [list(found) for size in range(4) for found in itertools.product(values, repeat=size)]


def _structs(names: Sequence[str], values: Sequence[Any], count: int) -> list[dict[str, Any]]:
    """Some dictionaries of some of the names, values null now and then."""
    maker = random.Random(1)  # noqa: S311 - test data
    chosen = [[name for name in names if maker.random() < 0.6] for _ in range(count)]
    return [
        {},
        *({name: maker.choice([None, *maker.choices(values, k=3)]) for name in some} for some in chosen),
    ]


_COUNTS = range(601)
#: What each field may hold, the simplest first.
_VALUES: dict[str, Sequence[Any]] = {
    "status": STATUSES,
    "deployment": DEPLOYMENTS,
    "latency_seconds": _eighths(12),
    "queue_seconds": _eighths(2),
    "tokenize_seconds": _eighths(1),
    "inference_seconds": _eighths(4),
    "batch_size": range(1, 301),
    "gpu_utilization_ratio": _eighths(1),
    "gpu_memory_used_bytes": [0.0, *(float(2**n + k) for n in range(33) for k in (0, 1)), 2.0**33],
    "gpu_memory_total_bytes": [2.0**34],
    "tokens": _COUNTS,
    "unknown_tokens": _COUNTS,
    "continuation_tokens": _COUNTS,
    "byte_fallback_tokens": _COUNTS,
    "truncated_tokens": range(4),
    "masked_tokens": range(4),
    "words": _COUNTS,
    "characters": _COUNTS,
    "model_version": ["1", "2"],
    "model_digest": ["aa", "bb", "cc"],
    "tokenizer_version": ["7", "8"],
    "tokenizer_digest": ["dd", "ee"],
    "sampling_weight": [1.0, 2.0, 4.5, 20.0],
    "probe_id": [None, "probe"],
    "prediction": ["yes", "no", "maybe", "never seen"],
    "confidence": _eighths(1),
    "entropy": _eighths(3),
    "top_labels": _lists(["yes", "no", "maybe", "never seen"]),
    "top_scores": _lists(_eighths(1)),
    "numeric_features": _structs(["age", "price", "new"], _eighths(9), 2000),
    "categorical_features": _structs(["country", "new"], ["de", "fr", "xx"], 200),
    "trace_id": ["", "0a" * 16, "0b" * 16, "0c" * 16],
    "reference": ["large 3", "large 4"],
    **dict.fromkeys(("agreement", "echo"), range(2)),
    **dict.fromkeys(("topk_overlap", "rank_biased_overlap", "probability_difference"), _eighths(1)),
    "kl_divergence": _eighths(3),
    "embedding_cosine": [number / 8 for number in range(-8, 9)],
}
#: A field is absent where its byte is below this, by the first byte of a row: half of them, more, or fewer.
_ABSENT = (128, 128, 128, 224, 32, 0, 256)
_ROW_BYTES = 2 + 3 * len(_VALUES)


def _row(code: bytes) -> Row:
    """A row from two bytes of its own and three of each field: whether it is there, and what it holds."""
    absent = _ABSENT[code[0] % len(_ABSENT)]
    row: Row = {"event_time": START_US + code[1] % 8 * 1_000_000}
    for place, (name, values) in enumerate(_VALUES.items()):
        there, high, low = code[2 + 3 * place : 5 + 3 * place]
        if there >= absent:
            # the first and the last are met more often than one in hundreds
            at = {0: 0, 1: -1}.get(there % 16, (256 * high + low) % len(values))
            row[name] = values[at]
    return row


def rows_strategy(max_size: int = 24) -> st.SearchStrategy[list[Row]]:
    """Rows of any content the contract allows, every optional field now and then absent.

    Why bytes: Hypothesis takes ten times as long to draw rows field by field as the tests take with them.
    """
    return st.lists(st.binary(min_size=_ROW_BYTES, max_size=_ROW_BYTES).map(_row), max_size=max_size)
