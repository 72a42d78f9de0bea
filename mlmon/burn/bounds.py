"""From sums over a window to its burn, the lower bound of that, and how many events it rests on.

The formulas are those of the recording rules (`mlmon.slo.promql.wilson_lower`, `mlmon.slo.recording`) and of
`mlmon.slo.feasible.lower_bound`, over arrays, so that a burn in event time and one by arrival agree.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Burns", "burns", "wilson_lower"]


class Burns(NamedTuple):
    """Of some windows, each array of the shape of the sums without their last axis; NaN without events.

    Attributes:
        burn: Σ bad w / Σ w / budget.
        lower: its one-sided lower confidence bound.
        n_eff: effective events, (Σw)²/Σw².
    """

    burn: NDArray[np.float64]
    lower: NDArray[np.float64]
    n_eff: NDArray[np.float64]


def burns(sums: NDArray[np.float64], budget: NDArray[np.float64], confidence: NDArray[np.float64]) -> Burns:
    """Judge windows.

    Args:
        sums: n, Σw, Σw², bad Σw, bad Σw² in the last axis, which may have more; shape (..., k).
        budget: share that may be bad, broadcast over the windows.
        confidence: one-sided level of the bound, broadcast over the windows.
    """
    weight, squared, bad, bad_squared = (sums[..., column] for column in range(1, 5))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(weight > 0, bad / weight, np.nan)
        n_eff = np.where(squared > 0, weight**2 / squared, np.nan)
        events = _error_events(weight, squared, bad, bad_squared)
    events = np.where(np.isfinite(events) & (events > 0), events, n_eff)
    lower = wilson_lower(np.minimum(ratio, 1.0), events, confidence)
    return Burns(ratio / budget, lower / budget, n_eff)


def _error_events(
    weight: NDArray[np.float64],
    squared: NDArray[np.float64],
    bad: NDArray[np.float64],
    bad_squared: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Effective events behind an error ratio when the weights of good and bad events differ.

    T²·B·G / (G²·Vb + B²·Vg) for the sums T, B, G of weights and Vb, Vg of squared weights; what is not above
    0 is none. See `mlmon.slo.recording` for the derivation.
    """
    good = weight - bad
    good_squared = np.maximum(squared - bad_squared, 0.0)
    return weight**2 * bad * good / (good**2 * bad_squared + bad**2 * good_squared)


def wilson_lower(
    ratio: NDArray[np.float64], events: NDArray[np.float64], confidence: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One-sided lower bound of shares: Wilson's interval with continuity correction, within 0 and the share.

    Args:
        ratio: shares p, 0 to 1; NaN stays NaN.
        events: effective events n behind each.
        confidence: one-sided level of each.

    Source:
        Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998).

    Example:
        >>> shares, events = np.array([0.1, 0.0]), np.array([20.0, 20.0])
        >>> wilson_lower(shares, events, np.array([0.95, 0.95])).round(4).tolist()
        [0.0216, 0.0]
    """
    levels, place = np.unique(confidence, return_inverse=True)
    squares = np.array([NormalDist().inv_cdf(level) ** 2 for level in levels.tolist()])
    z2 = squares[place].reshape(np.shape(confidence))
    with np.errstate(divide="ignore", invalid="ignore"):
        root = z2 * np.maximum(z2 - 2 - 1 / events + 4 * ratio * (events * (1 - ratio) + 1), 0.0)
        bound = (2 * events * ratio + z2 - 1 - np.sqrt(root)) / (2 * (events + z2))
    found: NDArray[np.float64] = np.minimum(np.maximum(bound, 0.0), ratio)
    return found
