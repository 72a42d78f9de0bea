"""What the tests of the event contract share: events, records, and a plain reading of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pytest

from mlmon.events import DecodeConfig, Decoder, Event, LogRecord
from mlmon.events.encode import CONTENT_TYPE_HEADER
from mlmon.events.schema import TIMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.events import Decoded, EventBatch


class Kit:
    """Makes events and records, decodes them, and reads batches back as dictionaries."""

    now_us = 1_767_225_600_000_000

    def event(self, number: int = 0, **fields: Any) -> Event:
        values: dict[str, Any] = {
            "event_id": f"event-{number}",
            "event_time": self.now_us - 1_000_000 + number,
            "service": "search",
            "model_name": "bert",
            "tokens": number,
        }
        return Event(**(values | fields))

    def record(
        self, value: bytes | None, content_type: str | None = None, offset: int = 0, **headers: bytes
    ) -> LogRecord:
        pairs = [(name.replace("__", "-"), data) for name, data in headers.items()]
        if content_type is not None:
            pairs.append((CONTENT_TYPE_HEADER, content_type.encode()))
        return LogRecord(offset, -1, None, value, pairs)

    def decode(
        self, *values: bytes | None, content_type: str | None = None, config: DecodeConfig | None = None
    ) -> Decoded:
        """Decode values in the order given; offsets count from 0."""
        records = [self.record(value, content_type, offset) for offset, value in enumerate(values)]
        return Decoder(config or DecodeConfig()).decode(records, self.now_us)

    def rows(self, batch: EventBatch | None) -> list[dict[str, Any]]:
        """A batch's events, in which what is absent, null or an empty feature map is left out."""
        if batch is None:
            return []
        records = batch.records
        for name in TIMES:
            if batch.has(name):
                index = records.schema.get_field_index(name)
                records = records.set_column(index, name, records.column(index).cast(pa.int64()))
        return [self._plain(row) for row in records.to_pylist()]

    def expected(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        """What `rows` must say of these events."""
        return [self._plain(msgspec.structs.asdict(event)) for event in events]

    def ids(self, decoded: Decoded) -> list[str]:
        return [row["event_id"] for row in self.rows(decoded.batch)]

    def table(self, events: int = 3, **columns: pa.Array) -> bytes:
        """An Arrow stream as another producer might write it: the required columns and these."""
        number = len(next(iter(columns.values()))) if columns else events
        base = {
            "event_id": pa.array([f"event-{i}" for i in range(number)]),
            "event_time": pa.array([self.now_us] * number, pa.timestamp("us", "UTC")),
            "service": pa.array(["search"] * number),
            "model_name": pa.array(["bert"] * number),
        }
        return self.stream(pa.table(base | columns))

    def stream(self, table: pa.Table, metadata: dict[bytes, bytes] | None = None) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema.with_metadata(metadata)) as writer:
            writer.write_table(table.replace_schema_metadata(metadata))
        return sink.getvalue().to_pybytes()

    def _plain(self, row: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for name, value in row.items():
            kept = value
            if name == "segments" and value is not None:
                kept = dict(value)
            elif name.endswith("_features") and value is not None:
                kept = {key: item for key, item in value.items() if item is not None} or None
            if kept is not None:
                out[name] = kept
        return out


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
