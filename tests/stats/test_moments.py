"""Moments: scipy's values for weighted data, any split and order, and values far from zero."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlmon.errors import IncompatibleStateError
from mlmon.stats.moments import Moments
from mlmon.stats.pack import pack, unpack


def of(values: np.ndarray, weights: np.ndarray | None = None) -> Moments:
    moments = Moments(values.shape[1])
    moments.update(values, np.ones(len(values)) if weights is None else weights)
    return moments


def check(a: Moments, b: Moments, rel: float = 1e-11) -> None:
    assert a.size == pytest.approx(b.size, rel=rel)
    assert a.mean == pytest.approx(b.mean, rel=rel, abs=1e-12)
    spread = np.sqrt(b.variance) + 1e-300
    for k in range(3):
        scale = b.size[1] * spread ** (k + 2)
        assert a.central[k] / scale == pytest.approx(b.central[k] / scale, rel=rel, abs=rel)


def test_they_are_scipys() -> None:
    values = np.random.default_rng(1).gamma(2.0, 3.0, (500, 3))
    moments = of(values)
    assert moments.mean == pytest.approx(values.mean(0))
    assert moments.variance == pytest.approx(values.var(0))
    assert moments.skewness == pytest.approx(stats.skew(values))
    assert moments.kurtosis == pytest.approx(stats.kurtosis(values))


def test_a_weight_is_so_many_events() -> None:
    rng = np.random.default_rng(2)
    values, weights = rng.normal(size=(60, 2)), rng.integers(1, 6, 60)
    weighted, repeated = of(values, weights.astype(float)), of(np.repeat(values, weights, axis=0))
    assert weighted.central == pytest.approx(repeated.central)
    assert weighted.mean == pytest.approx(repeated.mean)
    assert weighted.n_eff == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=8),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 1e3, -1e5]),
)
def test_any_split_and_order_of_merging_is_the_whole(
    cuts: list[int], seed: int, scale: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    values = scale * (rng.standard_t(5, (300, 2)) + offset)
    weights = rng.choice([1.0, 20.0], 300)
    bounds = [0, *sorted(cuts), 300]
    parts = [of(values[i:j], weights[i:j]) for i, j in pairwise(bounds)]
    rng.shuffle(parts)
    while len(parts) > 1:
        first = parts.pop(0)
        parts[int(rng.integers(len(parts)))].merge(first)
    check(parts[0], of(values, weights), rel=1e-9 if offset else 1e-11)


def test_merging_loses_no_digits_far_from_zero() -> None:
    """Against sums in extended precision; sums of powers in doubles would have none left."""
    values = 1e9 + np.random.default_rng(3).normal(size=(20_000, 1))
    parts = [of(part) for part in np.array_split(values, 50)]
    for part in parts[1:]:
        parts[0].merge(part)
    exact = values.astype(np.longdouble)
    exact -= exact.mean(0)
    for k in range(3):
        power = (exact ** (k + 2)).sum(0).astype(float)
        scale = len(values) * float(exact.std()) ** (k + 2)
        assert parts[0].central[k] / scale == pytest.approx(power / scale, abs=1e-6)


def test_nothing_and_constants() -> None:
    empty, constant = Moments(2), of(np.full((5, 2), 3.0))
    empty.update(np.empty((0, 2)), np.empty(0))
    for moments in (empty, constant):
        assert moments.variance.tolist() == moments.skewness.tolist() == moments.kurtosis.tolist() == [0, 0]
    empty.merge(constant)
    constant.merge(Moments(2))
    assert empty.mean.tolist() == constant.mean.tolist() == [3.0, 3.0]


def test_stored_and_restored() -> None:
    moments = of(np.random.default_rng(4).normal(size=(9, 3)))
    check(Moments.restored(unpack(pack(moments.state())), 3), moments, rel=0)
    with pytest.raises(IncompatibleStateError, match="3 columns, expected 4"):
        Moments.restored(moments.state(), 4)
    with pytest.raises(IncompatibleStateError, match="2 columns into those of 3"):
        moments.merge(Moments(2))


def test_means_alarm_at_their_level_and_see_a_shift() -> None:
    """A z of two windows from their moments alone: 1 % without drift, nearly always with half a deviation."""
    rng = np.random.default_rng(5)
    reference = of(rng.exponential(size=(5_000, 800)))
    z = []
    for shift in (0.0, 0.5):
        window = of(rng.exponential(size=(400, 800)) + shift)
        error = np.sqrt(window.variance / window.n_eff + reference.variance / reference.n_eff)
        z.append(np.abs(window.mean - reference.mean) / error)
    assert stats.binomtest(int((z[0] > 2.58).sum()), 800, 0.012, alternative="greater").pvalue > 0.001
    assert (z[1] > 2.58).mean() > 0.99
