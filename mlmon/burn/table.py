"""Sums by bucket of request time: three lengths of buckets, in chunks that are stored one by one.

A chunk is some buckets that follow each other, held only where anything fell into it. Indices of buckets and
chunks are absolute, counted from 1970, so a chunk means the same whatever is held beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mlmon.monitors.slo_objectives import Tiers

__all__ = ["CHUNK_BUCKETS", "Change", "History", "Table"]

#: Buckets in a chunk, by tier: an hour of minutes, half a day of five minutes, three days of hours. With 48
#: bytes each a chunk takes at most 7 kB.
CHUNK_BUCKETS = (60, 144, 72)


class Change(NamedTuple):
    """A chunk to write: its bucket length, its number, buckets in it and their sums; None to delete it."""

    length: int
    chunk: int
    rows: NDArray[np.uint16] | None
    sums: NDArray[np.float64] | None


class Table:
    """Sums by bucket of one length.

    Memory: chunks that hold anything, `size` buckets of 8 bytes a column each.

    Args:
        length: of a bucket, in base buckets.
        size: buckets in a chunk.
        width: columns.
    """

    __slots__ = ("_changed", "_gone", "_stored", "chunks", "length", "size", "width")

    def __init__(self, length: int, size: int, width: int) -> None:
        self.length, self.size, self.width = length, size, width
        self.chunks: dict[int, NDArray[np.float64]] = {}
        self._changed: set[int] = set()
        self._stored: set[int] = set()
        self._gone: set[int] = set()

    def add(self, buckets: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
        """Add sums, shape (m, width), to buckets, shape (m,); buckets may repeat."""
        places = buckets // self.size
        for chunk in np.unique(places).tolist():
            here = places == chunk
            held = self.chunks.get(chunk)
            if held is None:
                held = self.chunks[chunk] = np.zeros((self.size, self.width))
            np.add.at(held, buckets[here] - chunk * self.size, sums[here])
            self._changed.add(chunk)

    def between(self, first: int, end: int) -> NDArray[np.float64]:
        """Sums of the buckets from `first` to before `end`, shape (end - first, width)."""
        out = np.zeros((max(0, end - first), self.width))
        for chunk in range(first // self.size, -(-end // self.size)):
            held = self.chunks.get(chunk)
            if held is not None:
                start = chunk * self.size
                low, high = max(first, start), min(end, start + self.size)
                out[low - first : high - first] = held[low - start : high - start]
        return out

    def tails(self, end: int, count: int) -> NDArray[np.float64]:
        """Sums of the last k buckets before `end`, for k = 0 to `count`, shape (count + 1, width)."""
        out = np.zeros((count + 1, self.width))
        np.cumsum(self.between(end - count, end)[::-1], axis=0, out=out[1:])
        return out

    def expire(self, before: int) -> None:
        """Let go of chunks that end at or before this base bucket."""
        span = self.length * self.size
        for chunk in [chunk for chunk in self.chunks if (chunk + 1) * span <= before]:
            del self.chunks[chunk]
            self._changed.discard(chunk)
            if chunk in self._stored:
                self._gone.add(chunk)

    def restore(self, chunk: int, rows: NDArray[np.uint16], sums: NDArray[np.float64]) -> None:
        """Take over a stored chunk."""
        held = self.chunks.setdefault(chunk, np.zeros((self.size, self.width)))
        held[rows] = sums
        self._stored.add(chunk)

    def changes(self) -> Iterator[Change]:
        """What the next commit writes and deletes; each is said once."""
        for chunk in sorted(self._changed):
            held = self.chunks[chunk]
            rows = np.flatnonzero(held.any(axis=1)).astype(np.uint16)
            yield Change(self.length, chunk, rows, held[rows])
        # a chunk that was let go and came back with a very late label is written
        gone = self._gone - self._changed
        for chunk in sorted(gone):
            yield Change(self.length, chunk, None, None)
        self._stored = (self._stored | self._changed) - gone
        self._changed, self._gone = set(), set()


class History:
    """What is held of one objective in one (service, model): the same events in each of three tables.

    Args:
        tiers: how time is cut, and how long each table holds it.
        width: columns of its sums.
    """

    __slots__ = ("_reach", "tables", "width")

    def __init__(self, tiers: Tiers, width: int) -> None:
        self._reach = tiers.reach
        self.width = width
        pairs = zip(tiers.lengths, CHUNK_BUCKETS, strict=True)
        self.tables = tuple(Table(length, size, width) for length, size in pairs)

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not any(table.chunks for table in self.tables)

    def add(self, tier: int, buckets: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
        """Add sums by bucket of a tier, to it and to all longer ones."""
        length = self.tables[tier].length
        for table in self.tables[tier:]:
            table.add(buckets if table.length == length else buckets * length // table.length, sums)

    def expire(self, watermark: int) -> None:
        """Let go of what no window can reach any more; the watermark in base buckets."""
        for table, reach in zip(self.tables, self._reach, strict=True):
            table.expire(watermark - reach)

    def sums(self, end: int, windows: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Sums over windows that end at a base bucket.

        A window of a long tier begins with a whole bucket of it, so it is up to a bucket longer than named;
        its end is read from the first tier.

        Args:
            end: in base buckets; a multiple of the first tier's length.
            windows: (length in base buckets, tier) of each.

        Returns:
            Shape (windows, width).
        """
        first = self.tables[0]
        out = np.empty((len(windows), self.width))
        for index, table in enumerate(self.tables):
            length = table.length
            rows = [row for row, (_, tier) in enumerate(windows) if tier == index]
            counts = [end // length - (end - windows[row][0]) // length for row in rows]
            if rows:
                older = table.tails(end // length, max(counts))
                # what the last whole bucket leaves to the first tier
                recent = first.between(end // length * length // first.length, end // first.length)
                out[rows] = older[counts] + recent.sum(axis=0)
        return out
