"""A sample of events for Evidently: uniform over the traffic that the events stand for.

Evidently knows no sampling weights, so its rows must already represent traffic alike. An event of weight w
gets the rank u/w with u uniform, and is kept when its rank is below both 1/w_max and the (N+1)-th lowest.
Below a fixed rank t <= 1/w_max the chance to be kept is w·t exactly, in proportion to w (priority sampling,
Duffield, Lund, Thorup 2007); with equal weights that is a simple sample, or all there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mlmon.stats.hashing import hash_bytes, unit_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch

__all__ = ["KEPT", "RowSample"]

#: Fields that a sample keeps: what is compared, and what it is picked by. The rest says who, not what.
KEPT = (
    "event_time",
    "characters",
    "words",
    "tokens",
    "unknown_tokens",
    "continuation_tokens",
    "byte_fallback_tokens",
    "truncated_tokens",
    "language",
    "prediction",
    "confidence",
    "entropy",
    "embedding",
    "numeric_features",
    "categorical_features",
)
#: Key of the hash: another one than those that events and baselines are sampled by.
_SEED = 0x7265706F7274
#: Rows held before the lowest are picked out, as a multiple of those wanted.
_SLACK = 2


class RowSample:
    """The rows of lowest rank among all events given. What comes out does not depend on their order.

    Memory: at most 2·`size` rows and one batch.

    Args:
        size: rows wanted, N.

    Attributes:
        events: events given.
        weight: their Σw.

    Example:
        >>> from mlmon.events.batch import EventBatch
        >>> columns = {"event_id": [str(i) for i in range(90)], "tokens": pa.array(range(90), pa.int32())}
        >>> sample = RowSample(20)
        >>> batch = EventBatch(pa.RecordBatch.from_pydict(columns))
        >>> sample.add(batch, np.ones(90))
        >>> sample.table().num_rows, sample.events
        (20, 90)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts: list[tuple[NDArray[np.float64], pa.Table]] = []
        self._limit = np.inf
        self.events = 0
        self.weight = 0.0

    def add(self, batch: EventBatch, weights: NDArray[np.float64]) -> None:
        """Take in events, each standing for `weights` requests, shape (n,), positive."""
        if not len(batch):
            return
        self.events += len(batch)
        self.weight += float(weights.sum())
        self._limit = min(self._limit, 1.0 / float(weights.max()))
        ranks = _uniform(batch) / weights
        rows = np.flatnonzero(ranks < self._limit)
        if len(rows):
            kept = batch.records.select([name for name in KEPT if batch.has(name)])
            taken = kept.take(pa.array(rows))
            self._parts.append((ranks[rows], pa.Table.from_batches([taken])))
        if sum(len(part) for part, _ in self._parts) > _SLACK * self._size:
            self._shrink()

    def table(self) -> pa.Table:
        """The sample, the lowest rank first; a column is there when some event had it."""
        self._shrink()
        return self._parts[0][1] if self._parts else pa.table({})

    def _shrink(self) -> None:
        if not self._parts:
            return
        ranks = np.concatenate([part for part, _ in self._parts])
        table = pa.concat_tables([rows for _, rows in self._parts], promote_options="permissive")
        order = np.argsort(ranks, kind="stable")
        order = order[ranks[order] < self._limit]
        if len(order) > self._size:
            self._limit = float(ranks[order[self._size]])
            order = order[: self._size]
        self._parts = [(ranks[order], table.take(pa.array(order)))] if len(order) else []


def _uniform(batch: EventBatch) -> NDArray[np.float64]:
    """A number in (0, 1) for each event: a hash of its id where it has one, else of its place and time."""
    ids = batch.column("event_id")
    if ids is None:
        ids = pa.array([f"{time}:{row}" for row, time in enumerate(batch.times().tolist())], pa.string())
    _, offsets, data = ids.buffers()
    places = np.frombuffer(offsets, np.int32, len(ids) + 1, 4 * ids.offset)
    octets = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return unit_interval(hash_bytes(places, octets, _SEED))
