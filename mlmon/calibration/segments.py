"""Which segments of a scope have a reference of their own, and which events belong to each."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mlmon.engine.series import OTHER, series_codes

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch

__all__ = ["Segments"]


class Segments:
    """The largest segments of a scope by their place, and one more, `other`, for the events of the rest.

    Args:
        segment_by: keys of the segments map that make a segment; without any there are no segments.
        counts: events by segment.
        most: segments kept.
        uncounted: events of segments that are not in `counts`.

    Attributes:
        names: as in `SeriesKey`, by place.
    """

    def __init__(
        self, segment_by: tuple[str, ...], counts: Counter[str], most: int, uncounted: int = 0
    ) -> None:
        self._segment_by = segment_by
        # by size, then by name: the same whatever the order of events
        kept = sorted(counts, key=lambda name: (-counts[name], name))[:most]
        self.names = sorted(kept)
        self._places = {name: place for place, name in enumerate(self.names)}
        self.folded = len(counts) - len(kept)
        if self.folded or uncounted:
            self._places.setdefault(OTHER, len(self.names))
            if self._places[OTHER] == len(self.names):
                self.names.append(OTHER)

    def __len__(self) -> int:
        return len(self.names)

    def places(self, batch: EventBatch) -> NDArray[np.int64]:
        """The place of each event's segment, shape (n,); zeros where there are no segments."""
        if not self._segment_by:
            return np.zeros(len(batch), np.int64)
        codes, keys = series_codes(batch, self._segment_by)
        rest = self._places.get(OTHER, 0)
        return np.array([self._places.get(key.segment, rest) for key in keys], np.int64)[codes]

    def count(self, batch: EventBatch) -> dict[int, int]:
        """Events by place; nothing where there are no segments."""
        if not self._segment_by:
            return {}
        places, counts = np.unique(self.places(batch), return_counts=True)
        return dict(zip(places.tolist(), counts.tolist(), strict=True))

    def split(self, batch: EventBatch) -> Iterator[tuple[int, EventBatch]]:
        """The events of each place, in their order; all of them with place -1 where there are no segments."""
        if not self._segment_by:
            yield -1, batch
            return
        places = self.places(batch)
        if len(places) and bool((places == places[0]).all()):
            yield int(places[0]), batch
            return
        order = np.argsort(places, kind="stable")
        sorted_places, whole = places[order], batch.take(order)
        edges = [0, *(np.flatnonzero(np.diff(sorted_places)) + 1).tolist(), len(places)]
        for start, stop in pairwise(edges):
            if stop > start:
                yield int(sorted_places[start]), whole.slice(start, stop - start)
