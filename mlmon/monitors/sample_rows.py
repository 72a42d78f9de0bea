"""One row of a sample of events: which fields it keeps, within which bounds, and its one form as bytes.

A row is packed by itself, when it has won its place: equal events have equal bytes whatever batch they came
in, so rows can be compared, merged and stored without a common schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["COLUMNS", "SampleRow", "pack_rows", "unpack_row"]

_PLAIN = (
    "prediction",
    "confidence",
    "entropy",
    "status",
    "latency_seconds",
    "tokens",
    "unknown_tokens",
    "characters",
    "language",
    "input_hash",
    "sampling_weight",
)
_NESTED = ("segments", "numeric_features", "categorical_features")
#: Event fields that a row keeps.
COLUMNS = ("event_time", *_PLAIN, *_NESTED, "embedding")

#: Bounds of a row: characters of a string, features of each kind, segments, numbers of an embedding.
_CHARACTERS, _FEATURES, _SEGMENTS, _DIMENSIONS = 256, 128, 16, 4096


class SampleRow(msgspec.Struct, frozen=True, array_like=True):
    """A sampled event. What it did not carry is None or left out.

    Attributes:
        time_us: event time, µs.
        plain: single values by event field.
        segments: by name.
        numeric: features, finite.
        categorical: features.
        embedding: float16, little-endian.
    """

    time_us: int
    plain: dict[str, str | int | float]
    segments: dict[str, str]
    numeric: dict[str, float]
    categorical: dict[str, str]
    embedding: bytes | None

    def vector(self) -> NDArray[np.float16] | None:
        """The embedding, shape (d,)."""
        return None if self.embedding is None else np.frombuffer(self.embedding, "<f2")


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(SampleRow)


def pack_rows(records: pa.RecordBatch) -> list[bytes]:
    """Pack every row of a batch with any of `COLUMNS`. About 10 µs a row: meant for the few that are kept."""
    columns = dict(zip(records.schema.names, records.columns, strict=True))
    times = columns["event_time"].cast(pa.int64()).to_pylist()
    plain = {name: columns[name].to_pylist() for name in _PLAIN if name in columns}
    none = [None] * len(times)
    segments, numeric, categorical = (
        columns[name].to_pylist() if name in columns else none for name in _NESTED
    )
    embeddings = _embeddings(columns["embedding"]) if "embedding" in columns else none
    rows = (
        SampleRow(
            time,
            {name: _cut(values[row]) for name, values in plain.items() if _known(values[row])},
            _named(dict(segments[row] or ()), _SEGMENTS),
            _named(numeric[row] or {}, _FEATURES),
            _named(categorical[row] or {}, _FEATURES),
            embeddings[row],
        )
        for row, time in enumerate(times)
    )
    return [_ENCODER.encode(row) for row in rows]


def unpack_row(data: bytes) -> SampleRow:
    """The row that was packed.

    Raises:
        msgspec.DecodeError: the bytes are no row.
    """
    return _DECODER.decode(data)


def _known(value: Any) -> bool:
    """Neither null nor NaN."""
    return value is not None and value == value


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_CHARACTERS]
    return value + 0  # -0.0 reads 0.0: equal rows have equal bytes


def _named(values: Mapping[str, Any], most: int) -> dict[str, Any]:
    kept = sorted((name[:_CHARACTERS], value) for name, value in values.items() if _known(value))
    return {name: _cut(value) for name, value in kept[:most]}


def _embeddings(column: pa.ListArray) -> Sequence[bytes | None]:
    """The bytes of each embedding; one that is absent, empty or too long is None."""
    offsets = column.offsets.to_numpy()
    flat = column.values.to_numpy(zero_copy_only=False).astype("<f2", copy=False)
    valid = column.is_valid().to_pylist()
    return [
        flat[start:stop].tobytes() if known and 0 < stop - start <= _DIMENSIONS else None
        for known, start, stop in zip(valid, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
