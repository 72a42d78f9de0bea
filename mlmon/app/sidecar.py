"""The loop: poll, decode, count, commit, publish.

One thread does all of it, in this order: (1) poll until enough records are gathered, (2) decode and count
them, (3) when the interval is over, commit state, positions and dead letters together, (4) publish what was
committed. Whatever fails between two commits is dropped and read again, so nothing is lost or counted twice.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec

from mlmon.checkpoint.base import DeadLetter, PartitionChange
from mlmon.engine import Intake
from mlmon.errors import CheckpointError, FencedError, IncompatibleStateError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlmon.checkpoint.base import Checkpoint
    from mlmon.clock import Clock
    from mlmon.engine import Engine, Published
    from mlmon.events.codecs import Decoded
    from mlmon.events.record import Record
    from mlmon.sources.base import Chunk, Lag, Polled, Source

__all__ = ["LoopConfig", "Parts", "Sidecar", "Status"]

log = logging.getLogger(__name__)

#: Events counted in one go. Measured: below 2,000 the fixed cost of a pass shows, above 16,000 each column
#: outgrows the caches and the cost of an event doubles (`benchmarks/pipeline.py --gather`).
_BATCH_EVENTS = 8_192
#: Each series in a pass costs some milliseconds whatever it brings, so with many series a pass has more
#: events: as many times more as there are times this many series, and no more than `_MOST_TIMES`.
_SERIES_TO_A_BATCH, _MOST_TIMES = 6, 8
#: Events a record is taken to hold before any was seen.
_FIRST_GUESS = 256.0


class LoopConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[loop]`: how much is read at once and how often it is made safe."""

    checkpoint_interval_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=300,
            description="Time between commits. Metrics move once per commit; a crash repeats at most this "
            "much work.",
        ),
    ] = 2.0
    gather_records: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=1_000_000, description="Log records gathered before they are counted, at most."
        ),
    ] = 20_000
    gather_bytes: Annotated[
        int,
        msgspec.Meta(ge=1024, description="Bytes of records gathered before they are counted, about."),
    ] = 16 * 1024 * 1024
    gather_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=10,
            description="How long records are gathered once there are some. Longer makes larger batches, "
            "which cost less for each event.",
        ),
    ] = 0.25
    max_letters: Annotated[
        int,
        msgspec.Meta(ge=1, description="Dead letters held in memory before a commit is made at once."),
    ] = 1_000
    max_letter_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1, description="Bytes of dead letters held in memory before a commit is made at once."
        ),
    ] = 32 * 1024 * 1024
    peer_interval_seconds: Annotated[
        float,
        msgspec.Meta(gt=0, description="Time between looks at what other sidecars of the group carry."),
    ] = 30.0
    stall_seconds: Annotated[
        float,
        msgspec.Meta(gt=0, description="A loop that makes no step for this long is not ready."),
    ] = 30.0


class Decodes(Protocol):
    """What the loop needs of a decoder."""

    def decode(self, records: Sequence[Record], now_us: int) -> Decoded:
        """Events of consecutive records of one partition."""
        ...


@dataclass(slots=True)
class Status:
    """Where the loop stands; read by other threads, written by the loop.

    Counters hold what was committed since the process started.
    """

    tallies: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    lag: Mapping[str, Lag] = field(default_factory=dict)
    lag_seconds: dict[str, float] = field(default_factory=dict)
    checkpoints: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    source_errors: int = 0
    closed_windows: int = 0
    last_commit: float | None = None
    commit_seconds: float = 0.0
    commit_bytes: int = 0
    last_step: float = 0.0
    loaded: int = 0
    waiting: int = 0
    split_series: int = 0
    open_windows: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """What keeps the loop from its work now, by part; empty when nothing does."""
        return "; ".join(f"{part}: {text}" for part, text in list(self.problems.items()))


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop connects.

    Attributes:
        source: the log; nothing else may use it.
        decoder: bytes to batches.
        engine: counts.
        checkpoint: where state and positions are kept together.
        publish: called with what a commit made public, and after each idle interval with None.
        clock: time.
        refresh: called once an interval, for files that may have changed.
        deliver: called after each commit, for what leaves the state only then.
    """

    source: Source
    decoder: Decodes
    engine: Engine
    checkpoint: Checkpoint
    publish: Callable[[Published | None], None]
    clock: Clock
    refresh: Callable[[], object] = lambda: None
    deliver: Callable[[], object] = lambda: None


class Sidecar:
    """Runs a source through an engine into a checkpoint, and hands out what was committed."""

    def __init__(self, config: LoopConfig, parts: Parts) -> None:
        self._config = config
        self._source = parts.source
        self._decoder = parts.decoder
        self._engine = parts.engine
        self._checkpoint = parts.checkpoint
        self._publish = parts.publish
        self._refresh = parts.refresh
        self._deliver = parts.deliver
        self._clock = clock = parts.clock
        self._unloaded: dict[str, None] = {}
        self._letters: list[DeadLetter] = []
        self._letter_bytes = 0
        self._next_commit = clock.monotonic() + config.checkpoint_interval_seconds
        self._next_peers = clock.monotonic()
        self._failed_in_a_row = 0
        self.status = Status(last_step=clock.monotonic())

    @property
    def finished(self) -> bool:
        """Whether a bounded log has been read to its end."""
        return self._source.finished and not self._unloaded

    def run(self, stop: Callable[[], bool]) -> None:
        """Step until `stop()` or the end of a bounded log, then commit what is left."""
        while not stop():
            if self.finished and self.commit(final=True):
                break
            self.step()
        if self._engine.dirty or self._letters:
            self.commit()

    def step(self, max_wait_seconds: float = 0.2) -> None:
        """Gather, count, and commit if it is time."""
        self._load()
        until_commit = max(0.0, self._next_commit - self._clock.monotonic())
        gathered = self._gather(min(max_wait_seconds, until_commit))
        for partition, chunks in gathered.items():
            self._count(partition, chunks)
        now = self._clock.monotonic()
        self.status.last_step = now
        over = (
            len(self._letters) >= self._config.max_letters
            or self._letter_bytes >= self._config.max_letter_bytes
        )
        if over or now >= self._next_commit:
            self.commit()

    # Reading

    def _gather(self, max_wait_seconds: float) -> dict[str, list[Chunk]]:
        """Wait for records, then go on polling until enough is gathered; by partition, in order.

        A log hands records over in small lots. Counting has a fixed cost, so lots are waited for a moment
        longer (`gather_seconds`): nobody sees a figure before the next commit anyway.
        """
        gathered: dict[str, list[Chunk]] = defaultdict(list)
        records = size = 0
        deadline = self._clock.monotonic() + max_wait_seconds
        while True:
            try:
                polled = self._source.poll(max(0.0, deadline - self._clock.monotonic()))
            except SourceError as error:
                self._note_problem("source", error)
                self.status.source_errors += 1
                self._clock.sleep(min(1.0, self._config.gather_seconds))
                return gathered
            self.status.problems.pop("source", None)
            if polled.chunks and not gathered:
                deadline = self._clock.monotonic() + self._config.gather_seconds
            self._reassign(polled, gathered)
            for chunk in polled.chunks:
                gathered[chunk.partition].append(chunk)
                records += len(chunk.records)
                size += _about_bytes(chunk)
            full = records >= self._config.gather_records or size >= self._config.gather_bytes
            over = polled.assigned or self._source.finished or self._clock.monotonic() >= deadline
            if full or over:
                return gathered

    def _reassign(self, polled: Polled, gathered: dict[str, list[Chunk]]) -> None:
        for partition in polled.revoked:
            self._engine.revoke(partition)
            self._unloaded.pop(partition, None)
            gathered.pop(partition, None)
            self._letters = [letter for letter in self._letters if letter.partition != partition]
            self._letter_bytes = sum(len(letter.reject.payload) for letter in self._letters)
        for partition in polled.assigned:
            self._unloaded[partition] = None

    def _load(self) -> None:
        """Take over newly assigned partitions from the checkpoint; what fails is tried again."""
        for partition in list(self._unloaded):
            try:
                stored = self._checkpoint.load(partition)
                records = {} if stored is None else stored.records
                offset = None if stored is None else stored.next_offset
                self._engine.assign(partition, offset or 0, records, self._clock.monotonic())
                self._source.seek(partition, offset)
            except FencedError as error:
                self._start_over("fenced", error)
                return
            except (CheckpointError, SourceError, IncompatibleStateError) as error:
                self._engine.revoke(partition)
                self._note_problem("checkpoint", error)
                self._clock.sleep(min(1.0, self._config.checkpoint_interval_seconds))
                return
            del self._unloaded[partition]
            self.status.problems.pop("checkpoint", None)

    def _count(self, partition: str, chunks: Sequence[Chunk]) -> None:
        """Decode what one partition brought, and count it, in batches that fit the processor's caches."""
        held = self._engine.partitions.get(partition)
        if held is None:
            return
        records = chunks[0].records if len(chunks) == 1 else [r for c in chunks for r in c.records]
        lost = sum(chunk.lost for chunk in chunks)
        if not records:
            self._take(partition, (), chunks[-1].next_offset, lost)
        start = 0
        times = min(_MOST_TIMES, max(1, self._engine.series_count // _SERIES_TO_A_BATCH))
        while start < len(records):
            per_record = held.meta.events / held.meta.records if held.meta.records else _FIRST_GUESS
            stop = start + max(1, int(times * _BATCH_EVENTS / max(1.0, per_record)))
            following = records[stop].offset if stop < len(records) else chunks[-1].next_offset
            self._take(partition, records[start:stop], following, lost if start == 0 else 0)
            start = stop

    def _take(self, partition: str, records: Sequence[Record], next_offset: int, lost: int) -> None:
        now_us = self._clock.now_us()
        decoded = self._decoder.decode(records, now_us)
        rejects = Counter(str(reject.reason) for reject in decoded.rejects)
        for reject in decoded.rejects:
            self._letters.append(DeadLetter(partition, reject))
            self._letter_bytes += len(reject.payload)
        intake = Intake(
            next_offset=next_offset,
            batch=decoded.batch,
            records=len(records),
            rejects=rejects,
            dropped=decoded.dropped,
            lost=lost,
            surplus_features=decoded.surplus_features,
        )
        self._engine.process(partition, intake, self._clock.monotonic())
        if records and records[-1].timestamp > 0:
            self.status.lag_seconds[partition] = max(0.0, now_us / 1e6 - records[-1].timestamp / 1e3)

    # Committing

    def commit(self, *, final: bool = False) -> bool:
        """Make everything counted so far safe, then publish it. On failure drop it and start over.

        Args:
            final: the log has ended, so every window closes.

        Returns:
            Whether it is safe.
        """
        started = self._clock.monotonic()
        self._next_commit = started + self._config.checkpoint_interval_seconds
        self._refresh()
        self.status.lag = dict(self._source.lag())
        lag = {partition: at.records for partition, at in self.status.lag.items()}
        changes = self._engine.changes(self._clock.now_us(), started, lag, final=final)
        published = None
        if changes or self._letters:
            try:
                written = self._checkpoint.write([PartitionChange(*c) for c in changes], self._letters)
            except CheckpointError as error:
                self._start_over("fenced" if isinstance(error, FencedError) else "error", error)
                return False
            self.status.checkpoints += 1
            self.status.commit_bytes = written.bytes
            self.status.commit_seconds = self._clock.monotonic() - started
            self._letters, self._letter_bytes = [], 0
            published = self._engine.committed()
            self._add(published)
        self._failed_in_a_row = 0
        if not self._unloaded:
            self.status.problems.pop("checkpoint", None)
        self.status.last_commit = self._clock.monotonic()
        self.status.loaded, self.status.waiting = len(self._engine.partitions), len(self._unloaded)
        self.status.open_windows = self._engine.open_windows
        self._look_at_peers()
        self._publish(published)
        self._deliver()
        return True

    def _add(self, published: Published) -> None:
        self.status.closed_windows += published.windows
        for partition, tally in published.tallies.items():
            self.status.tallies.setdefault(partition, Counter()).update(tally)

    def _start_over(self, kind: str, error: Exception) -> None:
        """Drop all that is not committed and take the partitions over again from the checkpoint."""
        self.status.failures[kind] += 1
        self._failed_in_a_row += 1
        self._note_problem("checkpoint", error)
        self._engine.reset()
        self._unloaded.clear()
        self._letters, self._letter_bytes = [], 0
        self.status.loaded = 0
        try:
            self._source.reset()
        except SourceError as reset_error:
            self._note_problem("source", reset_error)
        self._publish(None)
        if kind != "fenced":
            self._clock.sleep(min(30.0, 0.2 * 2 ** min(self._failed_in_a_row, 10)))

    def _look_at_peers(self) -> None:
        """See whether another sidecar's partitions carry our series."""
        now = self._clock.monotonic()
        if now < self._next_peers:
            return
        self._next_peers = now + self._config.peer_interval_seconds
        try:
            peers = self._checkpoint.peers(frozenset(self._engine.partitions))
            split = self._engine.split_series(peers)
        except (CheckpointError, IncompatibleStateError) as error:
            log.warning("cannot see the other sidecars' partitions: %s", error)
            return
        if split and len(split) != self.status.split_series:
            log.warning(
                "%d series also arrive in partitions of another sidecar, the first is %s: their window "
                "readings are partial; key the records by service and model",
                len(split),
                "/".join(split[0]),
            )
        self.status.split_series = len(split)

    def _note_problem(self, part: str, error: Exception) -> None:
        self.status.problems[part] = str(error)
        log.error("%s: %s", part, error)


def _about_bytes(chunk: Chunk) -> int:
    """Size of a chunk judged by its first and last record: looking at each would cost a loop over events."""
    if not chunk.records:
        return 0
    ends = (chunk.records[0].value or b"", chunk.records[-1].value or b"")
    return max(len(value) for value in ends) * len(chunk.records)
