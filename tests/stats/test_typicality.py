"""Typicality: the Mahalanobis distance, false alarms on real embeddings, and shifts that keep the mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import spatial, stats

from mlmon.stats.sums import FieldSums
from mlmon.stats.typicality import TypicalityNull, typicality, typicality_z

FIXTURE = Path(__file__).parents[1] / "fixtures" / "embeddings.npz"


@pytest.fixture(scope="module")
def banking() -> np.ndarray:
    """Real embeddings, turned and cut to 40 dimensions."""
    with np.load(FIXTURE) as arrays:
        points = arrays["banking"].astype(np.float32)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(384, 40)))[0]
    return points @ turn.astype(np.float32)


def whitening(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(np.cov(points.T))
    return points.mean(0), (vectors / np.sqrt(values)).astype(np.float32)


def window(scores: np.ndarray) -> FieldSums:
    sums = FieldSums(1)
    sums.add_values(scores, np.ones(len(scores)))
    return sums


def test_it_is_the_squared_mahalanobis_distance() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(50, 1, (1500, 6)) @ rng.normal(size=(6, 6))
    mean, white = whitening(points)
    inverse = np.linalg.inv(np.cov(points.T))
    expected = [spatial.distance.mahalanobis(x, mean, inverse) ** 2 for x in points]
    assert typicality(points, mean, white) == pytest.approx(expected, rel=1e-4)
    assert typicality(points.astype(np.float32), mean, white) == pytest.approx(expected, rel=1e-2)
    assert len(typicality(points[:0], mean, white)) == 0


def test_z_is_of_two_means() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.gamma(3, 1, 500), rng.gamma(3, 1, 2000)
    null = TypicalityNull(float(b.mean()), 3.0, 2000.0)
    expected = (a.mean() - b.mean()) / np.sqrt(3.0 / 500 + 3.0 / 2000)
    assert typicality_z(window(a), null) == pytest.approx(expected)
    heavy = FieldSums(1)
    heavy.add_values(a, np.full(500, 20.0))
    assert typicality_z(heavy, null) == pytest.approx(expected)
    assert typicality_z(FieldSums(1), null) == 0.0


def test_false_alarms_and_power_on_real_embeddings(banking: np.ndarray) -> None:
    """W from a first part, the null from a second; windows of a third, as they are and scattered."""
    rng = np.random.default_rng(3)
    mean, white = whitening(banking[:1200])
    held_out = typicality(banking[1200:2200], mean, white)
    null = TypicalityNull(float(held_out.mean()), float(held_out.var()), 1000.0)
    rest = banking[2200:]
    alarms, found, drawn_in = 0, 0, 0
    for _ in range(400):
        points = rest[rng.choice(1000, 200, replace=False)]
        scattered = points + 0.3 * rng.normal(size=points.shape) * banking.std(0)
        z, far, near = (
            typicality_z(window(typicality(x.astype(np.float32), mean, white)), null)
            for x in (points, scattered, mean + 0.95 * (points - mean))
        )
        alarms += abs(z) > 2.58
        found += far > 2.58
        drawn_in += near < -2.58
    assert stats.binomtest(alarms, 400, 0.015, alternative="greater").pvalue > 0.001
    assert found > 380
    assert drawn_in > 380
