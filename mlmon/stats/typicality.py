"""Do a window's embeddings lie as far out as the reference's: spread and outliers that leave the mean alone.

The second view beside the whitened mean shift (`stats.quadratic`): an encoder whose vectors shrink, blow up
or scatter around the same mean moves this one. With W = Σ^(-1/2), s(x) = |(x - μ)W|² has mean d over the
reference; a window is compared by the mean of s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.stats.sums import FieldSums

__all__ = ["TypicalityNull", "typicality", "typicality_z"]

#: Rows whitened at once: 1.5 MiB for 384 dimensions.
BLOCK = 1024


class TypicalityNull(NamedTuple):
    """The reference's typicality, from events that W and μ were not estimated from.

    Those it was estimated from lie closer in: by 4 % with 10,000 events and 384 dimensions, many times the
    standard error of a window.

    Attributes:
        mean: of s over the reference.
        variance: of s over one event; over independent blocks of n events, n times the variance of their
            means, so that bursts are in it.
        m_eff: effective size of the reference.
    """

    mean: float
    variance: float
    m_eff: float


def typicality(
    points: NDArray[np.floating], mean: NDArray[np.floating], whiten: NDArray[np.floating]
) -> NDArray[np.float64]:
    """s(x) = |(x - μ)W|² of each event.

    Time: n·d·r multiply-adds in the type of W (about 2.4 µs an event for 384 dimensions in single precision);
    memory: blocks of 1024 rows.

    Args:
        points: finite, shape (n, d).
        mean: μ of the reference, shape (d,).
        whiten: W with WWᵀ = Σ^-1, shape (d, r).

    Returns:
        At least 0, shape (n,).

    Example:
        >>> typicality(np.array([[3.0, 4.0], [1.0, 1.0]]), np.array([1.0, 1.0]), np.eye(2) / 2).tolist()
        [3.25, 0.0]
    """
    out = np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        rows = points[start : start + BLOCK]
        # Centred first: a mean far from 0 would cost single precision its digits.
        white = (rows - mean).astype(whiten.dtype, copy=False) @ whiten
        out[start : start + BLOCK] = np.einsum("ij,ij->i", white, white)
    return out


def typicality_z(window: FieldSums, null: TypicalityNull) -> float:
    """How many standard deviations the window's mean of s is from the reference's; 0 for an empty window.

    (s̄ - mean)/√(variance·(1/n_eff + 1/m_eff)); about standard normal without drift. Real text leaves some
    skewness: at n = 50 and 200, 1.5 % instead of 1 % lie above the normal's 99 % point, .5 % below its 1 %.
    Positive: farther out than the reference; negative: closer in.

    Example:
        >>> from mlmon.stats.sums import FieldSums
        >>> sums = FieldSums(1)
        >>> sums.add_values(np.full(100, 11.0), np.ones(100))
        >>> round(typicality_z(sums, TypicalityNull(10.0, 20.0, 1e6)), 2)
        2.24
    """
    if window.n_eff == 0:
        return 0.0
    variance = null.variance * (1 / window.n_eff + 1 / null.m_eff)
    return float((window.mean[0] - null.mean) / np.sqrt(variance))
