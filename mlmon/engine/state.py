"""What is kept of a partition, and its form in the checkpoint.

Records of a partition: one `meta` record (totals, watermark, series seen), and one record for each open
window and series holding every monitor's summary. A record is rewritten only when it changed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mlmon.errors import IncompatibleStateError
from mlmon.monitors.base import SeriesKey
from mlmon.stats.pack import pack, unpack
from mlmon.windows import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlmon.engine.parts import Parts
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import Monitor

__all__ = [
    "META_KEY",
    "Intake",
    "Partition",
    "PartitionMeta",
    "SeriesSeen",
    "StateChange",
    "WindowKey",
    "load_partition",
    "window_record_key",
]

META_KEY = b"meta"
_STATE_VERSION = 1
_RECENT_WINDOWS = 240
#: Stored in place of the summary of a monitor that has seen no event.
_NOTHING = b""

#: Start of the window (µs) and its series.
WindowKey = tuple[int, SeriesKey]


class SeriesSeen(msgspec.Struct, array_like=True):
    """What a partition has carried of a series.

    Attributes:
        first_us: time of the first request, µs; of the first label event where no request came.
        last_us: time of the newest.
        events: sampled requests.
        labels: label events.
    """

    first_us: int
    last_us: int
    events: int
    labels: int = 0

    def joined(self, other: SeriesSeen) -> SeriesSeen:
        """Both together. Times of label events give way to those of requests.

        Example:
            >>> SeriesSeen(5, 9, 0, 2).joined(SeriesSeen(7, 8, 3))
            SeriesSeen(first_us=7, last_us=8, events=3, labels=2)
        """
        telling = [seen for seen in (self, other) if seen.events] or [self, other]
        return SeriesSeen(
            min(seen.first_us for seen in telling),
            max(seen.last_us for seen in telling),
            self.events + other.events,
            self.labels + other.labels,
        )


class Intake(NamedTuple):
    """What was read of one partition in one go.

    Attributes:
        next_offset: where reading goes on.
        batch: the good events, in the order of the log; None when there is none.
        records: log records read, bad ones included.
        rejects: how many records and rows were refused, by reason.
        dropped: events that emitters said they dropped.
        lost: records removed by retention before they were read.
        surplus_features: feature values left out because a batch had too many names.
    """

    next_offset: int
    batch: EventBatch | None = None
    records: int = 0
    rejects: Mapping[str, int] = {}
    dropped: int = 0
    lost: int = 0
    surplus_features: int = 0


class PartitionMeta(msgspec.Struct):
    """Totals of a partition since its first checkpoint, exact over crashes, restarts and moves.

    Attributes:
        version: of this format.
        owner: the sidecar that wrote it.
        written_us: when, wall clock.
        records: log records read, bad ones included.
        events: sampled events counted, late ones and label events included.
        late: those of them whose window was closed.
        rejects: records and rows kept as dead letters.
        dropped: events that emitters said they dropped.
        lost: records removed by retention before they were read.
        seen_us: newest event time.
        closed_us: windows that end here or earlier are published.
        windows: events by window start, the most recent ones, open and closed.
        series: what was seen of each series.
    """

    version: int = _STATE_VERSION
    owner: str = ""
    written_us: int = 0
    records: int = 0
    events: int = 0
    late: int = 0
    rejects: int = 0
    dropped: int = 0
    lost: int = 0
    seen_us: int = NEVER
    closed_us: int = NEVER
    windows: dict[int, int] = msgspec.field(default_factory=dict)
    series: list[tuple[SeriesKey, SeriesSeen]] = msgspec.field(default_factory=list)

    def to_bytes(self) -> bytes:
        """The `meta` record."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def from_bytes(data: bytes) -> PartitionMeta:
        """Read a `meta` record.

        Raises:
            IncompatibleStateError: it was written by a newer mlmon, or is damaged.
        """
        try:
            meta = _META.decode(data)
        except msgspec.DecodeError as error:
            raise IncompatibleStateError(f"stored partition record cannot be read: {error}") from error
        if meta.version > _STATE_VERSION:
            raise IncompatibleStateError(
                f"stored state has version {meta.version}, this mlmon reads up to {_STATE_VERSION}: "
                "run the newer mlmon, or start with a fresh checkpoint"
            )
        return meta


_META = msgspec.msgpack.Decoder(PartitionMeta)


class StateChange(NamedTuple):
    """What a commit changes of a partition: puts hold `meta` last."""

    partition: str
    next_offset: int
    puts: Mapping[bytes, bytes]
    deletes: Sequence[bytes]


@dataclass(slots=True)
class Partition:
    """A partition in memory.

    Attributes:
        meta: as of the last commit plus what came since.
        next_offset: where reading goes on.
        series: what was seen of each series; written into `meta`.
        windows: summaries of open windows by monitor, as of the last `changes`.
        pending: summaries of what came since, late events under the window `NEVER`.
        active_at: monotonic time of the newest records, seconds.
        tally: what the next commit adds to mlmon's own counters, by (what, label value).
        dirty: whether anything is to be committed.
    """

    meta: PartitionMeta
    next_offset: int
    active_at: float
    series: dict[SeriesKey, SeriesSeen] = field(default_factory=dict)
    windows: dict[WindowKey, Parts] = field(default_factory=dict)
    pending: dict[WindowKey, Parts] = field(default_factory=dict)
    tally: Counter[tuple[str, str]] = field(default_factory=Counter)
    dirty: bool = False

    def note(self, key: SeriesKey, seen: SeriesSeen) -> None:
        """Count events of a series."""
        self.series[key] = self.series[key].joined(seen) if key in self.series else seen

    def count(self, intake: Intake) -> None:
        """Add an intake to the totals and to what the next commit publishes."""
        rejects = sum(intake.rejects.values())
        meta, tally = self.meta, self.tally
        meta.records += intake.records
        meta.rejects += rejects
        meta.dropped += intake.dropped
        meta.lost += intake.lost
        for what, count in (("records", intake.records), ("dropped", intake.dropped), ("lost", intake.lost)):
            tally[what, ""] += count
        tally["overflow", "feature"] += intake.surplus_features
        for reason, count in intake.rejects.items():
            tally["reject", str(reason)] += count

    def meta_bytes(self, owner: str, now_us: int) -> bytes:
        """The `meta` record as of now."""
        for start in sorted(self.meta.windows)[:-_RECENT_WINDOWS]:
            del self.meta.windows[start]
        self.meta.owner, self.meta.written_us = owner, now_us
        self.meta.series = list(self.series.items())
        return self.meta.to_bytes()


def window_record_key(window: WindowKey) -> bytes:
    """The state key of a window and series."""
    return b"w" + pack([window[0], *window[1]])


def window_record(monitors: Sequence[Monitor], parts: Parts) -> bytes:
    """The state value of a window and series."""
    pairs = zip(monitors, parts, strict=True)
    return pack({monitor.name: _NOTHING if part is None else part.to_bytes() for monitor, part in pairs})


def load_partition(
    next_offset: int, records: Mapping[bytes, bytes], monitors: Sequence[Monitor], now: float
) -> tuple[Partition, int]:
    """Build a partition from what a checkpoint holds.

    Returns:
        (partition, discarded): discarded counts summaries left out because a monitor is new or its
        parameters changed since; that monitor's part of the open windows starts empty.

    Raises:
        IncompatibleStateError: the state was written by a newer mlmon, or is damaged.
    """
    meta = PartitionMeta.from_bytes(records[META_KEY]) if META_KEY in records else PartitionMeta()
    partition = Partition(meta, next_offset, now, series=dict(meta.series))
    discarded = 0
    for key, value in records.items():
        if not key.startswith(b"w"):
            continue
        start, *series = unpack(key[1:])
        stored: dict[str, bytes] = unpack(value)
        parts: Parts = []
        for monitor in monitors:
            try:
                data = stored[monitor.name]
                parts.append(None if data == _NOTHING else monitor.load(data))
            except (KeyError, IncompatibleStateError):
                parts.append(None)
                discarded += 1
        partition.windows[start, SeriesKey(*series)] = parts
    return partition, discarded
