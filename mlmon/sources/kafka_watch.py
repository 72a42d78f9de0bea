"""What to do with a kafka-python consumer that does not come back: break it off, bury it in the background.

Uses a few private parts of kafka-python 3.0 (the version is bounded for that): none of its public methods
returns while its loop is stuck.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka import KafkaConsumer

__all__ = ["StalledError", "Watchdog", "dispose"]

log = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0


class StalledError(Exception):
    """A poll made no progress and was broken off."""


class Watchdog:
    """Watches one call at a time; thread-safe. Breaks a consumer off whose call takes too long."""

    def __init__(self, stall_seconds: float) -> None:
        self._limit = stall_seconds
        self._lock = threading.Lock()
        self._watched: KafkaConsumer | None = None
        self._due = 0.0
        self._broken = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.stalled = False

    @contextlib.contextmanager
    def over(self, consumer: KafkaConsumer) -> Iterator[None]:
        """Watch the calls inside.

        Raises:
            StalledError: they took too long; whatever they returned or raised, the consumer is gone.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mlmon-kafka-watchdog", daemon=True)
            self._thread.start()
        with self._lock:
            self._watched, self._due, self._broken = consumer, time.monotonic() + self._limit, False
        try:
            yield
        finally:
            with self._lock:
                self._watched = None
                broken = self._broken
            if broken:
                raise StalledError(f"a poll took more than {self._limit:g} s and was broken off")
        self.stalled = False

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(min(1.0, self._limit / 4)):
            with self._lock:
                consumer = self._watched if time.monotonic() >= self._due else None
                if consumer is None:
                    continue
                first, self._broken, self.stalled = not self._broken, True, True
                self._due = time.monotonic() + CLOSE_SECONDS
            if first:
                log.error("a poll of Kafka has made no progress for %g s; breaking it off", self._limit)
            with contextlib.suppress(Exception):
                _break_off(consumer, by_force=not first)


def _break_off(consumer: KafkaConsumer, *, by_force: bool) -> None:
    consumer._closed = True  # its loop looks at this between rounds
    # After a failed checksum the loop goes round a batch that yields nothing more; emptied, it is left.
    batch: Any = consumer._fetcher._next_partition_records
    if batch is not None:
        batch.drain()
    if by_force:
        # Whoever waits for the I/O thread is told that it has stopped.
        consumer._net.stop(timeout_ms=1000)


def dispose(consumer: KafkaConsumer) -> None:
    """Close a consumer, leaving its group without a commit; after 3 s the rest happens in the background."""
    thread = threading.Thread(target=_close, args=(consumer,), name="mlmon-kafka-close", daemon=True)
    thread.start()
    thread.join(CLOSE_SECONDS)


def _close(consumer: KafkaConsumer) -> None:
    consumer._closed = False  # the watchdog may have set it, and close would then do nothing
    with contextlib.suppress(Exception):
        consumer.close(autocommit=False, timeout_ms=CLOSE_SECONDS * 1000)
    with contextlib.suppress(Exception):
        consumer._client.close()  # where close failed half-way
