"""Distances on cell counts: scipy's values, stacks of fields, noise, and PSI's gate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import spatial, stats

from mlmon.stats.distances import (
    corrected_psi,
    jensen_shannon,
    kolmogorov_smirnov,
    psi,
    psi_gate,
    psi_noise,
    wasserstein,
)


@pytest.fixture
def counts() -> tuple[np.ndarray, np.ndarray]:
    """Windows and references of 7 fields with 12 cells, some of them empty."""
    rng = np.random.default_rng(1)
    window, reference = rng.poisson(2, (7, 12)).astype(float), rng.poisson(40, (7, 12)).astype(float)
    reference[:, 3] = 0
    window[:, 5] = reference[:, 5] = 0
    return window, reference


def test_they_are_scipys(counts: tuple[np.ndarray, np.ndarray]) -> None:
    window, reference = counts
    centres = np.cumsum(np.random.default_rng(2).random((7, 12)), axis=1)
    js, ks, w1 = (
        jensen_shannon(window, reference),
        kolmogorov_smirnov(window, reference),
        wasserstein(window, reference, centres, scale=np.ones(7)),
    )
    for i, (a, b, at) in enumerate(zip(window, reference, centres, strict=True)):
        assert js[i] == pytest.approx(spatial.distance.jensenshannon(a, b, base=2) ** 2)
        x, y = np.repeat(np.arange(12), a.astype(int)), np.repeat(np.arange(12), b.astype(int))
        assert ks[i] == pytest.approx(stats.ks_2samp(x, y).statistic)
        assert w1[i] == pytest.approx(stats.wasserstein_distance(at, at, a, b))


def test_wasserstein_is_in_units_of_the_references_deviation() -> None:
    rng = np.random.default_rng(3)
    values, moved = rng.normal(10, 4, 200_000), rng.normal(12, 4, 200_000)
    edges = np.quantile(values, np.arange(1, 64) / 64)
    cells, cells_moved = np.searchsorted(edges, values), np.searchsorted(edges, moved)
    reference = np.bincount(cells, minlength=64)
    centres = np.bincount(cells, values, 64) / reference
    assert wasserstein(np.bincount(cells_moved, minlength=64), reference, centres) == pytest.approx(
        0.5, abs=0.03
    )
    spread = np.sqrt(np.average((centres - values.mean()) ** 2, weights=reference))
    assert wasserstein(reference[::-1], reference, centres) == pytest.approx(
        wasserstein(reference[::-1], reference, centres, scale=spread), rel=1e-6
    )


def test_a_reference_without_spread() -> None:
    assert wasserstein([[4, 0], [0, 4]], [9, 0], [1.0, 2.0]).tolist() == [0.0, np.inf]


def test_psi_is_its_definition_with_half_an_event_more(counts: tuple[np.ndarray, np.ndarray]) -> None:
    window, reference = counts
    n, m = window.sum(1), reference.sum(1)
    values = psi(window, reference, n, m)
    for i, (a, b) in enumerate(zip(window, reference, strict=True)):
        known = (a + b) > 0
        p, q = (a[known] + 0.5) / (a[known] + 0.5).sum(), (b[known] + 0.5) / (b[known] + 0.5).sum()
        assert values[i] == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))
    assert corrected_psi(window, reference, n, m) == pytest.approx(
        values - (((window + reference) > 0).sum(1) - 1) * (1 / n + 1 / m)
    )


def test_weights_change_the_noise_and_not_the_effect() -> None:
    window, reference = np.array([300.0, 700.0]), np.array([5000.0, 5000.0])
    assert psi(20 * window, reference, 1000, 10_000) == pytest.approx(psi(window, reference, 1000, 10_000))
    assert psi_gate(window, reference, 100, 10_000) > 5 * psi_gate(window, reference, 1000, 10_000)


def test_empty_sides_are_far_from_nothing_and_raise_nothing() -> None:
    zero, some = np.zeros(4), np.array([1.0, 2.0, 0.0, 0.0])
    assert np.isfinite(
        [psi(zero, some, 0, 3), jensen_shannon(zero, some), kolmogorov_smirnov(zero, some)]
    ).all()
    assert psi(zero, zero, 0, 0) == 0
    assert psi_gate([4, 0], [9, 0], 4, 9) == 0  # one cell: no freedom, and PSI is 0
    assert psi([4, 0], [9, 0], 4, 9) == 0


def _draws(n: int, cells: int, rounds: int, skew: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n * cells)
    law = np.arange(1, cells + 1) ** -skew
    law /= law.sum()
    return rng.multinomial(n, law, rounds), rng.multinomial(10_000, law, rounds)


@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize("cells", [2, 10, 64, 256])
@pytest.mark.parametrize("n", [200, 1000, 10_000])
def test_false_alarms_of_the_gate(n: int, cells: int, skew: float) -> None:
    window, reference = _draws(n, cells, 3000, skew)
    alarms = int((psi(window, reference, n, 10_000) > psi_gate(window, reference, n, 10_000)).sum())
    assert stats.binomtest(alarms, 3000, 0.0125, alternative="greater").pvalue > 0.001
    if n >= 5 * cells and skew == 0:
        assert stats.binomtest(alarms, 3000, 0.005, alternative="less").pvalue > 0.001
        mean = corrected_psi(window, reference, n, 10_000).mean()
        assert abs(mean) < 0.2 * psi_noise(cells, n, 10_000)


def test_a_fixed_threshold_is_noise_where_the_gate_is_silent() -> None:
    """The gate's reason: a tenth on ten bins of 100 events is passed by a third of windows without drift."""
    window, reference = _draws(100, 10, 2000, 0.0)
    value = psi(window, reference, 100, 10_000)
    assert (value > 0.1).mean() > 0.2
    assert (value > psi_gate(window, reference, 100, 10_000)).mean() < 0.02


def test_power_of_the_gate() -> None:
    rng = np.random.default_rng(5)
    reference = rng.multinomial(10_000, np.full(20, 0.05))
    moved = np.full(20, 0.05)
    moved[:4] += 0.03
    moved[4:16] -= 0.01
    window = rng.multinomial(1000, moved, 300)
    assert (psi(window, reference, 1000, 10_000) > psi_gate(window, reference, 1000, 10_000)).mean() > 0.99
    assert corrected_psi(window, reference, 1000, 10_000).mean() == pytest.approx(
        stats.entropy(moved, np.full(20, 0.05)) + stats.entropy(np.full(20, 0.05), moved), rel=0.1
    )
