"""Takes events from request handlers and brings them to a log, without ever making a request wait.

`emit` and `emit_deferred` put into a bounded queue and return; one daemon thread turns deferred work into
events, packs them and writes records. When the queue is full the newest are dropped and counted, and the next
record that gets through carries the count. While the log cannot be written the thread retries the same record
with growing pauses and the queue fills up behind it; so memory is bounded by the queue, the open batches and
one record. What is queued when the process is killed is lost; an orderly end (`close`, `atexit`, the ASGI
lifespan) flushes.

Why a thread and not a task of the event loop: parsing and tokenizing would make requests wait. The thread
shares the interpreter lock with the requests, so it gives way every half millisecond while it keeps up.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

from mlmon.attach.delivery import Delivery
from mlmon.attach.limits import EmitterConfig, EmitterStats
from mlmon.attach.packing import Packer, load_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlmon.attach.sinks import Sink
    from mlmon.events.event import Event

__all__ = ["Emitter"]

log = logging.getLogger(__name__)

#: The thread works for this long, then lets go of the interpreter lock for a moment.
SLICE_SECONDS = 0.0005
PAUSE_SECONDS = 0.00005
#: With more than this part of the queue in use it stops giving way: a busy server would starve it.
POLITE_RATIO = 0.25
#: After the first event the thread waits this long for more, so that it wakes once and not for each.
GATHER_SECONDS = 0.05
#: How long a thread that was told to give up gets for counting what it loses.
GIVE_UP_SECONDS = 0.5

_Item = tuple["Event | None", "Callable[[], Event] | None", int]


class Emitter:
    """A bounded queue and the thread that empties it. Any number of threads may emit.

    The thread starts with the first event, in the process that emits it; after a fork the child begins with
    an empty queue, zero counts and a sink of its own, so it works under pre-forking servers.

    Args:
        sink: where records go; used by the emitter's thread only.
        config: bounds.

    Example:
        >>> import tempfile
        >>> from mlmon.attach.sinks import SpoolSink
        >>> from mlmon.events.event import Event
        >>> from mlmon.sources.spool import SpoolWriterConfig
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     emitter = Emitter(SpoolSink(SpoolWriterConfig(directory)))
        ...     kept = emitter.emit(Event(event_id="1", event_time=0, service="s", model_name="m"))
        ...     closed = emitter.close(5.0)
        >>> kept, closed, emitter.stats().sent_events
        (True, True, 1)
    """

    def __init__(self, sink: Sink, config: EmitterConfig | None = None) -> None:
        self.config = config or EmitterConfig()
        self._sink = sink
        load_encoder()
        self._reset()
        _ALIVE.add(self)

    def _reset(self) -> None:
        """The state of a process that has emitted nothing."""
        config = self.config
        self._changed = threading.Condition(threading.Lock())
        self._delivery = Delivery(self._sink, config, self._changed)
        self._packer = Packer(config.batch_events, config.batch_bytes, config.batch_age_seconds)
        self._thread: threading.Thread | None = None
        self._queue: deque[_Item] = deque()
        self._bytes = 0
        # Counts of events: offered; taken from the queue; of those, how many are settled (sent or dropped).
        self._offered = self._taken = self._settled = 0
        self._flush_to = 0  # somebody waits until so many are settled
        self._tap_errors = self._truncated = self._unparsed = 0

    # What request handlers call

    def emit(self, event: Event) -> bool:
        """Queue an event; False when it was dropped. Never waits for the log, never raises."""
        return self._put((event, None, 0))

    def emit_deferred(self, job: Callable[[], Event], size_bytes: int) -> bool:
        """Queue work that makes an event, done later in the emitter's thread; False when it was dropped.

        Args:
            job: called once. If it raises, the event is lost and counted, as tap error and as dropped.
            size_bytes: what the job keeps in memory until then.
        """
        return self._put((None, job, size_bytes))

    def _put(self, item: _Item) -> bool:
        config = self.config
        with self._changed:
            self._offered += 1
            waiting = len(self._queue)
            if (
                waiting >= config.queue_events
                or self._bytes + item[2] > config.queue_bytes
                or self._delivery.closing
                or (self._thread is None and not self._start())
            ):
                self._delivery.dropped += 1
                return False
            self._queue.append(item)
            self._bytes += item[2]
            if waiting == 0 or waiting + 1 == config.batch_events:
                self._changed.notify_all()
        return True

    def count_tap_error(self, error: BaseException) -> None:
        """Count an exception that was kept from a request; the first is logged with its traceback."""
        with self._changed:
            self._tap_errors += 1
            first = self._tap_errors == 1
        if first:
            log.warning("the tap failed; requests are not affected, more errors only count", exc_info=error)

    def count_bodies(self, truncated: int, unparsed: int) -> None:
        """Count bodies that could not be looked into."""
        with self._changed:
            self._truncated += truncated
            self._unparsed += unparsed

    # Lifecycle

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until what was emitted before this call is in the log or dropped; False on timeout.

        Args:
            timeout_seconds: None takes `flush_timeout_seconds`.
        """
        timeout = self.config.flush_timeout_seconds if timeout_seconds is None else timeout_seconds
        with self._changed:
            target = self._taken + len(self._queue)
            self._flush_to = max(self._flush_to, target)
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= target, timeout)

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Flush, end the thread and close the sink; False when time ran out and events were lost.

        Events emitted afterwards are dropped. Closing twice does no harm.

        Args:
            timeout_seconds: None takes `flush_timeout_seconds`.
        """
        timeout = self.config.flush_timeout_seconds if timeout_seconds is None else timeout_seconds
        atexit.unregister(self._at_exit)
        with self._changed:
            self._delivery.closing = True
            self._changed.notify_all()
            thread, dropped = self._thread, self._delivery.dropped
        if thread is None:
            return True
        thread.join(timeout)
        if not thread.is_alive():
            return True
        with self._changed:
            self._delivery.give_up = True
            self._changed.notify_all()
        thread.join(GIVE_UP_SECONDS)
        stats = self.stats()
        lost = stats.emitted - stats.sent_events - dropped
        log.warning("%d events were not written within %g s of closing", lost, timeout)
        return False

    def stats(self) -> EmitterStats:
        """Counts as of now, consistent with each other."""
        with self._changed:
            delivery = self._delivery
            return EmitterStats(
                emitted=self._offered,
                dropped=delivery.dropped,
                sent_events=delivery.sent_events,
                sent_records=delivery.sent_records,
                sink_errors=delivery.sink_errors,
                tap_errors=self._tap_errors,
                truncated_bodies=self._truncated,
                unparsed_bodies=self._unparsed,
                queue_items=len(self._queue),
                queue_bytes=self._bytes,
            )

    def _start(self) -> bool:
        """Start the thread; False where the interpreter is ending and starts no more. Holds the lock."""
        thread = threading.Thread(target=self._run, name="mlmon-emitter", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        atexit.register(self._at_exit)
        return True

    def _at_exit(self) -> None:
        self.close()

    def _after_fork(self) -> None:
        atexit.unregister(self._at_exit)
        self._reset()
        self._sink.after_fork()

    # The thread

    def _run(self) -> None:
        while True:
            try:
                if self._work():
                    break
            except Exception as error:  # noqa: BLE001 - a bug here must not silence the service for good
                self.count_tap_error(error)
                time.sleep(GATHER_SECONDS)
        with contextlib.suppress(Exception):
            self._sink.close(GIVE_UP_SECONDS)

    def _work(self) -> bool:
        """One round: wait, make events, send what is due. True when closed and nothing is left."""
        self._await_events()
        pause_at = time.monotonic() + SLICE_SECONDS
        for _ in range(self.config.batch_events):
            event = self._take()
            if event is None:
                break
            now = time.monotonic()
            batch = self._packer.add(event, now)
            if batch is not None:
                self._delivery.ship(batch)
                self._keep_first_at_exit()
            if now >= pause_at and len(self._queue) < self.config.queue_events * POLITE_RATIO:
                time.sleep(PAUSE_SECONDS)
                pause_at = time.monotonic() + SLICE_SECONDS
        for batch in self._packer.due(float("inf") if self._all_is_due() else time.monotonic()):
            self._delivery.ship(batch)
            self._keep_first_at_exit()
        return self._settle()

    def _await_events(self) -> None:
        with self._changed:
            if not self._queue and not self._hurry():
                self._changed.wait(self._packer.due_in(time.monotonic()))
            if 0 < len(self._queue) < self.config.batch_events and not self._hurry():
                self._changed.wait(GATHER_SECONDS)

    def _hurry(self) -> bool:
        return self._delivery.closing or self._flush_to > self._settled

    def _all_is_due(self) -> bool:
        with self._changed:
            awaited = self._settled < self._flush_to <= self._taken
            return awaited or (self._delivery.closing and not self._queue)

    def _settle(self) -> bool:
        """Tell who waits what is done; True when closed and nothing is left to do."""
        with self._changed:
            if self._delivery.give_up:
                self._taken += len(self._queue)
                self._delivery.dropped += len(self._queue)
                self._queue.clear()
                self._bytes = 0
            if not self._packer.pending:
                self._settled = self._taken
                self._changed.notify_all()
            return self._delivery.closing and not self._queue and not self._packer.pending

    def _take(self) -> Event | None:
        """The next event, its deferred work done; None when there is none. Failed jobs are skipped."""
        while not self._delivery.give_up:
            with self._changed:
                if not self._queue:
                    return None
                event, job, size = self._queue.popleft()
                self._bytes -= size
                self._taken += 1
            if job is None:
                return event
            try:
                return job()
            except Exception as error:  # noqa: BLE001 - a user's code
                self.count_tap_error(error)
                self._delivery.lose(1, "the code that makes them failed")
        return None

    def _keep_first_at_exit(self) -> None:
        """Handlers run last in, first out: the sink's library may have registered one when it connected."""
        if self._delivery.sent_records == 1 and not self._delivery.closing:
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)


#: Emitters of this process, for the fork handler.
_ALIVE: weakref.WeakSet[Emitter] = weakref.WeakSet()


def _forked() -> None:
    for emitter in list(_ALIVE):
        emitter._after_fork()


os.register_at_fork(after_in_child=_forked)
