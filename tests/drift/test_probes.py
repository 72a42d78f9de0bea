"""Golden probes through the real calibration: sparse rounds of them still make a null of enough blocks."""

from __future__ import annotations

import drift_kit
import numpy as np
import pyarrow as pa
import pytest

from mlmon.calibration import CalibrationOptions, Origin, build
from mlmon.drift.fields import FieldState, judge_fields
from mlmon.events.batch import EventBatch
from mlmon.monitors import build_monitors
from mlmon.monitors.drift import extractors

PROBES, EVERY, EVENTS = 6, 240, 9_600


def with_probes(noise: float, moved: float = 0.0) -> EventBatch:
    """Traffic with a round of six probes at every 240th event."""
    rng = np.random.default_rng(3)
    fixed = np.random.default_rng(1).normal(size=(PROBES, drift_kit.DIMENSIONS))
    events = drift_kit.events().take(pa.array(rng.integers(0, 2_000, EVENTS)))
    vectors = np.array(events["embedding"].to_pylist(), np.float64)
    ids = np.full(EVENTS, None, object)
    for start in range(0, EVENTS, EVERY):
        for probe in range(PROBES):
            ids[start + probe] = f"p{probe}"
            vectors[start + probe] = fixed[probe] + moved + noise * rng.normal(size=drift_kit.DIMENSIONS)
    offsets = np.arange(0, vectors.size + 1, drift_kit.DIMENSIONS, dtype=np.int32)
    lists = pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel().astype(np.float16)))
    events = events.drop_columns(["embedding"]).append_column("embedding", lists)
    times = pa.array(np.arange(EVENTS) * 100_000).cast(pa.timestamp("us", tz="UTC"))
    events = events.append_column("probe_id", pa.array(ids, pa.string()))
    events = events.append_column("event_id", pa.array([str(i) for i in range(EVENTS)]))
    events = events.append_column("event_time", times)
    return EventBatch(events.combine_chunks().to_batches()[0])


@pytest.mark.parametrize(("moved", "found"), [(0.0, False), (0.05, True)])
def test_a_few_rounds_of_probes_tell_a_changed_model_from_noise(moved: float, found: bool) -> None:
    monitors = build_monitors(drift_kit.CONFIGS)
    made = build([with_probes(1e-4)], monitors, CalibrationOptions(), Origin("a test", 0))
    key, scope = next(iter(made.scopes.items()))
    reference = scope.segments[""].fields["embeddings/probes"]
    assert reference.blocks >= 30
    monitor = next(m for m in monitors if m.name == "embeddings")
    extractor = extractors(monitor, lambda name, _: scope.parameters.get(name))(key)
    assert extractor is not None
    summary = type(monitor.summary())(lambda _: extractor)
    summary.update(with_probes(1e-4, moved).slice(0, 3 * EVERY))
    verdict = judge_fields([(reference, monitor.drift(summary)["probes"])])[0]
    assert verdict.state is FieldState.OK
    assert (verdict.log_e > 5) is found
