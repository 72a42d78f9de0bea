"""Random Fourier features: the kernel, the exact MMD, merging, frozen frequencies, false alarms and power."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from mlmon.errors import MlmonError
from mlmon.stats.fourier import FourierFeatures, fourier_mmd2
from mlmon.stats.mmd import median_bandwidth, mmd_test
from mlmon.stats.sums import FieldSums

FIXTURE = Path(__file__).parents[1] / "fixtures" / "embeddings.npz"


def sums_of(z: FourierFeatures, points: np.ndarray, weights: np.ndarray | None = None) -> FieldSums:
    sums = FieldSums(z.features)
    z.add_to(sums, points, np.ones(len(points)) if weights is None else weights)
    return sums


def test_products_are_the_kernel() -> None:
    points = np.random.default_rng(1).normal(size=(60, 5))
    z = FourierFeatures(5, 16_384, 2.0)(points)
    assert z @ z.T == pytest.approx(np.exp(-cdist(points, points, "sqeuclidean") / 8), abs=0.05)
    assert (z * z).sum(1) == pytest.approx(np.ones(60), abs=1e-5)


def test_it_is_the_exact_mmd_on_average_and_nearly() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(150, 4)), rng.normal(0.4, 1, (120, 4))
    exact = mmd_test(x, y, permutations=0, bandwidth=1.5, device="cpu").mmd2
    values = []
    for seed in range(200):
        z = FourierFeatures(4, 512, 1.5, seed)
        values.append(fourier_mmd2(sums_of(z, x), sums_of(z, y)))
    assert np.mean(values) == pytest.approx(exact, abs=3 * np.std(values) / np.sqrt(200))
    assert np.std(values) < 0.15 * exact
    z = FourierFeatures(4, 65_536, 1.5)
    assert fourier_mmd2(sums_of(z, x), sums_of(z, y)) == pytest.approx(exact, rel=0.02)


def test_splits_and_weights() -> None:
    rng = np.random.default_rng(3)
    points, weights = rng.normal(size=(3000, 4)).astype(np.float32), rng.choice([1.0, 20.0], 3000)
    z = FourierFeatures(4, 64)
    whole, parts = sums_of(z, points, weights), FieldSums(64)
    for rows in np.array_split(rng.permutation(3000), 7):
        parts.merge(sums_of(z, points[rows], weights[rows]))
    assert parts.total == pytest.approx(whole.total, rel=1e-6, abs=1e-5)
    assert parts.size.tolist() == whole.size.tolist()
    assert whole.total == pytest.approx(weights @ z(points).astype(float), rel=1e-6, abs=1e-5)


def test_frequencies_are_frozen() -> None:
    """Summaries stored by another version merge with ours only while these numbers stay."""
    assert FourierFeatures(2, 4, 1.0, 7).frequencies.ravel() == pytest.approx(
        [1.6905257, -0.46593738, 0.03282016, 0.4075163]
    )
    assert FourierFeatures(2, 4, 0.5, 7).frequencies[0, 0] == pytest.approx(2 * 1.6905257)


def test_what_cannot_be() -> None:
    for arguments in ((0, 4), (3, 5), (3, 0), (3, 4, 0.0), (3, 4, np.inf)):
        with pytest.raises(MlmonError, match="expected"):
            FourierFeatures(*arguments)
    with pytest.raises(MlmonError, match=r"\(5, 2\)"):
        FourierFeatures(3, 4)(np.zeros((5, 2)))
    with pytest.raises(MlmonError, match="4 and 6"):
        fourier_mmd2(FieldSums(4), FieldSums(6))
    with pytest.raises(MlmonError, match="two events"):
        fourier_mmd2(FieldSums(4), FieldSums(4))


def test_false_alarms_and_power_on_real_embeddings() -> None:
    """Threshold from windows of one part of the reference, alarms in another; mean 0 without drift."""
    with np.load(FIXTURE) as arrays:
        banking, travel = (arrays[name].astype(np.float32) for name in ("banking", "travel"))
    z = FourierFeatures(384, 512, median_bandwidth(banking))
    reference, known, fresh = sums_of(z, banking[:1200]), z(banking[1200:2200]), z(banking[2200:])
    other, rng = z(travel), np.random.default_rng(4)

    def value(features: np.ndarray, topic: int) -> float:
        window = features[rng.choice(1000, 200, replace=False)]
        window[:topic] = other[rng.choice(600, topic, replace=False)]
        sums = FieldSums(512)
        sums.add_values(window, np.ones(200))
        return fourier_mmd2(reference, sums)

    null, healthy, shifted = (
        np.array([value(features, topic) for _ in range(400)])
        for features, topic in ((known, 0), (fresh, 0), (fresh, 30))
    )
    threshold = np.quantile(null, 0.98)
    alarms = int((healthy > threshold).sum())
    assert stats.binomtest(alarms, 400, 0.03, alternative="greater").pvalue > 0.001
    assert abs(healthy.mean()) < 5e-4
    assert shifted.mean() > 1.5e-3
    assert (shifted > threshold).mean() > 0.9
