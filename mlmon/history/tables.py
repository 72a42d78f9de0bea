"""What the history holds: five tables, and the chunks they travel in from the engine to the disk.

A chunk is self-contained: it holds rows of one window for any of the tables, compressed. Chunks wait in the
checkpoint between a window's close and its file, so each must fit a Kafka record.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa

from mlmon.errors import HistoryError
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_CHUNK_BYTES",
    "NAMED_LABELS",
    "QUANTILES",
    "SCHEMA_VERSION",
    "TABLES",
    "Parcel",
    "chunks_of",
    "parcel_of",
]

#: Version of the tables; written into every chunk and every file.
SCHEMA_VERSION = 1
#: Largest chunk, in bytes.
MAX_CHUNK_BYTES = 512 * 1024

_TIME = pa.timestamp("us", tz="UTC")
_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int64()
_PAIRS = pa.map_(_TEXT, _TEXT)
_WINDOW = [("window_start", _TIME), ("window_end", _TIME)]
_MODEL = [(name, _TEXT) for name in ("service", "model", "version", "deployment")]
_SERIES = [*_MODEL, ("segment", _TEXT)]

#: Labels of readings with a column of their own; others stand in the map `labels`.
NAMED_LABELS = ("service", "model", "version", "deployment", "segment", "monitor", "field")
#: Quantiles of latency with a column of their own.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

TABLES: Mapping[str, pa.Schema] = {
    "readings": pa.schema(
        [
            *_WINDOW,
            ("metric", _TEXT),
            *((name, _TEXT) for name in NAMED_LABELS),
            ("labels", _PAIRS),
            ("value", _NUMBER),
            ("n", _COUNT),
            *((name, _NUMBER) for name in ("n_eff", "threshold", "p_value", "lower", "upper")),
            ("attributes", _PAIRS),
        ]
    ),
    "distributions": pa.schema(
        [
            *_WINDOW,
            *_SERIES,
            ("monitor", _TEXT),
            ("field", _TEXT),
            ("kind", _TEXT),
            ("cells", pa.list_(_NUMBER)),
            ("n", _COUNT),
            ("weight", _NUMBER),
            ("n_eff", _NUMBER),
        ]
    ),
    "latency": pa.schema(
        [
            *_WINDOW,
            *_SERIES,
            ("part", _TEXT),
            ("sketch", pa.binary()),
            ("n", _COUNT),
            ("weight", _NUMBER),
            ("n_eff", _NUMBER),
            *((name, _NUMBER) for name in QUANTILES),
        ]
    ),
    "outcomes": pa.schema(
        [
            *_WINDOW,
            *_SERIES,
            ("slo", _TEXT),
            ("outcome", _TEXT),
            ("n", _COUNT),
            ("weight", _NUMBER),
            ("weight_squared", _NUMBER),
        ]
    ),
    "events": pa.schema(
        [
            *_WINDOW,
            *_MODEL,
            ("rank", _NUMBER),
            ("window_events", _COUNT),
            ("window_weight", _NUMBER),
            ("event_time", _TIME),
            ("prediction", _TEXT),
            ("confidence", _NUMBER),
            ("entropy", _NUMBER),
            ("status", _TEXT),
            ("latency_seconds", _NUMBER),
            ("tokens", _COUNT),
            ("unknown_tokens", _COUNT),
            ("characters", _COUNT),
            ("language", _TEXT),
            ("input_hash", _TEXT),
            ("sampling_weight", _NUMBER),
            ("segments", _PAIRS),
            ("numeric_features", pa.map_(_TEXT, _NUMBER)),
            ("categorical_features", _PAIRS),
            ("embedding", pa.list_(pa.float16())),
        ]
    ),
}


class Parcel(NamedTuple):
    """All there is of one closed window: rows by table, tables without rows left out."""

    window: Window
    tables: Mapping[str, pa.Table]


class _Content(msgspec.Struct, array_like=True):
    version: int
    start_us: int
    end_us: int
    tables: dict[str, bytes]


_HEAD = struct.Struct(">4sI")
_MAGIC = b"mlmh"
#: A chunk that claims to be larger than this when unpacked is damaged: rows are bounded (see `outbox`).
_MAX_UNPACKED = 256 * 1024 * 1024
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Content)


def chunks_of(parcel: Parcel) -> list[bytes]:
    """Write a parcel as chunks of at most `MAX_CHUNK_BYTES`; what does not fit one is cut in half by rows.

    Raises:
        ValueError: a single row is larger, which the bounds of `outbox` exclude.
    """
    rows = sum(table.num_rows for table in parcel.tables.values())
    if not rows:
        return []
    content = _Content(
        SCHEMA_VERSION,
        parcel.window.start_us,
        parcel.window.end_us,
        {name: _to_ipc(table) for name, table in parcel.tables.items() if table.num_rows},
    )
    raw = _ENCODER.encode(content)
    if len(raw) <= _MAX_UNPACKED:
        chunk = _HEAD.pack(_MAGIC, len(raw)) + pa.Codec("zstd").compress(raw, asbytes=True)
        if len(chunk) <= MAX_CHUNK_BYTES:
            return [chunk]
    if rows == 1:
        raise ValueError(f"a row of the history takes {len(raw)} bytes: expected less than {MAX_CHUNK_BYTES}")
    first, second = _halves(parcel.tables, rows // 2)
    return [*chunks_of(Parcel(parcel.window, first)), *chunks_of(Parcel(parcel.window, second))]


def _halves(tables: Mapping[str, pa.Table], rows: int) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    """The first so many rows over all tables, and the rest."""
    first, second = {}, {}
    for name, table in tables.items():
        first[name], second[name] = table.slice(0, rows), table.slice(min(rows, table.num_rows))
        rows -= first[name].num_rows
    return first, second


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def parcel_of(chunks: list[bytes]) -> Parcel:
    """Put chunks of one window together again.

    Raises:
        HistoryError: they are damaged, of a newer mlmon, or of different windows.
    """
    contents = [_content(chunk) for chunk in chunks]
    windows = {Window(content.start_us, content.end_us) for content in contents}
    if len(windows) != 1:
        raise HistoryError(f"chunks for the history are of {len(windows)} windows: expected one")
    tables: dict[str, list[pa.Table]] = {}
    for content in contents:
        for name, data in content.tables.items():
            tables.setdefault(name, []).append(_from_ipc(name, data))
    return Parcel(windows.pop(), {name: pa.concat_tables(parts) for name, parts in tables.items()})


def _content(chunk: bytes) -> _Content:
    try:
        magic, size = _HEAD.unpack_from(chunk)
        if magic != _MAGIC or size > _MAX_UNPACKED:
            raise HistoryError(f"a chunk for the history begins with {chunk[:8]!r}: expected {_MAGIC!r}")
        raw = pa.Codec("zstd").decompress(chunk[_HEAD.size :], decompressed_size=size, asbytes=True)
        content = _DECODER.decode(raw)
    except (struct.error, OSError, pa.ArrowException, msgspec.DecodeError) as error:
        raise HistoryError(f"a chunk for the history cannot be read: {error}") from error
    if content.version != SCHEMA_VERSION:
        raise HistoryError(
            f"a chunk for the history has version {content.version}, this mlmon reads {SCHEMA_VERSION}: "
            "run the mlmon that wrote it"
        )
    return content


def _from_ipc(name: str, data: bytes) -> pa.Table:
    try:
        table = pa.ipc.open_stream(data).read_all()
        table.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        raise HistoryError(f"a chunk for the history has a damaged table {name}: {error}") from error
    if name not in TABLES or table.schema != TABLES[name]:
        raise HistoryError(f"a chunk for the history has an unknown table {name}: {table.schema.names}")
    return table
