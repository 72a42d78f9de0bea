"""Sorted runs of events on disk, merged into one order without holding them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import pyarrow as pa

from mlmon.events.batch import EventBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["PLACE", "Key", "Run", "merged"]

#: Column of a run that orders events of one time.
PLACE = "__place"
_ROWS = 4096


class Key(NamedTuple):
    """What events are ordered by: event time (µs), then the hash of their id."""

    time_us: int
    place: int


@dataclass(frozen=True, slots=True)
class Run:
    """A file of sorted events.

    Attributes:
        path: an Arrow IPC file.
        first: key of its first event.
        batches: record batches in it.
    """

    path: Path
    first: Key
    batches: int

    @classmethod
    def write(cls, path: Path, records: pa.RecordBatch, times: NDArray[np.int64]) -> Self:
        """Write sorted records with a `PLACE` column.

        Raises:
            OSError: there is no room.
        """
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, records.schema) as writer:
            for start in range(0, records.num_rows, _ROWS):
                writer.write_batch(records.slice(start, _ROWS))
        first = Key(int(times[0]), records.column(PLACE)[0].as_py())
        return cls(path, first, -(-records.num_rows // _ROWS))

    def read(self, index: int) -> pa.RecordBatch:
        """One of its record batches. The file is not kept open, since there may be many."""
        with pa.OSFile(str(self.path), "rb") as file:
            return pa.ipc.open_file(file).get_batch(index)


class _Cursor:
    """Where reading of a run stands: one of its batches, and how much of that is taken."""

    __slots__ = ("_done", "_index", "_places", "_records", "_run", "_times")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._index = -1
        self._done = 0
        self.load()

    @property
    def more(self) -> bool:
        """Whether the run has batches after the one that is loaded."""
        return self._index + 1 < self._run.batches

    @property
    def empty(self) -> bool:
        """Whether the loaded batch is taken."""
        return self._done == len(self._times)

    @property
    def last(self) -> Key:
        """Key of the last event loaded."""
        return Key(int(self._times[-1]), int(self._places[-1]))

    def load(self) -> None:
        """Go on to the next batch."""
        self._index += 1
        self._records = self._run.read(self._index)
        self._times = EventBatch(self._records).times()
        self._places = self._records.column(PLACE).to_numpy()
        self._done = 0

    def take(self, limit: Key | None) -> pa.RecordBatch:
        """Take the loaded events up to and including this key (None: all)."""
        stop = len(self._times)
        if limit is not None:
            stop = int(np.searchsorted(self._times, limit.time_us, "left"))
            ties = int(np.searchsorted(self._times, limit.time_us, "right"))
            stop += int(np.searchsorted(self._places[stop:ties], np.uint64(limit.place), "right"))
            stop = max(stop, self._done)
        piece = self._records.slice(self._done, stop - self._done)
        self._done = stop
        return piece


def merged(runs: Sequence[Run]) -> Iterator[EventBatch]:
    """All events of sorted runs in one order; batches of any size, none of them empty.

    Memory: one batch of every run that overlaps the present place in time. Runs that do not overlap are
    read one after the other, without sorting.
    """
    waiting = sorted(runs, key=lambda run: run.first, reverse=True)
    active: list[_Cursor] = []
    while waiting or active:
        # Up to here nothing that is not loaded can come.
        limits = [cursor.last for cursor in active if cursor.more]
        if waiting:
            limits.append(waiting[-1].first)
        limit = min(limits) if limits else None
        pieces = [piece for piece in (cursor.take(limit) for cursor in active) if piece.num_rows]
        if pieces:
            yield _in_order(pieces)
        for cursor in active:
            if cursor.empty and cursor.more:
                cursor.load()
        active = [cursor for cursor in active if not cursor.empty]
        if waiting and waiting[-1].first == limit:
            active.append(_Cursor(waiting.pop()))


def _in_order(pieces: list[pa.RecordBatch]) -> EventBatch:
    whole = EventBatch.concat([EventBatch(piece) for piece in pieces])
    records = whole.records
    if len(pieces) > 1:
        order = np.lexsort((records.column(PLACE).to_numpy(), whole.times()))
        records = records.take(pa.array(order))
    return EventBatch(records.drop_columns([PLACE]))
