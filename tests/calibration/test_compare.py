"""A sample judged by another baseline: silent where nothing moved, loud where it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from calibration_kit import KitMonitor, make_events

from mlmon.baseline import ScopeKey
from mlmon.calibration import CalibrationOptions, Origin, build
from mlmon.calibration.compare import judge_sample
from mlmon.drift.fields import FieldState

if TYPE_CHECKING:
    from mlmon.baseline import Scope

MONITOR = KitMonitor()


def scope_of(**columns: object) -> Scope:
    events = make_events(40_000, **columns)  # type: ignore[arg-type]
    made = build([events], [MONITOR], CalibrationOptions(), Origin("a test", 0))
    return made.scopes[ScopeKey("shop", "intent", "1")]


def test_nothing_moved() -> None:
    old = scope_of(seed=1)
    for seed in range(2, 8):
        judged = judge_sample(old, scope_of(seed=seed).sample, [MONITOR])
        assert {one.name for one in judged} == {"features/tokens", "features/unknown", "features/mean"}
        assert all(one.verdict.state is FieldState.OK for one in judged)
        assert max(one.verdict.log_e for one in judged) < np.log(20)


def test_what_moved_comes_first_and_says_where() -> None:
    old = scope_of(seed=1)
    moved = np.random.default_rng(9).integers(60, 100, 40_000)
    judged = judge_sample(old, scope_of(seed=2, tokens=pa.array(moved, pa.int32())).sample, [MONITOR])
    assert judged[0].name == "features/tokens"
    assert judged[0].verdict.log_e > 20
    assert judged[0].verdict.effect > judged[0].verdict.tolerance
    assert {part.name for part in judged[0].carried_by} <= {"a", "b", "c", "d"}
    assert judged[1].verdict.log_e < np.log(20)


def test_monitors_without_parameters_are_passed_over() -> None:
    scope = scope_of(seed=1)
    assert judge_sample(scope, scope.sample, [KitMonitor("predictions")]) == []
