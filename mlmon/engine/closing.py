"""What a closed window says: the monitors' readings, drift and burns judged, a parcel for the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlmon.burn.ledger import Ledger
from mlmon.drift.group import GroupKey
from mlmon.drift.show import HISTORY_ONLY
from mlmon.monitors.slo import SloMonitor
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlmon.drift.judge import FieldTable, Judge
    from mlmon.engine.parts import Parts
    from mlmon.engine.state import Partition
    from mlmon.monitors.base import Monitor, Reading, Sample, SeriesKey, Summary
    from mlmon.windows import Window

__all__ = ["GROUP_PREFIX", "Closed", "Closing", "Encode"]

GROUP_PREFIX = b"g"


class Encode(Protocol):
    """Makes the parcel of a window for the history: self-contained chunks."""

    def __call__(
        self,
        window: Window,
        readings: Sequence[Reading],
        summaries: Mapping[str, Mapping[SeriesKey, Summary]],
    ) -> list[bytes]:
        """Encode a closed window: all its readings, and its summaries by monitor and series."""
        ...


class Closed(NamedTuple):
    """What a window says: readings to show, and chunks for the history."""

    readings: list[Reading]
    chunks: list[bytes]


class Closing:
    """Reads closed windows.

    Args:
        monitors: in the order of the summaries. With the monitor `slo` among them burns are kept.
        judge: judges drift; None without a baseline.
        encode: makes parcels for the history; None without one.
    """

    def __init__(
        self, monitors: Sequence[Monitor], judge: Judge | None = None, encode: Encode | None = None
    ) -> None:
        self._monitors = tuple(monitors)
        self._judge = judge
        self._encode = encode
        self._ledger = _ledger(monitors)

    def read(
        self,
        window: Window,
        summaries: Mapping[SeriesKey, Parts],
        homes: Mapping[SeriesKey, str],
        first_seen: Mapping[SeriesKey, int],
    ) -> Closed:
        """Read a window over all its series. A monitor is shown those it has a summary of.

        Args:
            window: the window.
            summaries: of its series, by monitor.
            homes: the partition that each series was found in; the first of several.
            first_seen: event time (µs) at which each series was first seen.
        """
        by_monitor: dict[str, dict[SeriesKey, Any]] = {
            monitor.name: {
                key: part for key, parts in summaries.items() if (part := parts[index]) is not None
            }
            for index, monitor in enumerate(self._monitors)
        }
        readings: list[Reading] = []
        for monitor in self._monitors:
            readings.extend(monitor.read(window, by_monitor[monitor.name], first_seen))
        if self._judge is not None:
            readings.extend(self._judge.close(window, self._tables(summaries), readings))
        if self._ledger is not None:
            self._ledger.close(window, by_monitor[SloMonitor.name], homes)
        chunks: list[bytes] = []
        if self._encode is not None:
            burns = [] if self._ledger is None else self._ledger.readings(window)
            chunks = self._encode(window, [*readings, *burns], by_monitor)
        return Closed([r for r in readings if r.metric.name not in HISTORY_ONLY], chunks)

    def _tables(self, summaries: Mapping[SeriesKey, Parts]) -> dict[SeriesKey, FieldTable]:
        drifting = [(i, m.name, m.drift) for i, m in enumerate(self._monitors) if hasattr(m, "drift")]
        return {
            series: {name: drift(part) for i, name, drift in drifting if (part := parts[i]) is not None}
            for series, parts in summaries.items()
        }

    # State of the judge and of the ledger

    def samples(self, watermark_us: int) -> tuple[Sample, ...]:
        """The pager as it stands, and the burns at a watermark."""
        pager = () if self._judge is None else self._judge.samples()
        return pager if self._ledger is None else (*pager, *self._ledger.samples(watermark_us))

    def load(self, partition: str, records: Mapping[bytes, bytes]) -> None:
        """Take over the groups in a partition's state.

        Raises:
            IncompatibleStateError: a record is damaged.
        """
        if self._judge is not None:
            for key, value in records.items():
                if key.startswith(GROUP_PREFIX):
                    self._judge.load(GroupKey(*unpack(key[1:])), value)
        if self._ledger is not None:
            self._ledger.load(partition, records)

    def retain(self, partitions: Mapping[str, Partition]) -> None:
        """Drop what no partition but these carried."""
        if self._judge is not None:
            series = {key for partition in partitions.values() for key in partition.series}
            self._judge.retain({GroupKey(key.service, key.model) for key in series})
        if self._ledger is not None:
            self._ledger.retain(partitions)

    def changes(self, partition: str, series: Iterable[SeriesKey]) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Records of a partition to write and to delete with its commit.

        Args:
            partition: its name.
            series: those of which it had a window that was closed.
        """
        puts, deletes = ({}, []) if self._ledger is None else self._ledger.changes(partition)
        if self._judge is not None:
            keys = {GroupKey(key.service, key.model) for key in series} & self._judge.groups.keys()
            puts |= {GROUP_PREFIX + pack(list(key)): self._judge.groups[key].to_bytes() for key in keys}
        return puts, deletes


def _ledger(monitors: Sequence[Any]) -> Ledger | None:
    """Keeps the burns of the objectives that the monitor `slo` judges by; None without it."""
    found = [Ledger(one.judging, one.max_groups) for one in monitors if one.name == SloMonitor.name]
    return found[0] if found else None
