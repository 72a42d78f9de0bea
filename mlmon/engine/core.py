"""Batches into windows, windows into readings.

The engine holds the state of every assigned partition. `process` takes a batch in; `changes` says what a
commit must write and closes windows; `committed`, called only when the commit has succeeded, hands out what
may be published. If a commit fails the caller drops the engine's partitions and loads them again, so memory
never runs ahead of the checkpoint for longer than one interval.

Work per batch is a fixed number of vectorised passes plus one step for each series and window it touches.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from mlmon.engine.closing import Closing
from mlmon.engine.outbox import Outbox
from mlmon.engine.parts import Counters, Intakes, copy_parts, merge_parts
from mlmon.engine.series import SeriesConfig, SeriesTable, cut, series_codes
from mlmon.engine.state import (
    META_KEY,
    Intake,
    PartitionMeta,
    SeriesSeen,
    StateChange,
    load_partition,
    window_record,
    window_record_key,
)
from mlmon.windows import NEVER, Window, WindowConfig, late_mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mlmon.drift.judge import Judge
    from mlmon.engine.closing import Encode
    from mlmon.engine.parts import Parts
    from mlmon.engine.state import Partition, WindowKey
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import Monitor, Reading, Sample, SeriesKey, Summary

__all__ = ["Engine", "EngineConfig", "Intake", "Published"]

_END = 2**62


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the engine needs to know: how time is cut, and what events are told apart by."""

    windows: WindowConfig = WindowConfig()
    series: SeriesConfig = SeriesConfig()


class Published(NamedTuple):
    """What a successful commit makes public.

    Attributes:
        counters: by monitor name and series, accumulated since the process started; not changed afterwards.
        readings: of the windows this commit closed.
        windows: how many those were.
        tallies: what the commit adds to mlmon's own counters: by partition, (what, label value).
    """

    counters: Mapping[str, Mapping[SeriesKey, Summary]]
    readings: Sequence[Reading]
    windows: int
    tallies: Mapping[str, Counter[tuple[str, str]]]


class Engine:
    """Counts events by series and window for the partitions it is given.

    Args:
        config: windows, series, bounds.
        monitors: what to compute; their order is fixed for the engine's life.
        owner: name written into the state, to tell sidecars apart.
        judge: judges drift at window close; its state is part of the checkpoint.
        encode: makes the parcel of a closed window for the history.

    Attributes:
        outbox: parcels for the history.
    """

    def __init__(
        self,
        config: EngineConfig,
        monitors: Sequence[Monitor],
        owner: str,
        judge: Judge | None = None,
        encode: Encode | None = None,
    ) -> None:
        self._config = config
        self._monitors = tuple(monitors)
        self._owner = owner
        self._closing = Closing(monitors, judge, encode)
        self.outbox = Outbox()
        self._partitions: dict[str, Partition] = {}
        self._table = SeriesTable(config.series)
        self._intakes = Intakes(self._monitors)
        self._counters = Counters(self._monitors)
        self._readings: list[Reading] = []
        self._closed_windows = 0
        self.watermark_us = NEVER
        self.discarded = 0
        self.forced_windows = 0

    # Partitions

    @property
    def partitions(self) -> Mapping[str, Partition]:
        """The partitions held, by name."""
        return self._partitions

    @property
    def fields(self) -> frozenset[str]:
        """Optional event fields that the engine and its monitors read."""
        own = {"model_version", "deployment", "sampling_weight", "request_time"}
        if self._config.series.segment_by:
            own.add("segments")
        return frozenset(own).union(*(monitor.fields for monitor in self._monitors))

    @property
    def series_count(self) -> int:
        """Series kept at present."""
        return len(self._table)

    @property
    def open_windows(self) -> int:
        """Window states held open, over partitions and series."""
        return sum(len(p.windows) for p in self._partitions.values())

    @property
    def dirty(self) -> bool:
        """Whether there is anything to commit."""
        return any(p.dirty for p in self._partitions.values())

    def assign(self, name: str, next_offset: int, records: Mapping[bytes, bytes], monotonic: float) -> None:
        """Take a partition over from what its checkpoint holds (nothing, for a new one).

        Raises:
            IncompatibleStateError: the state was written by a newer mlmon, or is damaged.
        """
        partition, discarded = load_partition(next_offset, records, self._monitors, monotonic)
        self._closing.load(name, records)
        self.outbox.load(name, records)
        self.discarded += discarded
        for _, key in partition.windows:
            self._table.keep(key)
        for key, seen in partition.series.items():
            self._table.keep(key)
            self._table.touch(key, seen.last_us)
        self._partitions[name] = partition

    def revoke(self, name: str) -> None:
        """Drop a partition and everything of it that is not committed."""
        self._partitions.pop(name, None)
        self.outbox.drop(name)
        self._closing.retain(self._partitions)

    def reset(self) -> None:
        """Drop every partition; counters stay, since they hold committed events only."""
        self._partitions.clear()
        self._readings.clear()
        self._closed_windows = 0
        self.outbox.clear()
        self._closing.retain(self._partitions)

    # Events

    def process(self, name: str, intake: Intake, monotonic: float) -> None:
        """Count what was read of a partition."""
        partition = self._partitions[name]
        partition.next_offset, partition.active_at, partition.dirty = intake.next_offset, monotonic, True
        partition.count(intake)
        batch = intake.batch
        if batch is None or len(batch) == 0:
            return
        times = batch.times()
        meta = partition.meta
        late = late_mask(times, meta.seen_us, meta.closed_us, self._config.windows)
        meta.seen_us = max(meta.seen_us, int(times.max()))
        lates = int(late.sum())
        meta.events += len(batch)
        meta.late += lates
        partition.tally["events", ""] += len(batch)
        partition.tally["late", ""] += lates
        starts = np.where(late, NEVER, times - times % self._config.windows.size_us)
        codes, keys = series_codes(batch, self._config.series.segment_by)
        codes, keys = self._admit(partition, codes, keys)
        for start, key, part in cut(batch, starts, codes, keys):
            self._update(partition, start, key, part)

    def _admit(
        self, partition: Partition, codes: NDArray[np.intp], keys: list[SeriesKey]
    ) -> tuple[NDArray[np.intp], list[SeriesKey]]:
        """Fold what is over the caps into `other`, counting the events folded."""
        admitted = [self._table.admit(key) for key in keys]
        if any(kind for _, kind in admitted):
            sizes = np.bincount(codes, minlength=len(keys)).tolist()
            for (_, kind), size in zip(admitted, sizes, strict=True):
                if kind:
                    partition.tally["overflow", kind] += size
        position: dict[SeriesKey, int] = {}
        remap = np.array([position.setdefault(key, len(position)) for key, _ in admitted], np.intp)
        return (codes if len(position) == len(keys) else remap[codes]), list(position)

    def _update(self, partition: Partition, start: int, key: SeriesKey, batch: EventBatch) -> None:
        newest = int(batch.times().max())
        requests = batch.requests()
        spoken = requests if len(requests) else batch
        times = spoken.times()
        partition.note(
            key, SeriesSeen(int(times.min()), int(times.max()), len(requests), len(batch) - len(requests))
        )
        self._table.touch(key, newest)
        if start != NEVER:
            partition.meta.windows[start] = partition.meta.windows.get(start, 0) + len(batch)
        window = (start, key)
        partition.pending[window] = self._intakes.update(partition.pending.get(window), batch, requests)

    # Commits

    def changes(
        self, now_us: int, monotonic: float, lag: Mapping[str, int], *, final: bool = False
    ) -> list[StateChange]:
        """What to commit: new state of every partition that changed, after closing the windows that are due.

        Args:
            now_us: wall clock, µs.
            monotonic: seconds.
            lag: records still unread by partition; a partition with some is never idle.
            final: the log has ended: close every window.
        """
        touched = {name: self._merge_pending(p) for name, p in self._partitions.items()}
        closing = _END if final else self._closing_time(now_us, monotonic, lag)
        closing = max(closing, self._forced_time())
        deletes, groups = self._close(closing)
        changes = []
        for name, partition in self._partitions.items():
            if not partition.dirty:
                continue
            puts = {
                window_record_key(window): window_record(self._monitors, partition.windows[window])
                for window in touched[name]
                if window in partition.windows
            }
            outgoing, spent = self.outbox.changes(name)
            kept, dropped = self._closing.changes(name, groups.get(name, ()))
            puts.update(kept)
            puts.update(outgoing)
            puts[META_KEY] = partition.meta_bytes(self._owner, now_us)
            gone = [*deletes.get(name, ()), *spent, *dropped]
            changes.append(StateChange(name, partition.next_offset, puts, gone))
        return changes

    def committed(self) -> Published:
        """Take note that the last `changes` are safe, and say what they make public."""
        for partition in self._partitions.values():
            for (_, key), parts in partition.pending.items():
                self._counters.add(key, parts)
            partition.pending.clear()
            partition.dirty = False
        tallies = {name: p.tally for name, p in self._partitions.items() if p.tally}
        for name in tallies:
            self._partitions[name].tally = Counter()
        self.outbox.committed()
        self._expire()
        readings, self._readings = self._readings, []
        closed, self._closed_windows = self._closed_windows, 0
        return Published(self._counters.publish(), readings, closed, tallies)

    def delivered(self, parcel: str) -> None:
        """Take note that a parcel of the outbox is in the history; the next commit deletes its records."""
        partition = self._partitions.get(self.outbox.delivered(parcel))
        if partition is not None:
            partition.dirty = True

    def standing(self) -> Sequence[Sample]:
        """The pager and the burns as of the last commit, or as loaded. For the loop, after a commit."""
        return self._closing.samples(self.watermark_us)

    def _merge_pending(self, partition: Partition) -> list[WindowKey]:
        """Merge what is pending into the open windows; `pending` stays, for the counters."""
        touched = []
        for window, parts in partition.pending.items():
            if window[0] == NEVER:
                continue
            touched.append(window)
            if window in partition.windows:
                merge_parts(partition.windows[window], parts)
            else:
                partition.windows[window] = copy_parts(parts)
        return touched

    # Closing

    def _closing_time(self, now_us: int, monotonic: float, lag: Mapping[str, int]) -> int:
        """Event time up to which windows may close.

        The lowest watermark of the partitions that are not idle. When all are idle the clock takes over, so
        that the last window of a quiet service is read after the idle timeout and not with its next request.
        """
        windows = self._config.windows
        parts = self._partitions.items()
        if any(p.meta.seen_us == NEVER and lag.get(name, 0) > 0 for name, p in parts):
            return NEVER
        seen = {name: p for name, p in parts if p.meta.seen_us != NEVER}
        if not seen:
            return NEVER
        active = [
            p.meta.seen_us
            for name, p in seen.items()
            if lag.get(name, 0) > 0 or monotonic - p.active_at <= windows.idle_timeout_seconds
        ]
        if active:
            return min(active) - windows.lateness_us
        newest = max(p.meta.seen_us for p in seen.values())
        return max(newest, now_us - windows.idle_us) - windows.lateness_us

    def _forced_time(self) -> int:
        """Where the bound on open windows makes the oldest close early."""
        excess = self.open_windows - self._config.windows.max_open
        if excess <= 0:
            return NEVER
        self.forced_windows += excess
        starts = sorted(start for p in self._partitions.values() for start, _ in p.windows)
        return starts[excess - 1] + self._config.windows.size_us

    def _close(self, closing_us: int) -> tuple[dict[str, list[bytes]], dict[str, list[SeriesKey]]]:
        """Read and drop every window that ends by `closing_us`.

        Returns:
            By partition, the state keys to delete, and the series whose windows were closed.
        """
        if closing_us == NEVER:
            return {}, {}
        size = self._config.windows.size_us
        boundary = closing_us - closing_us % size if closing_us != _END else self._last_end()
        self.watermark_us = max(self.watermark_us, boundary)
        merged: dict[int, dict[SeriesKey, Parts]] = defaultdict(dict)
        homes: dict[int, dict[SeriesKey, str]] = defaultdict(dict)
        deletes: dict[str, list[bytes]] = defaultdict(list)
        closed: dict[str, list[SeriesKey]] = {}
        for name, partition in self._partitions.items():
            due = [window for window in partition.windows if window[0] + size <= boundary]
            for window in due:
                _merge_into(merged[window[0]], window[1], partition.windows.pop(window))
                deletes[name].append(window_record_key(window))
                homes[window[0]].setdefault(window[1], name)
            if due:
                closed[name] = [key for _, key in due]
                partition.dirty = True
                newest = max(start for start, _ in due) + size
                partition.meta.closed_us = max(partition.meta.closed_us, newest)
        self._read(merged, homes)
        return deletes, closed

    def _read(
        self, merged: Mapping[int, dict[SeriesKey, Parts]], homes: Mapping[int, dict[SeriesKey, str]]
    ) -> None:
        """Read closed windows in order. A parcel belongs to the first partition its window was found in."""
        first_seen = {key: seen.first_us for key, seen in self.seen().items()} if merged else {}
        for start in sorted(merged):
            window = Window(start, start + self._config.windows.size_us)
            readings, chunks = self._closing.read(window, merged[start], homes[start], first_seen)
            self._readings.extend(readings)
            home = next(iter(homes[start].values()))
            given_up = self.outbox.add(f"{start}-{home}", home, chunks)
            self._partitions[home].tally["overflow", "history"] += given_up
        self._closed_windows += len(merged)

    def _last_end(self) -> int:
        starts = [start for p in self._partitions.values() for start, _ in p.windows]
        return max(starts) + self._config.windows.size_us if starts else NEVER

    # Series

    def seen(self) -> dict[SeriesKey, SeriesSeen]:
        """What the partitions held have carried of each series."""
        total: dict[SeriesKey, SeriesSeen] = {}
        for partition in self._partitions.values():
            for key, part in partition.series.items():
                total[key] = part if key not in total else total[key].joined(part)
        return total

    def split_series(self, peers: Mapping[str, bytes]) -> list[SeriesKey]:
        """Series of ours that others' partitions carry too, from their `meta` records."""
        horizon = self.watermark_us - self._config.windows.size_us * 2
        own = {key for p in self._partitions.values() for key in p.series}
        split: set[SeriesKey] = set()
        for data in peers.values():
            meta = PartitionMeta.from_bytes(data)
            if meta.owner != self._owner:
                split.update(key for key, seen in meta.series if key in own and seen.last_us >= horizon)
        return sorted(split)

    def _expire(self) -> None:
        newest = max((p.meta.seen_us for p in self._partitions.values()), default=NEVER)
        if newest == NEVER:
            return
        before = newest - self._config.series.expiry_seconds * 1_000_000
        held = (key for p in self._partitions.values() for _, key in p.windows)
        gone = self._table.expire(before, held)
        self._counters.drop(gone)
        for partition in self._partitions.values():
            for key in gone:
                partition.series.pop(key, None)


def _merge_into(into: dict[SeriesKey, Parts], key: SeriesKey, parts: Parts) -> None:
    if key in into:
        merge_parts(into[key], parts)
    else:
        into[key] = parts
