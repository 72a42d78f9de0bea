"""Events into records: one open batch per service and model, closed by count, bytes or age.

Pure state; the caller says what time it is. Events of different (service, model) never share a record, since
the record's key decides its partition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from mlmon.errors import DecodeError
from mlmon.events.encode import encode_arrow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlmon.events.event import Event

__all__ = ["load_encoder", "Batch", "Packed", "Packer", "encode_events", "event_bytes"]

#: Open batches at most; one more closes the oldest. A server has a handful of models.
MAX_OPEN = 64


def load_encoder() -> None:
    """Load now what Arrow would load with the first batch: pandas, where it is installed.

    The first batch may be packed while the interpreter shuts down, when modules can no longer be loaded.
    """
    pa.array([0])


@dataclass(slots=True)
class Batch:
    """Events of one service and model, gathered since `since` (monotonic seconds)."""

    key: bytes
    since: float
    events: list[Event] = field(default_factory=list)
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Packed:
    """One encoded record value, or events that could not be one.

    Attributes:
        value: an Arrow stream; empty when refused.
        events: how many events it holds or stands for.
        reason: why they were refused; empty when they were not.
    """

    value: bytes
    events: int
    reason: str = ""


class Packer:
    """Gathers events. Memory: at most 64 batches below `max_events` events and `max_bytes` bytes.

    Args:
        max_events: a batch of this many is closed.
        max_bytes: a batch of about this many bytes is closed.
        max_age_seconds: a batch whose first event is older is due.
    """

    def __init__(self, max_events: int, max_bytes: int, max_age_seconds: float) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_age = max_age_seconds
        self._open: dict[tuple[str, str], Batch] = {}

    @property
    def pending(self) -> int:
        """Events in open batches."""
        return sum(len(batch.events) for batch in self._open.values())

    def add(self, event: Event, now: float) -> Batch | None:
        """Take an event in; return a batch that is thereby closed, if any."""
        name = (event.service, event.model_name)
        batch = self._open.get(name)
        evicted = None
        if batch is None:
            if len(self._open) >= MAX_OPEN:
                evicted = self._open.pop(next(iter(self._open)))
            batch = self._open[name] = Batch(f"{name[0]}/{name[1]}".encode("utf-8", "replace"), now)
        batch.events.append(event)
        batch.bytes += event_bytes(event)
        if evicted is None and (len(batch.events) >= self._max_events or batch.bytes >= self._max_bytes):
            return self._open.pop(name)
        return evicted

    def due(self, now: float) -> Iterable[Batch]:
        """Remove and return the batches that are old enough; with `now` infinite, all."""
        names = [name for name, batch in self._open.items() if now - batch.since >= self._max_age]
        return [self._open.pop(name) for name in names]

    def due_in(self, now: float) -> float | None:
        """Seconds until a batch is due; None while nothing is open."""
        if not self._open:
            return None
        return max(0.0, min(batch.since for batch in self._open.values()) + self._max_age - now)


def event_bytes(event: Event) -> int:
    """About what an event takes in a record."""
    size = 256
    for values, width in ((event.embedding, 2), (event.token_ids, 4), (event.top_labels, 16)):
        if values is not None:
            size += len(values) * width
    for features in (event.numeric_features, event.categorical_features, event.segments):
        if features is not None:
            size += len(features) * 24
    return size


def encode_events(events: list[Event], max_bytes: int) -> list[Packed]:
    """Encode events as few records of at most `max_bytes`, in order.

    A batch that is too large, or that one bad event spoils, is halved until the rest is through; so a bad
    event costs only itself, and log2(n) encodings.
    """
    try:
        value = encode_arrow(events)
        reason = f"{len(value)} bytes: expected at most {max_bytes}" if len(value) > max_bytes else ""
    except (DecodeError, pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        value, reason = b"", str(error)
    if not reason:
        return [Packed(value, len(events))]
    if len(events) == 1:
        return [Packed(b"", 1, reason)]
    half = len(events) // 2
    return encode_events(events[:half], max_bytes) + encode_events(events[half:], max_bytes)
