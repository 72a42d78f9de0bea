"""Squared distances: pooling, moments and tails against scipy and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlmon.stats.quadratic import (
    Null,
    cell_distance,
    distance_tail,
    null_of,
    pool_cells,
    sparse_variance,
    sum_groups,
    tolerated,
    vector_distance,
)


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60).filter(lambda values: sum(values) > 1e-3),
    st.floats(1e-4, 0.6),
)
def test_every_group_has_enough_and_large_cells_stay_alone(values: list[float], smallest: float) -> None:
    shares = np.array(values) / sum(values)
    groups = pool_cells(shares, smallest)
    pooled = sum_groups(shares, groups)
    assert np.array_equal(np.unique(groups), np.arange(len(pooled)))
    assert pooled.sum() == pytest.approx(1.0)
    if len(pooled) > 1:
        assert pooled.min() >= smallest * (1 - 1e-9)
    enough = np.flatnonzero(shares >= smallest)
    assert len(np.unique(groups[enough])) == len(enough)


def test_sparse_neighbours_are_pooled_with_neighbours_into_many_groups() -> None:
    groups = pool_cells(np.full(1000, 0.001), 5.0 / 200.0)
    assert np.all(np.diff(groups) >= 0)
    assert groups.max() + 1 == 20


def test_the_distance_of_cells_is_pearsons_homogeneity_statistic() -> None:
    rng = np.random.default_rng(0)
    now, before = rng.multinomial(500, [0.2, 0.3, 0.5]), rng.multinomial(2000, [0.25, 0.3, 0.45])
    wanted = stats.chi2_contingency(np.array([now, before]), correction=False).statistic
    found = cell_distance(now / 500, before / 2000, 500, 2000)
    assert found.squared * 500 * 2000 / 2500 == pytest.approx(wanted)
    assert found.rank == 2
    assert cell_distance(np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.0, 0.0]), 10, 10).rank == 1


def test_what_sparse_cells_add_is_exact() -> None:
    shares, n = np.array([0.05, 0.25, 0.7]), 6
    mean = square = 0.0
    for counts in itertools.product(range(n + 1), repeat=2):
        if sum(counts) <= n:
            full = np.array([*counts, n - sum(counts)])
            chi = float(((full - n * shares) ** 2 / (n * shares)).sum())
            chance = stats.multinomial.pmf(full, n, shares)
            mean += chance * chi
            square += chance * chi**2
    # exact variance: 2(d - 1)(1 - 1/n) + (Σ1/p - d² - 2d + 2 + 2(d - 1))/n, of which 2(d - 1) is the null's
    assert mean == pytest.approx(2.0)
    assert square - mean**2 == pytest.approx(4.0 + sparse_variance(shares, n))


def test_a_vector_is_measured_in_its_metric() -> None:
    whiten = np.array([[2.0, 0.0], [0.0, 0.5], [0.0, 0.0]], np.float32)
    assert vector_distance(np.array([1.0, 2.0, 9.0]), whiten) == (5.0, 2)
    assert vector_distance(np.array([3.0, 4.0]), None) == (25.0, 2)


def test_the_null_has_the_moments_of_the_quadratic_form() -> None:
    rng = np.random.default_rng(1)
    spectrum = np.array([4.0, 2.0, 1.0, 0.5])
    n = 50.0
    q = (rng.normal(size=(200_000, 4)) ** 2 * spectrum / n).sum(axis=1)
    null = null_of(np.array(spectrum.sum()), np.array((spectrum**2).sum()), np.array(n))
    assert q.mean() == pytest.approx(float(null.scale * null.dof), rel=0.01)
    assert q.var() == pytest.approx(float(2 * null.scale**2 * null.dof), rel=0.02)
    assert (q / null.scale > stats.chi2.isf(0.01, null.dof)).mean() == pytest.approx(0.01, rel=0.25)


def test_the_tolerated_distance_covers_the_error_of_the_reference() -> None:
    rng = np.random.default_rng(2)
    for width in (1, 10, 200):
        null = null_of(np.array(float(width)), np.array(float(width)), np.array(10_000.0))
        truth = np.zeros(width)
        truth[0] = 0.1
        error = rng.normal(size=(5000, width)) / 100.0
        away = ((truth + error) ** 2).sum(axis=1)
        # 2.3 % of references are beyond two standard deviations; not more of them than twice that
        assert (away > tolerated(np.array(0.1), null)).mean() < 0.045
        assert (away > 0.01 + float(null.scale * null.dof)).mean() > 0.2


def test_tails_are_those_of_scipy_and_robust() -> None:
    for dof, lam in itertools.product((1.0, 2.0, 5.0, 30.0, 300.0), (0.1, 1.0, 10.0, 100.0)):
        x = stats.ncx2.isf([0.9, 0.5, 0.1, 0.01, 1e-4, 1e-8], dof, lam)
        found = distance_tail(x, np.array(dof), np.array(lam))
        limit = {1.0: 1e-6, 2.0: 0.06}.get(dof, 0.016)
        assert np.abs(found / stats.ncx2.sf(x, dof, lam) - 1.0).max() < limit
    x = np.array([0.0, 1e-9, 3.0, 1e4, 1e12])
    assert distance_tail(x, np.array(7.0), np.array(0.0)) == pytest.approx(stats.chi2.sf(x, 7.0))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = distance_tail(x[:, None, None], np.array([0.5, 1e6])[:, None], np.array([0.0, 1e-9, 1e8]))
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_the_tail_is_smooth_at_the_mean() -> None:
    x = 15.0 + np.linspace(-0.01, 0.01, 401)
    found = distance_tail(x, np.array(10.0), np.array(5.0))
    assert np.all(np.diff(found) < 0.0)
    assert np.abs(found - stats.ncx2.sf(x, 10, 5)).max() < 1e-3


def test_a_null_of_nothing_tolerated_is_the_error_alone() -> None:
    null = Null(np.array(0.01), np.array(1.0))
    assert float(tolerated(np.array(0.0), null)) == pytest.approx(0.01 * (1 + 2 * math.sqrt(2)))
