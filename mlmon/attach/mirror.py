"""A budgeted sample of requests with their texts, to a place of its own; off unless it is made.

`offer` is called after the response, in the emitter's thread or by whoever sees requests. It decides by a
token bucket, puts what it keeps into a bounded queue and returns; a thread redacts and writes. It never waits
and never raises: what does not fit the queue is not taken, what cannot be written is dropped, and both are
counted.

The bucket may be overdrawn by the request that empties it. So whether a request is kept depends on those
before it and never on its own length, and long texts are as likely as short ones. A kept request stands for
those that were passed over since the last one: weights add up to the traffic, also where bursts are sampled
more thinly.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import msgspec

from mlmon.attach.mirror_record import MirrorRecord
from mlmon.clock import SystemClock
from mlmon.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlmon.clock import Clock
    from mlmon.events.event import Event

__all__ = ["Mirror", "MirrorConfig", "MirrorSink", "MirrorStats"]

log = logging.getLogger(__name__)

#: Longest pause between two looks at the retention.
_SWEEP_SECONDS = 30.0
#: Records written together.
_LOT = 64
#: The fullest weight the contract of events takes.
_MOST_WEIGHT = 1e9
_RECORD_BYTES = 512


class MirrorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is mirrored."""

    tokens_per_second: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=1e7,
            description="Budget of the replay: tokens of mirrored texts per second in the long run. "
            "Raising it "
            "finds things sooner and asks more of the reference.",
        ),
    ] = 100.0
    burst_tokens: Annotated[
        float,
        msgspec.Meta(gt=0, le=1e9, description="Tokens that may be saved up while there is little traffic."),
    ] = 2_000.0
    characters_per_token: Annotated[
        float,
        msgspec.Meta(gt=0, le=100, description="Used where a request's tokens are not known."),
    ] = 4.0
    max_characters: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=10_000_000, description="Longer texts are not mirrored, and counted as too long."
        ),
    ] = 20_000
    queue_records: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="Requests that may wait to be written.")
    ] = 1_000
    queue_bytes: Annotated[
        int, msgspec.Meta(ge=1024, le=1 << 34, description="Bytes of text that may wait.")
    ] = 8 * 1024 * 1024


class MirrorSink(Protocol):
    """Where mirrored requests go; used by the mirror's thread only, `check` by who makes the mirror."""

    def check(self) -> None:
        """Refuse a place that is not private or keeps too long; raises ConfigError or SourceError."""
        ...

    def write(self, key: bytes, records: Sequence[bytes]) -> None:
        """Append records of one key; raises SourceError where they are not taken."""
        ...

    def sweep(self) -> int:
        """Enforce retention; returns how many files went."""
        ...

    def close(self) -> None:
        """Free what is held; the next write opens it again."""
        ...

    def after_fork(self) -> None:
        """In a forked child: forget what the parent holds."""
        ...


@dataclass(frozen=True, slots=True)
class MirrorStats:
    """Counts since this process began. offered = passed_over + full + too_long + queued + the rest.

    Attributes:
        offered: requests offered.
        passed_over: not kept, since the budget was spent.
        full: not taken, since the queue was full or the mirror closed.
        too_long: not taken, since they are longer than `max_characters`.
        redacted: dropped by the redaction hook, which answered None or raised.
        failed: dropped, since they could not be written.
        written: in the mirror.
        swept: files that retention removed.
        queued: waiting.
    """

    offered: int = 0
    passed_over: int = 0
    full: int = 0
    too_long: int = 0
    redacted: int = 0
    failed: int = 0
    written: int = 0
    swept: int = 0
    queued: int = 0


class _Waiting(NamedTuple):
    record: MirrorRecord
    size: int


class Mirror:
    """Keeps a sample of requests with their texts. Any number of threads may offer.

    Args:
        sink: where they go.
        config: budget and bounds.
        redact: called with each text before anything is stored, in the mirror's thread; returns the text to
            store, or None to drop the request. What it raises drops the request too. It is given the text
            that the answer gives back as well, and where that is dropped only that is left out.
        clock: of the budget.

    Raises:
        ConfigError: the configuration has values its types do not allow, or the place is not private or keeps
            texts too long.
        SourceError: the place cannot be reached to be checked.

    Example:
        >>> import tempfile
        >>> from mlmon.attach.mirror_spool import MirrorFiles, MirrorSpoolConfig
        >>> from mlmon.events.event import Event
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     mirror = Mirror(MirrorFiles(MirrorSpoolConfig(directory=directory)), redact=str.lower)
        ...     event = Event(event_id="1", event_time=0, service="s", model_name="m", tokens=2)
        ...     kept = mirror.offer(event, "Hello You")
        ...     closed = mirror.close(5.0)
        >>> kept, closed, mirror.stats().written
        (True, True, 1)
    """

    def __init__(
        self,
        sink: MirrorSink,
        config: MirrorConfig | None = None,
        *,
        redact: Callable[[str], str | None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        config = config or MirrorConfig()
        try:
            # a Struct built in code is not checked by msgspec; one built from a file is
            self.config = msgspec.convert(msgspec.structs.asdict(config), MirrorConfig)
        except msgspec.ValidationError as error:
            raise ConfigError(f"the mirror cannot be configured: {error}") from error
        sink.check()
        self._sink = sink
        self._redact = redact
        self._clock = clock or SystemClock()
        self._reset()
        _ALIVE.add(self)

    def _reset(self) -> None:
        """The state of a process that has mirrored nothing."""
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._level = self.config.burst_tokens
        self._filled = self._clock.monotonic()
        self._pending = 0.0  # weight of requests since the last one kept
        self._counts = dict.fromkeys(MirrorStats.__dataclass_fields__, 0)
        self._thread: threading.Thread | None = None
        self._closing = self._busy = False

    def offer(self, event: Event, text: str, sequence: str | None = None) -> bool:
        """Take a request, or pass it over; True when it was taken. Never waits, never raises.

        Args:
            event: of the request, answered `ok`. One of the shadow deployment is a replay, and not offered.
            text: its first input.
            sequence: the text that the answer gives back, where it does.
        """
        try:
            return self._offer(event, text, sequence)
        except Exception:  # nothing of ours may reach the request
            log.warning("a request could not be mirrored", exc_info=True)
            return False

    def _offer(self, event: Event, text: str, sequence: str | None) -> bool:
        if event.deployment == "shadow":
            return False
        config, own = self.config, event.sampling_weight or 1.0
        estimate = len(text) / config.characters_per_token
        tokens = max(1.0, estimate if event.tokens is None else event.tokens)
        size = _RECORD_BYTES + 4 * (len(text) + len(sequence or "")) + 8 * len(event.embedding or ())
        with self._changed:
            counts = self._counts
            counts["offered"] += 1
            self._pending += own
            if not self._affordable():
                counts["passed_over"] += 1
                return False
            if len(text) > config.max_characters:
                counts["too_long"] += 1
                self._pending -= own  # others do not speak for it
                return False
            full = len(self._queue) >= config.queue_records or self._bytes + size > config.queue_bytes
            if full or self._closing or (self._thread is None and not self._start()):
                counts["full"] += 1
                return False
            self._level -= tokens
            weight, self._pending = min(self._pending, _MOST_WEIGHT), 0.0
            self._queue.append(_Waiting(_record(event, text, sequence, weight), size))
            self._bytes += size
            self._changed.notify_all()
        return True

    def _affordable(self) -> bool:
        """Refill the bucket, and say whether anything is in it."""
        now = self._clock.monotonic()
        filled = self._level + (now - self._filled) * self.config.tokens_per_second
        self._level, self._filled = min(filled, self.config.burst_tokens), now
        return self._level > 0

    # Lifecycle

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Wait until nothing is queued; False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout_seconds)

    def close(self, timeout_seconds: float = 5.0) -> bool:
        """Write what is queued and end the thread; False when time ran out. Closing twice does no harm."""
        atexit.unregister(self.close)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_seconds)
        return not thread.is_alive()

    def stats(self) -> MirrorStats:
        """Counts as of now, consistent with each other."""
        with self._changed:
            return MirrorStats(**self._counts | {"queued": len(self._queue)})

    def _start(self) -> bool:
        """Start the thread; False where the interpreter is ending and starts no more. Holds the lock."""
        thread = threading.Thread(target=self._run, name="mlmon-mirror", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        atexit.register(self.close)
        return True

    def _after_fork(self) -> None:
        atexit.unregister(self.close)
        self._reset()
        self._sink.after_fork()

    # The thread

    def _run(self) -> None:
        self._swept()
        while True:
            lot = self._take()
            if lot is None:
                break
            if lot:
                self._write(lot)
            self._swept()
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        with contextlib.suppress(Exception):
            self._sink.close()

    def _take(self) -> list[MirrorRecord] | None:
        """What waits, none after a pause, None when closed and empty."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(_SWEEP_SECONDS)
            if not self._queue and self._closing:
                return None
            taken = [self._queue.popleft() for _ in range(min(_LOT, len(self._queue)))]
            self._bytes -= sum(waiting.size for waiting in taken)
            self._busy = bool(taken)
            return [waiting.record for waiting in taken]

    def _write(self, lot: list[MirrorRecord]) -> None:
        by_key: dict[bytes, list[bytes]] = {}
        for record in lot:
            kept = self._redacted(record)
            if kept is None:
                self._count("redacted", 1)
            else:
                by_key.setdefault(f"{record.service}/{record.model_name}".encode(), []).append(kept.encoded())
        for key, records in by_key.items():
            try:
                self._sink.write(key, records)
            except Exception as error:  # noqa: BLE001 - what is lost here is a sample
                first = self._count("failed", len(records))
                if first:
                    log.warning("mirrored requests are dropped, more only count: %s", error)
            else:
                self._count("written", len(records))

    def _redacted(self, record: MirrorRecord) -> MirrorRecord | None:
        if self._redact is None:
            return record
        try:
            text = self._redact(record.text)
            if text is None:
                return None
            sequence = None if record.sequence is None else self._redact(record.sequence)
        except Exception as error:  # noqa: BLE001 - a user's code; its message may hold the text
            log.debug("the redaction hook raised %s", type(error).__name__)
            return None
        return msgspec.structs.replace(record, text=text, sequence=sequence)

    def _swept(self) -> None:
        try:
            removed = self._sink.sweep()
        except (OSError, SourceError) as error:
            log.warning("retention of the mirror failed: %s", error)
        else:
            if removed:
                self._count("swept", removed)

    def _count(self, name: str, more: int) -> bool:
        """Count, and say whether it is the first time."""
        with self._changed:
            self._counts[name] += more
            return self._counts[name] == more


def _record(event: Event, text: str, sequence: str | None, weight: float) -> MirrorRecord:
    return MirrorRecord(
        event_id=event.event_id,
        event_time=event.event_time,
        service=event.service,
        model_name=event.model_name,
        text=text,
        model_version=event.model_version,
        deployment=event.deployment,
        segments=event.segments,
        task=event.task,
        prediction=event.prediction,
        confidence=event.confidence,
        top_labels=event.top_labels,
        top_scores=event.top_scores,
        embedding=event.embedding if isinstance(event.embedding, list) else None,
        sequence=sequence,
        sampling_weight=weight,
    )


#: Mirrors of this process, for the fork handler.
_ALIVE: weakref.WeakSet[Mirror] = weakref.WeakSet()


def _forked() -> None:
    for mirror in list(_ALIVE):
        mirror._after_fork()


os.register_at_fork(after_in_child=_forked)
