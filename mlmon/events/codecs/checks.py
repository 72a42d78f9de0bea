"""Which events of a batch say what cannot be: empty names, times in the future, negative counts, infinities.

The bounds stand in one table, from which JSON and MessagePack records get the types they are decoded with,
and Arrow columns these vectorised checks.

A float that is not a number reads as absent everywhere, since that is how data frames write a gap; an
infinite one is refused, since it would swallow every sum it enters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events.schema import DEPLOYMENTS, FIELDS, STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch
    from mlmon.events.codecs.config import DecodeConfig

__all__ = [
    "ALLOWED",
    "EARLIEST_US",
    "FLOAT_MAX",
    "NON_EMPTY",
    "Fault",
    "bounds",
    "find_faults",
    "find_time_faults",
]

#: No event is older than 2000-01-01: an earlier time is a wrong unit or an unset clock.
EARLIEST_US = 946_684_800_000_000
#: Fields that must not be empty strings.
NON_EMPTY = frozenset({"service", "model_name"})
#: Fields with a closed set of values.
ALLOWED = {"status": STATUSES, "deployment": DEPLOYMENTS}
#: The largest finite float64.
FLOAT_MAX = float(np.finfo(np.float64).max)

# Room for what rounding does to exact bounds.
_ROUNDING = 1e-6
_BOUNDS = {
    "confidence": (0.0, 1 + _ROUNDING),
    "entropy": (-_ROUNDING, FLOAT_MAX),
    **dict.fromkeys(
        ("topk_overlap", "rank_biased_overlap", "probability_difference"), (-_ROUNDING, 1 + _ROUNDING)
    ),
    "kl_divergence": (-_ROUNDING, FLOAT_MAX),
    "embedding_cosine": (-1 - _ROUNDING, 1 + _ROUNDING),
    # One event that stands for a billion is a broken sampler, and its square must stay finite.
    "sampling_weight": (1 - _ROUNDING, 1e9),
}
_STRINGS = [field.name for field in FIELDS if field.type == pa.string()]
_INTEGERS = [field.name for field in FIELDS if field.type == pa.int32()]
_FLOATS = [field.name for field in FIELDS if field.type == pa.float64()]


class Fault(NamedTuple):
    """Rows that share a fault.

    Attributes:
        rows: their indices, ascending.
        reason: class of fault.
        field: the field at fault.
        expected: what was expected, in words.
    """

    rows: NDArray[np.intp]
    reason: DecodeReason
    field: str
    expected: str

    def error(self, batch: pa.RecordBatch, row: int) -> DecodeError:
        """The fault of one row, with the value that stands there in `batch`."""
        index = batch.schema.get_field_index(self.field)
        value = repr(_value(batch.column(index)[row])) if index >= 0 else "nothing"
        return DecodeError(self.reason, f"{self.field}: {self.expected}, got {value[:100]}")


def _value(scalar: pa.Scalar) -> object:
    # Times are shown as the integers they are: not every int64 is a date.
    return scalar.value if isinstance(scalar, pa.TimestampScalar) else scalar.as_py()


def bounds(name: str) -> tuple[float, float]:
    """Lowest and highest value of a float field.

    Example:
        >>> bounds("latency_seconds")[0]
        0.0
    """
    return _BOUNDS.get(name, (0.0, FLOAT_MAX))


def find_faults(batch: EventBatch, now_us: int, config: DecodeConfig) -> list[Fault]:
    """All faults of a batch whose columns have the contract's types and were validated.

    Args:
        batch: the events.
        now_us: this machine's wall clock, µs.
        config: limits of length, dimension and future.

    Returns:
        Faults; a row may be in several. Empty for a good batch.
    """
    found = [
        *_missing(batch),
        *find_time_faults(batch, now_us, config),
        *_strings(batch, config.max_label_length),
        *_closed_sets(batch),
        *_integers(batch),
        *_floats(batch),
        *_nested(batch, config),
    ]
    return [fault for fault in found if len(fault.rows)]


def find_time_faults(batch: EventBatch, now_us: int, config: DecodeConfig) -> Iterator[Fault]:
    """Times before 2000 or further in the future than the tolerance."""
    times = batch.times()
    latest = now_us + config.future_us
    if not len(times) or (times.min() >= EARLIEST_US and times.max() <= latest):
        return
    early = f"expected µs since 1970, not before 2000-01-01 ({EARLIEST_US})"
    yield Fault(np.flatnonzero(times < EARLIEST_US), DecodeReason.BAD_VALUE, "event_time", early)
    late = f"expected at most {config.future_tolerance_seconds:g} s ahead of this machine's clock, {now_us}"
    yield Fault(np.flatnonzero(times > latest), DecodeReason.FUTURE_TIME, "event_time", late)


def _missing(batch: EventBatch) -> Iterator[Fault]:
    for field in FIELDS:
        if field.required:
            column = batch.records.column(field.name)
            if column.null_count:
                rows = np.flatnonzero(~column.is_valid().to_numpy(zero_copy_only=False))
                yield Fault(rows, DecodeReason.MISSING_FIELD, field.name, "the field is required")


def _strings(batch: EventBatch, limit: int) -> Iterator[Fault]:
    for name in _STRINGS:
        column = batch.column(name)
        if column is None:
            continue
        yield Fault(_too_long(column, limit), *_length_fault(name, limit))
        if name in NON_EMPTY:
            empty = np.flatnonzero(_byte_lengths(column) == 0)
            if len(empty) and column.null_count:
                empty = empty[column.is_valid().to_numpy(zero_copy_only=False)[empty]]
            yield Fault(empty, DecodeReason.BAD_VALUE, name, "expected a name, not an empty string")


def _length_fault(name: str, limit: int) -> tuple[DecodeReason, str, str]:
    return DecodeReason.BAD_VALUE, name, f"expected at most {limit} characters"


def _byte_lengths(column: pa.Array) -> NDArray[np.int32]:
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4)
    return np.diff(offsets)


def _too_long(column: pa.Array, limit: int) -> NDArray[np.intp]:
    """Rows of a string column with more characters than `limit`; bytes are counted first, for speed."""
    if not len(column):
        return np.empty(0, np.intp)
    suspects = np.flatnonzero(_byte_lengths(column) > limit)
    if len(suspects):
        characters = pc.utf8_length(column.take(pa.array(suspects))).fill_null(0)
        suspects = suspects[characters.to_numpy(zero_copy_only=False) > limit]
    return suspects


def _closed_sets(batch: EventBatch) -> Iterator[Fault]:
    for name, allowed in ALLOWED.items():
        column = batch.column(name)
        if column is None:
            continue
        if any(value not in allowed for value in pc.unique(column).to_pylist() if value is not None):
            known = pc.or_kleene(pc.is_in(column, pa.array(allowed)), pc.is_null(column))
            rows = np.flatnonzero(~known.to_numpy(zero_copy_only=False))
            yield Fault(rows, DecodeReason.BAD_VALUE, name, f"expected one of {', '.join(allowed)}")


def _integers(batch: EventBatch) -> Iterator[Fault]:
    for name in _INTEGERS:
        column = batch.column(name)
        if column is not None:
            rows = _below_zero(column)
            yield Fault(rows, DecodeReason.BAD_VALUE, name, "expected a count of at least 0")


def _below_zero(column: pa.Array) -> NDArray[np.intp]:
    """Rows of an int32 array below zero; what lies under a null is not looked at."""
    if not len(column):
        return np.empty(0, np.intp)
    values = np.frombuffer(column.buffers()[1], np.int32, len(column), column.offset * 4)
    if values.min() >= 0:
        return np.empty(0, np.intp)
    negative = values < 0
    if column.null_count:
        negative &= column.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(negative)


def _floats(batch: EventBatch) -> Iterator[Fault]:
    for name in _FLOATS:
        column = batch.floats(name)
        if column is not None:
            low, high = bounds(name)
            rows = _outside(column, low, high)
            yield Fault(rows, DecodeReason.BAD_VALUE, name, f"expected a number from {low:g} to {high:g}")
    weights = batch.column("sampling_weight")
    if weights is not None and np.isnan(batch.floats("sampling_weight")).any():  # type: ignore[arg-type]
        # A weight may be absent but not unknown: estimated totals would be wrong without a word.
        rows = np.flatnonzero(pc.is_nan(weights).fill_null(False).to_numpy(zero_copy_only=False))
        yield Fault(rows, DecodeReason.BAD_VALUE, "sampling_weight", "expected a number of at least 1")


def _outside(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.intp]:
    """Rows outside [low, high]; not-a-number is inside."""
    if not len(values) or (np.fmin.reduce(values) >= low and np.fmax.reduce(values) <= high):
        return np.empty(0, np.intp)
    return np.flatnonzero((values < low) | (values > high))


def _nested(batch: EventBatch, config: DecodeConfig) -> Iterator[Fault]:
    bad, limit = DecodeReason.BAD_VALUE, config.max_label_length
    if (column := batch.column("token_ids")) is not None:
        yield Fault(
            _parents(column, _below_zero(column.values)), bad, "token_ids", "expected ids of at least 0"
        )
    if (column := batch.column("top_labels")) is not None:
        yield Fault(_parents(column, _too_long(column.values, limit)), *_length_fault("top_labels", limit))
    if (column := batch.column("top_scores")) is not None:
        finite = np.isfinite(column.values.to_numpy(zero_copy_only=False))
        yield Fault(_parents(column, np.flatnonzero(~finite)), bad, "top_scores", "expected finite numbers")
    if (column := batch.column("segments")) is not None:
        for side in (column.keys, column.items):
            yield Fault(_parents(column, _too_long(side, limit)), *_length_fault("segments", limit))
    yield from _features(batch, limit)
    yield from find_embedding_faults(batch, config)


def _features(batch: EventBatch, limit: int) -> Iterator[Fault]:
    if (column := batch.column("numeric_features")) is not None:
        for child in column.flatten():
            rows = _outside(child.to_numpy(zero_copy_only=False), -FLOAT_MAX, FLOAT_MAX)
            yield Fault(rows, DecodeReason.BAD_VALUE, "numeric_features", "expected finite numbers")
    if (column := batch.column("categorical_features")) is not None:
        for child in column.flatten():
            yield Fault(_too_long(child, limit), *_length_fault("categorical_features", limit))


def find_embedding_faults(batch: EventBatch, config: DecodeConfig) -> Iterator[Fault]:
    """Embeddings that are too long, or hold what is no finite float16."""
    column = batch.column("embedding")
    if column is None or not len(column):
        return
    lengths = np.diff(column.offsets.to_numpy())
    if lengths.max() > config.max_embedding_dim:
        too_long = np.flatnonzero(lengths > config.max_embedding_dim)
        expected = f"expected at most {config.max_embedding_dim} numbers"
        yield Fault(too_long, DecodeReason.BAD_VALUE, "embedding", expected)
    values = column.values
    if not len(values):
        return
    bits = np.frombuffer(values.buffers()[1], np.uint16, len(values), values.offset * 2)
    broken = (bits & 0x7C00) == 0x7C00  # all ones in the exponent: infinite or not a number
    if values.null_count:
        broken |= ~values.is_valid().to_numpy(zero_copy_only=False)
    if broken.any():
        rows = _parents(column, np.flatnonzero(broken))
        yield Fault(rows, DecodeReason.BAD_VALUE, "embedding", "expected finite numbers that fit float16")


def _parents(column: pa.Array, positions: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of a list column that hold the values at these positions of its child."""
    if not len(positions):
        return positions
    offsets = column.offsets.to_numpy()
    rows = np.unique(np.searchsorted(offsets, positions, side="right") - 1)
    rows = rows[(rows >= 0) & (rows < len(column))]
    return rows[column.is_valid().to_numpy(zero_copy_only=False)[rows]] if column.null_count else rows
