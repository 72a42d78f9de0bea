"""False alarms of fields without drift, and power with it; weakened calibrations must be found out.

The traffic and the measure are those of `benchmarks/false_alarms.py`, which prints the long version.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlmon.drift import fields

if TYPE_CHECKING:
    from mlmon.stats.sums import FieldSums

pytestmark = pytest.mark.slow


def _benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "false_alarms.py"
    name = "mlmon_benchmark_false_alarms"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


bench = _benchmark()
Traffic = bench.Traffic

#: Independent events.
PLAIN = [
    Traffic("2 cells", "cells", 200, shares=bench.even(2)),
    Traffic("rare cell", "cells", 200, shares=(0.999, 0.001)),
    Traffic("64 cells", "cells", 500, shares=bench.even(64)),
    Traffic("1000 even cells", "cells", 200, shares=bench.even(1000)),
    Traffic("1000 Zipf cells", "cells", 500, shares=bench.zipf(1000)),
    Traffic("1000 Zipf cells, many events", "cells", 5000, shares=bench.zipf(1000)),
    Traffic("mean, t(3)", "vector", 200, draw=bench.student),
    Traffic("mean, log-normal", "vector", 200, draw=bench.lognormal),
    Traffic("20 dimensions", "vector", 500, draw=bench.normal(20)),
    Traffic("rate .001", "rate", 500, shares=(0.001,)),
    Traffic("rate .05", "rate", 200, shares=(0.05,)),
]
#: Unequal weights, bursts.
HARD = [
    Traffic("weights, 64 cells", "cells", 1000, shares=bench.even(64), weights=(1.0, 50.0)),
    Traffic("weights, mean", "vector", 1000, draw=bench.normal(1), weights=(1.0, 50.0)),
    Traffic("weights, rate", "rate", 1000, shares=(0.01,), weights=(1.0, 50.0)),
    Traffic("bursts of 5, 10 cells", "cells", 1000, burst=5.0, shares=bench.even(10)),
    Traffic("bursts of 5, Zipf", "cells", 1000, burst=5.0, shares=bench.zipf(300)),
    Traffic("bursts of 5, rare cell", "cells", 1000, burst=5.0, shares=(0.999, 0.001)),
    Traffic("bursts of 5, mean", "vector", 1500, burst=5.0, draw=bench.normal(1)),
    Traffic("bursts of 5, log-normal", "vector", 1500, burst=5.0, draw=bench.lognormal),
    Traffic("bursts of 5, 20 dimensions", "vector", 1000, burst=5.0, draw=bench.normal(20)),
    Traffic("bursts of 5, rare rate", "rate", 1000, burst=5.0, shares=(0.001,)),
    Traffic("bursts of 20, 64 cells", "cells", 3000, m=50_000, burst=20.0, shares=bench.even(64)),
    Traffic("bursts of 20, mean", "vector", 6000, m=50_000, burst=20.0, draw=bench.normal(1)),
    Traffic("bursts of 20, rate", "rate", 3000, m=50_000, burst=20.0, shares=(0.02,)),
]


def _excess(found: Any, error: Any) -> list[str]:
    """What is not honest: a level above 1 %, a mean e-value above 1, by more than chance can explain."""
    wrong = []
    if found.level - 2.5 * error.level > 0.01:
        wrong.append(f"level {found.level:.4f}")
    # at tolerance 0 some references in twenty are off by more than their bound: their share, not their size
    if found.e - 2.5 * error.e > 1.0 or found.e > 1.5:
        wrong.append(f"mean e {found.e:.2f}")
    if found.large > 0.05:
        wrong.append(f"e >= 20 in {found.large:.3f}")
    return wrong


@pytest.mark.parametrize("traffic", PLAIN + HARD, ids=lambda traffic: traffic.name)
def test_windows_like_the_reference_give_no_evidence(traffic: Any) -> None:
    found, error = bench.measure(traffic, 12, 40, seed=1)
    assert _excess(found, error) == []
    assert found.judged > 0.9


def test_the_level_is_not_honest_by_being_blind() -> None:
    # a reference without error to speak of: 1 % is 1 %
    for traffic in (PLAIN[0], PLAIN[2], PLAIN[8]):
        found, _ = bench.measure(replace(traffic, m=300_000), 3, 800, seed=2)
        assert 0.004 < found.level < 0.016


# Weakened calibrations


def _weights_forgotten(reference: Any, sums: FieldSums) -> tuple[Any, FieldSums]:
    plain = sums.copy()
    plain.size[2] = plain.size[1] ** 2 / plain.size[0]
    return reference, plain


def _bursts_forgotten(reference: Any, sums: FieldSums) -> tuple[Any, FieldSums]:
    rank = reference.spec.width if reference.spec.kind == "vector" else 1.0
    return replace(reference, trace=float(rank), trace2=float(rank)), sums


def _reference_taken_for_exact(reference: Any, sums: FieldSums) -> tuple[Any, FieldSums]:
    whole = reference.sums.copy()
    whole.size *= 1e6
    whole.total *= 1e6
    return replace(reference, sums=whole), sums


@pytest.mark.parametrize(
    ("weaken", "traffic"),
    [
        (_weights_forgotten, HARD[0]),
        (_weights_forgotten, replace(HARD[1], weights=(1.0, 1.0, 1.0, 50.0))),
        (_bursts_forgotten, HARD[3]),
        (_bursts_forgotten, HARD[6]),
        (_bursts_forgotten, HARD[8]),
        (_bursts_forgotten, HARD[9]),
        (_bursts_forgotten, HARD[11]),
        (_reference_taken_for_exact, replace(PLAIN[2], n=10_000)),
        (_reference_taken_for_exact, replace(PLAIN[8], n=10_000)),
        (_reference_taken_for_exact, replace(PLAIN[9], n=20_000)),
    ],
    ids=lambda one: one.name if isinstance(one, Traffic) else one.__name__.strip("_"),
)
def test_a_weakened_calibration_is_found_out(weaken: Any, traffic: Any) -> None:
    found, error = bench.measure(traffic, 10, 20, seed=3, weaken=weaken)
    assert _excess(found, error) != []


def test_sparse_cells_that_are_not_pooled_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = replace(PLAIN[4], n=200, shares=bench.zipf(2000))
    shifted = replace(traffic, shares=bench.tilted(traffic.shares, 0.5))
    assert bench.delay(traffic, shifted, 3, seed=4, most=20)[0] < 10
    monkeypatch.setattr(fields, "pool_cells", lambda shares, _: np.arange(len(shares)))
    # the null knows how rare its cells are, and goes blind rather than wrong
    assert bench.delay(traffic, shifted, 3, seed=4, most=20)[0] == np.inf


# Power


@pytest.mark.parametrize(
    ("name", "n", "most"),
    [
        ("mean by 0.3 sd", 200, 8),
        ("mean by 0.2 sd", 1000, 8),
        ("mean by 0.2 sd", 5000, 2),
        ("100 dims by 0.3 sd", 1000, 4),
        ("10 cells by 0.3", 200, 8),
        ("64 cells by 0.3", 1000, 4),
        ("rate .001 to 0.01", 200, 14),
        ("rate .05 to 0.1", 1000, 4),
        ("3% of a new category", 1000, 4),
        ("10% of a new category", 200, 4),
    ],
)
def test_a_shift_is_found_within_windows(name: str, n: int, most: int) -> None:
    before, after = next((before, after) for line, before, after in bench.shifts(n) if line == name)
    delay, effect, tolerance = bench.delay(before, after, 7, seed=5)
    assert delay <= most
    assert effect > tolerance


def test_a_shift_within_the_tolerance_is_left_alone() -> None:
    before = Traffic("", "vector", 5000, draw=bench.normal(1))
    delay, effect, _ = bench.delay(before, replace(before, draw=bench.shifted(0.08)), 5, seed=6, most=200)
    assert delay == np.inf
    assert effect == pytest.approx(0.08, abs=0.015)
