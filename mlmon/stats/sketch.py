"""A quantile sketch of durations that merges exactly: DDSketch on a fixed range.

Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with relative-error guarantees,
VLDB 2019. Keys and values are those of `ddsketch.LogarithmicMapping`; the bins are an array, because the
library's stores are fed one key at a time and its collapsing ones depend on the order of merging.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from ddsketch import LogarithmicMapping

from mlmon.errors import IncompatibleStateError
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["HIGHEST", "LOWEST", "RELATIVE_ACCURACY", "QuantileSketch"]

#: A quantile differs from a value of that rank by at most this share of it.
RELATIVE_ACCURACY = 0.01
#: Range in seconds; what lies outside counts as its bound, so that there are at most 1,268 bins.
LOWEST, HIGHEST = 1e-6, 1e5

_MAPPING = LogarithmicMapping(RELATIVE_ACCURACY)
_PER_DOUBLING = 1 / math.log2(_MAPPING.gamma)
_KEYS = (_MAPPING.key(LOWEST), _MAPPING.key(HIGHEST))


class QuantileSketch:
    """Weights of durations by logarithmic bin.

    Guarantee: a quantile is within 1 % of a value of its rank, for values from 1 µs to 100,000 s; smaller and
    larger ones count as these. Merging adds, so it is associative and commutative, exact for weights whose
    sums are. Memory: 8 bytes for each bin between the smallest and the largest value, some 3 kB for three
    decades, 10 kB at most. Time of an update: about 25 ns an event.

    Attributes:
        first: key of the first bin; 0 where there is none.
        bins: Σw by bin, shape (b,); the first and the last are not empty.

    Example:
        >>> sketch = QuantileSketch()
        >>> sketch.add(np.arange(1, 1001) / 1000, np.ones(1000))
        >>> [round(value, 3) for value in sketch.quantiles((0.5, 0.99))]
        [0.502, 0.99]
    """

    __slots__ = ("bins", "first")

    def __init__(self, first: int = 0, bins: NDArray[np.float64] | None = None) -> None:
        self.first = first
        self.bins = np.empty(0) if bins is None else bins

    @property
    def weight(self) -> float:
        """Σw."""
        return float(self.bins.sum())

    def add(self, values: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        """Count values >= 0, shape (n,), n > 0, with weights > 0."""
        logs = np.log2(np.clip(values, LOWEST, HIGHEST))
        keys = np.clip(np.ceil(logs * _PER_DOUBLING).astype(np.int64), *_KEYS)
        first = int(keys.min())
        self._add(first, np.bincount(keys - first, weights).astype(np.float64, copy=False))

    def _add(self, first: int, bins: NDArray[np.float64]) -> None:
        if not len(self.bins):
            self.first, self.bins = first, bins.copy()
            return
        stop, old_stop = first + len(bins), self.first + len(self.bins)
        if first < self.first or stop > old_stop:
            start = min(first, self.first)
            wider = np.zeros(max(stop, old_stop) - start)
            wider[self.first - start : old_stop - start] = self.bins
            self.first, self.bins = start, wider
        self.bins[first - self.first : stop - self.first] += bins

    def merge(self, other: QuantileSketch) -> None:
        """Take in another sketch."""
        if len(other.bins):
            self._add(other.first, other.bins)

    def copy(self) -> QuantileSketch:
        """An independent copy."""
        return QuantileSketch(self.first, self.bins.copy())

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The values below which these shares (0 to 1) of the weight lie; NaN where there is nothing.

        As in the paper, the bin is the first whose cumulative weight exceeds share·(Σw - 1).
        """
        if not len(self.bins):
            return [math.nan] * len(shares)
        above = np.cumsum(self.bins)
        ranks = np.asarray(shares) * (above[-1] - 1)
        found = np.minimum(np.searchsorted(above, ranks, side="right"), len(above) - 1)
        return [float(_MAPPING.value(self.first + index)) for index in found.tolist()]

    def state(self) -> list[Any]:
        """What `stats.pack` stores."""
        return [self.first, self.bins]

    def to_bytes(self) -> bytes:
        """The sketch by itself, as the history holds it."""
        return pack([RELATIVE_ACCURACY, *self.state()])

    @staticmethod
    def from_bytes(data: bytes) -> QuantileSketch:
        """The sketch that `to_bytes` was made of.

        Raises:
            IncompatibleStateError: it was made with another accuracy, or the bytes are no sketch.
        """
        found = unpack(data)
        if not isinstance(found, list) or len(found) != 3 or found[0] != RELATIVE_ACCURACY:
            raise IncompatibleStateError(
                f"stored quantile sketch begins with {str(found)[:40]}: expected one of relative accuracy "
                f"{RELATIVE_ACCURACY}"
            )
        return QuantileSketch(found[1], found[2])
