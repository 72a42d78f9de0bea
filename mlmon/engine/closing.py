"""What a closed window says: the monitors' readings, drift judged, and the parcel for the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from mlmon.drift.group import GroupKey
from mlmon.drift.show import HISTORY_ONLY
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlmon.drift.judge import FieldTable, Judge
    from mlmon.engine.parts import Parts
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
        monitors: in the order of the summaries.
        judge: judges drift; None without a baseline.
        encode: makes parcels for the history; None without one.
    """

    def __init__(
        self, monitors: Sequence[Monitor], judge: Judge | None = None, encode: Encode | None = None
    ) -> None:
        self._monitors = tuple(monitors)
        self._judge = judge
        self._encode = encode

    def read(
        self,
        window: Window,
        summaries: Mapping[SeriesKey, Parts],
        first_seen: Mapping[SeriesKey, int],
    ) -> Closed:
        """Read a window over all its series. A monitor is shown those it has a summary of."""
        by_monitor = {
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
        chunks = [] if self._encode is None else self._encode(window, readings, by_monitor)
        return Closed([r for r in readings if r.metric.name not in HISTORY_ONLY], chunks)

    def _tables(self, summaries: Mapping[SeriesKey, Parts]) -> dict[SeriesKey, FieldTable]:
        drifting = [(i, m.name, m.drift) for i, m in enumerate(self._monitors) if hasattr(m, "drift")]
        return {
            series: {name: drift(part) for i, name, drift in drifting if (part := parts[i]) is not None}
            for series, parts in summaries.items()
        }

    # The judge's state

    def samples(self) -> tuple[Sample, ...]:
        """The pager as it stands."""
        return () if self._judge is None else self._judge.samples()

    def load(self, records: Mapping[bytes, bytes]) -> None:
        """Take over the groups in a partition's state.

        Raises:
            IncompatibleStateError: a record is damaged.
        """
        if self._judge is not None:
            for key, value in records.items():
                if key.startswith(GROUP_PREFIX):
                    self._judge.load(GroupKey(*unpack(key[1:])), value)

    def retain(self, series: Iterable[SeriesKey]) -> None:
        """Drop the groups of which no series is held any more."""
        if self._judge is not None:
            self._judge.retain({GroupKey(key.service, key.model) for key in series})

    def records(self, series: Iterable[SeriesKey]) -> dict[bytes, bytes]:
        """State of the groups that these series belong to."""
        if self._judge is None:
            return {}
        keys = {GroupKey(key.service, key.model) for key in series} & self._judge.groups.keys()
        return {GROUP_PREFIX + pack(list(key)): self._judge.groups[key].to_bytes() for key in keys}
