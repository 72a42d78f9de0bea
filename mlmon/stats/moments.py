"""Weighted mean, variance, skewness and kurtosis of columns, in one pass and mergeable.

Updates are two-pass within a batch and merged by the pairwise formulas of Chan, Golub and LeVeque (1983) for
the variance and Pébay (2008) for third and fourth moments. Why not sums of powers: with values around 1e9 the
fourth moment of a double would have no correct digit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlmon.errors import IncompatibleStateError
from mlmon.stats.counts import count_total, effective_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Moments"]


class Moments:
    """Central moments of d columns over weighted events.

    The state is (n, Σw, Σw²), the weighted means and M_k = Σw(x - mean)^k for k = 2, 3, 4. Merging is
    associative and commutative to floating error: relative 1e-11 for any split of well-scaled data.
    Values are finite; who has NaN leaves the events out and counts them.

    Memory: 24 + 32·d bytes. Time of an update: five passes over the batch, some 10 ns a value
    in batches of 8,192 events.

    Attributes:
        size: n, Σw, Σw², shape (3,).
        mean: weighted means, shape (d,); zeros where there is nothing.
        central: M_2, M_3, M_4, shape (3, d).

    Example:
        >>> moments = Moments(1)
        >>> moments.update(np.array([[1.0], [2.0], [6.0]]), np.array([1.0, 1.0, 2.0]))
        >>> float(moments.mean[0]), float(moments.variance[0])
        (3.75, 5.1875)
    """

    __slots__ = ("central", "mean", "size")

    def __init__(self, width: int) -> None:
        self.size: NDArray[np.float64] = np.zeros(3)
        self.mean: NDArray[np.float64] = np.zeros(width)
        self.central: NDArray[np.float64] = np.zeros((3, width))

    @property
    def n_eff(self) -> float:
        """Effective sample size (Σw)²/Σw²."""
        return effective_size(self.size)

    @property
    def variance(self) -> NDArray[np.float64]:
        """M_2/Σw, shape (d,); times n_eff/(n_eff - 1) it is unbiased."""
        return self._ratio(self.central[0], np.full_like(self.mean, self.size[1]))

    @property
    def skewness(self) -> NDArray[np.float64]:
        """Third standardised moment, shape (d,); 0 where nothing varies."""
        return self._ratio(self.central[1] * np.sqrt(self.size[1]), self.central[0] ** 1.5)

    @property
    def kurtosis(self) -> NDArray[np.float64]:
        """Fourth standardised moment less the normal's, 3; 0 where nothing varies, shape (d,)."""
        ratio = self._ratio(self.central[2] * self.size[1], self.central[0] ** 2)
        return np.where(self.central[0] > 0, ratio - 3.0, 0.0)

    @staticmethod
    def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))

    def update(self, values: NDArray[np.floating], weights: NDArray[np.float64]) -> None:
        """Take in events: finite values, shape (n, d); positive weights, shape (n,)."""
        batch = Moments(0)
        batch.size = count_total(weights)
        if not len(weights):
            return
        batch.mean = (weights @ values) / batch.size[1]
        distance = values - batch.mean
        square = distance * distance
        batch.central = np.stack(
            [weights @ square, weights @ (square * distance), weights @ (square * square)]
        )
        self.merge(batch)

    def merge(self, other: Moments) -> None:
        """Take in another of the same columns.

        Raises:
            IncompatibleStateError: it has other columns.
        """
        if len(self.mean) != len(other.mean):
            raise IncompatibleStateError(
                f"cannot merge moments of {len(other.mean)} columns into those of {len(self.mean)}"
            )
        a, b = self.size[1], other.size[1]
        if b == 0:
            return
        total = a + b
        delta = other.mean - self.mean
        (p2, p3, p4), (q2, q3, q4) = self.central, other.central
        step = delta / total
        m2 = p2 + q2 + delta * step * a * b
        m3 = p3 + q3 + delta * step**2 * a * b * (a - b) + 3 * step * (a * q2 - b * p2)
        m4 = (
            p4
            + q4
            + delta * step**3 * a * b * (a * a - a * b + b * b)
            + 6 * step**2 * (a * a * q2 + b * b * p2)
            + 4 * step * (a * q3 - b * p3)
        )
        self.size = self.size + other.size
        self.mean = self.mean + step * b
        self.central = np.stack([m2, m3, m4])

    def state(self) -> list[Any]:
        """What `stats.pack` stores."""
        return [self.size, self.mean, self.central]

    @staticmethod
    def restored(state: Sequence[Any], width: int) -> Moments:
        """The moments that `state` was made of.

        Raises:
            IncompatibleStateError: it has another width.
        """
        moments = Moments(0)
        moments.size, moments.mean, moments.central = state
        if moments.mean.shape != (width,) or moments.central.shape != (3, width):
            raise IncompatibleStateError(f"stored moments have {len(moments.mean)} columns, expected {width}")
        return moments
