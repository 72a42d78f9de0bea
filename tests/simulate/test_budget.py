"""All detectors together: false pages stay within the budget, and would not if calibration were weaker."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import drift_kit
import numpy as np
import pytest
from scipy.stats import poisson

from mlmon.drift.config import AlertsConfig, DriftConfig
from mlmon.simulate.population import population
from mlmon.simulate.reference import daily_tilt, drawn_reference, monitors_for
from mlmon.simulate.run import Rules, false_pages
from mlmon.simulate.traffic import Traffic
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from mlmon.baseline.model import FieldReference, ScopeKey
    from mlmon.baseline.store import BaselineStore
    from mlmon.simulate.population import Population

pytestmark = pytest.mark.slow

SIZE, EVENTS, BUDGET = 1_000, 500.0, 10.0
RULES = Rules(AlertsConfig(false_pages_per_month=BUDGET), DriftConfig(top_fields=1), 3600)


def allowed(windows: int, chance: float) -> float:
    """Pages that a kept budget exceeds with this chance at most."""
    return float(poisson.ppf(1 - chance, BUDGET * windows / 720))


def traffic(pattern, events: float = EVENTS) -> Traffic:
    sample = drift_kit.events(SIZE)
    tilt = daily_tilt(sample, np.random.default_rng(3))
    return Traffic(SIZE, events, pattern, burst=5.0, tilt=tilt, window_seconds=3600)


@cache
def drawn(pattern: str, seed: int) -> tuple[BaselineStore, Population]:
    """A reference of its own, and what the events add to its fields."""
    order = traffic(pattern).order(10_000, np.random.default_rng(seed))
    store = drawn_reference(drift_kit.events(SIZE), order, drift_kit.CONFIGS)
    return store, population(monitors_for(drift_kit.CONFIGS, store), drift_kit.events(SIZE))


class Weakened:
    """A store whose references are changed."""

    def __init__(self, store: BaselineStore, change) -> None:
        self.scopes = {
            key: replace(
                scope,
                segments={
                    name: replace(part, fields={f: change(r) for f, r in part.fields.items()})
                    for name, part in scope.segments.items()
                },
            )
            for key, scope in store.scopes.items()
        }

    def find(self, key: ScopeKey, monitor: str):
        return (key, self.scopes[key]) if key in self.scopes else None


def as_if_independent(reference: FieldReference) -> FieldReference:
    rank = 1.0 if reference.spec.kind != "vector" else float(reference.spec.whiten.shape[1])
    return replace(reference, trace=rank, trace2=rank)


def as_if_exact(reference: FieldReference) -> FieldReference:
    """No tolerance, and a reference without error: a point null, as most tests have it."""
    sums = FieldSums(0)
    sums.size, sums.total = reference.sums.size * 1e6, reference.sums.total * 1e6
    return replace(reference, spec=replace(reference.spec, tolerance=0.0), sums=sums, wander=0.0)


def pages(store, drawn_from: Population, arriving: Traffic, windows: int) -> int:
    return false_pages(drawn_from, store, arriving, RULES, (windows, 11)).pages.total()


@pytest.mark.parametrize(
    ("pattern", "events"),
    [("independent", 500.0), ("independent", 50_000.0), ("bursty", 500.0), ("daily", 500.0)],
)
def test_a_month_without_change_pages_within_the_budget(pattern: str, events: float) -> None:
    store, drawn_from = drawn(pattern, 5)
    windows = 360 if events == EVENTS else 200
    assert pages(store, drawn_from, traffic(pattern, events), windows) <= allowed(windows, 0.01)


def test_a_null_that_knows_nothing_of_bursts_would_not_keep_it() -> None:
    store, drawn_from = drawn("bursty", 5)
    weak = Weakened(store, as_if_independent)
    run = false_pages(drawn_from, weak, traffic("bursty", 2_000.0), RULES, (200, 11))
    # one page that never ends is as bad as many: count the windows that are over the threshold
    assert sum(closest > 1.0 for closest in run.closest) > allowed(200, 1e-4)


def test_a_point_null_would_not_keep_it_once_windows_are_large() -> None:
    store, drawn_from = drawn("independent", 5)
    run = false_pages(
        drawn_from, Weakened(store, as_if_exact), traffic("independent", 50_000.0), RULES, (50, 11)
    )
    assert run.closest[-1] > 1.0, "a page that never ends: the error of the reference is taken for drift"
    assert run.pages.total() > 0


def test_a_reference_that_has_not_seen_the_day_would_not_keep_it() -> None:
    store, drawn_from = drawn("independent", 5)
    assert pages(store, drawn_from, traffic("daily"), 400) > allowed(400, 1e-2)
