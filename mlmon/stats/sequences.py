"""Intervals that hold at every moment at once: one may look after each event and stop when one likes.

A confidence sequence at level 1 - alpha contains the truth at all times together with that probability or
more, where an interval of fixed size looked at repeatedly does not (a z-test peeked at rejects 41 % of the
time at 5 %). Each is the set of values that an e-process has not rejected: it is below 1/alpha there (Ville
1939).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "BoundedMean",
    "Interval",
    "comparison_log_e",
    "difference_interval",
    "mean_interval",
    "proportion_interval",
    "quantile_shares",
]

#: Halvings of an interval in a root search: 2^-40 of its width is left.
_HALVINGS = 40


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def proportion_interval(
    successes: float, trials: float, alpha: float, prior: tuple[float, float] = (0.5, 0.5)
) -> Interval:
    """Confidence sequence of a proportion: beta mixture.

    All p with E(p) = B(a + s, b + f)/B(a, b) / (p^s (1 - p)^f) < 1/alpha, s successes, f failures: E is an
    e-process for p, a mixture of likelihood ratios over Beta(a, b) (Robbins 1970). Fractional counts
    (sampling weights, design effect) are allowed and make it approximate.

    Args:
        successes: s >= 0.
        trials: s + f.
        alpha: error over all times, in (0, 1).
        prior: a, b > 0 of the mixture; (0.5, 0.5) does well for any p.

    Returns:
        The interval, [0, 1] before the first trial.

    Example:
        >>> low, high = proportion_interval(30, 1000, 0.05)
        >>> round(low, 4), round(high, 4)
        (0.0143, 0.054)
    """
    a, b = prior
    failures = trials - successes
    bound = special.betaln(a + successes, b + failures) - special.betaln(a, b) + math.log(alpha)

    def inside(p: float) -> bool:
        return bool(special.xlogy(successes, p) + special.xlog1py(failures, -p) > bound)

    if trials <= 0:
        return Interval(0.0, 1.0)
    peak = successes / trials
    low = 0.0 if inside(0.0) else _edge(inside, peak, 0.0)
    high = 1.0 if inside(1.0) else _edge(inside, peak, 1.0)
    return Interval(low, high)


def quantile_shares(
    share: float, trials: float, alpha: float, prior: tuple[float, float] = (0.5, 0.5)
) -> Interval:
    """Confidence sequence of a quantile, as shares of the events so far between which it lies.

    At the true quantile x of `share`, each event is at most x with probability `share`, so the number of them
    is what the e-process of `proportion_interval` judges: x leaves the set of all x at which this e-process
    is below 1/alpha with probability at most alpha, over all times. The set lies between the empirical
    quantiles of the two shares returned. For the quantile of a continuous distribution; ties only widen it.

    Args:
        share: of the quantile, in (0, 1).
        trials: events so far.
        alpha: error over all times.
        prior: of the mixture.

    Returns:
        Shares of the events so far; (0, 1) before there is enough.

    Example:
        >>> low, high = quantile_shares(0.95, 5000, 0.05)
        >>> round(low, 4), round(high, 4)
        (0.9376, 0.9615)
    """
    a, b = prior
    if trials <= 0:
        return Interval(0.0, 1.0)
    level = special.betaln(a, b) - math.log(alpha)

    def inside(at: float) -> bool:
        below = at * trials
        above = trials - below
        log_e = special.betaln(a + below, b + above) - level
        return bool(log_e < special.xlogy(below, share) + special.xlog1py(above, -share))

    low = 0.0 if inside(0.0) else _edge(inside, share, 0.0)
    high = 1.0 if inside(1.0) else _edge(inside, share, 1.0)
    return Interval(low, high)


def _edge(inside: Callable[[float], bool], within: float, outside: float) -> float:
    """Where a set that holds `within` and not `outside` ends, on the outer side."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (within + outside)
        if inside(middle):
            within = middle
        else:
            outside = middle
    return outside


def mean_interval(
    n: float, mean: float, variance: float, alpha: float, tuned_for: float = 1000.0
) -> Interval:
    """Confidence sequence of a mean: normal mixture, asymptotic.

    mean ± s·√((nr² + 1)/(n²r²) · ln((nr² + 1)/alpha²)), s² the variance so far. Exact for normal events of
    known variance, asymptotic for others (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, eq. 8), so
    not before some 50 events. Heavy tails: clip, or use `proportion_interval` of exceeding a bound.

    Args:
        n: events (effective number), > 0.
        mean: so far.
        variance: of one event, so far.
        alpha: error over all times.
        tuned_for: number of events at which it is narrowest.

    Example:
        >>> low, high = mean_interval(1000, 0.0, 1.0, 0.05)
        >>> round(high, 3)
        0.096
    """
    # the r that makes it narrowest at n, eq. 15 there
    logs = -2.0 * math.log(alpha)
    rho2 = (logs + math.log(1.0 + logs)) / tuned_for
    spread = n * rho2 + 1.0
    width = math.sqrt(variance * spread / (n * n * rho2) * math.log(spread / alpha**2))
    return Interval(mean - width, mean + width)


def difference_interval(
    first: tuple[float, float], second: tuple[float, float], alpha: float, tuned_for: float = 500.0
) -> Interval:
    """Confidence sequence of how much larger the second of two proportions is: normal mixture, asymptotic.

    `mean_interval` for the difference d of two means: with V = p(1 - p)/n + q(1 - q)/m and the harmonic
    number of events t = 1/(1/n + 1/m), d ± √(V (1 + 1/(tr²)) ln((tr² + 1)/alpha²)). The variance is that of
    one more good and one more bad event, so that it is not 0 before the first. Not before some ten events
    with the property; for rare ones take two `proportion_interval`s, which are exact and wider.

    Args:
        first: events with the property, and all events, of the one sample; effective numbers.
        second: of the other.
        alpha: error over all times.
        tuned_for: harmonic number of events at which it is narrowest.

    Example:
        >>> low, high = difference_interval((20, 1000), (60, 1000), 0.05)
        >>> round(low, 3), round(high, 3)
        (0.013, 0.067)
    """
    (bad, n), (more, m) = first, second
    smooth = (bad + 1) / (n + 2), (more + 1) / (m + 2)
    variance = smooth[0] * (1 - smooth[0]) / n + smooth[1] * (1 - smooth[1]) / m
    harmonic = 1 / (1 / n + 1 / m)
    scaled = mean_interval(harmonic, more / m - bad / n, variance * harmonic, alpha, tuned_for)
    return Interval(scaled.low, scaled.high)


class BoundedMean:
    """Confidence sequence of a mean of events in [0, 1] that needs no assumption: empirical Bernstein.

    With predictable weights l_t = min(½, √(2 ln(2/alpha)/(v t ln(1 + t)))), u and v the mean and variance of
    the events before, with half an event at ½ and ¼ added, and k(l) = -ln(1 - l) - l:

        Σ l_t x_t/Σ l_t ± (ln(2/alpha) + Σ(x_t - u)² k(l_t))/Σ l_t

    (Waudby-Smith and Ramdas 2024, theorem 2.) Holds for any distribution on [0, 1] and any stopping rule.
    Memory: 6 numbers. Time: vectorised over a batch, O(batch).

    Args:
        alpha: error over all times.

    Example:
        >>> found = BoundedMean(0.05)
        >>> found.add(np.random.default_rng(0).random(10_000))
        >>> low, high = found.interval()
        >>> low < 0.5 < high, high - low < 0.03
        (True, True)
    """

    __slots__ = ("_alpha", "_count", "_penalty", "_squares", "_sum", "_weight", "_weighted")

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._count = 0
        self._sum = 0.0
        self._squares = 0.0
        self._weight = 0.0
        self._weighted = 0.0
        self._penalty = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in events in [0, 1], in order of time, shape (n,).

        Raises:
            ValueError: one is outside.
        """
        x = np.asarray(values, np.float64)
        if not len(x):
            return
        if not (x.min() >= 0.0 and x.max() <= 1.0):
            raise ValueError(f"events: expected values in [0, 1], got {x.min():g} to {x.max():g}; scale them")
        t = self._count + np.arange(1, len(x) + 1)
        sums = self._sum + np.cumsum(x)
        means = (0.5 + sums) / (t + 1.0)
        squares = self._squares + np.cumsum((x - means) ** 2)
        # what was known before each event
        mean_before = np.concatenate([[(0.5 + self._sum) / (self._count + 1.0)], means[:-1]])
        variance = (0.25 + np.concatenate([[self._squares], squares[:-1]])) / t
        level = math.log(2.0 / self._alpha)
        weights = np.minimum(0.5, np.sqrt(2.0 * level / (variance * t * np.log1p(t))))
        self._penalty += float(((x - mean_before) ** 2 * (-np.log1p(-weights) - weights)).sum())
        self._weight += float(weights.sum())
        self._weighted += float(weights @ x)
        self._count, self._sum, self._squares = int(t[-1]), float(sums[-1]), float(squares[-1])

    def interval(self) -> Interval:
        """The interval now, within [0, 1]."""
        if not self._count:
            return Interval(0.0, 1.0)
        centre = self._weighted / self._weight
        width = (math.log(2.0 / self._alpha) + self._penalty) / self._weight
        return Interval(max(0.0, centre - width), min(1.0, centre + width))


def comparison_log_e(
    first: NDArray[np.float64], second: NDArray[np.float64], prior: float = 10.0
) -> NDArray[np.float64]:
    """Evidence that two arms with equal traffic do not fail equally often: ln of a beta mixture.

    Given a failure, either arm is to blame with probability ½ when they are alike, so for a and b failures
    e = B(a + c, b + c)/B(c, c) · 2^(a + b) is an e-process: reject at 1/alpha whenever one looks. Paired arms
    (shadow traffic): count discordant pairs.

    Args:
        first: failures of one arm.
        second: of the other.
        prior: c; larger expects a smaller difference.

    Example:
        >>> float(comparison_log_e(np.array(20.0), np.array(60.0)).round(2))
        7.5
    """
    mixture = special.betaln(second + prior, first + prior) - special.betaln(prior, prior)
    return np.asarray(mixture + (np.asarray(first) + second) * math.log(2.0))
