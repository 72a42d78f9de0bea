"""The event contract: what an event is, how events travel, and the batch they become.

Flat names for users; inside mlmon the modules are imported themselves.
"""

from __future__ import annotations

from mlmon.events.batch import EventBatch
from mlmon.events.codecs import DecodeConfig, Decoded, Decoder
from mlmon.events.encode import (
    encode_arrow,
    encode_batch,
    encode_cloudevent,
    encode_json,
    encode_msgpack,
    events_to_batch,
    validate_event,
)
from mlmon.events.event import Event
from mlmon.events.record import LogRecord, Record, Reject
from mlmon.events.schema import FIELDS, SCHEMA_VERSION, Field

__all__ = [
    "FIELDS",
    "SCHEMA_VERSION",
    "DecodeConfig",
    "Decoded",
    "Decoder",
    "Event",
    "EventBatch",
    "Field",
    "LogRecord",
    "Record",
    "Reject",
    "encode_arrow",
    "encode_batch",
    "encode_cloudevent",
    "encode_json",
    "encode_msgpack",
    "events_to_batch",
    "validate_event",
]
