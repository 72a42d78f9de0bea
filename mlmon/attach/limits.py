"""The emitter's bounds and its counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

__all__ = ["EmitterConfig", "EmitterStats"]


class EmitterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the emitter."""

    queue_events: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=10_000_000,
            description="Events that may wait. Raising it rides out longer outages of the log, in memory.",
        ),
    ] = 10_000
    queue_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1024, description="Bytes of request and response bodies that may wait with the events."
        ),
    ] = 64 * 1024 * 1024
    batch_events: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=100_000,
            description="Events to a record. Larger records are cheaper to write and read, and later.",
        ),
    ] = 256
    batch_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1024, le=1 << 30, description="A batch of about this many bytes is sent before it is full."
        ),
    ] = 512 * 1024
    batch_age_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=3600,
            description="A batch older than this is sent as it is. Raising it makes fewer records, later.",
        ),
    ] = 1.0
    record_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=4096,
            le=1 << 30,
            description="Largest record, encoded; larger batches are split. Keep it below what the log takes "
            "(Kafka: max_request_bytes).",
        ),
    ] = 900_000
    flush_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=600,
            description="How long an orderly end of the process waits for the log. Raising it loses less "
            "when the log is slow, and makes restarts slower when it is away.",
        ),
    ] = 5.0
    retry_initial_seconds: Annotated[
        float, msgspec.Meta(gt=0, le=60, description="First pause after a failed write; it doubles.")
    ] = 0.2
    retry_max_seconds: Annotated[
        float, msgspec.Meta(gt=0, le=600, description="Longest pause between attempts to write.")
    ] = 15.0


@dataclass(frozen=True, slots=True)
class EmitterStats:
    """Counts since this process began to use the emitter.

    Every event offered is in one place: emitted = sent_events + dropped + still on its way.

    Attributes:
        emitted: events offered.
        dropped: events that will never be sent: queue full, refused by the log, failed jobs, lost at exit.
        sent_events: events in records that the log acknowledged.
        sent_records: records that the log acknowledged.
        sink_errors: failed attempts to write; each was or is being retried.
        tap_errors: exceptions in the tap, its hooks or deferred jobs; none of them reached a request.
        truncated_bodies: captured bodies that were cut at `max_body_bytes`.
        unparsed_bodies: captured bodies that are not JSON.
        queue_items: events waiting.
        queue_bytes: bytes waiting with them.
    """

    emitted: int
    dropped: int
    sent_events: int
    sent_records: int
    sink_errors: int
    tap_errors: int
    truncated_bodies: int
    unparsed_bodies: int
    queue_items: int
    queue_bytes: int
