"""Are the categories of a window and of the reference drawn from one distribution: the 2 x k table's tests.

Homogeneity, not goodness of fit: the reference is a sample as well, and a test that takes its shares for the
truth alarms at every other window (k = 10, n = m) without drift. `drift.fields` makes evidence for pages;
this is the classical second opinion for reports and the explorer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special, stats

from mlmon.errors import MlmonError
from mlmon.stats.quadratic import pool_cells

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["EXPECTED", "Homogeneity", "homogeneity"]

#: Events that every cell must expect on the smaller side (Cochran 1954).
EXPECTED = 5.0


class Homogeneity(NamedTuple):
    """What the table says.

    Attributes:
        chi2: Pearson's Σ (o - e)²/e over both rows of the pooled table.
        g: likelihood ratio 2 Σ o ln(o/e).
        freedom: groups - 1; 0: there is nothing to test, and p is 1.
        p_value: P(χ²_freedom >= chi2).
        p_value_g: P(χ²_freedom >= g); too small in large sparse tables.
        p_unseen: exact probability that the bucket of unseen categories holds this many events or more, given
            those of both rows (Fisher); 1 where there is no such bucket.
    """

    chi2: float
    g: float
    freedom: int
    p_value: float
    p_value_g: float
    p_unseen: float


def homogeneity(
    window: ArrayLike, reference: ArrayLike, n_eff: float, m_eff: float, unseen: int | None = None
) -> Homogeneity:
    """Test counts by category against the reference's.

    Counts are scaled to the effective sizes, so that weights and bursts leave the false alarm rate where it
    is. Sparse cells are pooled in groups that expect 5 events or more on the smaller side, by the sum of both
    rows: on that sum the test is conditional anyway, so pooling cannot be tuned by the difference. A bucket
    for categories that nobody knew is mostly pooled away, so it has an exact test of its own; who wants one
    p-value takes min(1, 2·min(p_value, p_unseen)).

    The names of the cells must not come from the counts tested: with categories named by the reference
    itself, all that is rare is news in the window. Name them by one half and count the other, as baselines
    do.

    Guarantee: the false alarm rate of `p_value` at .01 was .007 to .013 in each of 40 settings (2 to 1000
    categories, flat and Zipf, windows of 200 to 50,000 events); that of `p_value_g` up to .07 where hundreds
    of cells expect no more than five events each. Time: some 100 µs; memory: k.

    Args:
        window: Σw by category, not negative, shape (k,).
        reference: Σw by category, shape (k,).
        n_eff: effective size of the window.
        m_eff: of the reference.
        unseen: index of the bucket of unseen categories; None: there is none.

    Raises:
        MlmonError: the shapes differ, or a count is negative or not finite.

    Example:
        >>> result = homogeneity([30, 60, 10, 4], [400, 500, 100, 0], 104, 1000, unseen=3)
        >>> result.freedom, round(result.p_value, 3), round(result.p_unseen, 5)
        (2, 0.074, 7e-05)
    """
    a, b = _counts(window, n_eff), _counts(reference, m_eff)
    if a.shape != b.shape:
        raise MlmonError(
            f"window has counts of shape {a.shape}, reference {b.shape}: expected the same cells"
        )
    n, m = float(a.sum()), float(b.sum())
    if min(n, m) <= 0:
        return Homogeneity(0.0, 0.0, 0, 1.0, 1.0, 1.0)
    known = (a + b) > 0
    groups = pool_cells((a + b)[known] / (n + m), EXPECTED / min(n, m))
    table = np.stack([np.bincount(groups, a[known]), np.bincount(groups, b[known])])
    fitted = np.outer([n, m], table.sum(0)) / (n + m)
    freedom = table.shape[1] - 1
    chi2 = float(((table - fitted) ** 2 / fitted).sum())
    g = float(max(0.0, 2 * special.rel_entr(table, fitted).sum()))
    p_unseen = 1.0 if unseen is None else _fisher(a[unseen], b[unseen], n, m)
    return Homogeneity(chi2, g, freedom, _tail(freedom, chi2), _tail(freedom, g), p_unseen)


def _counts(values: ArrayLike, size: float) -> NDArray[np.float64]:
    counts = np.asarray(values, np.float64)
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any():
        raise MlmonError("counts by category must be finite, at least 0, of shape (k,)")
    total = counts.sum()
    return counts * (size / total) if total > 0 else counts


def _tail(freedom: int, value: float) -> float:
    return float(special.chdtrc(freedom, value)) if freedom > 0 else 1.0


def _fisher(inside: float, outside: float, n: float, m: float) -> float:
    """P(X >= inside) for X of inside + outside events in the window; fractions are rounded."""
    here, there = round(inside), round(outside)
    return float(stats.hypergeom.sf(here - 1, round(n) + round(m), here + there, round(n)))
