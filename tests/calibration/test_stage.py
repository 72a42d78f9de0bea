"""Staged events come back in one order, whatever order and batches they came in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from calibration_kit import START_US, cut, make_events
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.calibration import stage as stage_module
from mlmon.calibration.stage import BATCH_ROWS, Stage, event_places
from mlmon.errors import BaselineError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlmon.calibration.stage import StagedScope
    from mlmon.events.batch import EventBatch


def staged(batches: Iterable[EventBatch], **options: object) -> Stage:
    stage = Stage(options.pop("segment_by", ()), options.pop("max_scopes", 9), **options)  # type: ignore[arg-type]
    stage.__enter__()
    for batch in batches:
        stage.add(batch)
    stage.finish()
    return stage


def ids_of(scope: StagedScope) -> list[str]:
    return [one for batch in scope.batches() for one in batch.records.column("event_id").to_pylist()]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_one_order_for_any_order_and_any_runs(data: st.DataObject) -> None:
    """Times with many ties, runs of a few rows, merged: as one sort of everything."""
    count = data.draw(st.integers(1, 120))
    times = np.array(data.draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)), np.int64)
    whole = make_events(
        count, event_time=pa.array(START_US + times, pa.timestamp("us", tz="UTC")), numeric_features=None
    )
    order = np.array(data.draw(st.permutations(range(count))))
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module, "_RUN_ROWS", data.draw(st.integers(1, 50)))
        patch.setattr("mlmon.calibration.merge._ROWS", data.draw(st.integers(1, 7)))
        patch.setattr(stage_module, "BATCH_ROWS", 8)
        stage = staged(cut(whole.take(order), sizes))
        (scope,) = stage.scopes.values()
        found = list(scope.batches())
        stage.__exit__(None, None, None)
    places = event_places(whole.records.column("event_id"))
    expected = np.array(whole.records.column("event_id").to_pylist())[np.lexsort((places, times))]
    assert [one for b in found for one in b.records.column("event_id").to_pylist()] == expected.tolist()
    assert {len(batch) for batch in found[:-1]} <= {8}
    assert "__place" not in found[0].records.schema.names


def test_columns_that_only_some_batches_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "_RUN_ROWS", 100)
    with_width = make_events(300, seed=1, width=3)
    without = make_events(300, seed=2, numeric_features=None)
    stage = staged([*cut(with_width, [70] * 5), *cut(without, [70] * 5)])
    (scope,) = stage.scopes.values()
    table = pa.Table.from_batches([batch.records for batch in scope.batches()])
    stage.__exit__(None, None, None)
    by_id = dict(zip(table["event_id"].to_pylist(), table["numeric_features"].to_pylist(), strict=True))
    assert len(by_id) == 600
    assert by_id["1-0000000"]["x2"] == with_width.records.column("numeric_features")[0]["x2"].as_py()
    assert by_id["2-0000000"] is None


def test_scopes_are_apart_and_bounded() -> None:
    versions = np.resize(["1", "2", "1", "3"], 400)
    batch = make_events(400, model_version=pa.array(versions))
    stage = staged([batch], max_scopes=2)
    assert {key.version: scope.events for key, scope in stage.scopes.items()} == {"1": 200, "2": 100}
    assert stage.left_out == 100
    (first, second) = stage.scopes.values()
    assert set(ids_of(first)).isdisjoint(ids_of(second))
    stage.__exit__(None, None, None)


def test_a_version_that_is_absent_and_one_that_is_empty_are_one_scope() -> None:
    batch = make_events(4, model_version=pa.array(["", None, "1", None]))
    stage = staged([batch])
    assert {key.version: scope.events for key, scope in stage.scopes.items()} == {"": 3, "1": 1}
    stage.__exit__(None, None, None)


def test_what_is_gathered_is_bounded_over_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "_GATHERED_BYTES", 50_000)
    stage = Stage((), 99)
    held = []
    with stage:
        for seed in range(40):
            versions = pa.array([str(i % 10) for i in range(100)])
            stage.add(make_events(100, seed=seed, model_version=versions))
            held.append(sum(scope._bytes for scope in stage.scopes.values()))
        stage.finish()
        assert max(held) <= 50_000
        assert sum(len(ids_of(scope)) for scope in stage.scopes.values()) == 4000
        assert sum(scope.events for scope in stage.scopes.values()) == 4000


def test_segments_and_probes_are_counted_and_those_beyond_the_bound_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage_module, "_COUNTED_SEGMENTS", 3)
    tenants = [f"t{i % 5}" for i in range(100)]
    segments = pa.array([[("tenant", one)] for one in tenants], pa.map_(pa.string(), pa.string()))
    probes = pa.array(["p" if i >= 90 else None for i in range(100)])
    batch = make_events(100, segments=segments, probe_id=probes)
    stage = staged([batch], segment_by=("tenant",))
    (scope,) = stage.scopes.values()
    assert (scope.events, scope.probes) == (90, 10)
    assert sum(scope.segments.values()) + scope.uncounted == 90
    assert scope.segments == Counter({f"tenant=t{i}": 18 for i in range(3)})
    assert scope.last_us == int(batch.times()[89])
    assert len(ids_of(scope)) == 100
    stage.__exit__(None, None, None)


def test_files_go_with_the_stage(tmp_path: Path) -> None:
    with Stage((), 9, str(tmp_path)) as stage:
        stage.add(make_events(100))
        stage.finish()
        assert len(list(tmp_path.glob("*/*.arrow"))) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_temporary_files(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="name another directory"), Stage((), 9, str(tmp_path / "none")):
        pass


def test_batches_are_full() -> None:
    stage = staged(cut(make_events(10_000), [3_000, 1, 5_000]))
    (scope,) = stage.scopes.values()
    assert [len(batch) for batch in scope.batches()] == [BATCH_ROWS, BATCH_ROWS, 10_000 - 2 * BATCH_ROWS]
    stage.__exit__(None, None, None)


def test_label_events_are_left_out() -> None:
    times = pa.timestamp("us", tz="UTC")
    mixed = make_events(60, request_time=pa.array([None, START_US, None] * 20, times))
    stage = staged([mixed, make_events(30, request_time=pa.array([START_US] * 30, times))])
    (scope,) = stage.scopes.values()
    ids = mixed.records.column("event_id").to_pylist()
    assert scope.events == 40
    assert sorted(ids_of(scope)) == sorted(ids[0::3] + ids[2::3])
    assert not any(batch.has("request_time") for batch in scope.batches())
    stage.__exit__(None, None, None)
