"""What every monitor must keep: merge laws, batch = stream, purity, stored state, bounds."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.catalog import METRICS
from mlmon.errors import IncompatibleStateError
from mlmon.monitors import MONITORS, Surroundings, build_monitors
from mlmon.monitors.embeddings import EmbeddingsConfig
from mlmon.monitors.features import FeaturesConfig
from mlmon.monitors.predictions import PredictionsConfig
from mlmon.monitors.samples import SamplesConfig
from mlmon.monitors.shadow import ShadowConfig
from mlmon.monitors.slo import SloConfig
from mlmon.monitors.tokenizer import TokenizerConfig
from mlmon.monitors.traffic import TrafficConfig
from mlmon.monitors.versions import Expected, VersionsConfig
from mlmon.stats.pack import unpack
from mlmon.windows import Window

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from monitor_kit import SERIES, START_US, batch_of, rows_strategy

if TYPE_CHECKING:
    from monitor_kit import Row

    from mlmon.baseline.model import FindParameters
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import Monitor, Summary
    from mlmon.monitors.drift import DriftMonitor

pytestmark = pytest.mark.slow

WINDOW = Window(START_US, START_US + 60_000_000)


class Wants:
    """Expects version 1 of everything."""

    def expected(self, service: str, model: str, deployment: str) -> Expected | None:
        return Expected("1", "aa", "7", "dd") if deployment != "shadow" else None


# few buckets and a cap of 3 versions, so that caps and ties are met often
CONFIGS = {
    "traffic": TrafficConfig(latency_buckets_seconds=(0.125, 1.0, 4.0)),
    "tokenizer": TokenizerConfig(length_buckets_tokens=(16.0, 64.0, 256.0)),
    "versions": VersionsConfig(max_versions=3),
    "samples": SamplesConfig(rows=4),
    "features": FeaturesConfig(),
    "predictions": PredictionsConfig(),
    "slo": SloConfig(),
    "shadow": ShadowConfig(),
}
OTHER_CONFIGS = {
    "traffic": TrafficConfig(latency_buckets_seconds=(0.125, 1.0, 8.0)),
    "tokenizer": TokenizerConfig(length_buckets_tokens=(16.0, 64.0)),
    "versions": VersionsConfig(max_versions=4),
    "samples": SamplesConfig(rows=5),
    "features": FeaturesConfig(),
    "predictions": PredictionsConfig(),
    "slo": SloConfig(time_scale=60),
    "shadow": ShadowConfig(difference_buckets=(0.125, 0.75)),
}


def reference_rows(kind: int) -> list[Row]:
    """What a baseline is learned from: all that drift monitors read; kinds differ in their values."""
    return [
        {
            "event_id": f"{number}",
            "numeric_features": {"age": float(number % (8 + kind)), "price": number / 8},
            "categorical_features": {"country": ("de", "fr", "it")[number % 3]},
            "prediction": ("yes", "no")[number % 2],
            "confidence": (number % (8 + kind)) / 16,
            "entropy": (number % 5) / 8,
            "top_labels": ["yes", "no", "maybe"][: 1 + number % 3],
            "top_scores": [0.75, 0.25 - (number % (3 + kind)) / 16],
        }
        for number in range(240)
    ]


def learned(kind: int) -> FindParameters:
    """Baselines of every monitor that makes fields, for any scope."""
    made = {}
    for monitor in build_monitors({name: CONFIGS[name] for name in DRIFT}):
        learner = cast("DriftMonitor", monitor).learner()
        learner.update(batch_of(reference_rows(kind)), 0)
        made[monitor.name] = learner.finish((0,))
        assert made[monitor.name] is not None
    return lambda name, _scope: made.get(name)


#: Monitors whose summaries are sums of fields, which a baseline fixes.
DRIFT = ("features", "predictions")
MONITOR_LIST = build_monitors(CONFIGS, Surroundings(expected=Wants(), parameters=learned(0)))
#: Sums that are the same in any order within rounding only; `test_embeddings` tells how near.
ROUNDED = {"embeddings": EmbeddingsConfig()}
WITHOUT_BASELINE = build_monitors({name: CONFIGS[name] for name in DRIFT} | ROUNDED)
monitors = pytest.mark.parametrize("monitor", MONITOR_LIST, ids=lambda monitor: monitor.name)
quick = settings(max_examples=60, deadline=None)


def batch_for(monitor: Monitor, rows: list[Row]) -> EventBatch:
    """A batch of one series; fields are of one model version, so a batch for them must not mix two."""
    drop = "model_version" if monitor.name in DRIFT else ""
    return batch_of([{name: value for name, value in row.items() if name != drop} for row in rows])


def summed(monitor: Monitor, *parts: list[Row]) -> Summary:
    summary = monitor.summary()
    for rows in parts:
        if rows:
            summary.update(batch_for(monitor, rows))
    return summary


def merged(*summaries: Summary) -> bytes:
    first = summaries[0].copy()
    for other in summaries[1:]:
        first.merge(other)
    return first.to_bytes()


def digest(monitor: Monitor) -> str:
    """Of the parameters that a monitor's fields are made with; empty for one that makes none."""
    summary = summed(monitor, [{"tokens": 3}])
    return str(unpack(summary.to_bytes())[2]) if monitor.name in DRIFT else ""


def said(monitor: Monitor, summary: Summary) -> list[Any]:
    return [
        *monitor.collect(SERIES, summary),
        *monitor.read(WINDOW, {SERIES: summary}, {SERIES: START_US}),
    ]


def test_the_table_names_every_monitor_as_it_names_itself() -> None:
    assert [monitor.name for monitor in build_monitors(CONFIGS | ROUNDED)] == list(MONITORS)
    assert set(CONFIGS) | set(ROUNDED) == set(MONITORS)


def test_an_unknown_monitor_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match=r"latency.*expected some of.*traffic"):
        build_monitors({"latency": TrafficConfig()})


@monitors
@quick
@given(rows=rows_strategy(), data=st.data())
def test_any_split_and_order_gives_the_same_bytes(
    monitor: Monitor, rows: list[Row], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    whole = summed(monitor, rows)
    assert summed(monitor, *parts).to_bytes() == whole.to_bytes()
    assert merged(*(summed(monitor, part) for part in parts)) == whole.to_bytes()


@monitors
@quick
@given(rows=st.tuples(rows_strategy(8), rows_strategy(8), rows_strategy(8)))
def test_merge_is_associative_and_commutative_with_an_empty_summary_as_zero(
    monitor: Monitor, rows: tuple[list[Row], list[Row], list[Row]]
) -> None:
    a, b, c = (summed(monitor, part) for part in rows)
    before = [s.to_bytes() for s in (a, b, c)]
    left = a.copy()
    left.merge(b)
    right = b.copy()
    right.merge(c)
    assert merged(left, c) == merged(a, right) == merged(c, b, a)
    assert merged(a, monitor.summary()) == merged(monitor.summary(), a) == before[0]
    assert [s.to_bytes() for s in (a, b, c)] == before, "merge changed what it took in"


@monitors
@quick
@given(rows=rows_strategy(8), more=rows_strategy(8).filter(bool))
def test_a_copy_is_independent_both_ways(monitor: Monitor, rows: list[Row], more: list[Row]) -> None:
    original = summed(monitor, rows)
    before = original.to_bytes()
    twin = original.copy()
    served = {"tokens": 5, "status": "ok", "probe_id": None, "agreement": 1}
    twin.update(batch_for(monitor, [{**row, **served} for row in more]))
    twin.merge(twin.copy())
    assert original.to_bytes() == before
    assert twin.to_bytes() != before
    after = twin.to_bytes()
    original.update(batch_for(monitor, more))
    assert twin.to_bytes() == after


@monitors
@quick
@given(rows=rows_strategy(), more=rows_strategy(8))
def test_stored_state_comes_back_and_goes_on(monitor: Monitor, rows: list[Row], more: list[Row]) -> None:
    original = summed(monitor, rows)
    loaded = monitor.load(original.to_bytes())
    assert said(monitor, loaded) == said(monitor, original)
    for summary in (original, loaded):
        if more:
            summary.update(batch_for(monitor, more))
    assert loaded.to_bytes() == original.to_bytes()
    assert merged(loaded, original) == merged(original, loaded)


@monitors
def test_other_parameters_are_refused_and_both_are_named(monitor: Monitor) -> None:
    (other,) = build_monitors(
        {monitor.name: OTHER_CONFIGS[monitor.name]}, Surroundings(parameters=learned(1))
    )
    mine, theirs = (summed(one, [{"tokens": 3}]) for one in (monitor, other))
    before = mine.to_bytes()
    for refused in (lambda: mine.merge(theirs), lambda: monitor.load(theirs.to_bytes())):
        with pytest.raises(IncompatibleStateError) as caught:
            refused()
        # sums of fields are told apart by the digests of their parameters
        assert monitor.name in DRIFT or monitor.name in str(caught.value)
        figures = {
            "traffic": ("4.0", "8.0"),
            "tokenizer": ("256.0", "64.0]"),
            "versions": ("3", "4"),
            "samples": ("4 rows", "5 rows"),
            "slo": ("time scale 1", "time scale 60"),
            "shadow": ("0.001", "0.75]"),
            **dict.fromkeys(DRIFT, (digest(monitor), digest(other))),
        }
        assert all(figure in str(caught.value) for figure in figures[monitor.name])
    assert mine.to_bytes() == before
    with pytest.raises(IncompatibleStateError):
        monitor.load(b"\xc1 not a summary")
    with pytest.raises(IncompatibleStateError, match="form 99"):
        monitor.load(bytes([0x92, 99, 0]))


@monitors
@quick
@given(rows=rows_strategy().filter(bool))
def test_an_update_leaves_its_batch_as_it_was(monitor: Monitor, rows: list[Row]) -> None:
    batch = batch_for(monitor, rows)
    before = batch.records.slice(0)
    content = pa.RecordBatch.from_pylist(batch.records.to_pylist(), schema=batch.records.schema)
    views = {name: None if (v := batch.floats(name)) is None else v.copy() for name in ("tokens", "words")}
    weights = batch.weights().copy()
    monitor.summary().update(batch)
    assert batch.records.equals(before)
    assert batch.records.equals(content)
    assert np.array_equal(batch.weights(), weights)
    for name, view in views.items():
        assert view is None or np.array_equal(batch.floats(name), view, equal_nan=True)


@monitors
@quick
@given(rows=rows_strategy())
def test_samples_and_readings_are_of_the_catalog_and_distinct(monitor: Monitor, rows: list[Row]) -> None:
    summary = summed(monitor, rows)
    seen = set()
    for item in said(monitor, summary):
        assert METRICS[item.metric.name] is item.metric
        assert len(item.labels) == len(item.metric.labels)
        assert (item.metric.name, item.labels) not in seen
        seen.add((item.metric.name, item.labels))


@monitors
def test_no_events_no_readings(monitor: Monitor) -> None:
    empty = monitor.summary()
    empty.update(batch_of([]))
    assert list(monitor.read(WINDOW, {SERIES: empty}, {SERIES: START_US})) == []
    assert list(monitor.read(WINDOW, {}, {})) == []


@monitors
def test_numbers_out_of_range_raise_nothing_and_poison_nothing(monitor: Monitor) -> None:
    good = dict.fromkeys(("tokens", "words", "unknown_tokens", "batch_size"), 1) | {"latency_seconds": 0.5}
    bad = [
        {"latency_seconds": value, "gpu_utilization_ratio": value, "queue_seconds": value}
        for value in (float("nan"), float("inf"), float("-inf"), -1.0)
    ]
    bad += [{"tokens": -1, "words": -5, "batch_size": -3}, {"status": "no such status"}]
    summary = summed(monitor, [good, *bad])
    for item in said(monitor, summary):
        values = item.value if isinstance(item.value, float) else (*item.value.counts, item.value.total)
        assert np.isfinite(values).all()


@pytest.mark.parametrize("monitor", WITHOUT_BASELINE, ids=lambda monitor: monitor.name)
@quick
@given(rows=rows_strategy(), more=rows_strategy(8))
def test_without_a_baseline_there_are_no_fields_and_nothing_is_read(
    monitor: Monitor, rows: list[Row], more: list[Row]
) -> None:
    summary = summed(monitor, rows, more)
    assert cast("DriftMonitor", monitor).drift(summary) == {}
    assert summary.to_bytes() == monitor.summary().to_bytes() == merged(summary, monitor.summary())
    assert monitor.load(summary.to_bytes()).to_bytes() == summary.to_bytes()
    assert monitor.fields == frozenset()


@monitors
def test_memory_stays_bounded_under_a_flood(monitor: Monitor) -> None:
    sizes = []
    summary = monitor.summary()
    maker = random.Random(1)  # noqa: S311 - test data
    for step in range(6):
        rows = [
            {
                "model_digest": f"{maker.random()}",
                "tokenizer_version": f"{maker.random()}",
                "trace_id": f"{maker.getrandbits(128):032x}",
                "status": f"status {number}",
                # the whole range in every step: a quantile sketch is as wide as the values met
                "latency_seconds": (0.001, 10.0)[number] if number < 2 else maker.uniform(0.001, 10.0),
                "tokens": number,
                "event_time": START_US + step * 1_000_000 + number,
            }
            for number in range(2000)
        ]
        summary.update(batch_of(rows))
        sizes.append(len(summary.to_bytes()))
    assert max(sizes[1:]) <= sizes[0] + 64
    assert max(sizes) < 8_000
    samples = list(monitor.collect(SERIES, summary))
    assert len(samples) < 200
