"""Whether an alert can fire at all, and the confidence bound that pages test: burn at its edges.

With a target t the error ratio is at most 1, so the burn is at most 1 / (1 - t). A condition at or above that
can never hold: 14.4 needs a target over 93.06 %, 6 over 83.3 %, 3 over 66.7 %.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlmon.slo.model import BurnCondition, Objective, Version

__all__ = ["infeasible", "lower_bound", "suggestion", "z_value"]

#: Margin by which a suggested threshold stays below the largest burn there can be.
_MARGIN = 0.8


def z_value(confidence: float) -> float:
    """The normal quantile of a one-sided confidence level.

    Example:
        >>> round(z_value(0.95), 4)
        1.6449
    """
    return NormalDist().inv_cdf(confidence)


def lower_bound(ratio: float, n: float, confidence: float = 0.95) -> float:
    """One-sided lower confidence bound of a share: Wilson's score interval with continuity correction.

    (2np + z² - 1 - z √(z² - 2 - 1/n + 4p(n(1 - p) + 1))) / (2(n + z²)), and 0 where p = 0.

    Why the correction: without it the bound is too high for few events, where pages come from. At a true
    share of 1 % and 20 events it exceeds 3 % in 1.7 % of samples; the exact bound and this one in 0.10 %.

    Args:
        ratio: bad events among all, p.
        n: events, or their effective number (Σw)² / Σw².
        confidence: one-sided level.

    Returns:
        The bound, within 0 and p; 0 without events.

    Source:
        Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998).

    Example:
        >>> round(lower_bound(0.1, 20), 4), lower_bound(0.0, 20), round(lower_bound(1.0, 20), 4)
        (0.0216, 0.0, 0.8402)
    """
    if n <= 0 or ratio <= 0:
        return 0.0
    z2 = z_value(confidence) ** 2
    root = z2 - 2 - 1 / n + 4 * ratio * (n * (1 - ratio) + 1)
    bound = (2 * n * ratio + z2 - 1 - math.sqrt(z2 * max(root, 0.0))) / (2 * (n + z2))
    return min(max(bound, 0.0), ratio)


def suggestion(condition: BurnCondition, version: Version) -> str:
    """What to write instead of a threshold that cannot be reached.

    Example:
        >>> from mlmon.slo.model import STANDARD, Expression, Threshold, Version
        >>> suggestion(STANDARD[0], Version(None, 0.9, Threshold(Expression("up", ()), ">=", 1)))
        'lower the threshold to 8 or less (80 % of requests bad), or raise the target above 93.06 %'
    """
    reachable = _rounded(_MARGIN * version.maximum_burn)
    share = 100 * reachable * version.budget
    # Rounded up, so that the target named is one that works.
    target = math.ceil(1e4 * (1 - 1 / condition.threshold)) / 100 if condition.threshold > 1 else 0
    return (
        f"lower the threshold to {reachable:g} or less ({share:.0f} % of requests bad), "
        f"or raise the target above {target:g} %"
    )


def _rounded(value: float) -> float:
    """Down to two significant digits."""
    digits = 1 - math.floor(math.log10(value))
    scale = math.pow(10, digits)
    return math.floor(value * scale + 1e-9) / scale


def infeasible(objective: Objective) -> list[tuple[BurnCondition, str, str, str]]:
    """Every condition of an objective that can never hold, or that its windows make meaningless.

    Returns:
        For each: the condition, what was expected, what came, what to do.
    """
    found: list[tuple[BurnCondition, str, str, str]] = []
    for condition in objective.conditions:
        found += [(condition, *words) for words in _windows(objective, condition)]
        for version in objective.versions:
            if condition.threshold >= version.maximum_burn * (1 - 1e-12):
                since = (
                    "" if version.effective_from is None else f" from {version.effective_from:%Y-%m-%d} on"
                )
                expected = (
                    f"a burn below {version.maximum_burn:.4g}, the largest at target {version.target:g}"
                )
                got = f"{condition.threshold:g}, which can never be reached{since}"
                found.append((condition, expected, got, suggestion(condition, version)))
                break
    return found


def _windows(objective: Objective, condition: BurnCondition) -> list[tuple[str, str, str]]:
    found = []
    if condition.short_seconds >= condition.long_seconds:
        found.append(
            (
                "a short window shorter than the lookback window",
                f"{condition.short_seconds} s and {condition.long_seconds} s",
                "leave mlmon.io/short-window out for a twelfth of the lookback window",
            )
        )
    if condition.long_seconds > objective.window_seconds:
        found.append(
            (
                f"a lookback within the objective's window of {objective.window_seconds} s",
                f"{condition.long_seconds} s",
                "shorten the lookback or lengthen timeWindow",
            )
        )
    slices = [v.slice_seconds for v in objective.versions if v.slice_seconds is not None]
    if slices and condition.short_seconds < max(slices):
        found.append(
            (
                f"windows of at least one time slice, {max(slices)} s",
                f"a short window of {condition.short_seconds} s",
                "shorten timeSliceWindow, or name alert policies with longer windows",
            )
        )
    return found
