"""The text Prometheus gets: right names and types, the library's content, whole snapshots only."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor_kit import SERIES, START_US, batch_of, rows_strategy
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from mlmon.catalog import METRICS, sidecar
from mlmon.catalog.requests import LATENCY, REQUESTS, UNKNOWN_TOKEN_RATIO
from mlmon.monitors import MONITORS, build_monitors
from mlmon.monitors.base import Exemplar, Histogram, Reading, Sample
from mlmon.publish import Snapshot, SnapshotCollector
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable

    from monitor_kit import Row
    from prometheus_client.core import Metric as Family

    from mlmon.monitors.base import Monitor, SeriesKey, Summary

WINDOW = Window(START_US, START_US + 60_000_000)
MONITOR_LIST = build_monitors({name: entry.config() for name, entry in MONITORS.items()})


def summaries_of(rows: list[Row], *series: SeriesKey) -> dict[str, dict[SeriesKey, Summary]]:
    counters: dict[str, dict[SeriesKey, Summary]] = {}
    for monitor in MONITOR_LIST:
        summary = monitor.summary()
        summary.update(batch_of(rows))
        counters[monitor.name] = dict.fromkeys(series or (SERIES,), summary)
    return counters


def collector_of(snapshot: Snapshot, **keywords: Any) -> SnapshotCollector:
    collector = SnapshotCollector(MONITOR_LIST, **keywords)
    collector.publish(snapshot)
    return collector


def flat(families: Iterable[Family]) -> dict[str, tuple[str, str, str, list[Any]]]:
    return {
        family.name: (
            family.type,
            family.unit,
            family.documentation,
            [(s.name, sorted(s.labels.items()), s.value, s.exemplar) for s in family.samples],
        )
        for family in families
    }


def parsed(collector: SnapshotCollector) -> dict[str, dict[str, tuple[str, str, str, list[Any]]]]:
    return {
        "openmetrics": flat(parse_openmetrics(collector.render(openmetrics=True).decode())),
        "classic": flat(parse_classic(collector.render(openmetrics=False).decode())),
    }


def a_sample_of_every_metric() -> list[Sample]:
    histogram = Histogram((0.5, 2.0), (1.0, 2.0, 5.0), 12.5, (None, Exemplar(0.7, "ab", START_US), None))
    values = {"histogram": histogram, "info": 1.0, "counter": 3.0, "gauge": -3.0}
    return [
        Sample(metric, tuple(f"{name} value" for name in metric.labels), values[metric.kind])
        for metric in METRICS.values()
    ]


def test_every_metric_of_the_catalog_is_rendered_with_its_type() -> None:
    texts = parsed(collector_of(Snapshot(own=a_sample_of_every_metric())))
    for metric in METRICS.values():
        kind, unit, text, samples = texts["openmetrics"][metric.name]
        assert (kind, text) == (metric.kind, metric.help)
        assert unit == (metric.unit if metric.name.endswith(f"_{metric.unit}") else "")
        assert len(samples) == (5 if kind == "histogram" else 1)
        # the classic format has no info; its parser takes _total off the name of a counter
        name = metric.name + "_info" if metric.kind == "info" else metric.name
        assert texts["classic"][name][0] == ("gauge" if metric.kind == "info" else metric.kind)
        labels = dict(samples[0][1])
        labels.pop("le", None)
        assert labels == {name: f"{name} value" for name in metric.labels}
    assert len(texts["openmetrics"]) == len(METRICS)
    assert list(texts["openmetrics"]) == list(METRICS), "in the order of the catalog"


def test_counters_end_in_total_and_have_no_created_time() -> None:
    text = collector_of(Snapshot(own=a_sample_of_every_metric())).render(openmetrics=True).decode()
    assert "_created" not in text
    assert "\nmlmon_requests_total{" in text
    assert "\nmlmon_build_info{" in text


names = st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.sampled_from(
    ['"', "\\", "\n", '\\"', "a\\nb", "{}", ",", "ü", "\U0001f600", " ", "=", "#"]
)


@settings(max_examples=60, deadline=None)
@given(rows=rows_strategy(10), series=st.tuples(names, names, names, names, names))
def test_the_fast_text_says_what_the_library_says(rows: list[Row], series: tuple[str, ...]) -> None:
    key = SERIES._make(series)
    counters = summaries_of(rows, key)
    readings = [
        reading
        for monitor in MONITOR_LIST
        for reading in monitor.read(WINDOW, counters[monitor.name], {key: START_US})
    ]
    collector = collector_of(Snapshot(counters=counters, readings=readings))
    found = parsed(collector)
    assert found["openmetrics"] == flat(parse_openmetrics(generate_openmetrics(collector.registry).decode()))
    assert found["classic"] == flat(parse_classic(generate_latest(collector.registry).decode()))


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.floats(1.0, 50.0), min_size=1, max_size=30))
def test_histograms_are_whole_cumulative_and_consistent(weights: list[float]) -> None:
    rows = [{"latency_seconds": i % 13, "sampling_weight": w} for i, w in enumerate(weights)]
    found = parsed(collector_of(Snapshot(counters=summaries_of(rows))))
    for texts in found.values():
        for metric in (LATENCY.sampled, LATENCY.estimated, LATENCY.weight_squared):
            samples = texts[metric.name][3]
            buckets = [value for name, _, value, _ in samples if name.endswith("_bucket")]
            (count,) = [value for name, _, value, _ in samples if name.endswith("_count")]
            assert buckets == sorted(buckets)
            assert buckets[-1] == count
            assert all(float(value).is_integer() for value in buckets)
        estimated = [s for s in texts[LATENCY.estimated.name][3] if s[0].endswith("_count")]
        assert abs(estimated[0][2] - sum(weights)) <= 0.5 + 1e-6


def test_exemplars_stand_on_the_buckets_of_total_latency_in_openmetrics_only() -> None:
    rows = [
        {"latency_seconds": 0.03, "queue_seconds": 0.01, "trace_id": "ab" * 16, "event_time": START_US + 7}
    ]
    collector = collector_of(Snapshot(counters=summaries_of(rows)))
    found = parsed(collector)["openmetrics"]
    shown = [
        (name, dict(labels)["le"], exemplar)
        for family in found.values()
        for name, labels, _, exemplar in family[3]
        if exemplar
    ]
    ((name, le, exemplar),) = shown
    assert (name, le) == ("mlmon_request_latency_seconds_bucket", "0.05")
    assert exemplar.labels == {"trace_id": "ab" * 16}
    assert exemplar.value == 0.03
    assert float(exemplar.timestamp) == pytest.approx((START_US + 7) / 1e6, abs=1e-6)
    assert b"trace_id" not in collector.render(openmetrics=False)


def test_not_a_number_and_infinity_are_written_as_prometheus_reads_them() -> None:
    values = {"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 1e300, "e": 5e-324}
    own = [Sample(sidecar.LAG_RECORDS, (name,), value) for name, value in values.items()]
    text = collector_of(Snapshot(own=own)).render(openmetrics=True).decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("mlmon"))
    shown = {key.split('"')[1]: value for key, value in lines.items()}
    assert shown == {"a": "NaN", "b": "+Inf", "c": "-Inf", "d": "1e+300", "e": "5e-324"}
    assert {float(shown[name]) for name in "bcde"} == {values[name] for name in "bcde"}


def test_counters_without_series_labels_are_added_up() -> None:
    flood = [{"model_digest": str(number)} for number in range(40)]
    counters = summaries_of(flood, SERIES, SERIES._replace(version="2"))
    own = [Sample(sidecar.OVERFLOW, ("series",), 5.0), Sample(sidecar.OVERFLOW, ("version",), 1.0)]
    found = parsed(collector_of(Snapshot(counters=counters, own=own)))["openmetrics"]
    samples = {dict(labels)["kind"]: value for _, labels, value, _ in found["mlmon_label_overflow"][3]}
    assert samples == {"series": 5.0, "version": 2 * 8 + 1.0}


def test_live_samples_are_asked_at_each_scrape_and_win() -> None:
    ages = iter([1.0, 2.0])
    collector = collector_of(
        Snapshot(own=[Sample(sidecar.CHECKPOINT_AGE, (), 0.0)]),
        live=[lambda: [Sample(sidecar.CHECKPOINT_AGE, (), next(ages))]],
    )
    for expected in (1.0, 2.0):
        found = flat(parse_openmetrics(collector.render(openmetrics=True).decode()))
        assert [value for _, _, value, _ in found["mlmon_checkpoint_age_seconds"][3]] == [expected]


def test_before_the_first_snapshot_there_is_an_empty_valid_answer() -> None:
    collector = SnapshotCollector(MONITOR_LIST)
    assert collector.snapshot is None
    assert collector.render(openmetrics=True) == b"# EOF\n"
    assert collector.render(openmetrics=False) == b""


def test_the_librarys_global_registry_is_left_alone() -> None:
    collector_of(Snapshot(counters=summaries_of([{}])))
    assert b"mlmon" not in generate_latest(prometheus_client.REGISTRY)


def test_a_reading_replaces_nothing_and_is_shown_as_a_gauge() -> None:
    reading = Reading(UNKNOWN_TOKEN_RATIO, tuple(SERIES), 0.125, WINDOW, 10, 9.0)
    found = parsed(collector_of(Snapshot(readings=[reading])))["classic"]
    assert found["mlmon_unknown_token_ratio"][0] == "gauge"
    assert [value for _, _, value, _ in found["mlmon_unknown_token_ratio"][3]] == [0.125]


class Slow:
    """A monitor whose collecting waits, so that a swap falls into the middle of a scrape."""

    name = "traffic"

    def __init__(self, inner: Monitor) -> None:
        self.inner = inner
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def collect(self, series: SeriesKey, summary: Summary) -> Iterable[Sample]:
        self.begun.set()
        assert self.go_on.wait(20)
        return self.inner.collect(series, summary)


def test_a_scrape_shows_one_snapshot_though_another_is_published_meanwhile() -> None:
    slow = Slow(MONITOR_LIST[0])
    collector = SnapshotCollector([slow])  # type: ignore[list-item]
    first = summaries_of([{}], SERIES, SERIES._replace(version="2"))
    second = summaries_of([{}] * 5, SERIES, SERIES._replace(version="2"))
    collector.publish(Snapshot(counters={"traffic": first["traffic"]}))
    out: list[bytes] = []
    scrape = threading.Thread(target=lambda: out.append(collector.render(openmetrics=True)))
    scrape.start()
    assert slow.begun.wait(20)
    collector.publish(Snapshot(counters={"traffic": second["traffic"]}))
    assert scrape.is_alive(), "publishing waited for the scrape"
    slow.go_on.set()
    scrape.join(20)

    def ok(text: bytes) -> set[float]:
        samples = flat(parse_openmetrics(text.decode()))[REQUESTS.estimated.name][3]
        return {value for _, labels, value, _ in samples if ("status", "ok") in labels}

    assert ok(out[0]) == {1.0}
    assert ok(collector.render(openmetrics=True)) == {5.0}


def test_rendering_is_several_times_as_fast_as_the_library() -> None:
    rows = [{"latency_seconds": 0.1, "queue_seconds": 0.1, "tokens": 5, "words": 4, "unknown_tokens": 1}] * 20
    series = [SERIES._replace(version=str(number)) for number in range(100)]
    collector = collector_of(Snapshot(counters=summaries_of(rows, *series)))

    def cost(render: Any) -> float:
        times = []
        for _ in range(3):
            start = time.thread_time()
            render()
            times.append(time.thread_time() - start)
        return min(times)

    fast = cost(lambda: collector.render(openmetrics=True))
    slow = cost(lambda: generate_openmetrics(collector.registry))
    assert fast * 2 < slow
    assert fast < 0.5, "a thousand series would take more than 5 s"
