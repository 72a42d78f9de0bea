"""One summary for each monitor, for a series and window: how events get into them, and how they are merged.

A monitor that has seen no event there has no summary, and None stands in its place: a series of which only
labels came is known to the monitors of labels alone, and no other reads, counts or judges it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import Monitor, SeriesKey, Summary

__all__ = ["Counters", "Intakes", "Parts", "copy_parts", "merge_parts"]

#: Summaries in the order of the monitors.
Parts = list["Summary | None"]


class Intakes:
    """Which events each monitor takes in: requests, or with a true attribute `labels` label events as well.

    Args:
        monitors: in the order of the parts.
    """

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self._monitors = [(monitor, bool(getattr(monitor, "labels", False))) for monitor in monitors]

    def update(self, parts: Parts | None, events: EventBatch, requests: EventBatch) -> Parts:
        """Take in events of one series and window.

        Args:
            parts: what was taken in before; changed. None begins anew.
            events: all of them.
            requests: those that are no label events.
        """
        held: Parts = [None] * len(self._monitors) if parts is None else parts
        for index, (monitor, labels) in enumerate(self._monitors):
            taken = events if labels else requests
            if not len(taken):
                continue
            summary = held[index]
            if summary is None:
                summary = held[index] = monitor.summary()
            summary.update(taken)
        return held


def copy_parts(parts: Parts) -> Parts:
    """Independent copies."""
    return [None if part is None else part.copy() for part in parts]


def merge_parts(into: Parts, other: Parts) -> None:
    """Merge `other` into `into`; `other` stays as it is."""
    for index, new in enumerate(other):
        if new is None:
            continue
        old = into[index]
        if old is None:
            into[index] = new.copy()
        else:
            old.merge(new)


class Counters:
    """Summaries by monitor and series, accumulated since the process started; published ones never change.

    Args:
        monitors: those whose class has a false attribute `counts` are left out.
    """

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self._names = [monitor.name if getattr(monitor, "counts", True) else None for monitor in monitors]
        self._held: dict[str, dict[SeriesKey, Summary]] = {name: {} for name in self._names if name}
        self._private: set[tuple[str, SeriesKey]] = set()

    def add(self, series: SeriesKey, parts: Parts) -> None:
        """Add what came of a series, which stays as it is."""
        for name, part in zip(self._names, parts, strict=True):
            if name is None or part is None:
                continue
            if hasattr(part, "counted"):
                part = part.counted()  # without what only its window needs
            held = self._held[name].get(series)
            if held is None or (name, series) not in self._private:
                # what is held is public: the copy is not
                self._private.add((name, series))
                if held is None:
                    self._held[name][series] = part.copy()
                    continue
                held = self._held[name][series] = held.copy()
            held.merge(part)

    def drop(self, series: Iterable[SeriesKey]) -> None:
        """Let go of series."""
        for key in series:
            for held in self._held.values():
                held.pop(key, None)

    def publish(self) -> Mapping[str, Mapping[SeriesKey, Summary]]:
        """All there is, by monitor and series; it is not changed afterwards."""
        self._private.clear()
        return {name: dict(held) for name, held in self._held.items()}
