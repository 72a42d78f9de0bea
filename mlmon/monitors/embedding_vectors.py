"""Embeddings of a batch as float32 matrices, straight from Arrow's buffers: no loop over events.

The contract keeps embeddings as list<float16>, so that dimensions can mix. Half precision is widened here, a
block of rows at a time, because nothing multiplies it; a block stays in the processor's cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch

__all__ = ["Rows", "Selection", "blocks", "select", "traffic", "usual_dimension", "vectors"]

_BLOCK_BYTES = 1 << 20
#: Shifts a float16's exponent and fraction to where float32 has them; a product mends the exponent's bias.
_SHIFT, _KEEP, _BIAS = 13, np.int32(-0x70002000), np.float32(2.0**112)
_EXPONENT = np.uint16(0x7C00)
#: Finite float16 are below it, what infinite and not-a-number become is not; and so are their squares.
_INFINITE = np.float32(2.0**32)


class Selection(NamedTuple):
    """Events of a batch that count, shape (n,) each.

    Attributes:
        traffic: answered `ok`, and no golden probe.
        probes: answered `ok`, and a golden probe; None where there are none.
    """

    traffic: NDArray[np.bool_]
    probes: NDArray[np.bool_] | None


class Rows(NamedTuple):
    """The vectors of some events.

    Attributes:
        bits: float16 as bits, shape (k, d).
        events: index of each, ascending, shape (k,).
        wrong: events that have an embedding of another dimension, ascending.
    """

    bits: NDArray[np.uint16]
    events: NDArray[np.intp]
    wrong: NDArray[np.intp]


def traffic(batch: EventBatch) -> Selection:
    """Tell traffic from probes, both answered `ok`; an absent status means ok."""
    codes, values = batch.codes("status", "ok")
    is_ok = np.array([value == "ok" for value in values], np.bool_)[codes]
    column = batch.column("probe_id")
    if column is None or column.null_count == len(column):
        return Selection(is_ok, None)
    probes = column.is_valid().to_numpy(zero_copy_only=False)
    return Selection(is_ok & ~probes, is_ok & probes)


def usual_dimension(column: pa.ListArray) -> int | None:
    """The most frequent dimension of a column, the larger of equals; None where it holds no vector."""
    lengths = np.diff(column.offsets.to_numpy())
    lengths = lengths[(lengths > 0) & column.is_valid().to_numpy(zero_copy_only=False)]
    if not len(lengths):
        return None
    values, counts = np.unique(lengths, return_counts=True)
    return int(values[::-1][counts[::-1].argmax()])


def select(column: pa.ListArray, chosen: NDArray[np.bool_], dimension: int) -> Rows:
    """The vectors of the chosen events, those without an embedding left out.

    Rows that follow each other in memory are a view, others are copied.

    Example:
        >>> import pyarrow as pa
        >>> column = pa.array([[1.0, 2.0], None, [3.0], [0.5, np.inf]], pa.list_(pa.float16()))
        >>> rows = select(column, np.array([True, True, True, True]), 2)
        >>> rows.bits.view(np.float16).tolist(), rows.events.tolist(), rows.wrong.tolist()
        ([[1.0, 2.0], [0.5, inf]], [0, 3], [2])
    """
    offsets = column.offsets.to_numpy()
    lengths = np.diff(offsets)
    if column.null_count:
        chosen = chosen & column.is_valid().to_numpy(zero_copy_only=False)
    fits = lengths == dimension
    events = np.flatnonzero(chosen & fits)
    starts = offsets[events]
    flat = _bits(column.values)
    if not len(events):
        bits = np.empty((0, dimension), np.uint16)
    elif starts[-1] - starts[0] == (len(events) - 1) * dimension:
        bits = flat[starts[0] : starts[-1] + dimension].reshape(len(events), dimension)
    else:
        bits = np.lib.stride_tricks.sliding_window_view(flat, dimension)[starts]
    return Rows(bits, events, np.flatnonzero(chosen & ~fits))


def vectors(bits: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Widen float16 to float32, exactly.

    Three passes over integers take a third of the time of NumPy's cast, which goes value by value.

    Returns:
        Values, shape (k, d), and the squared length of each row, shape (k,): infinite where the row holds
        what is not finite (its values are then large and finite, and mean nothing).

    Example:
        >>> halves = np.array([[1.5, -2.0], [np.nan, 0.0]], np.float16)
        >>> values, squares = vectors(halves.view(np.uint16))
        >>> values[0].tolist(), squares.tolist()
        ([1.5, -2.0], [6.25, inf])
    """
    wide = bits.view(np.int16).astype(np.int32)
    np.left_shift(wide, _SHIFT, out=wide)
    np.bitwise_and(wide, _KEEP, out=wide)
    values = wide.view(np.float32)
    np.multiply(values, _BIAS, out=values)
    squares = np.vecdot(values, values)
    large = np.flatnonzero(squares >= _INFINITE)
    if len(large):
        squares[large[((bits[large] & _EXPONENT) == _EXPONENT).any(1)]] = np.inf
    return values, squares


def blocks(count: int, dimension: int) -> Iterator[slice]:
    """Cut `count` rows of `dimension` float32 into blocks of about a megabyte."""
    rows = max(16, _BLOCK_BYTES // (4 * dimension))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def _bits(values: pa.Array) -> NDArray[np.uint16]:
    """A float16 array as bits; null reads as not-a-number."""
    if not len(values):
        return np.empty(0, np.uint16)
    bits = np.frombuffer(values.buffers()[1], np.uint16, len(values), 2 * values.offset)
    if values.null_count:
        bits = np.where(values.is_valid().to_numpy(zero_copy_only=False), bits, np.uint16(0x7E00))
    return bits
