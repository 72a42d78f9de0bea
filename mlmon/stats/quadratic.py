"""Squared distance of a window's mean from the reference's, and its distribution when nothing has changed.

Q = |(x̄ - μ)W|² for vectors; for distributions the chi-square distance of shares over pooled cells. Either is
a quadratic form in a mean, so for a window of effective size n, with Σ the long-run covariance in the metric,

    E Q = tr Σ/n + δ²,   Q/a ~ χ²_r(δ²/a),   a = tr Σ²/(n tr Σ),   r = (tr Σ)²/tr Σ²

(Satterthwaite 1946), δ the true distance. The traces come from blocks (`stats.blocks`): bursts are in them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "DEFAULT_TOLERANCE",
    "EVENTS_PER_RANK",
    "Distance",
    "Null",
    "cell_distance",
    "distance_tail",
    "null_of",
    "pool_cells",
    "sparse_variance",
    "sum_groups",
    "tolerated",
    "vector_distance",
]

#: Smallest shift that matters, by kind of field. Cells: root of the chi-square distance (0.1 is a PSI of
#: 0.01); vectors: standard deviations; rates: relative rise of the odds (0.25: .001 becomes .00125).
#: Measured with a reference of 10,000 events (`benchmarks/false_alarms.py`): its own error alone is tolerated
#: up to .02 in a mean, .12 in 64 cells or 100 dimensions, so a smaller tolerance would gain little. With
#: these, e-values without drift have means of 0 to .8, and windows of 1,000 events find .2 of a standard
#: deviation in 4 windows, .3 in one, a distance of .2 over 10 cells in 3, a rate of .05 become .1 in 2.
DEFAULT_TOLERANCE: Mapping[str, float] = MappingProxyType({"cells": 0.1, "vector": 0.1, "rate": 0.25})

#: Events of the reference, as independent ones, for each degree of freedom of a field.
EVENTS_PER_RANK = 25.0


class Null(NamedTuple):
    """Distribution of Q when nothing has changed: a·χ²_r, with mean ar."""

    scale: NDArray[np.float64]
    dof: NDArray[np.float64]


class Distance(NamedTuple):
    """A squared distance and the rank of its metric (pooled cells - 1, or columns of W)."""

    squared: float
    rank: int


def null_of(trace: NDArray[np.float64], trace2: NDArray[np.float64], n_eff: NDArray[np.float64]) -> Null:
    """Satterthwaite's a and r of a window of effective size n.

    Example:
        >>> null = null_of(np.array([10.0]), np.array([20.0]), np.array([100.0]))
        >>> float(null.scale[0]), float(null.dof[0])
        (0.02, 5.0)
    """
    return Null(trace2 / trace / n_eff, trace**2 / trace2)


def pool_cells(shares: NDArray[np.float64], smallest: float) -> NDArray[np.intp]:
    """Group sparse cells, so that every group has a share of at least `smallest`.

    Cells with enough stay alone. The others are put together in their own order (neighbouring bins of a
    histogram stay neighbours) into groups of about twice the smallest share; a rest joins the group before
    it, or the smallest cell that stays alone. Grouping by the reference alone: a window cannot choose it.

    Args:
        shares: of the reference, sum 1, shape (d,).
        smallest: share that a group needs at least.

    Returns:
        Group of each cell, 0, 1, ..., shape (d,).

    Example:
        >>> pool_cells(np.array([0.5, 0.04, 0.3, 0.04, 0.12]), 0.05).tolist()
        [0, 3, 1, 3, 2]
        >>> pool_cells(np.array([0.9, 0.01, 0.09]), 0.05).tolist()
        [0, 1, 1]
    """
    sparse = shares < smallest
    groups = np.empty(len(shares), np.intp)
    alone = int(len(shares) - sparse.sum())
    groups[~sparse] = np.arange(alone)
    if alone == len(shares):
        return groups
    few = shares[sparse]
    fitting = int(few.sum() / (2.0 * smallest) + 1e-9)
    if fitting == 0 and few.sum() >= smallest:
        fitting = 1
    if fitting == 0:
        groups[sparse] = int(np.argmin(np.where(sparse, np.inf, shares)[~sparse])) if alone else 0
        return groups
    middle = np.cumsum(few) - few / 2.0
    parts = np.minimum((middle / few.sum() * fitting).astype(np.intp), fitting - 1)
    _, parts = np.unique(parts, return_inverse=True)
    groups[sparse] = alone + parts
    return groups


def sum_groups(values: NDArray[np.float64], groups: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sum the last axis by group.

    Example:
        >>> sum_groups(np.array([1.0, 2.0, 4.0]), np.array([1, 0, 1])).tolist()
        [2.0, 5.0]
    """
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(int(groups.max()) + 1))
    summed: NDArray[np.float64] = np.add.reduceat(values[..., order], starts, axis=-1)
    return summed


def cell_distance(now: NDArray[np.float64], reference: NDArray[np.float64], n: float, m: float) -> Distance:
    """Chi-square distance Σ(p̂_i - q̂_i)²/p̄_i of two distributions over pooled cells, p̄ = (n p̂ + m q̂)/(n + m).

    That is the homogeneity statistic of Pearson over nm/(n + m): its mean is (d - 1)(1/n + 1/m) times
    N/(N - 1), N = n + m, exactly and however sparse the cells, when both are samples of one distribution.
    Why not over q̂ alone (goodness of fit): it is infinite for a category that the reference has never seen,
    and too large by 1 + 1/(m q_i) in cell i.

    Args:
        now: shares of the window, sum 1, shape (d,).
        reference: shares of the reference, sum 1, shape (d,).
        n: effective size of the window.
        m: of the reference.
    """
    mixed = (n * now + m * reference) / (n + m)
    filled = mixed > 0
    away = (now - reference)[filled]
    return Distance(float((away**2 / mixed[filled]).sum()), max(0, int(filled.sum()) - 1))


def vector_distance(away: NDArray[np.float64], whiten: NDArray[np.floating] | None) -> Distance:
    """Squared length of a difference of means, shape (d,), under W, shape (d, r); W absent: identity."""
    if whiten is None:
        return Distance(float(away @ away), len(away))
    white = away.astype(whiten.dtype) @ whiten
    return Distance(float(np.square(white, dtype=np.float64).sum()), whiten.shape[1])


def sparse_variance(shares: NDArray[np.float64], n: float) -> float:
    """What few events in a cell add to the variance of Pearson's chi-square, (Σ1/p_i - d² - 2d + 2)/n.

    Exact for goodness of fit of independent events (Haldane 1937); not below 0.

    Example:
        >>> round(sparse_variance(np.array([0.98, 0.02]), 250.0), 3)
        0.18
    """
    filled = shares[shares > 0]
    width = len(filled)
    return max(0.0, float((1.0 / filled).sum()) - width**2 - 2.0 * width + 2.0) / n


def tolerated(tolerance: NDArray[np.float64], null: Null) -> NDArray[np.float64]:
    """Squared distance from the reference's *estimate* that a shift of `tolerance` can have.

    With e the error of the reference, |t + e|² = t² + 2t·e + |e|²; |e|² is at most its mean and two standard
    deviations, a(r + 2√(2r)), and t·e at most two of its own, 2|t|√a. For r = 1 this is about (t + 2√a)².

    Args:
        tolerance: t, the distance that does not matter.
        null: of a window as large as the reference.
    """
    return (
        tolerance**2
        + 4.0 * tolerance * np.sqrt(null.scale)
        + null.scale * (null.dof + 2.0 * np.sqrt(2.0 * null.dof))
    )


def distance_tail(
    x: NDArray[np.float64], dof: NDArray[np.float64], noncentrality: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(χ²_r(λ) >= x): the p-value of x = Q/a against every distance up to a·λ.

    Lugannani and Rice's (1980) saddlepoint approximation, closed for the non-central chi-square: at most 6 %
    too large for r = 2, 1.6 % for r >= 5, in the far tail too, and without overflow. Exact for λ = 0
    (incomplete gamma) and r = 1 (normal).

    Example:
        >>> distance_tail(np.array([3.841]), np.array([1.0]), np.array([0.0])).round(4).tolist()
        [0.05]
    """
    x, dof, noncentrality = np.broadcast_arrays(x, dof, noncentrality)
    central = special.gammaincc(dof / 2.0, np.maximum(x, 0.0) / 2.0)
    tail = np.where(noncentrality > 0, _saddlepoint_tail(x, dof, noncentrality), central)
    root, middle = np.sqrt(np.maximum(x, 0.0)), np.sqrt(noncentrality)
    scalar = special.ndtr(middle - root) + special.ndtr(-middle - root)
    return np.clip(np.where(np.abs(dof - 1.0) < 1e-9, scalar, tail), 0.0, 1.0)


def _saddlepoint_tail(
    x: NDArray[np.float64], dof: NDArray[np.float64], lam: NDArray[np.float64]
) -> NDArray[np.float64]:
    """With u = 1 - 2t, K(t) = λ(1 - u)/(2u) - r/2 ln u and K'(t) = r/u + λ/u² = x."""
    x = np.maximum(x, 1e-12)
    u = (dof + np.sqrt(dof**2 + 4.0 * lam * x)) / (2.0 * x)
    t = (1.0 - u) / 2.0
    exponent = t * x - lam * (1.0 - u) / (2.0 * u) + dof / 2.0 * np.log(u)
    w = np.sign(t) * np.sqrt(2.0 * np.maximum(exponent, 0.0))
    v = t * np.sqrt(2.0 * dof / u**2 + 4.0 * lam / u**3)
    # w, v and ln(v/w) vanish at the mean, where the quotient is a sixth of the skewness
    variance = 2.0 * dof + 4.0 * lam
    near = np.abs(w) < 1e-4
    quotient = np.log(np.where(near, 1.0, v) / np.where(near, 1.0, w)) / np.where(near, 1.0, w)
    skewness = (8.0 * dof + 24.0 * lam) / variance**1.5
    return np.asarray(special.ndtr(-(w + np.where(near, skewness / 6.0, quotient))))
