"""Which readings are shown: the newest of each metric and labels, until it is too old to be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.catalog.requests import EXPECTED_VERSION, VERSION_TRAFFIC
from mlmon.catalog.sidecar import READINGS_DROPPED
from mlmon.monitors.base import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlmon.monitors.base import Reading

__all__ = ["ReadingBoard"]

#: Readings that only together are true: a newer window of a service and model replaces all of them, so that
#: the shares of versions add up to 1 and a version that is gone is not shown beside its successor.
_TOGETHER = frozenset({VERSION_TRAFFIC.name, EXPECTED_VERSION.name})

_Key = tuple[str, tuple[str, ...]]


class ReadingBoard:
    """Readings of the newest closed windows. Not thread-safe: the loop owns it and publishes `current()`.

    Args:
        max_readings: most readings kept; a new metric and labels beyond it is left out and counted.

    Attributes:
        dropped: readings left out because the board was full.
    """

    def __init__(self, max_readings: int = 200_000) -> None:
        self._max = max_readings
        self._kept: dict[_Key, Reading] = {}
        self._groups: dict[_Key, int] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, readings: Iterable[Reading]) -> None:
        """Take in readings of closed windows, in any order; a newer window replaces an older one."""
        for reading in readings:
            name, labels = reading.metric.name, reading.labels
            if name in _TOGETHER and not self._admit(name, labels[:2], reading.window.end_us):
                continue
            key = (name, labels)
            kept = self._kept.get(key)
            if kept is None and len(self._kept) >= self._max:
                self.dropped += 1
            elif kept is None or kept.window.end_us <= reading.window.end_us:
                self._kept[key] = reading

    def _admit(self, name: str, group: tuple[str, ...], end_us: int) -> bool:
        """Make way for a newer window of a group; False where the reading is of an older one."""
        newest = self._groups.get((name, group))
        if newest is None or newest < end_us:
            if newest is not None:
                gone = [key for key in self._kept if key[0] == name and key[1][:2] == group]
                for key in gone:
                    del self._kept[key]
            self._groups[name, group] = end_us
            return True
        return newest == end_us

    def expire(self, before_us: int) -> int:
        """Drop readings whose window ended before this event time, µs; returns how many."""
        gone = [key for key, reading in self._kept.items() if reading.window.end_us < before_us]
        for key in gone:
            del self._kept[key]
        self._groups = {group: end for group, end in self._groups.items() if end >= before_us}
        return len(gone)

    def current(self) -> tuple[Reading, ...]:
        """All readings kept, for a snapshot."""
        return tuple(self._kept.values())

    def samples(self) -> Iterable[Sample]:
        """What to publish of it."""
        yield Sample(READINGS_DROPPED, (), float(self.dropped))
