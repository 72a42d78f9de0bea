"""From events to verdicts with the real monitors: silent on bursty traffic that did not move, else not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from calibration_kit import make_events

from mlmon.baseline import ScopeKey
from mlmon.calibration import CalibrationOptions, Origin, build, drift_monitors
from mlmon.drift.fields import FieldState, judge_fields
from mlmon.monitors import MONITORS, build_monitors
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from mlmon.baseline import Scope
    from mlmon.drift.fields import FieldVerdict
    from mlmon.events.batch import EventBatch

NAMES = ("tokenizer", "features", "predictions", "embeddings")
MONITORS_IN_USE = drift_monitors(build_monitors({name: MONITORS[name].config() for name in NAMES}))
BURST, DIMENSION, WINDOW = 5, 16, 1_000


def traffic(count: int, seed: int, *, moved: float = 0.0) -> EventBatch:
    """Bursts of geometric length, alike in all they carry; `moved` is the share of bursts of a new topic."""
    rng = np.random.default_rng((11, seed))
    lengths = rng.geometric(1 / BURST, count)
    runs = int(np.searchsorted(np.cumsum(lengths), count)) + 1
    owner = np.repeat(np.arange(runs), lengths[:runs])[:count]
    topic = np.where(rng.random(runs) < moved, 9, rng.integers(0, 8, runs))[owner]
    centres = np.random.default_rng(5).normal(size=(10, DIMENSION))
    vectors = (centres[topic] + rng.normal(scale=0.7, size=(runs, DIMENSION))[owner]).astype(np.float16)
    words = 4 + rng.poisson(8 + topic)
    return make_events(
        count,
        seed=seed,
        tokens=pa.array(words + rng.binomial(words, 0.3), pa.int32()),
        words=pa.array(words, pa.int32()),
        unknown_tokens=pa.array((rng.random(runs) < 0.01)[owner].astype(int), pa.int32()),
        prediction=pa.array([f"class-{one}" for one in topic.tolist()]),
        confidence=pa.array(rng.beta(8, 2, runs)[owner]),
        embedding=pa.ListArray.from_arrays(
            pa.array(np.arange(count + 1, dtype=np.int32) * DIMENSION), pa.array(vectors.ravel())
        ),
    )


def verdicts(scope: Scope, window: EventBatch, *, strict: bool) -> dict[str, FieldVerdict]:
    """A window judged; strictly: against no shift at all, neither tolerance nor wander."""
    found: dict[str, FieldSums] = {}
    for monitor in MONITORS_IN_USE:
        parameters = scope.parameters[monitor.name]
        into = {name: FieldSums(spec.width) for name, spec in parameters.fields.items()}
        monitor.extractor(parameters).extract(window, into)
        found |= {f"{monitor.name}/{name}": sums for name, sums in into.items()}
    references: dict[str, Any] = dict(scope.segments[""].fields)
    if strict:
        references = {
            name: dataclasses.replace(one, spec=dataclasses.replace(one.spec, tolerance=0.0), wander=0.0)
            for name, one in references.items()
        }
    judged = judge_fields([(references[name], found[name]) for name in references])
    return dict(zip(references, judged, strict=True))


@pytest.fixture(scope="module")
def scope() -> Scope:
    made = build([traffic(40_000, 0)], MONITORS_IN_USE, CalibrationOptions(), Origin("a test", 0))
    return made.scopes[ScopeKey("shop", "intent", "1")]


def test_all_fields_have_a_reference(scope: Scope) -> None:
    assert scope.segments[""].problems == {}
    assert scope.burst == pytest.approx(2 * BURST - 1, rel=0.3)
    monitors = {name.split("/")[0] for name in scope.segments[""].fields}
    assert monitors == set(NAMES)


def test_bursty_traffic_that_did_not_move_does_not_alarm(scope: Scope) -> None:
    """100 windows: hardly any evidence even against no shift at all; none against the tolerance.

    Blocks that are not contiguous (or the burst taken as 1) make most windows of the first kind alarm.
    """
    strict: list[FieldVerdict] = []
    tolerant: list[FieldVerdict] = []
    for seed in range(1, 101):
        window = traffic(WINDOW, seed)
        strict += verdicts(scope, window, strict=True).values()
        tolerant += verdicts(scope, window, strict=False).values()
    judged = [one for one in strict if one.state is FieldState.OK]
    assert len(judged) > 0.9 * len(strict)
    assert np.mean([one.p_value < 0.01 for one in judged]) < 0.02
    assert np.mean(np.exp([one.log_e for one in tolerant])) < 1.0
    assert max(one.log_e for one in tolerant) < np.log(100)


def test_a_new_topic_is_found(scope: Scope) -> None:
    for seed in range(300, 305):
        found = verdicts(scope, traffic(WINDOW, seed, moved=0.5), strict=False)
        assert found["predictions/class"].log_e > np.log(1000)
        assert found["embeddings/shift"].log_e > np.log(1000)
