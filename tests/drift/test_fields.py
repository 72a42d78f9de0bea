"""Fields of one window: verdicts against scipy, states, units, and what carries a shift."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from mlmon.baseline.model import FieldReference, FieldSpec
from mlmon.drift.fields import FieldState, contributions, judge_fields
from mlmon.stats.evalues import distance_log_e, rate_log_e
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from mlmon.drift.fields import FieldVerdict


def _sums(total: Any, size: float, n_eff: float | None = None) -> FieldSums:
    """Sums of `size` events of weight 1 whose Σφ is total; with n_eff, of unequal weights."""
    sums = FieldSums(0)
    sums.total = np.atleast_1d(np.array(total, float))
    sums.size = np.array([size, size, size if n_eff is None else size**2 / n_eff])
    return sums


def _reference(kind: Any, total: Any, size: float, **more: Any) -> FieldReference:
    """A reference of independent events."""
    sums = _sums(total, size)
    whiten = more.pop("whiten", None)
    names = more.pop("names", ())
    tolerance = more.pop("tolerance", 0.0)
    spec = FieldSpec(kind, len(sums.total), whiten=whiten, names=names, tolerance=tolerance)
    rank = 1.0 if kind != "vector" else float(len(sums.total) if whiten is None else whiten.shape[1])
    return FieldReference(
        spec, sums, **{"trace": rank, "trace2": rank, "wander": 0.0, "blocks": 10**9, **more}
    )


def _judge(reference: FieldReference, sums: FieldSums) -> FieldVerdict:
    return judge_fields([(reference, sums)])[0]


HUGE = 1e12


def test_cells_are_pearsons_test_when_the_reference_is_exact() -> None:
    shares, counts = np.array([0.2, 0.3, 0.5]), np.array([60, 70, 170])
    found = _judge(_reference("cells", shares * HUGE, HUGE), _sums(counts, 300))
    pearson = stats.chisquare(counts, shares * 300)
    # a little above: what sparse cells add to the variance is in the null
    assert pearson.pvalue < found.p_value < 1.15 * pearson.pvalue
    assert found.effect == pytest.approx(math.sqrt(pearson.statistic / 300 - 2 / 300), rel=1e-6)
    assert (found.n, found.n_eff, found.state) == (300, 300.0, FieldState.OK)


def test_a_mean_is_a_z_test_when_the_reference_is_exact() -> None:
    whiten = np.array([[0.5]], np.float32)
    found = _judge(_reference("vector", [10.0 * HUGE], HUGE, whiten=whiten), _sums([10.3 * 400], 400))
    z = 0.3 * 0.5 * 20
    assert found.p_value == pytest.approx(2 * stats.norm.sf(z), rel=1e-3)
    assert found.effect == pytest.approx(math.sqrt(0.15**2 - 1 / 400), rel=1e-5)
    assert found.log_e == pytest.approx(
        float(distance_log_e(np.array(z**2), np.array(1.0), np.array(0.0))), rel=1e-3
    )


def test_a_mean_has_to_leave_its_tolerance() -> None:
    reference = _reference("vector", [0.0], HUGE, tolerance=0.2)
    inside, outside = (
        _judge(reference, _sums([0.19 * 5000], 5000)),
        _judge(reference, _sums([0.3 * 5000], 5000)),
    )
    assert inside.tolerance == pytest.approx(0.2, rel=1e-4)
    assert inside.p_value > 0.5
    assert inside.log_e < 0
    assert outside.log_e > 10
    assert outside.p_value == pytest.approx(stats.ncx2.sf(0.09 * 5000, 1, 0.04 * 5000), rel=0.01)


def test_the_tolerance_joins_wander_and_the_error_of_the_reference() -> None:
    plain = _reference("vector", [0.0], HUGE, tolerance=0.3)
    window = _sums([0.0], 1000)
    assert _judge(replace(plain, wander=0.4), window).tolerance == pytest.approx(0.5, rel=1e-4)
    error = _judge(_reference("vector", [0.0], 10_000), window).tolerance
    assert error == pytest.approx(0.01 * math.sqrt(1 + 2 * math.sqrt(2)), rel=1e-3)
    both = _judge(_reference("vector", [0.0], 10_000, tolerance=0.3), window).tolerance
    assert 0.3 + 1.9 * 0.01 < both < 0.3 + 2.1 * 0.01
    bursty = _judge(_reference("vector", [0.0], 10_000, trace=9.0, trace2=81.0), window).tolerance
    assert bursty == pytest.approx(3 * error, rel=1e-3)


def test_the_effect_is_what_is_left_of_the_distance_without_noise() -> None:
    found = _judge(_reference("vector", [0.0], 1000), _sums([0.3 * 500], 500))
    assert found.effect == pytest.approx(math.sqrt(0.09 - 1 / 500 - 1 / 1000))
    assert _judge(_reference("vector", [0.0], 1000), _sums([0.05 * 500], 500)).effect == 0.0


def test_traces_known_badly_are_taken_larger() -> None:
    window = _sums([0.15 * 1000], 1000)
    exact = _judge(_reference("vector", [0.0], HUGE), window)
    rough = _judge(_reference("vector", [0.0], HUGE, blocks=30), window)
    margin = 1 + math.sqrt(2 / 30)
    assert rough.p_value == pytest.approx(stats.chi2.sf(0.15**2 * 1000 / margin, 1), rel=1e-3)
    assert rough.log_e < exact.log_e


def test_weights_and_bursts_take_evidence_away() -> None:
    shares = np.array([0.5, 0.5])
    reference = _reference("cells", shares * HUGE, HUGE)
    plain = _judge(reference, _sums([1150, 850], 2000))
    weighted = _judge(reference, _sums([1150, 850], 2000, n_eff=500))
    bursty = _judge(replace(reference, trace=4.0, trace2=16.0), _sums([1150, 850], 2000))
    assert plain.p_value < 1e-8
    assert weighted.p_value == pytest.approx(bursty.p_value, rel=1e-6)
    assert weighted.p_value > 1e-4
    assert weighted.n_eff == 500


def test_a_share_is_the_binomial_of_its_upper_bound() -> None:
    reference = _reference("rate", [20.0], 10_000, tolerance=0.25)
    found = _judge(reference, _sums([12.0], 1000))
    bound = stats.beta.ppf(0.975, 21, 9980)
    odds = 1.25 * bound / (1 - bound)
    assert found.tolerance == pytest.approx(odds / (1 + odds))
    assert found.effect == 0.012
    assert found.p_value == pytest.approx(stats.binom.sf(11, 1000, found.tolerance), rel=1e-6)
    wanted = rate_log_e(np.array(12.0), np.array(1000.0), np.array(found.tolerance))
    assert found.log_e == pytest.approx(float(wanted))
    strayed = _judge(replace(reference, wander=0.02), _sums([12.0], 1000))
    assert strayed.tolerance == pytest.approx(1.25 * 0.022 / (1 + 0.25 * 0.022))
    assert _judge(reference, _sums([0.0], 1000)).p_value == 1.0


def test_only_a_rise_of_a_rate_matters() -> None:
    reference = _reference("rate", [3000.0], 10_000)
    assert _judge(reference, _sums([100.0], 1000)).log_e < 0
    assert _judge(reference, _sums([500.0], 1000)).log_e > 10


def test_a_rate_never_seen_is_believed_within_its_error() -> None:
    reference = _reference("rate", [0.0], 10_000)
    assert _judge(reference, _sums([1.0], 1000)).log_e < 2
    assert _judge(reference, _sums([20.0], 1000)).log_e > 20


def test_a_category_never_seen_is_drift() -> None:
    reference = _reference("cells", [5000.0, 5000.0, 0.0], 10_000)
    assert _judge(reference, _sums([250, 250, 0], 500)).log_e < 0.5
    assert _judge(reference, _sums([200, 200, 100], 500)).log_e > 10


def test_a_rare_cell_is_judged_although_it_is_too_rare_for_chi_square() -> None:
    reference = _reference("cells", [9990.0, 10.0], 10_000, tolerance=0.1)
    quiet, loud = _judge(reference, _sums([199, 1], 200)), _judge(reference, _sums([150, 50], 200))
    assert quiet.log_e < 2
    assert loud.log_e > 50
    # in the unit of cells, so that it can be compared with its neighbours
    assert quiet.tolerance < 0.1 < 0.4 < loud.effect < 1.0
    wandering = _judge(replace(reference, wander=0.2), _sums([195, 5], 200))
    assert wandering.log_e < _judge(reference, _sums([195, 5], 200)).log_e


def test_rare_cells_beside_others_halve_both_kinds_of_evidence() -> None:
    many = _reference("cells", [5000.0, 4990.0, 10.0], 10_000)
    rare = _judge(many, _sums([90, 90, 20], 200))
    usual = _judge(many, _sums([150, 50, 0], 200))
    assert rare.log_e > 20
    assert usual.log_e > 12
    alone = _judge(_reference("cells", [5000.0, 5000.0], 10_000), _sums([150, 50], 200))
    assert usual.log_e == pytest.approx(alone.log_e - math.log(2), abs=0.2)


@pytest.mark.parametrize(
    ("kind", "total", "changes", "window", "state"),
    [
        ("vector", [0.0], {"blocks": 29}, ([0.0], 500), FieldState.INSUFFICIENT_REFERENCE),
        ("cells", [5000, 5000], {"blocks": 0}, ([250, 250], 500), FieldState.INSUFFICIENT_REFERENCE),
        ("rate", [10.0], {"blocks": 3}, ([5.0], 500), FieldState.INSUFFICIENT_REFERENCE),
        (
            "vector",
            [0.0],
            {"trace": 120.0, "trace2": 14400.0},
            ([0.0], 9000),
            FieldState.INSUFFICIENT_REFERENCE,
        ),
        ("rate", [10.0], {"trace": 120.0}, ([5.0], 500), FieldState.INSUFFICIENT_REFERENCE),
        (
            "cells",
            [5000, 5000],
            {"trace": 120.0, "trace2": 14400.0},
            ([9, 9], 18),
            FieldState.INSUFFICIENT_REFERENCE,
        ),
        ("vector", [0.0], {"trace": 0.0, "trace2": 0.0}, ([0.0], 500), FieldState.INSUFFICIENT_REFERENCE),
        ("vector", [0.0], {}, ([0.0], 99), FieldState.INSUFFICIENT_DATA),
        ("vector", [0.0, 0.0], {}, ([0.0, 0.0], 49), FieldState.INSUFFICIENT_DATA),
        ("vector", [0.0, 0.0], {}, ([0.0, 0.0], 50), FieldState.OK),
        ("cells", [5000, 5000], {}, ([20, 20], 40), FieldState.INSUFFICIENT_DATA),
        (
            "cells",
            [5000, 5000],
            {"trace": 5.0, "trace2": 25.0},
            ([90, 90], 180),
            FieldState.INSUFFICIENT_DATA,
        ),
        ("cells", [5000, 5000], {}, ([0, 0], 40), FieldState.INSUFFICIENT_DATA),
        ("rate", [10.0], {}, ([0.0], 0), FieldState.INSUFFICIENT_DATA),
        ("vector", [0.0], {}, ([0.0], 100), FieldState.OK),
        ("rate", [10.0], {}, ([1.0], 5), FieldState.OK),
    ],
)
def test_what_is_too_little_to_judge_is_said_and_is_no_evidence(
    kind: str,
    total: list[float],
    changes: dict[str, Any],
    window: tuple[list[float], float],
    state: FieldState,
) -> None:
    found = _judge(_reference(kind, total, 10_000, **changes), _sums(*window))
    assert found.state is state
    if state is not FieldState.OK:
        assert (found.log_e, found.p_value) == (0.0, 1.0)


def test_a_reference_too_small_for_its_dimensions_is_refused() -> None:
    window = _sums(np.zeros(100), 500)
    assert (
        _judge(_reference("vector", np.zeros(100), 2400), window).state is FieldState.INSUFFICIENT_REFERENCE
    )
    assert _judge(_reference("vector", np.zeros(100), 2600), window).state is FieldState.OK
    assert _judge(_reference("cells", np.zeros(3), 2600), _sums(np.ones(3), 3)).state is (
        FieldState.INSUFFICIENT_REFERENCE
    )


def test_cells_are_pooled_so_that_the_reference_is_large_enough_for_them() -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(2000, np.full(1000, 0.001)).astype(float)
    found = _judge(
        _reference("cells", counts, 2000), _sums(rng.multinomial(5000, np.full(1000, 0.001)), 5000)
    )
    assert found.state is FieldState.OK
    assert found.p_value > 0.01
    # 2,000 events make 80 groups of 25, whose error is 80/2000
    assert found.tolerance < 1.5 * math.sqrt(80 / 2000)


def test_fields_do_not_depend_on_their_neighbours() -> None:
    rng = np.random.default_rng(1)
    pairs = [
        (_reference("cells", rng.multinomial(5000, [0.1, 0.2, 0.7]), 5000), _sums([100, 100, 300], 500)),
        (_reference("rate", [30.0], 5000), _sums([9.0], 500)),
        (_reference("vector", rng.normal(size=8) * 70, 5000), _sums(rng.normal(size=8) * 30, 500)),
        (_reference("cells", [4999.0, 1.0], 5000), _sums([495.0, 5.0], 500)),
        (_reference("vector", [0.0], 5000), _sums([0.0], 3)),
    ]
    together = judge_fields(pairs)
    for verdict, (reference, sums) in zip(together, pairs, strict=True):
        assert verdict == pytest.approx(_judge(reference, sums))
    assert judge_fields(pairs[::-1])[::-1] == together
    assert judge_fields([]) == []


def test_extreme_windows_are_finite() -> None:
    windows = [
        (_reference("vector", [0.0], 1e4), _sums([1e12], 1000)),
        (_reference("cells", [1e4, 0.0], 1e4), _sums([0.0, 1e9], 1e9)),
        (_reference("rate", [0.0], 1e4), _sums([1e9], 1e9)),
        (_reference("rate", [1e4], 1e4), _sums([1e9], 1e9)),
        (_reference("vector", np.zeros(500), 1e9), _sums(np.full(500, 1e15), 1e6)),
    ]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = judge_fields(windows)
    assert np.isfinite(np.array([verdict[:4] for verdict in found])).all()
    assert [verdict.log_e > 100 for verdict in found] == [True, True, True, False, True]


# Contributions


def test_cells_that_moved_carry_the_shift() -> None:
    reference = _reference("cells", np.full(20, 500.0), 10_000, names=tuple("abcdefghijklmnopqrst"))
    counts = np.full(20, 50.0)
    counts[3], counts[7] = 150.0, 10.0
    found = contributions(reference, _sums(counts, counts.sum()), 2)
    assert [one.name for one in found] == ["d", "h"]
    assert found[0].now == pytest.approx(150 / counts.sum())
    assert found[0].reference == 0.05
    assert 0.5 < found[0].share < 1.0
    everything = contributions(reference, _sums(counts, counts.sum()), 100)
    assert sum(one.share for one in everything) == pytest.approx(1.0)


def test_noise_carries_nothing_much() -> None:
    rng = np.random.default_rng(2)
    reference = _reference("cells", np.full(20, 500.0), 10_000)
    quiet = contributions(reference, _sums(np.full(20, 50.0), 1000), 5)
    assert quiet == []
    counts = rng.multinomial(1000, np.full(20, 0.05)).astype(float)
    assert len(contributions(reference, _sums(counts, 1000), 20)) < 12


def test_dimensions_that_moved_carry_the_shift() -> None:
    whiten = np.diag([1.0, 2.0, 1.0]).astype(np.float32)
    found = contributions(
        _reference("vector", [0.0, 0.0, 100.0], 100, whiten=whiten), _sums([20.0, 20.0, 100.0], 100), 5
    )
    assert [one.name for one in found] == ["dimension 1", "dimension 0"]
    assert [one.share for one in found] == pytest.approx([0.8, 0.2])
    assert (found[0].now, found[0].reference) == (0.2, 0.0)


def test_scalars_and_rates_carry_themselves() -> None:
    assert contributions(_reference("vector", [0.0], 100), _sums([50.0], 100), 3)[0].name == "mean"
    assert contributions(_reference("rate", [1.0], 100), _sums([50.0], 100), 3)[0][:3] == ("share", 0.5, 0.01)
    assert contributions(_reference("vector", [0.0], 100), _sums([0.0], 0), 3) == []
    assert contributions(_reference("vector", [0.0], 100), _sums([0.0], 100), 3) == []
