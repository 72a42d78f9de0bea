"""Sums of fields over contiguous blocks of events: what the null of a field is estimated from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldSpec
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.drift import Extractor

__all__ = ["BlockTable"]


class BlockTable:
    """Field sums of one monitor by block, for a stream of events of known length.

    A block is `length` events in a row; what is left at the end is added to the last block. Memory:
    8·(d + 3) bytes for each block and field.

    Args:
        extractor: what makes the fields.
        events: length of the stream; with fewer than one block there is one.
        length: events to a block.

    Attributes:
        sizes: by field, (n, Σw, Σw²) of each block, shape (K, 3).
        totals: by field, Σwφ of each block, shape (K, d).

    Example:
        >>> BlockTable.blocks(events=105, length=10)
        10
    """

    def __init__(self, extractor: Extractor, events: int, length: int) -> None:
        count = self.blocks(events, length)
        self._extractor = extractor
        self._length, self._last = length, count - 1
        self._done = 0
        self._open = -1
        self._into: Mapping[str, FieldSums] = {}
        specs: Mapping[str, FieldSpec] = extractor.fields
        self.sizes: dict[str, NDArray[np.float64]] = {name: np.zeros((count, 3)) for name in specs}
        self.totals = {name: np.zeros((count, spec.width)) for name, spec in specs.items()}

    @staticmethod
    def blocks(events: int, length: int) -> int:
        """How many blocks there are."""
        return max(1, events // length)

    def add(self, batch: EventBatch) -> None:
        """Take in the next events of the stream."""
        start = 0
        while start < len(batch):
            block = min(self._done // self._length, self._last)
            left = (block + 1) * self._length - self._done if block < self._last else len(batch)
            stop = min(start + left, len(batch))
            piece = batch if stop - start == len(batch) else batch.slice(start, stop - start)
            self._extractor.extract(piece, self._sums(block))
            self._done += stop - start
            start = stop

    def add_aside(self, batch: EventBatch) -> None:
        """Add events that are not of the stream (golden probes) to the block it stands in."""
        self._extractor.extract(batch, self._sums(min(self._done // self._length, self._last)))

    def _sums(self, block: int) -> Mapping[str, FieldSums]:
        """Sums that write into the rows of a block."""
        if block != self._open:
            self._open = block
            self._into = {
                name: _row(self.sizes[name][block], self.totals[name][block]) for name in self.sizes
            }
        return self._into


def _row(size: NDArray[np.float64], total: NDArray[np.float64]) -> FieldSums:
    sums = FieldSums(0)
    sums.size, sums.total = size, total
    return sums
