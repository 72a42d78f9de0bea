"""e-values: their means against scipy's densities, their shape, and arguments where scipy gives up."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from mlmon.stats import evalues
from mlmon.stats.evalues import distance_log_e, mean_log_e, rate_log_e

STEPS = np.array([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4])


@pytest.mark.parametrize("dof", [1.0, 2.5, 7.0, 40.0, 300.0])
@pytest.mark.parametrize("tolerated", [0.0, 0.3, 5.0, 80.0])
def test_the_distance_is_the_mean_likelihood_ratio_of_scipy(dof: float, tolerated: float) -> None:
    steps = 2.0 * np.sqrt(2.0 * dof + 4.0 * tolerated) * STEPS
    low, high = stats.ncx2.ppf([0.001, 0.999], dof, tolerated + 1e-12)
    for x in np.linspace(low, high, 9):
        under = stats.chi2.pdf(x, dof) if tolerated == 0.0 else stats.ncx2.pdf(x, dof, tolerated)
        wanted = np.log(np.mean(stats.ncx2.pdf(x, dof, tolerated + steps) / under))
        found = distance_log_e(np.array(x), np.array(dof), np.array(tolerated))
        assert found == pytest.approx(wanted, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("dof", [1.0, 3.0, 30.0])
@pytest.mark.parametrize("tolerated", [0.5, 12.0])
@pytest.mark.parametrize(("truth", "low", "high"), [(1.0, 0.999, 1.001), (0.7, 0.0, 0.99), (0.0, 0.0, 0.99)])
def test_a_distance_within_the_tolerance_has_a_mean_of_at_most_one(
    dof: float, tolerated: float, truth: float, low: float, high: float
) -> None:
    # over the root of x, in which the density at 0 is finite for one degree of freedom
    roots = np.linspace(1e-6, np.sqrt(dof + tolerated) + 40.0, 20_001)
    e = np.exp(distance_log_e(roots**2, np.array(dof), np.array(tolerated)))
    density = stats.ncx2.pdf(roots**2, dof, max(truth * tolerated, 1e-9))
    mean = integrate.simpson(2.0 * roots * density * e, x=roots)
    assert low <= mean <= high


def test_beyond_the_tolerance_evidence_grows() -> None:
    rng = np.random.default_rng(0)
    x = stats.ncx2.rvs(10, 60.0, size=2000, random_state=rng)
    assert distance_log_e(x, np.array(10.0), np.array(20.0)).mean() > 1.0
    assert np.all(np.diff(distance_log_e(np.linspace(0, 500, 200), np.array(5.0), np.array(20.0))) > 0)


def test_no_argument_overflows() -> None:
    x = np.array([0.0, 1e-300, 1e-9, 1.0, 1e3, 1e7, 1e12])[:, None, None]
    dof = np.array([0.5, 1.0, 2.0, 25.9, 26.0, 1e3, 1e6])[:, None]
    tolerated = np.array([0.0, 1e-12, 1.0, 1e3, 1e5, 1e8])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = distance_log_e(x, dof, tolerated)
    assert found.shape == (7, 7, 6)
    assert np.isfinite(found).all()


def test_a_mean_is_the_formula_and_symmetric() -> None:
    shift, scale, tolerance = 0.4, 0.1, 0.15
    terms = [
        np.exp(step * (sign * shift - tolerance) / scale - step**2 / 2)
        for sign in (1, -1)
        for step in (1, 2, 4)
    ]
    for sign in (1, -1):
        found = mean_log_e(np.array(sign * shift), np.array(scale), np.array(tolerance))
        assert found == pytest.approx(np.log(np.mean(terms)))


@pytest.mark.parametrize("truth", [-0.2, 0.0, 0.1, 0.2])
def test_a_mean_within_the_tolerance_has_a_mean_of_at_most_one(truth: float) -> None:
    def weighted(u: float) -> float:
        log_e = mean_log_e(np.array(truth + 0.1 * u), np.array(0.1), np.array(0.2))
        return float(stats.norm.pdf(u) * np.exp(log_e))

    assert integrate.quad(weighted, -12, 12, limit=400)[0] <= 1.0


@pytest.mark.parametrize(("trials", "tolerated"), [(50, 0.001), (200, 0.03), (300, 0.5), (40, 0.97)])
def test_a_share_within_the_tolerance_has_a_mean_of_at_most_one(trials: int, tolerated: float) -> None:
    count = np.arange(trials + 1)
    e = np.exp(rate_log_e(count, np.array(trials), np.array(tolerated)))
    assert stats.binom.pmf(count, trials, tolerated) @ e == pytest.approx(1.0, abs=1e-9)
    assert stats.binom.pmf(count, trials, tolerated * 0.8) @ e < 1.0
    beyond = tolerated * 2 if tolerated < 0.4 else (1 + tolerated) / 2
    assert stats.binom.pmf(count, trials, beyond) @ e > 1.0


def _mean_of_clusters(size: float, step: float, divisor: float) -> float:
    """ln E e for an expected event of a rare property in clusters of geometric size, at one alternative."""
    growth = step ** (1.0 / divisor)
    stop = 1.0 / size
    if (1.0 - stop) * growth >= 1.0:
        return np.inf
    generating = stop * growth / (1.0 - (1.0 - stop) * growth)
    return (generating - 1.0) / size - (step - 1.0) / divisor


@pytest.mark.parametrize("size", [1.001, 1.1, 1.5, 3.0, 5.0, 20.0, 1000.0])
def test_clusters_of_geometric_size_keep_every_alternative_honest(size: float) -> None:
    design = 2.0 * size - 1.0
    divisors = evalues._divisor(np.array([design]))
    for step, divisor in zip(evalues._ODDS_STEPS, divisors, strict=True):
        assert _mean_of_clusters(size, step, divisor) <= 1e-12
        # dividing by the design effect alone would not do
        assert _mean_of_clusters(size, step, design) > 0.0


def test_a_design_effect_divides_events() -> None:
    plain = rate_log_e(np.array(30.0), np.array(1000.0), np.array(0.01))
    assert rate_log_e(np.array(30.0), np.array(1000.0), np.array(0.01), 4.0) < 0.5 * plain
    assert rate_log_e(np.array(0.0), np.array(0.0), np.array(0.01)) == 0.0


def test_shares_at_the_ends_are_finite() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = rate_log_e(np.array([0.0, 1e6]), np.array(1e6), np.array([[0.0], [1.0]]))
    assert np.isfinite(found).all()
