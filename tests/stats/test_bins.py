"""Bins against NumPy: assignment is searchsorted for every float; cuts are quantiles, atoms alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlmon.stats.bins import Bins, BinTable, bin_names, learn_bins

RNG_SEED = 20_240_117

finite = st.floats(allow_nan=False, allow_infinity=False)
any_float = st.floats(allow_nan=True, allow_infinity=True)
edges_strategy = st.lists(finite, max_size=12, unique=True).map(lambda edges: np.array(sorted(edges)))
SHAPES: dict[str, Any] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "log-normal": lambda rng, n: rng.lognormal(0, 2, n),
    "cauchy": lambda rng, n: rng.standard_cauchy(n),
    "two narrow peaks": lambda rng, n: rng.choice([-1.0, 1.0], n) + rng.normal(0, 0.001, n),
    "zero or more": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, rng.exponential(size=n)),
    "counts": lambda rng, n: rng.poisson(4, n).astype(float),
    "far from zero": lambda rng, n: 1e9 + rng.random(n),
    "huge": lambda rng, n: rng.normal(size=n) * 1e307,
    "tiny": lambda rng, n: rng.normal(size=n) * 1e-310,
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def searched(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The oracle: bin by searchsorted, and the cell after the last for what is not finite."""
    return np.where(np.isfinite(values), np.searchsorted(edges, values, side="right"), len(edges) + 1)


@settings(max_examples=300, deadline=None)
@given(edges=st.lists(edges_strategy, min_size=1, max_size=4), values=st.lists(any_float, max_size=40))
@example(edges=[np.array([-1.7e308, 1.7e308])], values=[0.0, 1.75e308, -1.75e308])
@example(edges=[np.array([1.7976931348623157e308, np.inf])], values=[1.7976931348623157e308])
@example(edges=[np.array([0.0, 5e-324])], values=[-5e-324, 0.0, 5e-324, -0.0, 1e-323])
def test_a_table_says_what_searchsorted_says_for_every_float(
    edges: list[np.ndarray], values: list[float]
) -> None:
    exact = np.concatenate(edges)
    with np.errstate(over="ignore"):
        beside = [np.nextafter(exact, -np.inf), np.nextafter(exact, np.inf)]
    row = np.concatenate([values, exact, *beside, [np.nan, np.inf, -np.inf]])
    table = BinTable(edges)
    cells = table.cells(np.tile(row, (len(edges), 1)))
    for field, cuts in enumerate(edges):
        assert np.array_equal(cells[field] - table.offsets[field], searched(cuts, row))


@shapes
def test_a_table_of_learned_bins_says_what_searchsorted_says(shape: str) -> None:
    rng = np.random.default_rng(RNG_SEED)
    bins = learn_bins(SHAPES[shape](rng, 20_000))
    assert bins is not None
    edges = bins.ranged_edges
    new = SHAPES[shape](rng, 20_000)
    values = np.concatenate([new, edges, np.nextafter(edges, -np.inf), [np.nan, np.inf]])
    table = BinTable([edges, np.array([0.5])])
    cells = table.cells(np.stack([values, values]))
    assert np.array_equal(cells[0], searched(edges, values))
    assert np.array_equal(cells[1] - table.offsets[1], searched(np.array([0.5]), values))


@pytest.mark.parametrize("count", [0, 1, 77, 9000])
def test_counts_are_those_of_bincount_over_any_number_of_fields(count: int) -> None:
    rng = np.random.default_rng(RNG_SEED)
    edges = [np.sort(rng.normal(size=size)) for size in rng.integers(0, 70, 23)]
    values = rng.normal(size=(23, count))
    values[rng.random(values.shape) < 0.05] = np.nan
    weights = rng.integers(1, 20, count).astype(float)
    table = BinTable(edges)
    for given_weights in (None, weights):
        counted = table.count(values, given_weights)
        for field, cuts in enumerate(edges):
            mine = counted[table.offsets[field] : table.offsets[field + 1]]
            oracle = np.bincount(searched(cuts, values[field]), given_weights, len(cuts) + 2)
            assert np.array_equal(mine, oracle)


@shapes
def test_bins_cover_the_reference_evenly_and_can_be_named(shape: str) -> None:
    rng = np.random.default_rng(RNG_SEED)
    values = SHAPES[shape](rng, 50_000)
    bins = learn_bins(values)
    assert bins is not None
    assert (np.diff(bins.edges) > 0).all()
    assert np.isfinite(bins.centres).all()
    assert (bins.low, bins.high) == (values.min(), values.max())
    assert len(bin_names(bins.edges)) == len(set(bin_names(bins.edges))) == bins.count == len(bins.centres)
    share = np.bincount(np.searchsorted(bins.edges, values, side="right"), minlength=bins.count) / len(values)
    distinct, counts = np.unique(values, return_counts=True)
    frequent = counts.max() / len(values)
    if len(distinct) > 64:
        # rounding moves an edge by a tenth of a bin at most, on either side
        assert np.sort(share)[-1] <= max(1.35 / 64, frequent + 1e-12)
    else:
        assert bins.count == len(distinct)


def test_quantile_edges_are_near_the_quantiles_and_the_tails_have_their_own() -> None:
    rng = np.random.default_rng(RNG_SEED)
    values = rng.normal(size=100_000)
    bins = learn_bins(values, bins=16)
    assert bins is not None
    wanted = np.quantile(values, [0.001, 0.005, *np.arange(1, 16) / 16, 0.995, 0.999])
    reached = np.array([(values < edge).mean() for edge in bins.edges])
    assert bins.edges == pytest.approx(wanted, abs=0.06)
    assert reached[2:-2] == pytest.approx(np.arange(1, 16) / 16, abs=0.012)
    assert max(len(f"{edge:.12g}") for edge in bins.edges) <= 6


def test_a_frequent_value_has_a_bin_that_holds_nothing_else() -> None:
    rng = np.random.default_rng(RNG_SEED)
    values = np.where(rng.random(20_000) < 0.2, 0.25, rng.random(20_000))
    bins = learn_bins(values, bins=32)
    assert bins is not None
    mine = np.searchsorted(bins.edges, 0.25, side="right")
    assert np.searchsorted(bins.edges, np.nextafter(0.25, 0), side="right") == mine - 1
    assert np.searchsorted(bins.edges, np.nextafter(0.25, 1), side="right") == mine + 1
    assert bin_names(bins.edges)[mine] == "= 0.25"
    assert bins.centres[mine] == pytest.approx(0.25, abs=1e-15)


def test_centres_keep_the_mean() -> None:
    rng = np.random.default_rng(RNG_SEED)
    values, weights = rng.gamma(2, size=5000), rng.integers(1, 9, 5000).astype(float)
    bins = learn_bins(values, weights)
    assert bins is not None
    mass = np.bincount(np.searchsorted(bins.edges, values, side="right"), weights, bins.count)
    assert mass @ bins.centres / mass.sum() == pytest.approx(np.average(values, weights=weights))


def test_a_weight_of_two_is_the_value_twice() -> None:
    rng = np.random.default_rng(RNG_SEED)
    values, twice = rng.normal(size=20_000), rng.random(20_000) < 0.3
    weighted = learn_bins(values, np.where(twice, 2.0, 1.0), bins=20)
    repeated = learn_bins(np.concatenate([values, values[twice]]), bins=20)
    assert weighted is not None
    assert repeated is not None
    assert weighted.edges == pytest.approx(repeated.edges, abs=0.02)


@settings(max_examples=200, deadline=None)
@given(values=st.lists(any_float | st.sampled_from([0.0, 1.0, 2.5]), max_size=150), bins=st.integers(2, 20))
@example(values=[1.7976931348623157e308], bins=2)
def test_any_sample_gives_bins_or_none_in_any_order(values: list[float], bins: int) -> None:
    sample = np.array(values, np.float64)
    made = learn_bins(sample, bins=bins)
    if not np.isfinite(sample).any():
        assert made is None
        return
    assert made is not None
    turned = learn_bins(sample[::-1].copy(), bins=bins)
    assert turned is not None
    assert np.array_equal(made.edges, turned.edges)
    known = sample[np.isfinite(sample)]
    assert made.low == known.min()
    assert made.high == known.max()
    assert (np.diff(made.edges) > 0).all()
    assert ((made.edges > made.low) & (made.edges <= made.high)).all()
    assert np.isfinite(made.centres).all()
    assert (np.diff(made.ranged_edges) > 0).all()
    cells = BinTable([made.ranged_edges]).cells(sample[None, :])[0]
    assert np.array_equal(cells, searched(made.ranged_edges, sample))
    assert made.count <= 3 * bins + 5
    assert len(bin_names(made.edges)) == made.count


def test_few_events_make_few_bins() -> None:
    bins = learn_bins(np.random.default_rng(RNG_SEED).normal(size=200))
    assert bins is not None
    assert bins.count == 200 // 25


def test_a_constant_has_one_bin_and_its_range() -> None:
    bins = learn_bins(np.full(100, 3.0))
    assert isinstance(bins, Bins)
    assert bins.count == 1
    assert bins.ranged_edges.tolist() == [3.0, np.nextafter(3.0, 4)]
