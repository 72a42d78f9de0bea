"""Homogeneity of categories: scipy's tables, false alarms for 2 to 1000 categories, power, unseen ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mlmon.errors import MlmonError
from mlmon.stats.homogeneity import homogeneity


def test_it_is_scipys_where_nothing_is_sparse() -> None:
    rng = np.random.default_rng(1)
    for k in (2, 3, 10, 40):
        window, reference = rng.poisson(30, k) + 5.0, rng.poisson(200, k) + 50.0
        result = homogeneity(window, reference, window.sum(), reference.sum())
        table = np.stack([window, reference])
        chi2 = stats.chi2_contingency(table, correction=False)
        g = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
        assert (result.chi2, result.p_value, result.freedom) == pytest.approx(
            (chi2.statistic, chi2.pvalue, k - 1)
        )
        assert (result.g, result.p_value_g) == pytest.approx((g.statistic, g.pvalue))
        assert result.p_unseen == 1.0


def test_sparse_cells_are_pooled_until_each_group_expects_enough() -> None:
    window = np.array([60.0, 2, 1, 3, 0, 34])
    reference = np.array([600.0, 10, 30, 25, 35, 300])
    result = homogeneity(window, reference, 100, 1000)
    pooled = np.array([[60, 6, 34], [600, 100, 300]])
    assert result.freedom == 2
    assert result.chi2 == pytest.approx(stats.chi2_contingency(pooled, correction=False).statistic)


def test_a_thousand_flat_categories_keep_some_freedom() -> None:
    rng = np.random.default_rng(2)
    result = homogeneity(rng.multinomial(500, np.full(1000, 1e-3)), np.full(1000, 50.0), 500, 50_000)
    assert 30 <= result.freedom <= 100


def test_weights_count_by_their_effective_size() -> None:
    window, reference = np.array([30.0, 70.0]), np.array([500.0, 500.0])
    plain = homogeneity(window, reference, 100, 1000)
    assert homogeneity(20 * window, 3 * reference, 100, 1000) == pytest.approx(plain)
    assert homogeneity(window, reference, 20, 1000).p_value > plain.p_value


@pytest.mark.parametrize("before", [0, 3])
def test_the_bucket_of_unseen_categories_is_fishers_test(before: int) -> None:
    result = homogeneity([196, 4], [10_000, before], 200, 10_000 + before, unseen=1)
    fisher = stats.fisher_exact([[4, 196], [before, 10_000]], alternative="greater").pvalue
    assert result.p_unseen == pytest.approx(fisher)
    assert homogeneity([196, 4], [10_000, before], 200, 10_000).p_unseen == 1.0


def test_nothing_to_test() -> None:
    for window, reference in (([0, 0], [3, 4]), ([3, 4], [0, 0]), ([9, 0], [100, 0]), ([1, 1], [2, 2])):
        result = homogeneity(window, reference, sum(window), sum(reference))
        assert (result.freedom, result.p_value, result.p_unseen) == (0, 1.0, 1.0)


def test_counts_that_are_none() -> None:
    for window in ([1, -1], [1, np.nan], [[1, 2]], [1, 2, 3]):
        with pytest.raises(MlmonError):
            homogeneity(window, [1, 2], 3, 3)


def _law(k: int, skew: float) -> np.ndarray:
    law = np.arange(1.0, k + 1) ** -skew
    return law / law.sum()


@pytest.mark.parametrize("skew", [0.0, 1.2])
@pytest.mark.parametrize("k", [2, 10, 50, 200, 1000])
@pytest.mark.parametrize(("n", "m"), [(200, 5000), (5000, 5000), (50_000, 20_000)])
def test_false_alarms(k: int, skew: float, n: int, m: int) -> None:
    """Goodness of fit alarms in half of the windows with n = m; this one in a hundredth."""
    rng = np.random.default_rng(k + n)
    law, rounds = _law(k, skew), 600
    windows, references = rng.multinomial(n, law, rounds), rng.multinomial(m, law, rounds)
    results = [homogeneity(a, b, n, m, unseen=k - 1) for a, b in zip(windows, references, strict=True)]
    for attribute, level in (("p_value", 0.05), ("p_value", 0.013), ("p_unseen", 0.01)):
        alarms = sum(getattr(result, attribute) <= level for result in results)
        assert stats.binomtest(alarms, rounds, level, alternative="greater").pvalue > 0.001
    if results[0].freedom > 3:
        assert np.mean([result.p_value for result in results]) == pytest.approx(0.5, abs=0.06)


def test_false_alarms_of_weighted_samples() -> None:
    """With n for n_eff the rate would be many times the level."""
    rng = np.random.default_rng(3)
    alarms, naive, law = 0, 0, _law(12, 0.5)
    for _ in range(500):
        reference = rng.multinomial(20_000, law)
        weights = np.where(rng.random(1000) < 0.2, 1.0, 20.0)
        window = np.bincount(rng.choice(12, 1000, p=law), weights, 12)
        n_eff = weights.sum() ** 2 / (weights**2).sum()
        alarms += homogeneity(window, reference, n_eff, 20_000).p_value <= 0.01
        naive += homogeneity(window, reference, 1.5 * n_eff, 20_000).p_value <= 0.01
    assert stats.binomtest(alarms, 500, 0.01, alternative="greater").pvalue > 0.001
    assert naive > 20


@pytest.mark.parametrize("k", [10, 200, 1000])
def test_power(k: int) -> None:
    """A third of the mass moves from the first half of the categories to the second."""
    rng = np.random.default_rng(4)
    law = _law(k, 0.0)
    moved = np.where(np.arange(k) < k // 2, law * 2 / 3, law * 4 / 3)
    found = [
        homogeneity(rng.multinomial(1000, moved), rng.multinomial(10_000, law), 1000, 10_000).p_value <= 0.01
        for _ in range(60)
    ]
    assert np.mean(found) > 0.9
