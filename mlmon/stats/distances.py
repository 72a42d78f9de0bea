"""How far is a window's distribution over cells from the reference's: PSI, Jensen-Shannon, KS, Wasserstein.

Effects, for people and reports: each has a unit and none is evidence. Only PSI has a gate here, because
"PSI > 0.2" means nothing without the sample sizes; `stats.homogeneity` tests, `drift.fields` decides pages.

Counts may be weighted (Σw by cell) and come in stacks of fields of equal width, shape (..., B); sizes are
effective ones, (Σw)²/Σw², shape (...). A stack costs one pass of a few NumPy operations: 20 fields of 64 bins
take some 50 µs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Counts = NDArray[np.float64]

__all__ = [
    "corrected_psi",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "psi",
    "psi_gate",
    "psi_noise",
    "shares",
    "wasserstein",
]

#: Events added to each cell that either side knows (Krichevsky and Trofimov 1981). With less, the logarithm
#: of empty cells makes the gate alarm too often: 2.7 % instead of 1 % at .25 with 64 cells, n = 1000.
PSEUDO_COUNT = 0.5


def shares(counts: ArrayLike) -> Counts:
    """Counts as shares of their total, shape (..., B); zeros where there is nothing.

    Example:
        >>> shares([[1, 3], [0, 0]]).tolist()
        [[0.25, 0.75], [0.0, 0.0]]
    """
    values = np.asarray(counts, np.float64)
    total = values.sum(-1, keepdims=True)
    return np.asarray(np.divide(values, total, out=np.zeros_like(values), where=total > 0))


def psi(window: ArrayLike, reference: ArrayLike, n_eff: ArrayLike, m_eff: ArrayLike) -> Counts:
    """Population stability index Σ (p - q) ln(p/q), in nats, at least 0.

    Half an event is added to each cell that window or reference knows, so that empty cells count finitely.
    Sampling noise alone makes it about `psi_noise`; see `corrected_psi`.

    Example:
        >>> round(float(psi([500, 500], [7000, 3000], 1000, 10_000)), 3)
        0.169
    """
    p, q = np.broadcast_arrays(shares(window), shares(reference))
    known = (p > 0) | (q > 0)
    p, q = _smooth(p, known, n_eff), _smooth(q, known, m_eff)
    logs = np.log(np.divide(p, q, out=np.ones(known.shape), where=known))
    return np.asarray(((p - q) * logs).sum(-1))


def _smooth(p: Counts, known: NDArray[np.bool_], size: ArrayLike) -> Counts:
    n = np.asarray(size, np.float64)[..., None]
    counts = p * n + PSEUDO_COUNT * known
    total = n + PSEUDO_COUNT * known.sum(-1, keepdims=True)
    return np.asarray(counts / np.maximum(total, np.finfo(float).tiny))


def psi_noise(cells: ArrayLike, n_eff: ArrayLike, m_eff: ArrayLike) -> Counts:
    """What sampling adds to PSI: (B - 1)(1/n + 1/m), of which n·m/(n + m)·PSI ~ χ² with B - 1 degrees.

    Example:
        >>> float(psi_noise(10, 100, 100_000))  # "PSI > 0.1" on 100 events is noise
        0.09009
    """
    return (np.asarray(cells, np.float64) - 1) * _inverse(n_eff, m_eff)


def corrected_psi(window: ArrayLike, reference: ArrayLike, n_eff: ArrayLike, m_eff: ArrayLike) -> Counts:
    """PSI less its noise: mean 0 without drift, so it may be negative; comparable over sizes and bins.

    Where cells are so many that a window has less than some five events to a cell, the half events make it
    err to the low side.

    Example:
        >>> round(float(corrected_psi([52, 48], [5000, 5000], 100, 10_000)), 4)
        -0.0085
    """
    return psi(window, reference, n_eff, m_eff) - psi_noise(_cells(window, reference), n_eff, m_eff)


def psi_gate(
    window: ArrayLike, reference: ArrayLike, n_eff: ArrayLike, m_eff: ArrayLike, level: float = 0.01
) -> Counts:
    """The PSI that noise exceeds with probability `level`: (1/n + 1/m)·χ²_(B-1, 1-level).

    B counts the cells that either side knows. The false alarm rate of `psi > psi_gate` stays near the level
    or below it: .006 to .012 for nominal .01 where a cell expects 5 events or more, towards 0 in sparser
    windows. Bursts are not in it: give the effective sizes that they leave.

    Args:
        window: counts, shape (..., B).
        reference: counts, shape (..., B).
        n_eff: effective size of the window, above 0, shape (...).
        m_eff: of the reference.
        level: false alarm rate.

    Example:
        >>> counts = [10] * 10
        >>> round(float(psi_gate(counts, counts, 100, 100_000)), 3)
        0.217
    """
    freedom = np.maximum(_cells(window, reference) - 1.0, 0.0)
    return np.where(freedom > 0, special.chdtri(np.maximum(freedom, 1.0), level), 0.0) * _inverse(
        n_eff, m_eff
    )


def _cells(window: ArrayLike, reference: ArrayLike) -> NDArray[np.intp]:
    return np.asarray(((np.asarray(window) > 0) | (np.asarray(reference) > 0)).sum(-1))


def _inverse(n_eff: ArrayLike, m_eff: ArrayLike) -> Counts:
    return 1 / np.asarray(n_eff, np.float64) + 1 / np.asarray(m_eff, np.float64)


def jensen_shannon(window: ArrayLike, reference: ArrayLike) -> Counts:
    """Jensen-Shannon divergence in bits, 0 (equal) to 1 (no cell in common).

    H((p + q)/2) - (H(p) + H(q))/2; its root is a metric. Without smoothing: sampling noise raises it by about
    (B - 1)(1/n + 1/m)/(8 ln 2). Lin 1991.

    Example:
        >>> jensen_shannon([[1, 0], [1, 1]], [0, 5]).round(3).tolist()
        [1.0, 0.311]
    """
    p, q = np.broadcast_arrays(shares(window), shares(reference))
    middle = (p + q) / 2
    nats = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(-1) / 2
    return np.asarray(np.clip(nats / np.log(2), 0.0, 1.0))


def kolmogorov_smirnov(window: ArrayLike, reference: ArrayLike) -> Counts:
    """Largest difference of the distribution functions over ordered cells, 0 to 1.

    The supremum over the cells' edges, hence at most that over all values; it falls short of it by no more
    than the greatest share of a cell.

    Example:
        >>> float(kolmogorov_smirnov([1, 1, 0], [0, 1, 1]))
        0.5
    """
    return np.asarray(np.abs(_cumulative_difference(window, reference)).max(-1, initial=0.0))


def wasserstein(
    window: ArrayLike, reference: ArrayLike, centres: ArrayLike, scale: ArrayLike | None = None
) -> Counts:
    """Wasserstein-1 distance between binned values, in units of the reference's standard deviation.

    ∫|F - G| with the weight of each cell at its centre. Freeze the centres with the reference, in the open
    first and last cell too (their means, say): what lies farther out in the window counts as if it lay there,
    so that the distance is a lower bound in the tails and no outlier can carry it.

    Args:
        window: counts, shape (..., B).
        reference: counts, shape (..., B).
        centres: of the cells, finite, not decreasing, shape (..., B).
        scale: standard deviation of the reference, shape (...); None: of the binned reference. Where it is 0
            the distance is 0 or infinite.

    Example:
        >>> float(wasserstein([0, 5, 5], [5, 5, 0], [0.0, 1.0, 2.0]))
        2.0
    """
    places = np.asarray(centres, np.float64)
    moved = np.abs(_cumulative_difference(window, reference)[..., :-1]) * np.diff(places, axis=-1)
    distance = np.asarray(moved.sum(-1))
    unit = _deviation(shares(reference), places) if scale is None else np.asarray(scale, np.float64)
    distance, unit = np.broadcast_arrays(distance, unit)
    blank = np.where(distance > 0, np.inf, 0.0)
    return np.asarray(np.divide(distance, unit, out=blank, where=unit > 0))


def _deviation(q: Counts, places: Counts) -> Counts:
    mean = (q * places).sum(-1, keepdims=True)
    return np.asarray(np.sqrt((q * (places - mean) ** 2).sum(-1)))


def _cumulative_difference(window: ArrayLike, reference: ArrayLike) -> Counts:
    return np.asarray(np.cumsum(shares(window) - shares(reference), axis=-1))
