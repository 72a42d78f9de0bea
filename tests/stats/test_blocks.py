"""Traces, wander and bursts from blocks: unbiased, against known processes, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from mlmon.stats.blocks import (
    MAX_BLOCKS,
    Traces,
    block_length,
    block_traces,
    block_wander,
    burst_length,
    combine_traces,
)


def _plain(count: int, size: float) -> np.ndarray:
    return np.full((count, 3), size)


def _runs(rng: np.random.Generator, count: int, mean: float) -> np.ndarray:
    """Index of the run of each event, runs of geometric length."""
    lengths = rng.geometric(1.0 / mean, count)
    return np.repeat(np.arange(count), lengths)[:count]


def _cut(values: np.ndarray, length: int) -> np.ndarray:
    return values.reshape(-1, length, values.shape[-1]).sum(axis=1)


def test_traces_of_vectors_are_unbiased_for_blocks_of_unequal_size() -> None:
    rng = np.random.default_rng(0)
    deviations = np.array([2.0, 1.0, 1.0, 0.5, 0.1])
    found = []
    for _ in range(400):
        n_eff = rng.uniform(20, 200, 40)
        means = 3.0 + rng.normal(size=(40, 5)) * deviations / np.sqrt(n_eff)[:, None]
        # weights of 2: Σw = 2n, Σw² = 4n
        sizes = np.column_stack([n_eff, 2 * n_eff, 4 * n_eff])
        found.append(block_traces("vector", means * sizes[:, 1:2], sizes))
    trace, trace2, blocks = np.mean(found, axis=0)
    assert trace == pytest.approx((deviations**2).sum(), rel=0.02)
    assert trace2 == pytest.approx((deviations**4).sum(), rel=0.06)
    assert blocks == 40


def test_few_blocks_of_many_dimensions_are_unbiased_too() -> None:
    rng = np.random.default_rng(12)
    found = [block_traces("vector", rng.normal(size=(8, 30)) * 10.0, _plain(8, 100.0)) for _ in range(1500)]
    trace, trace2, _ = np.mean(found, axis=0)
    assert trace == pytest.approx(30.0, rel=0.02)
    # a little above: the estimate is kept at (tr)²/rank or more
    assert 30.0 < trace2 < 38.0


def test_the_second_trace_is_far_less_noisy_than_the_variance_of_the_distance() -> None:
    rng = np.random.default_rng(1)
    products, variances = [], []
    for _ in range(200):
        # heavy tails: the fourth moment is no part of tr Σ²
        means = rng.standard_t(5, size=(60, 30)) * np.sqrt(3 / 5) / 10.0
        products.append(block_traces("vector", means * 100.0, _plain(60, 100.0)).trace2)
        variances.append(((means**2).sum(axis=1) * 100.0).var() / 2.0)
    assert np.mean(products) == pytest.approx(30.0, rel=0.05)
    assert np.std(products) < 0.25 * np.std(variances)


def test_the_metric_is_applied() -> None:
    rng = np.random.default_rng(2)
    means = rng.normal(size=(500, 3)) * [10.0, 1.0, 5.0] / 10.0
    whiten = np.array([[0.1, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32)
    found = block_traces("vector", means * 100.0, _plain(500, 100.0), whiten)
    assert found.trace == pytest.approx(2.0, rel=0.1)
    assert found.trace2 == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("width", [2, 10, 200])
def test_independent_cells_have_a_ratio_of_one(width: int) -> None:
    rng = np.random.default_rng(3)
    found = [
        block_traces(
            "cells", rng.multinomial(50, np.full(width, 1 / width), 100).astype(float), _plain(100, 50.0)
        )
        for _ in range(30)
    ]
    trace, trace2, _ = np.mean(found, axis=0)
    assert trace == pytest.approx(1.0, abs=0.03)
    assert trace2 == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("kind", ["cells", "rate", "vector"])
@pytest.mark.parametrize("burst", [5.0, 20.0])
def test_bursts_show_in_every_kind(kind: str, burst: float) -> None:
    rng = np.random.default_rng(4)
    count, expected = 400_000, 2.0 * burst - 1.0
    runs = _runs(rng, count, burst)
    if kind == "cells":
        events = np.eye(4)[rng.choice(4, count, p=[0.1, 0.2, 0.3, 0.4])[runs]]
    elif kind == "rate":
        events = (rng.random((count, 1)) < 0.2).astype(float)[runs]
    else:
        events = rng.normal(size=(count, 4))[runs] / 2.0
    found = block_traces(kind, _cut(events, 1000), _plain(count // 1000, 1000.0))  # type: ignore[arg-type]
    assert found.trace == pytest.approx(expected, rel=0.12)
    assert burst_length(rng.normal(size=count)[runs]) == pytest.approx(expected, rel=0.12)


def test_token_counts_are_a_ratio_to_events() -> None:
    rng = np.random.default_rng(5)
    # ten independent tokens an event: shares vary as those of ten times as many events
    totals = rng.multinomial(10 * 100, [0.5, 0.3, 0.2], 300).astype(float)
    assert block_traces("cells", totals, _plain(300, 100.0)).trace == pytest.approx(0.1, rel=0.15)


def test_what_few_events_tell_of_is_as_bursty_as_all_traffic() -> None:
    none, few = np.zeros((50, 1)), np.zeros((50, 1))
    few[::10] = 1.0
    assert block_traces("rate", none, _plain(50, 200.0), burst=9.0) == Traces(9.0, 81.0, 50)
    assert block_traces("rate", few, _plain(50, 200.0), burst=9.0) == Traces(9.0, 81.0, 50)
    cells = np.column_stack([200.0 - few, few])
    assert block_traces("cells", cells, _plain(50, 200.0), burst=9.0).trace == 9.0
    many = np.random.default_rng(6).binomial(200, 0.2, 50).astype(float)[:, None]
    assert block_traces("rate", many, _plain(50, 200.0), burst=9.0).trace < 2.0


def test_blocks_without_events_are_left_out() -> None:
    rng = np.random.default_rng(7)
    totals, sizes = rng.normal(size=(50, 2)), _plain(50, 10.0)
    padded = np.insert(totals, [0, 20], 0.0, axis=0), np.insert(sizes, [0, 20], 0.0, axis=0)
    assert block_traces("vector", *padded) == block_traces("vector", totals, sizes)
    assert block_wander("vector", *padded) == block_wander("vector", totals, sizes)
    for kind in ("cells", "rate", "vector"):
        assert block_traces(kind, np.zeros((0, 2)), np.zeros((0, 3))).blocks == 0  # type: ignore[arg-type]
        assert block_wander(kind, np.zeros((0, 2)), np.zeros((0, 3))) == 0.0  # type: ignore[arg-type]


def test_halves_are_combined_by_their_blocks() -> None:
    assert combine_traces([]) == Traces(1.0, 1.0, 0)
    assert combine_traces([Traces(3.0, 5.0, 10), Traces(1.0, 1.0, 30)]) == Traces(1.5, 2.0, 40)


def test_noise_alone_is_next_to_no_wander() -> None:
    rng = np.random.default_rng(8)
    cells = [
        block_wander("cells", rng.multinomial(20, np.full(20, 0.05), 500).astype(float), _plain(500, 20.0))
        for _ in range(40)
    ]
    scalars = [
        block_wander("vector", rng.normal(size=(500, 1)) * 20**0.5, _plain(500, 20.0)) for _ in range(40)
    ]
    rates = [
        block_wander("rate", rng.binomial(20, 0.001, (500, 1)).astype(float), _plain(500, 20.0))
        for _ in range(40)
    ]
    assert np.median(cells) == 0.0
    assert np.mean(cells) < 0.05
    assert np.mean(scalars) < 0.03
    assert np.mean(rates) < 0.0015


@pytest.mark.parametrize("cycles", [1, 7, 30])
def test_day_and_night_are_wander(cycles: int) -> None:
    rng = np.random.default_rng(9)
    slow = 0.5 * np.sin(np.arange(500) * 2 * np.pi * cycles / 500)
    vector = (slow[:, None] + rng.normal(size=(500, 1)) / 20**0.5) * 20.0
    assert 0.4 < block_wander("vector", vector, _plain(500, 20.0)) < 0.85
    share = 0.2 + 0.1 * slow / 0.5
    rate = rng.binomial(20, share)[:, None].astype(float)
    assert 0.07 < block_wander("rate", rate, _plain(500, 20.0)) < 0.17
    # the null does not take it for noise: blocks are short against it
    assert block_traces("vector", vector, _plain(500, 20.0)).trace < 4.5


def test_one_strange_tenth_is_wander() -> None:
    rng = np.random.default_rng(10)
    shares = np.tile([0.4, 0.3, 0.3], (100, 1))
    shares[50:60] = [0.6, 0.2, 0.2]
    totals = np.array([rng.multinomial(200, row) for row in shares]).astype(float)
    whole = totals.sum(axis=0) / totals.sum()
    wanted = np.sqrt(((shares[50] - whole) ** 2 / whole).sum())
    assert block_wander("cells", totals, _plain(100, 200.0)) == pytest.approx(wanted, rel=0.2)


def test_a_rate_that_only_falls_does_not_wander() -> None:
    share = np.full(100, 0.2)
    share[50:55] = 0.0
    assert block_wander("rate", share[:, None] * 200.0, _plain(100, 200.0)) < 0.04


def test_bursts_are_measured_besides_slow_change() -> None:
    rng = np.random.default_rng(11)
    slow = np.sin(np.arange(100_000) * 2 * np.pi / 100_000 * 3)
    noise = rng.normal(size=100_000)
    assert burst_length(noise + slow) < 2.0
    assert burst_length(noise[_runs(rng, 100_000, 5.0)] + slow) == pytest.approx(9.0, rel=0.2)
    previous, series = 0.0, []
    for step in noise:
        previous = 0.8 * previous + step
        series.append(previous)
    # a first-order autoregression has (1 + a)/(1 - a)
    assert burst_length(np.array(series)) == pytest.approx(9.0, rel=0.15)
    both = np.column_stack([noise, series])
    assert burst_length(both) == burst_length(np.array(series))


def test_short_or_constant_series_have_no_bursts() -> None:
    assert burst_length(np.arange(100.0)) == 1.0
    assert burst_length(np.ones(10_000)) == 1.0
    # alternation is less than independence, and is not believed
    assert burst_length(np.tile([0.0, 1.0], 5000)) == 1.0


@pytest.mark.parametrize("events", [599, 600, 10_000, 123_456, 10_000_000])
@pytest.mark.parametrize("burst", [1.0, 4.3, 39.0])
def test_blocks_are_long_and_many_enough_or_refused(events: int, burst: float) -> None:
    length = block_length(events, burst)
    if length is None:
        assert events < 30 * np.ceil(20 * burst)
    else:
        assert length >= 20 * burst
        assert 30 <= events // length <= MAX_BLOCKS
