"""Events to bytes: what the emitter, replays and dead letters write, and what `codecs` reads back.

The Arrow stream is the format to send: hundreds of events in one record, one schema for equal sets of fields,
so that the decoder reads the schema once. JSON, MessagePack and CloudEvents carry one event each.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events.batch import EventBatch
from mlmon.events.codecs.columns import build_columns, columns_to_batch
from mlmon.events.codecs.formats import (
    ARROW_CONTENT_TYPE,
    CLOUDEVENTS_CONTENT_TYPE,
    CONTENT_TYPE_HEADER,
    DROPPED_HEADER,
    JSON_CONTENT_TYPE,
    MSGPACK_CONTENT_TYPE,
)
from mlmon.events.codecs.rejects import write_stream
from mlmon.events.schema import FIELDS, SCHEMA_VERSION, TIMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.events.event import Event

__all__ = [
    "ARROW_CONTENT_TYPE",
    "CLOUDEVENTS_CONTENT_TYPE",
    "CLOUDEVENT_TYPE",
    "CONTENT_TYPE_HEADER",
    "DROPPED_HEADER",
    "JSON_CONTENT_TYPE",
    "MSGPACK_CONTENT_TYPE",
    "encode_arrow",
    "encode_batch",
    "encode_cloudevent",
    "encode_json",
    "encode_msgpack",
    "events_to_batch",
    "validate_event",
]

#: The CloudEvents `type` of an inference event.
CLOUDEVENT_TYPE = "mlmon.inference"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGERS = frozenset({int, type(None)})
_NAMES = [field.name for field in FIELDS]
_INTEGER_NAMES = [*TIMES, *(field.name for field in FIELDS if field.type == pa.int32())]


def events_to_batch(events: Sequence[Event]) -> EventBatch:
    """Gather events into one batch, in order; only the columns that some event has.

    Raises:
        DecodeError: WRONG_TYPE, a value does not fit its field. The message names the field; `validate_event`
            finds the event.
        ValueError: there are no events.
    """
    if not events:
        raise ValueError("expected at least one event, got none")
    rows = list(map(msgspec.structs.astuple, events))
    columns = dict(zip(_NAMES, zip(*rows, strict=True), strict=True))
    for name in _INTEGER_NAMES:
        # NumPy and Arrow cut 1.5 to 1 without a word.
        if not _INTEGERS.issuperset(map(type, columns[name])):
            _require_integers(name, columns[name])
    return EventBatch(columns_to_batch(build_columns(columns, len(rows))))


def encode_arrow(events: Sequence[Event]) -> bytes:
    """One Arrow IPC stream of all events: one schema, one record batch, the end mark.

    Raises:
        DecodeError: WRONG_TYPE, as `events_to_batch`.
        ValueError: there are no events.
    """
    return encode_batch(events_to_batch(events))


def encode_batch(batch: EventBatch) -> bytes:
    """One Arrow IPC stream of a batch. Embeddings of equal dimension travel as a fixed-size list."""
    records = batch.records
    arrays = list(records.columns)
    index = records.schema.get_field_index("embedding")
    if index >= 0:
        arrays[index] = _fixed_size(arrays[index])
    fields = [pa.field(name, array.type) for name, array in zip(records.schema.names, arrays, strict=True)]
    return write_stream(pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)))


def encode_json(event: Event) -> bytes:
    """The event as a flat JSON object with `schema_version` first. Not-a-number becomes null.

    Example:
        >>> from mlmon.events.event import Event
        >>> encode_json(Event(event_id="1", event_time=5, service="s", model_name="m"))
        b'{"schema_version":1,"event_id":"1","event_time":5,"service":"s","model_name":"m"}'
    """
    return b'{"schema_version":%d,' % SCHEMA_VERSION + _JSON.encode(event)[1:]


def encode_msgpack(event: Event) -> bytes:
    """The event as a MessagePack map of the same keys as `encode_json`."""
    encoded = _MSGPACK.encode(event)
    # The map's header counts its pairs; ours makes one more.
    if encoded[0] == 0xDE:
        pairs, rest = int.from_bytes(encoded[1:3], "big"), encoded[3:]
    else:
        pairs, rest = encoded[0] & 0x0F, encoded[1:]
    return b"\xde%b\xaeschema_version%b%b" % ((pairs + 1).to_bytes(2, "big"), bytes([SCHEMA_VERSION]), rest)


def encode_cloudevent(event: Event) -> bytes:
    """The event as a structured CloudEvents 1.0 object: id, time and source are those of the event."""
    envelope = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": event.service,
        "type": CLOUDEVENT_TYPE,
        "time": (_EPOCH + timedelta(microseconds=event.event_time)).isoformat(),
        "datacontenttype": JSON_CONTENT_TYPE,
        "data": msgspec.Raw(encode_json(event)),
    }
    return _JSON.encode(envelope)


def validate_event(event: Event) -> None:
    """Check that every field holds what `Event` says, so that one bad event does not cost its whole batch.

    NumPy scalars and arrays count as what they hold. Values are not checked: the decoder does that.

    Raises:
        DecodeError: WRONG_TYPE, or MISSING_FIELD for a required field that is None; the message names the
            field.
    """
    for field in FIELDS:
        if field.required and getattr(event, field.name) is None:
            raise DecodeError(DecodeReason.MISSING_FIELD, f"{field.name} is required, got None")
    try:
        msgspec.convert(msgspec.to_builtins(event, enc_hook=_plain), type(event))
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise DecodeError(DecodeReason.WRONG_TYPE, str(error)) from None
    events_to_batch([event])


def _require_integers(name: str, column: Sequence[Any]) -> None:
    for value in column:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
            raise DecodeError(
                DecodeReason.WRONG_TYPE, f"{name}: expected an int, got {value!r} ({type(value).__name__})"
            )


def _fixed_size(column: pa.Array) -> pa.Array:
    """A list column as fixed-size list where all lists have one length, else as it is."""
    if column.null_count or not len(column):
        return column
    lengths = np.diff(column.offsets.to_numpy())
    dimension = int(lengths[0])
    if not dimension or (lengths != dimension).any():
        return column
    return pa.FixedSizeListArray.from_arrays(column.flatten(), dimension)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"cannot encode {type(value).__name__}: expected the types of Event's fields")


_JSON = msgspec.json.Encoder(enc_hook=_plain)
_MSGPACK = msgspec.msgpack.Encoder(enc_hook=_plain)
