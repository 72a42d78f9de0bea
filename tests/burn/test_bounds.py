"""The formulas are those of the recording rules and of the specs."""

from __future__ import annotations

import numpy as np
import pytest

from mlmon.burn.bounds import burns, wilson_lower
from mlmon.slo.feasible import lower_bound


def test_the_lower_bound_is_that_of_the_specs() -> None:
    rng = np.random.default_rng(1)
    ratio = np.concatenate([[0.0, 1.0, 0.5], rng.random(500), rng.random(500) ** 6])
    events = np.concatenate([[1.0, 1.0, 0.2], rng.random(1000) * 10 ** rng.uniform(0, 6, 1000)])
    confidence = np.where(np.arange(1003) % 2 == 0, 0.95, 0.99)
    found = wilson_lower(ratio, events, confidence)
    wanted = [
        lower_bound(*case) for case in zip(ratio.tolist(), events.tolist(), confidence.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    assert (found <= ratio).all()
    assert (found >= 0).all()


def test_errors_that_are_all_kept_count_for_more_than_their_share_of_the_weights() -> None:
    """60 errors of weight 1 among 300 others of weight 20: by (Σw)²/Σw² there would be 305 events."""
    sums = np.array([[360.0, 6060.0, 60 + 300 * 400.0, 60.0, 60.0]])
    burn, lower, n_eff = (float(values[0]) for values in burns(sums, np.array([0.001]), np.array([0.95])))
    total, bad, good = 6060.0, 60.0, 6000.0
    events = total**2 * bad * good / (good**2 * 60 + bad**2 * 120_000)
    assert events > 5_000
    assert n_eff == pytest.approx(total**2 / 120_060)
    assert burn == pytest.approx(bad / total / 0.001)
    assert lower == pytest.approx(lower_bound(bad / total, events) / 0.001)
    assert lower > 1.5 * lower_bound(bad / total, n_eff) / 0.001


def test_without_errors_or_without_good_events_the_weights_decide() -> None:
    sums = np.array([[50.0, 100.0, 250.0, 0.0, 0.0], [50.0, 100.0, 250.0, 100.0, 250.0]])
    found = burns(sums, np.array([0.1, 0.1]), np.array([0.95, 0.95]))
    assert found.n_eff.tolist() == [40.0, 40.0]
    assert found.burn.tolist() == pytest.approx([0.0, 10.0])
    assert found.lower.tolist() == pytest.approx([0.0, lower_bound(1.0, 40.0) / 0.1])


def test_a_stricter_newer_target_may_make_more_bad_than_there_was() -> None:
    """Ten times as much per bad event: the share is above 1, the burn is what it is, the bound is of 1."""
    sums = np.array([[100.0, 100.0, 100.0, 500.0, 5000.0]])
    found = burns(sums, np.array([0.001]), np.array([0.95]))
    assert found.burn.tolist() == pytest.approx([5000.0])
    assert found.lower.tolist() == pytest.approx([lower_bound(1.0, 100.0) / 0.001])


def test_no_events_no_burn() -> None:
    found = burns(np.zeros((1, 6)), np.array([0.1]), np.array([0.95]))
    assert all(np.isnan(values).all() for values in found)
