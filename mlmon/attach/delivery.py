"""Batches to records to a sink, retried until the log has them or the emitter gives up.

Used by the emitter's thread only, except for `stop` and the counts, which are guarded by the emitter's lock.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mlmon.attach.packing import encode_events
from mlmon.attach.sinks import OutRecord, RefusedError
from mlmon.events.encode import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, DROPPED_HEADER

if TYPE_CHECKING:
    import threading

    from mlmon.attach.limits import EmitterConfig
    from mlmon.attach.packing import Batch
    from mlmon.attach.sinks import Sink

__all__ = ["Delivery"]

log = logging.getLogger(__name__)

#: Longest pause between attempts once the emitter is closing.
CLOSING_RETRY_SECONDS = 0.1


class Delivery:
    """Encodes batches and writes them, one record at a time and in order.

    The record carries the events dropped since the last accepted one, and they count as told only when it is
    acknowledged; so a drop is told once, however often a write is retried.

    Args:
        sink: where records go.
        config: bounds and pauses.
        changed: the emitter's condition: guards the counts, and is notified when closing begins.
    """

    def __init__(self, sink: Sink, config: EmitterConfig, changed: threading.Condition) -> None:
        self._sink = sink
        self._config = config
        self._changed = changed
        self._failing = False
        self._told = 0
        self.closing = False  #: retry quickly, the process is about to end
        self.give_up = False  #: write nothing more, count it as lost
        self.dropped = 0  #: events dropped, by the emitter's queue and here
        self.sent_events = self.sent_records = self.sink_errors = 0

    def ship(self, batch: Batch) -> None:
        """Write a batch, however long it takes; what can't be written is counted in `dropped`."""
        for packed in encode_events(batch.events, self._config.record_bytes):
            if packed.reason:
                self.lose(packed.events, f"they cannot be encoded: {packed.reason}")
                continue
            dropped = self.dropped - self._told
            headers = (
                (CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE.encode()),
                (DROPPED_HEADER, b"%d" % dropped),
            )
            if self._deliver(OutRecord(batch.key, packed.value, headers, packed.events)):
                with self._changed:
                    self._told += dropped
                    self.sent_events += packed.events
                    self.sent_records += 1

    def lose(self, events: int, why: str) -> None:
        """Count events that will never be sent."""
        with self._changed:
            first = self.dropped == 0
            self.dropped += events
        if first:
            log.warning("%d events dropped: %s; further drops only count", events, why)

    def _deliver(self, record: OutRecord) -> bool:
        pause = self._config.retry_initial_seconds
        while not self.give_up:
            try:
                self._sink.write(record)
            except RefusedError as error:
                self.lose(record.events, str(error))
                return False
            except Exception as error:  # noqa: BLE001 - whatever a log's library raises, requests go on
                self._failed(error)
            else:
                self._succeeded()
                return True
            self._pause(pause)
            pause = min(pause * 2, self._config.retry_max_seconds)
        self.lose(record.events, "the emitter was closed while the log could not be written")
        return False

    def _pause(self, seconds: float) -> None:
        """Wait, shorter once closing begins."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self.give_up and (left := deadline - time.monotonic()) > 0:
                if self.closing:
                    self._changed.wait(min(left, CLOSING_RETRY_SECONDS))
                    return
                self._changed.wait(left)

    def _failed(self, error: Exception) -> None:
        with self._changed:
            self.sink_errors += 1
        if not self._failing:
            self._failing = True
            log.warning("events cannot be written, retrying; requests are not affected: %s", error)

    def _succeeded(self) -> None:
        if self._failing:
            self._failing = False
            log.info("events are written again")
