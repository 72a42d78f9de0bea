"""A histogram of weighted events: for each bucket n, Σw and Σw², beside the sums of the values.

What the traffic and tokenizer monitors share. Three families come out of it, as sampled, as estimated and
with squared weights, so that the effective sample size behind P(value <= bound) is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlmon.errors import IncompatibleStateError
from mlmon.monitors.base import Histogram, Sample
from mlmon.stats.counts import count_cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mlmon.catalog.base import CounterTriple
    from mlmon.monitors.base import Exemplar

__all__ = ["WeightedHistogram", "check_buckets"]


def check_buckets(name: str, bounds: Sequence[float]) -> None:
    """Refuse bucket bounds that are not strictly increasing, positive and finite.

    Raises:
        ValueError: names the configuration key and the first bound at fault.

    Example:
        >>> check_buckets("buckets", (0.1, 0.1))
        Traceback (most recent call last):
        ValueError: buckets: expected finite bounds above 0, each above the one before; got 0.1 after 0.1
    """
    previous = 0.0
    for bound in bounds:
        if not previous < bound < float("inf"):
            raise ValueError(
                f"{name}: expected finite bounds above 0, each above the one before; "
                f"got {bound} after {previous}"
            )
        previous = bound


class WeightedHistogram:
    """Counts by bucket and sums of values; a value belongs to the first bucket whose bound is >= it.

    Memory: 24 bytes a bucket. Merging adds, exact for counts, to rounding for sums.

    Attributes:
        bounds: upper bounds without +Inf, shape (b,).
        cells: n, Σw, Σw² by bucket, shape (b + 1, 3).
        sums: Σx, Σwx, Σw²x, shape (3,).
    """

    __slots__ = ("bounds", "cells", "sums")

    def __init__(
        self,
        bounds: NDArray[np.float64],
        cells: NDArray[np.float64] | None = None,
        sums: NDArray[np.float64] | None = None,
    ) -> None:
        self.bounds = bounds
        self.cells = np.zeros((len(bounds) + 1, 3)) if cells is None else cells
        self.sums = np.zeros(3) if sums is None else sums

    def add(self, values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.intp]:
        """Count finite values, shape (n,), and return the bucket of each."""
        buckets = np.searchsorted(self.bounds, values)
        self.cells += count_cells(buckets, weights, len(self.cells))
        weighted = values * weights
        self.sums += (values.sum(), weighted.sum(), np.dot(weighted, weights))
        return buckets

    def merge(self, other: WeightedHistogram) -> None:
        """Add another histogram with the same bounds."""
        self.cells += other.cells
        self.sums += other.sums

    def copy(self) -> WeightedHistogram:
        """An independent copy."""
        return WeightedHistogram(self.bounds, self.cells.copy(), self.sums.copy())

    def state(self) -> list[Any]:
        """What `stats.pack` stores: bounds, cells and sums."""
        return [self.bounds, self.cells, self.sums]

    def restored(self, what: str, state: Sequence[Any]) -> WeightedHistogram:
        """The histogram that `state` was made of, provided it has the bounds of this one.

        Raises:
            IncompatibleStateError: it has other bounds; names `what` and both.
        """
        other = WeightedHistogram(*state)
        self.check(what, other)
        return other

    def check(self, what: str, other: WeightedHistogram) -> None:
        """Refuse a histogram that cannot be merged.

        Raises:
            IncompatibleStateError: it has other bounds; names `what` and both.
        """
        if not np.array_equal(self.bounds, other.bounds):
            raise IncompatibleStateError(
                f"{what}: expected buckets {self.bounds.tolist()}, got {other.bounds.tolist()}: summaries "
                "with different buckets cannot be merged"
            )

    @property
    def count(self) -> int:
        """Sampled events counted."""
        return int(self.cells[:, 0].sum())

    def samples(
        self,
        triple: CounterTriple,
        labels: tuple[str, ...],
        exemplars: Sequence[Exemplar | None] = (),
    ) -> Iterator[Sample]:
        """The three families; exemplars go on the estimated one."""
        bounds = self.bounds.tolist()
        sampled, estimated, squared = np.cumsum(self.cells, axis=0).T.tolist()
        totals = self.sums.tolist()
        yield Sample(triple.sampled, labels, Histogram(bounds, sampled, totals[0]))
        yield Sample(triple.estimated, labels, Histogram(bounds, estimated, totals[1], exemplars))
        yield Sample(triple.weight_squared, labels, Histogram(bounds, squared, totals[2]))
