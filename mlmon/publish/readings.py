"""Which readings are shown: the newest of each metric and labels, until it is too old to be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.catalog import SERIES_LABELS, drift
from mlmon.catalog.requests import EXPECTED_VERSION, VERSION_TRAFFIC
from mlmon.catalog.sidecar import READINGS_DROPPED
from mlmon.monitors.base import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlmon.monitors.base import Reading

__all__ = ["ReadingBoard"]

#: Readings that only together are true, by how many of their first labels name the group: a newer window
#: replaces the whole group. So the shares of versions of a service and model add up to 1 and a version that
#: is gone is not shown beside its successor; and of a series and monitor only the fields that lead now are
#: shown, which bounds them.
_VERSIONS, _DRIFT = 2, len(SERIES_LABELS) + 1
_TOGETHER = {VERSION_TRAFFIC.name: _VERSIONS, EXPECTED_VERSION.name: _VERSIONS} | {
    metric.name: _DRIFT
    for metric in (
        drift.EFFECT,
        drift.TOLERANCE,
        drift.EVIDENCE,
        drift.FIELD_THRESHOLD,
        drift.SAMPLE_SIZE,
        drift.ALARM,
        drift.DISTANCE,
    )
}
#: Readings that can be of several windows together.
_POOLED = frozenset(name for name, size in _TOGETHER.items() if size == _DRIFT) | {drift.FIELDS.name}

_Key = tuple[str, tuple[str, ...]]


class _Group:
    """The readings kept of one group, and the window they are of."""

    __slots__ = ("end_us", "keys")

    def __init__(self) -> None:
        self.end_us = -(2**62)
        self.keys: list[_Key] = []


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
        self._groups: dict[_Key, _Group] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, readings: Iterable[Reading]) -> None:
        """Take in readings of closed windows, in any order; a newer window replaces an older one."""
        for reading in readings:
            name, labels = reading.metric.name, reading.labels
            key = (name, labels)
            size = _TOGETHER.get(name)
            group = None if size is None else self._groups.setdefault((name, labels[:size]), _Group())
            if group is not None and not self._admit(group, reading.window.end_us):
                continue
            kept = self._kept.get(key)
            if kept is None and len(self._kept) >= self._max:
                self.dropped += 1
            elif kept is None or kept.window.end_us <= reading.window.end_us:
                self._kept[key] = reading
                if kept is None and group is not None:
                    group.keys.append(key)

    def _admit(self, group: _Group, end_us: int) -> bool:
        """Make way for a newer window of a group; False where the reading is of an older one."""
        if group.end_us < end_us:
            for key in group.keys:
                del self._kept[key]
            group.keys.clear()
            group.end_us = end_us
        return group.end_us == end_us

    def expire(self, before_us: int) -> int:
        """Drop readings whose window ended before this event time, µs; returns how many.

        A reading over several windows (of a series with few events) stays for as long again as they took: the
        next one is not due before.
        """
        gone = [key for key, reading in self._kept.items() if _until(reading) < before_us]
        for key in gone:
            del self._kept[key]
        for group in self._groups.values():
            group.keys = [key for key in group.keys if key in self._kept]
        self._groups = {name: group for name, group in self._groups.items() if group.keys}
        return len(gone)

    def current(self) -> tuple[Reading, ...]:
        """All readings kept, for a snapshot."""
        return tuple(self._kept.values())

    def samples(self) -> Iterable[Sample]:
        """What to publish of it."""
        yield Sample(READINGS_DROPPED, (), float(self.dropped))


def _until(reading: Reading) -> int:
    """Event time up to which a reading may stand."""
    window = reading.window
    return 2 * window.end_us - window.start_us if reading.metric.name in _POOLED else window.end_us
