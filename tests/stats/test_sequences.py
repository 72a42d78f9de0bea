"""Confidence sequences: their formulas, and that looking at every event does not break them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from mlmon.stats.sequences import BoundedMean, comparison_log_e, mean_interval, proportion_interval


def test_a_proportion_is_where_the_mixture_has_not_rejected() -> None:
    low, high = proportion_interval(12, 400, 0.05)
    for edge in (low, high):
        mixture = integrate.quad(
            lambda q, edge=edge: (
                stats.beta.pdf(q, 0.5, 0.5) * (q / edge) ** 12 * ((1 - q) / (1 - edge)) ** 388
            ),
            0,
            0.3,
            limit=400,
        )[0]
        assert mixture == pytest.approx(20.0, rel=1e-4)
    assert low < 0.03 < high
    assert proportion_interval(0, 0, 0.05) == (0.0, 1.0)
    assert proportion_interval(0, 50, 0.05).low == 0.0
    assert proportion_interval(50, 50, 0.05).high == 1.0
    narrow, wide = proportion_interval(1200, 40_000, 0.05), proportion_interval(12, 400, 0.05)
    assert narrow.high - narrow.low < 0.2 * (wide.high - wide.low)


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_a_proportion_looked_at_all_the_time_is_missed_rarely(share: float) -> None:
    rng = np.random.default_rng(0)
    misses = naive = 0
    for _ in range(200):
        successes = np.cumsum(rng.random(2000) < share)
        looks = np.arange(10, 2001, 10)
        held = [proportion_interval(float(successes[n - 1]), float(n), 0.1) for n in looks[::8]]
        misses += any(not low <= share <= high for low, high in held)
        error = 1.645 * np.sqrt(share * (1 - share) / looks)
        naive += bool((np.abs(successes[looks - 1] / looks - share) > error).any())
    assert misses / 200 < 0.1
    assert naive / 200 > 0.25


def test_a_mean_looked_at_all_the_time_is_missed_rarely_and_narrowest_where_tuned() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(500, 3000))
    n = np.arange(1, 3001)
    means = np.cumsum(values, axis=1) / n
    width = np.array([mean_interval(float(k), 0.0, 1.0, 0.1, 500.0).high for k in n])
    missed = (np.abs(means) > width).any(axis=1).mean()
    assert 0.02 < missed < 0.1
    tuned = [mean_interval(500.0, 0.0, 1.0, 0.1, at).high for at in (50.0, 500.0, 5000.0)]
    assert tuned[1] == min(tuned)
    low, high = mean_interval(200.0, 7.0, 4.0, 0.05)
    assert (low + high) / 2 == pytest.approx(7.0)


def _plain_bounded(values: np.ndarray, alpha: float) -> tuple[float, float]:
    """The formula, event by event."""
    level = math.log(2 / alpha)
    mean, total, squares, weight, weighted, penalty = 0.5, 0.0, 0.0, 0.0, 0.0, 0.0
    for t, x in enumerate(values, start=1):
        step = min(0.5, math.sqrt(2 * level / ((0.25 + squares) / t * t * math.log(1 + t))))
        penalty += (x - mean) ** 2 * (-math.log(1 - step) - step)
        weight, weighted, total = weight + step, weighted + step * x, total + x
        mean = (0.5 + total) / (t + 1)
        squares += (x - mean) ** 2
    width = (level + penalty) / weight
    return max(0.0, weighted / weight - width), min(1.0, weighted / weight + width)


def test_a_bounded_mean_is_its_formula_in_batches_of_any_size() -> None:
    values = np.random.default_rng(2).beta(2, 5, 500)
    found = BoundedMean(0.05)
    assert found.interval() == (0.0, 1.0)
    for part in np.split(values, [0, 1, 7, 100, 101, 400]):
        found.add(part)
    assert found.interval() == pytest.approx(_plain_bounded(values, 0.05))
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\], got 0 to 2"):
        found.add(np.array([0.0, 2.0]))
    with pytest.raises(ValueError, match="expected values"):
        found.add(np.array([np.nan]))


def test_a_bounded_mean_holds_for_a_rare_extreme_and_shrinks() -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(200):
        found = BoundedMean(0.1)
        outside = False
        for part in np.split((rng.random(1000) < 0.02).astype(float), 20):
            found.add(part)
            low, high = found.interval()
            outside = outside or not low <= 0.02 <= high
        missed += outside
    assert missed / 200 < 0.1
    assert found.interval().high < 0.1


def test_two_arms_are_the_beta_mixture() -> None:
    a, b = 7.0, 15.0
    mixture = integrate.quad(lambda q: stats.beta.pdf(q, 10, 10) * q**b * (1 - q) ** a, 0, 1)[0] * 2 ** (
        a + b
    )
    assert comparison_log_e(np.array(a), np.array(b)) == pytest.approx(math.log(mixture))
    assert comparison_log_e(np.array(0.0), np.array(0.0)) == pytest.approx(0.0)


def test_two_arms_that_are_alike_are_rarely_told_apart_and_unlike_ones_mostly() -> None:
    rng = np.random.default_rng(4)

    def rejected(share: float) -> float:
        second = np.cumsum(rng.random((2000, 400)) < share, axis=1)
        first = np.arange(1, 401) - second
        return float((comparison_log_e(first, second) > math.log(20)).any(axis=1).mean())

    assert rejected(0.5) < 0.05
    assert rejected(0.65) > 0.9
