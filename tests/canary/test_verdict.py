"""Verdicts: what they say of arms whose truth is known, and how often they are wrong when peeked at."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from mlmon.canary import Arm, ArmPair, CanaryConfig, Cells, State, judge
from mlmon.canary.simulate import Rollout, rollouts
from mlmon.stats.sequences import difference_interval, quantile_shares
from mlmon.stats.sketch import QuantileSketch

if TYPE_CHECKING:
    from mlmon.canary import Verdict

CONFIG = CanaryConfig()
BUDGETS = {"availability": 0.02}


def outcomes(
    events: int, bad: int, good_weight: float = 1.0
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    good = events - bad
    return np.array([[good, good * good_weight, good * good_weight**2], [bad, bad, bad]], np.float64)


def latency(median: float, events: int, seed: int = 0) -> QuantileSketch:
    sketch = QuantileSketch()
    values = np.random.default_rng(seed).lognormal(math.log(median), 0.4, events)
    sketch.add(values, np.ones(events))
    return sketch


def verdict_of(stable: Arm, canary: Arm, config: CanaryConfig = CONFIG) -> Verdict:
    return judge(ArmPair(stable, canary, BUDGETS), config)


def arm(events: int, bad: int, **more: object) -> Arm:
    return Arm("arm", {"availability": outcomes(events, bad)}, **more)  # type: ignore[arg-type]


def test_a_good_canary_passes_a_bad_one_fails_a_new_one_waits() -> None:
    stable = arm(50_000, 500)
    assert verdict_of(stable, arm(5_000, 50)).verdict is State.PASS
    bad = verdict_of(stable, arm(5_000, 300))
    assert bad.verdict is State.FAIL
    assert "bad events are 6.000% against 1.000%" in bad.reasons[0]
    new = verdict_of(stable, arm(60, 6))
    assert new.verdict is State.INCONCLUSIVE
    assert "60 events of the canary" in new.reasons[0]
    assert verdict_of(Arm("a"), Arm("b")).verdict is State.INCONCLUSIVE


def test_errors_that_are_always_kept_count_as_they_were_seen() -> None:
    """2 % sampling of good answers and every error: 100 errors in 100,000 requests are 0.1 %, not 4.8 %."""
    kept = Arm("a", {"availability": outcomes(2_000 + 100, 100, good_weight=50.0)})
    bad, events = kept.trials("availability")
    assert bad == 100
    assert events == pytest.approx(100 / (100 / 100_100))
    assert verdict_of(kept, kept).verdict is State.PASS


def test_latency_is_compared_by_its_quantile() -> None:
    stable = arm(20_000, 20, latency=latency(0.05, 20_000), latency_events=20_000.0)
    same = arm(4_000, 4, latency=latency(0.05, 4_000, 1), latency_events=4_000.0)
    slow = arm(4_000, 4, latency=latency(0.09, 4_000, 2), latency_events=4_000.0)
    assert verdict_of(stable, same).verdict is State.PASS
    found = verdict_of(stable, slow)
    assert found.verdict is State.FAIL
    (reason,) = found.reasons
    assert reason.startswith("latency-p95: ")
    few = arm(4_000, 4, latency=latency(0.05, 60), latency_events=60.0)
    assert verdict_of(stable, few).verdict is State.INCONCLUSIVE


def test_drift_fails_a_canary_and_is_never_waited_for() -> None:
    even = Cells(np.array([500.0, 300, 200]), 1_000.0, 1_000.0)
    moved = Cells(np.array([100.0, 300, 600]), 1_000.0, 1_000.0)
    base = arm(50_000, 500, fields={"predictions/class": even})
    assert verdict_of(base, arm(5_000, 50, fields={"predictions/class": even})).verdict is State.PASS
    found = verdict_of(base, arm(5_000, 50, fields={"predictions/class": moved}))
    assert found.verdict is State.FAIL
    assert "cell 2 of predictions/class" in found.reasons[0]
    assert verdict_of(arm(50_000, 500), arm(5_000, 50)).verdict is State.PASS


def test_margins_of_single_objectives() -> None:
    stable, canary = arm(50_000, 500), arm(50_000, 1_250)
    assert verdict_of(stable, canary).verdict is State.PASS
    strict = CanaryConfig(margins={"availability": 0.005})
    assert verdict_of(stable, canary, strict).verdict is State.FAIL


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_wrong_verdicts_are_rare_however_often_one_looks(rate: float) -> None:
    """At the margin every verdict is wrong; the error divided over checks and sides keeps the bound."""
    ends = rollouts(Rollout(rate, 2 * rate, rate, 10_000, 0.2, looks=100), CONFIG, 400, seed=3)
    assert stats.binom.sf(400 * (ends.passed + ends.failed), 400, CONFIG.false_verdicts) > 0.01
    ends = rollouts(Rollout(rate, rate, rate, 10_000, 0.2, looks=100), CONFIG, 200, seed=4)
    assert ends.failed <= 0.02


def test_a_test_of_fixed_size_that_is_peeked_at_breaks_the_bound() -> None:
    """The 95 % z-interval, looked at a hundred times, is wrong many times as often."""
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(200):
        bad = rng.binomial([80, 20], [0.1, 0.2], (100, 2)).cumsum(axis=0)
        n, m = 80 * np.arange(1, 101), 20 * np.arange(1, 101)
        p, q = bad[:, 0] / n, bad[:, 1] / m
        z = (q - p - 0.1) / np.sqrt(p * (1 - p) / n + q * (1 - q) / m + 1e-12)
        wrong += bool((np.abs(z[10:]) > 1.96).any())
    assert wrong / 200 > 3 * CONFIG.false_verdicts


def test_power_grows_with_what_is_wrong() -> None:
    """Three margins worse is found in nearly every rollout, and a canary as good as what serves passes."""
    config = CanaryConfig()
    found = [rollouts(Rollout(0.02, bad, 0.02, looks=50), config, 60, seed=6) for bad in (0.02, 0.06, 0.08)]
    assert found[0].passed > 0.95
    assert found[1].failed > 0.5
    assert found[2].failed > 0.95
    assert found[2].median_events < found[1].median_events


def test_rare_errors_are_judged_exactly() -> None:
    ends = rollouts(Rollout(0.001, 0.002, 0.001, 40_000, 0.5, looks=50), CONFIG, 60, seed=7)
    assert ends.passed + ends.failed <= 0.05
    assert rollouts(Rollout(0.001, 0.02, 0.001, 40_000, 0.5, looks=50), CONFIG, 60, seed=8).failed == 1.0


def test_the_difference_interval_is_the_formula() -> None:
    low, high = difference_interval((20, 1000), (60, 800), 0.05, tuned_for=500)
    p, q = 21 / 1002, 61 / 802
    v = p * (1 - p) / 1000 + q * (1 - q) / 800
    t = 1 / (1 / 1000 + 1 / 800)
    logs = -2 * math.log(0.05)
    r2 = (logs + math.log(1 + logs)) / 500
    width = math.sqrt(v * (1 + 1 / (t * r2)) * math.log((t * r2 + 1) / 0.05**2))
    centre = 60 / 800 - 20 / 1000
    assert (low, high) == pytest.approx((centre - width, centre + width))


def test_a_quantile_stays_within_its_sequence() -> None:
    """The true 95th percentile leaves it, at any of 100 looks, in at most 5 % of 300 runs; widths shrink."""
    rng, left = np.random.default_rng(9), 0
    truth = math.log(20)  # of an exponential
    looks = np.arange(50, 5_050, 50)
    shares = [quantile_shares(0.95, float(n), 0.05) for n in looks]
    for _ in range(300):
        below = (rng.exponential(size=5_000) <= truth).cumsum()[looks - 1] / looks
        left += any(not low <= share <= high for share, (low, high) in zip(below, shares, strict=True))
    assert stats.binom.sf(left - 1, 300, 0.05) > 0.01
    widths = [high - low for low, high in shares[4:]]
    assert all(later < earlier for earlier, later in pairwise(widths))
