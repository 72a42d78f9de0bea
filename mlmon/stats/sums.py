"""Weighted sums of one field: what every drift statistic is computed from, and the only state it needs.

A field maps an event to a vector φ: one-hot over cells for histograms and categories, counts over cells for
token ids, the value itself for means and embeddings, 0 or 1 for rates. Its state is (n, Σw, Σw²) of the
events that carry it, and Σwφ. Merging adds: exact for cells and rates with integer weights, to rounding else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlmon.errors import IncompatibleStateError
from mlmon.stats.counts import count_total, effective_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["FieldSums"]


class FieldSums:
    """Sums of one field over events.

    Memory: 24 + 8·d bytes. Time of an update: one `bincount` for cells, one product for vectors.

    Attributes:
        size: n, Σw, Σw² of the events that carry the field, shape (3,).
        total: Σwφ, shape (d,).

    Example:
        >>> sums = FieldSums(3)
        >>> sums.add_cells(np.array([0, 2, 2]), np.array([1.0, 1.0, 2.0]))
        >>> sums.total.tolist(), sums.n, sums.n_eff
        ([1.0, 0.0, 3.0], 3, 2.6666666666666665)
    """

    __slots__ = ("size", "total")

    def __init__(self, width: int) -> None:
        self.size: NDArray[np.float64] = np.zeros(3)
        self.total: NDArray[np.float64] = np.zeros(width)

    @property
    def n(self) -> int:
        """Sampled events."""
        return int(self.size[0])

    @property
    def weight(self) -> float:
        """Σw."""
        return float(self.size[1])

    @property
    def n_eff(self) -> float:
        """Effective sample size (Σw)²/Σw²."""
        return effective_size(self.size)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Σwφ/Σw, shape (d,); zeros where there is nothing."""
        return self.total / self.size[1] if self.size[1] > 0 else np.zeros_like(self.total)

    def add_cells(self, cells: NDArray[np.intp], weights: NDArray[np.float64]) -> None:
        """Count events with one cell each, 0 <= cell < d, shape (n,)."""
        self.total += np.bincount(cells, weights, len(self.total))
        self.size += count_total(weights)

    def add_values(self, values: NDArray[np.floating], weights: NDArray[np.float64]) -> None:
        """Add events with a vector each, finite, shape (n, d); (n,) where d is 1."""
        self.total += weights @ values.reshape(len(weights), -1)
        self.size += count_total(weights)

    def add_total(self, total: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        """Add events whose Σwφ is already summed, shape (d,)."""
        self.total += total
        self.size += count_total(weights)

    def merge(self, other: FieldSums) -> None:
        """Take in another; the caller sees to it that both are of the same field."""
        self.size += other.size
        self.total += other.total

    def copy(self) -> FieldSums:
        """An independent copy."""
        twin = FieldSums(0)
        twin.size, twin.total = self.size.copy(), self.total.copy()
        return twin

    def state(self) -> list[Any]:
        """What `stats.pack` stores."""
        return [self.size, self.total]

    @staticmethod
    def restored(state: Sequence[Any], width: int) -> FieldSums:
        """The sums that `state` was made of.

        Raises:
            IncompatibleStateError: it has another width.
        """
        sums = FieldSums(0)
        sums.size, sums.total = state
        if len(sums.total) != width:
            raise IncompatibleStateError(f"stored field has {len(sums.total)} cells, expected {width}")
        return sums
