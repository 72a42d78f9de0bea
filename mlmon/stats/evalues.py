"""e-values: evidence that a quantity is beyond its tolerance, in one window.

An e-value has a mean of at most 1 as long as the quantity is within its tolerance, whatever it was before, so
products and the e-detectors of `stats.edetector` of it stay honest however often one looks. All are
likelihood ratios averaged over a few alternatives, are computed as natural logarithms, and broadcast.

Sources: Shafer 2021; Vovk and Wang 2021; Grünwald, de Heide and Koolen 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["distance_log_e", "mean_log_e", "rate_log_e"]

#: Alternatives of a mean, in standard deviations of the window's mean beyond the tolerance.
_MEAN_STEPS = np.array([1.0, 2.0, 4.0])
#: Alternatives of a rate: how many times the tolerated odds.
_ODDS_STEPS = np.array([1.15, 1.5, 2.0, 4.0, 10.0])
#: Alternatives of a distance, in units of 2√(2r + 4λ₀), two standard deviations at the tolerated one.
_DISTANCE_STEPS = np.array([0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0])
#: By how much more than the design effect events are divided at each alternative, in long and in short
#: bursts: what geometric clusters of any size need for a mean of at most 1.
_LONG = 0.5 * np.log(_ODDS_STEPS) * (_ODDS_STEPS - 1.0) / (_ODDS_STEPS - 1.0 - np.log(_ODDS_STEPS))
_SHORT = 0.5 * (_ODDS_STEPS - 1.0) ** 2 / (_ODDS_STEPS * np.log(_ODDS_STEPS) - _ODDS_STEPS + 1.0)
#: Bessel functions of lower order come by recurrence from this order, where the expansion is good to 1e-9.
_ORDER = 12


def mean_log_e(
    shift: NDArray[np.float64], scale: NDArray[np.float64], tolerance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Evidence that a mean has moved by more than a tolerance, either way.

    e = mean over λ ∈ {1, 2, 4} and both signs of exp(λu - λ²/2), u = (±shift - tolerance)/scale. E e <= 1
    for a normal (or sub-Gaussian) mean within the tolerance: at a shift s it is E exp(λu - λ²/2) =
    exp(λ(±s - tolerance)/scale) <= 1.

    Args:
        shift: x̄ - μ.
        scale: standard deviation of the window's mean, > 0.
        tolerance: in the unit of `shift`, error of the reference included, >= 0.

    Example:
        >>> float(mean_log_e(np.array(0.5), np.array(0.1), np.array(0.1)).round(2))
        6.34
    """
    moved = np.abs(np.asarray(shift, np.float64))
    up = ((moved - tolerance) / scale)[..., None]
    down = ((-moved - tolerance) / scale)[..., None]
    logs = _MEAN_STEPS * np.concatenate(
        [np.broadcast_to(side, (*side.shape[:-1], 3)) for side in (up, down)], axis=-1
    ).reshape(*up.shape[:-1], 2, 3)
    return _log_mean(logs - _MEAN_STEPS**2 / 2.0, (-2, -1))


def rate_log_e(
    count: NDArray[np.float64],
    trials: NDArray[np.float64],
    tolerated: NDArray[np.float64],
    design: NDArray[np.float64] | float = 1.0,
) -> NDArray[np.float64]:
    """Evidence that a share is above a tolerated one.

    e = mean over five alternatives q of (q/p₀)^x ((1 - q)/(1 - p₀))^(n - x), odds of q those of p₀ times
    1.15, 1.5, 2, 4 and 10. Why 1.15: with 5,000 events a rise from .07 to .08 is plain, and is evidence
    against .10. Each ratio rises with x, so E e <= 1 for every share p <= p₀.

    With a design effect D (bursts) x and n are divided by 1 + (D - 1)h, h between 1.02 and 1.05 at the
    nearest alternative and between 1.55 (long bursts) and 2.9 (short ones) at the farthest: dividing by D
    alone is right for clusters of equal size D; with geometric sizes the mean at q = 10 p₀ would be infinite.

    Args:
        count: x, events that have the property, any real in [0, n].
        trials: n >= 0.
        tolerated: p₀ in (0, 1), tolerance and error of the reference included.
        design: D >= 1.

    Example:
        >>> float(rate_log_e(np.array(5.0), np.array(500.0), np.array(0.001)).round(2))
        5.63
    """
    p0 = np.clip(np.asarray(tolerated, np.float64), 1e-12, 1.0 - 1e-12)[..., None]
    # ln of (1 - q)/(1 - p₀) is -ln(1 + p₀(r - 1)), and q/p₀ is r times that
    rest = -np.log1p(p0 * (_ODDS_STEPS - 1.0))
    divisor = _divisor(np.asarray(design, np.float64)[..., None])
    logs = np.asarray(count)[..., None] * np.log(_ODDS_STEPS) + np.asarray(trials)[..., None] * rest
    return _log_mean(logs / divisor, (-1,))


def _divisor(design: NDArray[np.float64]) -> NDArray[np.float64]:
    """What events are divided by at each alternative of a rate, shape (..., 5)."""
    return np.asarray(1.0 + (design - 1.0) * (_LONG + (_SHORT - _LONG) / design))


def distance_log_e(
    x: NDArray[np.float64], dof: NDArray[np.float64], noncentrality: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Evidence that a squared distance is beyond a tolerated one.

    e = mean over λ_j = 2√(2r + 4λ₀)·{1/16, ⅛, ¼, ½, 1, 2, 4} of f(x; r, λ₀ + λ_j)/f(x; r, λ₀), f the density
    of the non-central chi-square. It has a monotone likelihood ratio in λ, so E e <= 1 for every λ <= λ₀. Why
    not 2√(2r): in large windows λ₀ is large, and alternatives that close to it gather evidence slowly.

    f(x; r, λ) = f(x; r, 0) e^(-λ/2) ₀F₁(; r/2; λx/4), so the ratio needs only ln ₀F₁: from the uniform
    expansion of the Bessel function for order 12 and more, below it by a recurrence of positive terms. Good
    to 1e-8 for every r > 0, λ >= 0, x >= 0; never overflows (scipy.stats.ncx2 does). 3 µs a field in
    a vector of 100.

    Args:
        x: Q/a.
        dof: r > 0, any real.
        noncentrality: λ₀ = Δ²/a >= 0.

    Example:
        >>> float(distance_log_e(np.array(40.0), np.array(10.0), np.array(5.0)).round(3))
        3.008
    """
    x, dof, lam = np.broadcast_arrays(*(np.asarray(part, np.float64) for part in (x, dof, noncentrality)))
    half = dof[..., None] / 2.0
    steps = 2.0 * np.sqrt(2.0 * dof + 4.0 * lam)[..., None] * _DISTANCE_STEPS
    quarter = np.maximum(x, 0.0)[..., None] / 4.0
    below = _log_0f1(half, quarter * lam[..., None])
    above = _log_0f1(np.broadcast_to(half, steps.shape), quarter * (lam[..., None] + steps))
    return _log_mean(above - below - steps / 2.0, (-1,))


def _log_0f1(b: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln ₀F₁(; b; z), b > 0, z >= 0."""
    if b.size and float(b.min()) >= _ORDER + 1:
        return _log_0f1_large(b, z)
    # ₀F₁(b) = ₀F₁(b + 1) + z/(b(b + 1)) ₀F₁(b + 2): ratios ₀F₁(b)/₀F₁(b + 1), downward
    top = b + _ORDER
    log_top = _log_0f1_large(top + 1.0, z)
    ratio = np.exp(_log_0f1_large(top, z) - log_top)
    total = log_top + np.log(ratio)
    for step in range(_ORDER):
        lower = top - 1.0 - step
        ratio = 1.0 + z / (lower * (lower + 1.0)) / ratio
        total = total + np.log(ratio)
    return total


def _log_0f1_large(b: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for b >= 12: DLMF 10.41.3 with ₀F₁(; v + 1; s²v²/4) = Γ(v + 1)(sv/2)^-v I_v(vs)."""
    v = b - 1.0
    square = 4.0 * z / v**2
    root = np.sqrt(1.0 + square)
    excess = square / (1.0 + root)
    p = 1.0 / root
    p2 = p * p
    u1 = p * (3.0 - 5.0 * p2) / 24.0
    u2 = p2 * (81.0 + p2 * (-462.0 + 385.0 * p2)) / 1152.0
    u3 = p * p2 * (30375.0 + p2 * (-369603.0 + p2 * (765765.0 - 425425.0 * p2))) / 414720.0
    u4 = (
        p2
        * p2
        * (4465125.0 + p2 * (-94121676.0 + p2 * (349922430.0 + p2 * (-446185740.0 + p2 * 185910725.0))))
        / 39813120.0
    )
    stirling = (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * v**2)) / v**2) / v
    series = np.log1p((u1 + (u2 + (u3 + u4 / v) / v) / v) / v)
    body: NDArray[np.float64] = v * (excess - np.log1p(excess / 2.0)) - 0.5 * np.log(root)
    return body + stirling + series


def _log_mean(logs: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """ln of the mean of exponentials over some axes."""
    largest = logs.max(axis=axes, keepdims=True)
    # e^-700 of the largest is nothing, and is not yet an underflow
    mean = np.exp(np.maximum(logs - largest, -700.0)).mean(axis=axes, keepdims=True)
    return np.asarray((largest + np.log(mean)).squeeze(axis=axes))
