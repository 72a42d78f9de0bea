"""The exact MMD test: the double loop's value, exact false alarms, power, and an honest p-value."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy import stats

from mlmon.errors import MlmonError
from mlmon.stats import mmd
from mlmon.stats.mmd import median_bandwidth, mmd_test


def kernel(a: np.ndarray, b: np.ndarray, bandwidth: float) -> np.ndarray:
    squares = ((a[:, None, :] - b[None, :, :]) ** 2).sum(2)
    return np.exp(-squares / (2 * bandwidth**2))


def oracle(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """The definition, in double precision."""
    x, y = x.astype(float), y.astype(float)
    n, m = len(x), len(y)
    inside = kernel(x, x, bandwidth).sum() - n
    outside = kernel(y, y, bandwidth).sum() - m
    return inside / (n * (n - 1)) + outside / (m * (m - 1)) - 2 * kernel(x, y, bandwidth).mean()


@pytest.mark.parametrize(
    ("n", "m", "d", "block"), [(2, 2, 1, 64), (50, 90, 7, 16), (130, 64, 20, 50), (90, 200, 3, 1024)]
)
def test_it_is_the_definition_for_every_size_and_block(
    n: int, m: int, d: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmd, "BLOCK_CPU", block)
    rng = np.random.default_rng(n)
    x, y = rng.normal(5, 1, (n, d)), rng.normal(5.3, 2, (m, d))
    result = mmd_test(x, y, permutations=10, device="cpu")
    assert result.mmd2 == pytest.approx(oracle(x, y, result.bandwidth), abs=1e-7)


def test_each_permutation_is_the_statistic_of_a_deal_of_the_same_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mmd, "BLOCK_CPU", 32)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 4)), rng.normal(1, 1, (50, 4))
    result = mmd_test(x, y, permutations=6, seed=9, device="cpu")
    marks = mmd._marks(40, 90, 6, 9)
    points = np.concatenate([x, y])
    assert (marks.sum(0) == 40).all()
    expected = [oracle(points[column], points[~column], result.bandwidth) for column in marks.T]
    assert [result.mmd2, *result.null] == pytest.approx(expected, abs=1e-7)
    assert result.p_value == (1 + sum(value >= expected[0] for value in expected[1:])) / 7


def test_single_precision_keeps_what_the_null_is_about() -> None:
    """Far from the origin, in many dimensions: the error is far below the spread of the null."""
    rng = np.random.default_rng(4)
    x, y = (rng.normal(100, 1, (600, 300)).astype(np.float32) for _ in range(2))
    result = mmd_test(x, y, permutations=30, device="cpu")
    squares = ((a := np.concatenate([x, y]).astype(float)) ** 2).sum(1)
    k = np.exp(-(squares[:, None] + squares - 2 * a @ a.T) / (2 * result.bandwidth**2))
    np.fill_diagonal(k, 0)
    exact = (k[:600, :600].sum() + k[600:, 600:].sum()) / (600 * 599) - 2 * k[:600, 600:].mean()
    assert abs(result.mmd2 - exact) < 2e-8 < result.null.std() / 100


def test_bandwidth_is_the_median_distance() -> None:
    points = np.random.default_rng(5).normal(size=(300, 6))
    assert median_bandwidth(points) == pytest.approx(np.sqrt(np.median(_distances(points) ** 2) / 2))
    assert median_bandwidth(points, limit=100) == pytest.approx(median_bandwidth(points), rel=0.1)
    mostly_one = np.zeros((20, 2))
    mostly_one[0] = 3.0
    assert median_bandwidth(mostly_one) == pytest.approx(np.sqrt((_distances(mostly_one) ** 2).mean() / 2))
    assert median_bandwidth(np.ones((9, 2))) == 1.0


def _distances(points: np.ndarray) -> np.ndarray:
    upper = np.triu_indices(len(points), 1)
    return np.linalg.norm(points[upper[0]] - points[upper[1]], axis=1)


@pytest.mark.parametrize("draw", ["normal", "heavy tails", "few values"])
def test_false_alarms_are_exact(draw: str) -> None:
    """p is uniform on 1/20 … 1: below 0.1 in a tenth of 600 pairs without a difference."""
    rng = np.random.default_rng(6)
    samples = {
        "normal": lambda n: rng.normal(size=(n, 8)),
        "heavy tails": lambda n: rng.standard_t(1.5, size=(n, 8)),
        "few values": lambda n: rng.integers(0, 2, (n, 2)).astype(float),
    }
    p = [
        mmd_test(samples[draw](40), samples[draw](60), permutations=19, seed=i, device="cpu").p_value
        for i in range(600)
    ]
    alarms = int(np.sum(np.array(p) <= 0.1))
    assert stats.binomtest(alarms, 600, 0.1, alternative="greater").pvalue > 0.001
    if draw != "few values":  # ties make the test conservative
        assert stats.kstest(p, stats.uniform(0, 1.05).cdf).statistic < 0.09


@pytest.mark.parametrize("kind", ["mean", "spread", "correlation"])
def test_it_sees_a_shift(kind: str) -> None:
    rng = np.random.default_rng(7)
    found = 0
    for i in range(40):
        x, y = rng.normal(size=(200, 4)), rng.normal(size=(200, 4))
        if kind == "mean":
            y += 0.3
        elif kind == "spread":
            y *= 1.4
        else:
            y[:, 1] = 0.95 * y[:, 0] + 0.31 * y[:, 1]
        found += mmd_test(x, y, permutations=99, seed=i, device="cpu").p_value <= 0.02
    assert found >= 36


def test_all_points_equal_is_no_evidence() -> None:
    result = mmd_test(np.ones((30, 3)), np.ones((20, 3)), permutations=19, device="cpu")
    assert (result.mmd2, result.p_value) == (0.0, 1.0)


def test_same_seed_same_answer_and_no_permutations_no_evidence() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(60, 3)), rng.normal(2, 1, size=(60, 3))
    assert (
        mmd_test(x, y, seed=1, device="cpu").null.tolist()
        == mmd_test(x, y, seed=1, device="cpu").null.tolist()
    )
    assert mmd_test(x, y, permutations=0, device="cpu").p_value == 1.0


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.ones((3, 2)), np.ones((3, 4)), r"\(3, 2\) and \(3, 4\)"),
        (np.ones(3), np.ones(3), "expected"),
        (np.ones((1, 2)), np.ones((3, 2)), "2 or more"),
        (np.array([[np.nan], [1.0]]), np.ones((3, 1)), "not finite"),
        (np.ones((3, 1)), np.array([[np.inf], [1.0]]), "not finite"),
    ],
)
def test_samples_that_cannot_be_compared(x: np.ndarray, y: np.ndarray, says: str) -> None:
    with pytest.raises(MlmonError, match=says):
        mmd_test(x, y, device="cpu")


def test_a_bandwidth_that_is_none() -> None:
    with pytest.raises(MlmonError, match="above 0"):
        mmd_test(np.ones((3, 1)), np.ones((3, 1)), bandwidth=0.0)


def test_pytorch_is_asked_for_and_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MlmonError, match="PyTorch is not installed"):
        mmd_test(np.ones((3, 1)), np.ones((3, 1)), device="cuda")
    monkeypatch.setattr(mmd, "_driver", lambda: True)
    assert mmd_test(np.ones((3, 1)), np.ones((3, 1))).p_value == 1.0


def test_pytorch_says_the_same_as_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # it takes longer than all other tests here

    has_gpu = torch.cuda.is_available()
    monkeypatch.setattr(mmd, "BLOCK_GPU", 64)
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(150, 12)), rng.normal(0.2, 1, (130, 12))
    here = mmd_test(x, y, device="cpu")
    for device in ["cpu:0", *(["cuda"] if has_gpu else [])]:
        there = mmd_test(x, y, device=device)
        assert there.mmd2 == pytest.approx(here.mmd2, abs=1e-7)
        assert there.null == pytest.approx(here.null, abs=1e-7)
