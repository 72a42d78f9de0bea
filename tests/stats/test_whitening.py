"""Ledoit and Wolf's covariance from one pass, against the formula written out and against its purpose."""

from __future__ import annotations

import numpy as np
import pytest

from mlmon.errors import BaselineError, IncompatibleStateError
from mlmon.stats.pack import pack, unpack
from mlmon.stats.whitening import ScatterSums, whitening


def _sums(
    values: np.ndarray, weights: np.ndarray | None = None, origin: np.ndarray | None = None
) -> ScatterSums:
    sums = ScatterSums(values.shape[1], origin)
    sums.add(values, np.ones(len(values)) if weights is None else weights)
    return sums


def _written_out(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Ledoit and Wolf (2004), event by event."""
    count, width = values.shape
    z = values - values.mean(axis=0)
    sample = z.T @ z / count
    scale = np.trace(sample) / width
    spread = ((sample - scale * np.eye(width)) ** 2).sum() / width
    error = sum(((np.outer(row, row) - sample) ** 2).sum() for row in z) / count**2 / width
    shrinkage = min(error, spread) / spread
    return (1 - shrinkage) * sample + shrinkage * scale * np.eye(width), shrinkage


@pytest.mark.parametrize(("count", "width"), [(30, 20), (200, 12), (3000, 5)])
def test_it_is_ledoit_and_wolf(count: int, width: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width) * 5
    covariance, shrinkage = _written_out(values)
    found = whitening(_sums(values))
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-9)
    assert found.matrix @ covariance @ found.matrix == pytest.approx(np.eye(width), abs=1e-4)
    assert found.mean == pytest.approx(values.mean(axis=0))
    assert np.array_equal(found.matrix, found.matrix.T)


def test_unequal_weights_shrink_more() -> None:
    rng = np.random.default_rng(5)
    values, weights = rng.normal(size=(400, 8)) * np.arange(1, 9), rng.choice([1.0, 9.0], 400)
    found, scaled = whitening(_sums(values, weights)), whitening(_sums(values, 3.0 * weights))
    assert scaled.shrinkage == pytest.approx(found.shrinkage)
    # whole weights are copies of events: the same but for the effective number
    copies = whitening(_sums(np.repeat(values, weights.astype(int), axis=0)))
    n_eff = weights.sum() ** 2 / (weights**2).sum()
    assert found.shrinkage == pytest.approx(copies.shrinkage * weights.sum() / n_eff)
    assert found.mean == pytest.approx(copies.mean)


def test_batches_merge_and_are_stored() -> None:
    rng = np.random.default_rng(1)
    values, weights = rng.normal(size=(500, 6)) + 3.0, rng.choice([1.0, 50.0], 500)
    whole, first, second = (
        _sums(values, weights),
        _sums(values[:99], weights[:99]),
        _sums(values[99:], weights[99:]),
    )
    kept = second.copy()
    first.merge(second)
    again = ScatterSums.restored(unpack(pack(first.state())))
    assert whitening(again).matrix == pytest.approx(whitening(whole).matrix, rel=1e-5, abs=1e-6)
    assert whitening(again).shrinkage == pytest.approx(whitening(whole).shrinkage)
    assert np.array_equal(kept.second, second.second)
    with pytest.raises(IncompatibleStateError, match="expected the same width and origin"):
        first.merge(ScatterSums(5))
    with pytest.raises(IncompatibleStateError, match="origin"):
        first.merge(ScatterSums(6, np.ones(6)))


def test_an_origin_near_the_mean_keeps_the_digits() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(1000, 4)) * [1.0, 2.0, 0.5, 1.0]
    wanted = whitening(_sums(values))
    far = whitening(_sums(values + 1e6, origin=np.full(4, 1e6)))
    assert far.shrinkage == pytest.approx(wanted.shrinkage, rel=1e-6)
    assert far.matrix == pytest.approx(wanted.matrix, rel=1e-4, abs=1e-5)
    assert far.mean == pytest.approx(values.mean(axis=0) + 1e6)


def test_constant_dimensions_are_dropped() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(400, 5))
    values[:, 1], values[:, 4] = 0.0, 7.25
    found = whitening(_sums(values))
    assert found.constant.tolist() == [1, 4]
    assert found.kept.tolist() == [0, 2, 3]
    assert found.matrix.shape == (5, 3)
    assert not found.matrix[[1, 4]].any()
    assert found.matrix[[0, 2, 3]] == pytest.approx(whitening(_sums(values[:, [0, 2, 3]])).matrix, rel=1e-5)


def test_held_out_noise_is_white_where_the_sample_covariance_would_not_do() -> None:
    rng = np.random.default_rng(4)
    factor = rng.normal(size=(60, 60)) * np.geomspace(1, 0.05, 60)
    train, held = rng.normal(size=(150, 60)) @ factor, rng.normal(size=(4000, 60)) @ factor
    squares = ((held - train.mean(axis=0)) @ whitening(_sums(train)).matrix) ** 2
    plain = np.linalg.inv(np.cov(train.T))
    away = held - train.mean(axis=0)
    assert squares.sum(axis=1).mean() < 0.75 * np.einsum("ij,jk,ik->i", away, plain, away).mean()


def test_what_cannot_be_whitened_is_refused() -> None:
    with pytest.raises(BaselineError, match="2 events or more, got 1"):
        whitening(_sums(np.ones((1, 3))))
    with pytest.raises(BaselineError, match="only constant ones"):
        whitening(_sums(np.full((50, 3), 0.1)))
