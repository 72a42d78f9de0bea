"""A bounded sample of the events of a reference, from which parameters are learned.

The events with the lowest hashes of (id, time) are kept: a uniform sample, the same for any order of the
events, and of two parts together as well (Broder 1997, bottom-k).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from mlmon.stats.hashing import hash_bytes, mix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch
    from mlmon.monitors.drift_rows import Rows

__all__ = ["WEIGHT", "EventSample", "ReadColumns", "drawn_together", "event_keys"]

#: Reads columns by name at places of a batch.
ReadColumns: TypeAlias = "Callable[[pa.Array], Mapping[str, pa.Array]]"
#: The column of sampling weights.
WEIGHT = "weight"

#: Key of the hash: not that of sampling before the log, so that the two are independent.
_SEED = 0x6D6C_6D6F_6E42
_KEY = "key"


def event_keys(batch: EventBatch) -> NDArray[np.uint64]:
    """A hash of id and time of each event, shape (n,)."""
    ids = batch.records.column("event_id").cast(pa.large_string())
    _, offsets, data = ids.buffers()
    places = np.frombuffer(offsets, np.int64, len(ids) + 1, 8 * ids.offset)
    octets = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    keys = mix(hash_bytes(places, octets, _SEED), batch.times().view(np.uint64))
    return mix(keys, keys >> np.uint64(29))


class EventSample:
    """At most `limit` events of a stream, those with the lowest keys.

    Memory: 2·limit rows. Time: hashing ids; rows are copied only where they enter, some limit·ln(N/limit) of
    N in all.

    Args:
        limit: rows.

    Attributes:
        held: rows held at present.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[pa.Table] = []
        self.held = 0
        #: The greatest key kept, once rows were dropped.
        self._bound: np.uint64 | None = None

    def update(self, batch: EventBatch, rows: Rows, columns: ReadColumns) -> None:
        """Take in events.

        Args:
            batch: of one scope.
            rows: which of its events.
            columns: reads the columns of events at the places it is given. A column has the same type in
                every batch; where it lacks it is null.
        """
        keys = event_keys(batch)
        keys = keys if rows.places is None else keys[rows.places]
        entering = np.arange(len(keys)) if self._bound is None else np.flatnonzero(keys < self._bound)
        if not len(entering):
            return
        places = entering if rows.places is None else rows.places[entering]
        weights = rows.weights[entering]
        piece = pa.table({_KEY: keys[entering], WEIGHT: weights, **columns(pa.array(places))})
        self._pieces.append(piece)
        self.held += len(piece)
        if self.held > 2 * self._limit:
            self._prune()

    def _prune(self) -> None:
        if self.held <= self._limit:
            return
        rows = pa.concat_tables(self._pieces, promote_options="default")
        keys = rows.column(_KEY).to_numpy()
        order = np.argsort(keys, kind="stable")[: self._limit]
        self._pieces = [rows.take(pa.array(order)).combine_chunks()]
        self.held, self._bound = self._limit, keys[order[-1]]

    def rows(self) -> tuple[pa.Table, np.uint64 | None]:
        """The rows with their keys, and the key up to which all events are among them; None: all are."""
        self._prune()
        if not self._pieces:
            return pa.table({_KEY: pa.array([], pa.uint64()), WEIGHT: pa.array([], pa.float64())}), None
        return pa.concat_tables(self._pieces, promote_options="default"), self._bound


def drawn_together(samples: Sequence[EventSample]) -> pa.Table:
    """One uniform sample of all events that the samples met: the rows up to the lowest of their bounds.

    Returns:
        The columns read, and the events' weights as `WEIGHT`, in the order of the keys.
    """
    parts = [sample.rows() for sample in samples]
    bounds = [bound for _, bound in parts if bound is not None]
    table = pa.concat_tables([rows for rows, _ in parts], promote_options="default")
    if bounds:
        table = table.filter(pa.array(table.column(_KEY).to_numpy() <= min(bounds)))
    return table.sort_by(_KEY).drop_columns([_KEY]).combine_chunks()
