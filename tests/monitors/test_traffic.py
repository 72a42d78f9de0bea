"""Traffic against NumPy: every sum, the buckets' edges, exemplars, GPU gauges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor_kit import SERIES, START_US, batch_of, rows_strategy

from mlmon.catalog import requests as catalog
from mlmon.events.schema import STATUSES
from mlmon.monitors.base import Exemplar, Histogram, Sample
from mlmon.monitors.traffic import BATCH_SIZE_BUCKETS, LATENCY_PARTS, TrafficConfig, TrafficMonitor
from mlmon.stats.pack import pack, unpack
from mlmon.windows import Window

if TYPE_CHECKING:
    from monitor_kit import Row

    from mlmon.catalog.base import Metric
    from mlmon.monitors.traffic import TrafficSummary

BOUNDS = (0.125, 1.0, 4.0)
WINDOW = Window(START_US, START_US + 60_000_000)
MONITOR = TrafficMonitor(TrafficConfig(latency_buckets_seconds=BOUNDS))


def summed(*parts: list[Row]) -> TrafficSummary:
    summary = MONITOR.summary()
    for rows in parts:
        summary.update(batch_of(rows))
    return summary


def collected(summary: TrafficSummary) -> dict[tuple[str, tuple[str, ...]], float | Histogram]:
    return {(s.metric.name, s.labels[5:]): s.value for s in MONITOR.collect(SERIES, summary)}


def readings(summary: TrafficSummary) -> dict[Metric, tuple[float, int, float]]:
    return {r.metric: (r.value, r.n, r.n_eff) for r in MONITOR.read(WINDOW, {SERIES: summary}, {SERIES: 0})}


def weight(row: Row) -> float:
    return row.get("sampling_weight", 1.0)


@settings(max_examples=80, deadline=None)
@given(rows=rows_strategy())
def test_requests_by_status_are_counts_and_sums_of_weights(rows: list[Row]) -> None:
    values = collected(summed(rows))
    for status in STATUSES:
        w = np.array([weight(row) for row in rows if row.get("status", "ok") == status])
        assert values["mlmon_sampled_requests", (status,)] == len(w)
        assert values["mlmon_requests", (status,)] == w.sum()
        assert values["mlmon_requests_weight_squared", (status,)] == (w**2).sum()


PARTS = {
    "total": "latency_seconds",
    "queue": "queue_seconds",
    "tokenize": "tokenize_seconds",
    "inference": "inference_seconds",
}


@settings(max_examples=80, deadline=None)
@given(rows=rows_strategy())
def test_latency_histograms_match_a_direct_count(rows: list[Row]) -> None:
    values = collected(summed(rows))
    for part, name in PARTS.items():
        x = np.array([row[name] for row in rows if name in row])
        w = np.array([weight(row) for row in rows if name in row])
        if not len(x):
            assert ("mlmon_request_latency_seconds", (part,)) not in values
            continue
        for family, factor in (("sampled_", w**0), ("", w), ("_squared", w**2)):
            metric = (
                "mlmon_request_latency_seconds_weight_squared"
                if family == "_squared"
                else f"mlmon_{family}request_latency_seconds"
            )
            histogram = values[metric, (part,)]
            assert isinstance(histogram, Histogram)
            assert tuple(histogram.bounds) == BOUNDS
            expected = [factor[x <= bound].sum() for bound in (*BOUNDS, np.inf)]
            assert list(histogram.counts) == expected
            assert histogram.total == (factor * x).sum()


@settings(max_examples=40, deadline=None)
@given(rows=rows_strategy())
def test_batch_sizes_are_counted_for_each_request(rows: list[Row]) -> None:
    sizes = np.array([row["batch_size"] for row in rows if "batch_size" in row])
    w = np.array([weight(row) for row in rows if "batch_size" in row])
    value = collected(summed(rows)).get(("mlmon_batch_size", ()))
    if not len(sizes):
        assert value is None
        return
    assert isinstance(value, Histogram)
    assert list(value.counts) == [w[sizes <= b].sum() for b in (*BATCH_SIZE_BUCKETS, np.inf)]
    assert value.total == (w * sizes).sum()


def test_a_latency_on_a_bound_belongs_to_its_bucket() -> None:
    value = collected(summed([{"latency_seconds": x} for x in (0.125, np.nextafter(0.125, 1), 4.0, 4.5)]))
    histogram = value["mlmon_sampled_request_latency_seconds", ("total",)]
    assert isinstance(histogram, Histogram)
    assert list(histogram.counts) == [1, 2, 3, 4]


def test_an_unknown_status_is_counted_apart() -> None:
    values = collected(summed([{"status": "melted", "sampling_weight": 3.0}, {}]))
    assert values["mlmon_requests", ("other",)] == 3.0
    assert values["mlmon_requests", ("ok",)] == 1.0


def test_effective_size_of_a_latency_quantile_comes_from_the_three_families() -> None:
    rows = [{"latency_seconds": 0.1, "sampling_weight": w} for w in (1.0, 1.0, 20.0)]
    values = collected(summed(rows))
    estimated = values["mlmon_request_latency_seconds", ("total",)]
    squared = values["mlmon_request_latency_seconds_weight_squared", ("total",)]
    assert isinstance(estimated, Histogram)
    assert isinstance(squared, Histogram)
    assert estimated.counts[0] ** 2 / squared.counts[0] == pytest.approx(22**2 / 402)


def exemplars(summary: TrafficSummary) -> list[Exemplar | None]:
    histogram = collected(summary)["mlmon_request_latency_seconds", ("total",)]
    assert isinstance(histogram, Histogram)
    return list(histogram.exemplars)


def test_each_bucket_shows_its_latest_traced_event() -> None:
    rows = [
        {"latency_seconds": 0.0625, "trace_id": "aa", "event_time": START_US + 1},
        {"latency_seconds": 0.125, "trace_id": "bb", "event_time": START_US + 9},
        {"latency_seconds": 0.0625, "trace_id": "cc", "event_time": START_US + 5},
        {"latency_seconds": 0.0625, "event_time": START_US + 50},
        {"latency_seconds": 2.0, "trace_id": "", "event_time": START_US + 60},
        {"latency_seconds": 9.0, "trace_id": "dd", "event_time": START_US},
        {"latency_seconds": 9.5, "trace_id": "x" * 65, "event_time": START_US + 70},
    ]
    assert exemplars(summed(rows)) == [
        Exemplar(0.125, "bb", START_US + 9),
        None,
        None,
        Exemplar(9.0, "dd", START_US),
    ]


def test_ties_in_time_go_to_the_larger_trace_id_whatever_the_order() -> None:
    rows = [{"latency_seconds": 0.0625, "trace_id": t} for t in ("bb", "cc", "aa")]
    for order in (rows, rows[::-1], rows[1:] + rows[:1]):
        assert exemplars(summed(order))[0] == Exemplar(0.0625, "cc", START_US)
        assert exemplars(summed(*([row] for row in order)))[0] == Exemplar(0.0625, "cc", START_US)


@settings(max_examples=80, deadline=None)
@given(rows=rows_strategy(), cut=st.integers(0, 24))
def test_exemplars_match_a_search_event_by_event(rows: list[Row], cut: int) -> None:
    best: list[tuple[int, str, float] | None] = [None] * 4
    for row in rows:
        if row.get("trace_id") and "latency_seconds" in row:
            bucket = sum(row["latency_seconds"] > bound for bound in BOUNDS)
            found = (row["event_time"], row["trace_id"], row["latency_seconds"])
            best[bucket] = max(best[bucket] or found, found)
    assert summed(rows[:cut], rows[cut:]).exemplars == best


def test_gpu_gauges_are_weighted_means_and_last_values() -> None:
    rows = [
        {"gpu_utilization_ratio": 0.25, "sampling_weight": 3.0, "event_time": START_US + 5},
        {"gpu_utilization_ratio": 0.75, "sampling_weight": 1.0, "event_time": START_US},
        {"gpu_memory_used_bytes": 100.0, "gpu_memory_total_bytes": 400.0},
        {},
    ]
    for parts in ([rows], [[row] for row in rows], [[row] for row in rows[::-1]]):
        assert readings(summed(*parts)) == {
            catalog.GPU_UTILIZATION: (0.375, 2, 1.6),
            catalog.GPU_UTILIZATION_LAST: (0.25, 2, 1.6),
            catalog.GPU_MEMORY_USED: (100.0, 1, 1.0),
            catalog.GPU_MEMORY_USED_LAST: (100.0, 1, 1.0),
            catalog.GPU_MEMORY_TOTAL: (400.0, 1, 1.0),
        }


def test_without_gpu_fields_there_is_no_gpu_reading() -> None:
    assert readings(summed([{"latency_seconds": 1.0}])) == {}


def test_only_requests_are_shown_for_a_producer_that_sends_nothing_else() -> None:
    samples = list(MONITOR.collect(SERIES, summed([{}])))
    assert {sample.metric for sample in samples} == {
        catalog.REQUESTS.sampled,
        catalog.REQUESTS.estimated,
        catalog.REQUESTS.weight_squared,
    }
    assert Sample(catalog.REQUESTS.sampled, (*SERIES, "timeout"), 0.0) in samples


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ([0.1, 0.1], "latency_buckets_seconds: expected finite bounds above 0.*got 0.1 after 0.1"),
        ([0.5, 0.1], "got 0.1 after 0.5"),
        ([0.0, 1.0], "got 0.0 after 0.0"),
        ([], "length >= 1"),
        ([float(n) for n in range(1, 42)], "length <= 40"),
    ],
)
def test_buckets_that_are_no_buckets_are_refused(bounds: list[float], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert({"latency_buckets_seconds": bounds}, TrafficConfig)


def test_forty_buckets_are_allowed() -> None:
    config = msgspec.convert({"latency_buckets_seconds": [float(n) for n in range(1, 41)]}, TrafficConfig)
    summary = TrafficMonitor(config).summary()
    summary.update(batch_of([{"latency_seconds": 40.5}]))
    assert summary.parts[0].cells[40, 0] == 1


@settings(max_examples=40, deadline=None)
@given(rows=rows_strategy())
def test_each_part_of_latency_has_a_sketch_of_its_values(rows: list[Row]) -> None:
    summary = summed(rows)
    for index, part in enumerate(LATENCY_PARTS):
        carried = [row for row in rows if PARTS[part] in row]
        if not carried:
            assert np.isnan(summary.sketches[index].quantiles((0.5,))).all()
            continue
        values = np.array([row[PARTS[part]] for row in carried])
        weights = np.array([weight(row) for row in carried])
        assert summary.sketches[index].weight == weights.sum()
        whole = np.array([1e-6 if value == 0 else value for value in values])
        found = summary.sketches[index].quantiles((0.0, 1.0))
        assert found == pytest.approx([whole.min(), whole.max()], rel=0.0101)


def test_state_without_sketches_is_still_read() -> None:
    summary = summed([{"latency_seconds": 0.25}])
    _, *fields, _ = unpack(summary.to_bytes())
    loaded = MONITOR.load(pack([1, *fields]))
    assert collected(loaded) == collected(summary)
    assert loaded.sketches[0].weight == 0
    loaded.merge(summary)
    assert loaded.sketches[0].quantiles((0.5,)) == summary.sketches[0].quantiles((0.5,))
