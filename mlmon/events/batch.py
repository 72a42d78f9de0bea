"""A batch of events: Arrow columns with typed accessors that give NumPy views.

The unit of work everywhere past decoding. Columns the producer did not send are simply absent: an accessor
answers with NaN, a default, or an empty view, and pays nothing for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Codes", "EventBatch", "distinct_rows", "encode_strings"]

#: Combined codes stay below this, so that one more column fits into 64 bits.
_DENSE = 2**31

Codes = tuple["NDArray[np.int32]", "list[str]"]


class EventBatch:
    """Columns of the v1 contract for `len(batch)` events, immutable.

    Accessors are computed once and kept; `slice` shares what its parent already computed.

    Args:
        records: an Arrow record batch whose columns have the types of `events.schema` (the decoder's duty).
    """

    __slots__ = ("_cache", "records")

    def __init__(self, records: pa.RecordBatch, cache: dict[str, Any] | None = None) -> None:
        self.records = records
        self._cache: dict[str, Any] = {} if cache is None else cache

    def __len__(self) -> int:
        return int(self.records.num_rows)

    def has(self, name: str) -> bool:
        """Whether the column was sent at all."""
        return name in self.records.schema.names

    def column(self, name: str) -> pa.Array | None:
        """The Arrow column, or None where it was not sent."""
        index = self.records.schema.get_field_index(name)
        return None if index < 0 else self.records.column(index)

    def floats(self, name: str) -> NDArray[np.float64] | None:
        """A numeric column as float64, shape (n,), null as NaN; None where the column was not sent."""
        key = "f:" + name
        if key not in self._cache:
            column = self.column(name)
            self._cache[key] = None if column is None else _to_float(column)
        value: NDArray[np.float64] | None = self._cache[key]
        return value

    def times(self) -> NDArray[np.int64]:
        """Event times, µs since 1970 UTC, shape (n,)."""
        if "times" not in self._cache:
            column = self.records.column("event_time").cast(pa.int64())
            self._cache["times"] = column.to_numpy(zero_copy_only=False)
        value: NDArray[np.int64] = self._cache["times"]
        return value

    def label_rows(self) -> NDArray[np.bool_] | None:
        """Which events are label events, shape (n,); None where there is none, found at no cost."""
        column = self.column("request_time")
        if column is None or column.null_count == len(column):
            return None
        rows: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
        return rows

    def request_times(self) -> NDArray[np.int64]:
        """When the requests arrived that the events speak of, µs since 1970 UTC, shape (n,).

        For a label event that is its `request_time`, for a request its `event_time`.
        """
        column = self.column("request_time")
        if column is None or column.null_count == len(column):
            return self.times()
        stated = column.cast(pa.int64())
        if stated.null_count:
            stated = pc.coalesce(stated, pa.array(self.times()))
        times: NDArray[np.int64] = stated.to_numpy(zero_copy_only=False)
        return times

    def requests(self) -> EventBatch:
        """The events that are requests, without the label events; itself where there are only requests."""
        rows = self.label_rows()
        if rows is None:
            return self
        return EventBatch(self.records.drop_columns(["request_time"]).take(pa.array(np.flatnonzero(~rows))))

    def weights(self) -> NDArray[np.float64]:
        """Sampling weights, shape (n,); absent means 1."""
        if "weights" not in self._cache:
            raw = self.floats("sampling_weight")
            self._cache["weights"] = np.ones(len(self)) if raw is None else np.where(np.isnan(raw), 1.0, raw)
        value: NDArray[np.float64] = self._cache["weights"]
        return value

    def codes(self, name: str, default: str = "") -> Codes:
        """A string column as (codes, values): `values[codes[i]]` is event i's value; null reads `default`."""
        key = f"c:{name}:{default}"
        if key not in self._cache:
            column = self.column(name)
            self._cache[key] = encode_strings(column, len(self), default)
        value: Codes = self._cache[key]
        return value

    def segment(self, name: str, default: str = "") -> Codes:
        """One key of the segments map as (codes, values)."""
        key = f"s:{name}:{default}"
        if key not in self._cache:
            column = self.column("segments")
            found = None if column is None else pc.map_lookup(column, name, "first")
            self._cache[key] = encode_strings(found, len(self), default)
        value: Codes = self._cache[key]
        return value

    def slice(self, start: int, length: int) -> EventBatch:
        """Events `start` to `start + length`, sharing memory and computed views."""
        stop = start + length
        cache = {key: _slice_view(value, start, stop) for key, value in self._cache.items()}
        return EventBatch(self.records.slice(start, length), cache)

    def take(self, order: NDArray[np.int64]) -> EventBatch:
        """The events at these indices, copied."""
        return EventBatch(self.records.take(pa.array(order)))

    @staticmethod
    def concat(batches: Sequence[EventBatch]) -> EventBatch:
        """One batch of all events, in order; missing columns and feature names are filled with null."""
        if len(batches) == 1:
            return batches[0]
        table = pa.concat_tables(
            [pa.Table.from_batches([b.records]) for b in batches], promote_options="permissive"
        ).combine_chunks()
        return EventBatch(table.to_batches()[0])


def encode_strings(column: pa.Array | None, length: int, default: str) -> Codes:
    """Dictionary-encode a string column of `length` rows, null reading as `default`."""
    if column is None:
        return np.zeros(length, np.int32), [default]
    only = _only_value(column)
    if only is not None:
        return np.zeros(length, np.int32), [only]
    encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    values: list[str] = encoded.dictionary.to_pylist()
    indices = encoded.indices
    if indices.null_count:
        indices = indices.fill_null(len(values))
        values = [*values, default]
    return indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False), values


def distinct_rows(columns: Sequence[Codes], length: int) -> tuple[NDArray[np.intp], list[list[str]]]:
    """Tell the combinations of some coded columns apart.

    Returns:
        (cells, rows): event i has the combination `rows[cells[i]]`. Rows can be equal where a column has a
        value under two codes (an absent one and its explicit default).

    Example:
        >>> a, b = encode_strings(pa.array(["x", "y", "x"]), 3, ""), encode_strings(None, 3, "z")
        >>> cells, rows = distinct_rows([a, b], 3)
        >>> [rows[cell] for cell in cells]
        [['x', 'z'], ['y', 'z'], ['x', 'z']]
    """
    combined = np.zeros(length, np.int64)
    bound = 1
    for codes, values in columns:
        if len(values) == 1:
            continue
        if bound * len(values) > _DENSE:
            combined = np.unique(combined, return_inverse=True)[1].astype(np.int64)
            bound = int(combined.max()) + 1
        combined = combined * len(values) + codes
        bound *= len(values)
    if bound == 1:
        return np.zeros(length, np.intp), [[values[0] for _, values in columns]]
    _, first, cells = np.unique(combined, return_index=True, return_inverse=True)
    return cells, [[values[codes[row]] for codes, values in columns] for row in first.tolist()]


def _only_value(column: pa.Array) -> str | None:
    """The value of a string column that repeats one value, else None.

    Service, model and versions repeat over a batch as a rule, and comparing bytes is some ten times faster
    than hashing every value.
    """
    if column.type != pa.string() or column.null_count or not len(column):
        return None
    count = len(column)
    _, places, data = column.buffers()
    offsets = np.frombuffer(places, np.int32, count + 1, 4 * column.offset)
    first, width = int(offsets[0]), int(offsets[1] - offsets[0])
    if offsets[-1] - first != width * count or np.any(offsets[1:] - offsets[:-1] != width):
        return None
    if width:
        flat = np.frombuffer(data, np.uint8, width * count, first)
        if not np.array_equal(flat[width:], flat[:-width]):
            return None
    value: str = column[0].as_py()
    return value


def _to_float(column: pa.Array) -> NDArray[np.float64]:
    if column.null_count:
        column = column.cast(pa.float64())
    view: NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
    return view.astype(np.float64, copy=False)


def _slice_view(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, tuple):
        return value[0][start:stop], value[1]
    return None if value is None else value[start:stop]
