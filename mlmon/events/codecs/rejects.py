"""What is kept of a record, or of one row of it, that is not an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from mlmon.errors import DecodeError
from mlmon.events.codecs.formats import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, VERSION_METADATA
from mlmon.events.record import Reject
from mlmon.events.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from mlmon.events.codecs.checks import Fault
    from mlmon.events.record import Record

__all__ = ["all_rows_reject", "record_reject", "row_reject", "write_stream"]

_ROW_HEADERS = ((CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE.encode()),)
_METADATA = {VERSION_METADATA: str(SCHEMA_VERSION).encode()}


def record_reject(record: Record, error: DecodeError) -> Reject:
    """A whole record: its bytes and headers as they came."""
    return Reject(record.offset, -1, error.reason, error.detail, record.value or b"", record.headers or ())


def row_reject(record: Record, source: pa.RecordBatch, row: int, fault: Fault) -> Reject:
    """One row of a validated batch: an Arrow stream of it, with the values and types it came with."""
    payload = write_stream(source.slice(row, 1))
    return Reject(record.offset, row, fault.reason, fault.error(source, row).detail, payload, _ROW_HEADERS)


def all_rows_reject(record: Record, source: pa.RecordBatch, first: tuple[int, Fault]) -> Reject:
    """A record of many rows that are all refused: kept once, as it came, with the first row's reason."""
    row, fault = first
    error = fault.error(source, row)
    detail = f"all {source.num_rows} rows refused, row {row}: {error.detail}"
    return record_reject(record, DecodeError(error.reason, detail))


def write_stream(batch: pa.RecordBatch) -> bytes:
    """One Arrow IPC stream of a batch: schema with the contract's version, the batch, the end mark."""
    schema = batch.schema.with_metadata(_METADATA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded
