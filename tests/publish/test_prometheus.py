"""A real Prometheus scrapes the port, and its answers are the figures that went in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from monitor_kit import SERIES, batch_of

from mlmon.catalog.requests import UNKNOWN_TOKEN_RATIO
from mlmon.monitors import MONITORS, Surroundings, build_monitors
from mlmon.monitors.base import Reading
from mlmon.monitors.versions import Expected
from mlmon.publish import Health, HttpConfig, MetricsServer, ReadingBoard, Snapshot, SnapshotCollector
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Certificates
    from monitor_kit import Row
    from prometheus_kit import PrometheusServer

pytestmark = pytest.mark.prometheus


class Wants:
    def expected(self, service: str, model: str, deployment: str) -> Expected | None:
        return Expected(model_version="1")


MONITOR_LIST = build_monitors(
    {name: entry.config() for name, entry in MONITORS.items()}, Surroundings(expected=Wants())
)


def traffic(times: int) -> list[Row]:
    """Hundreds of requests: one in ten fails, one in four is slow, every other is of version 2."""
    now_us = time.time_ns() // 1000
    return [
        {
            "event_time": now_us,
            "status": "error" if number % 10 == 0 else "ok",
            "latency_seconds": 0.75 if number % 4 == 0 else 0.03,
            "model_version": "1" if number % 2 else "2",
            "tokens": 20,
            "unknown_tokens": 3,
            "words": 10,
            "sampling_weight": 1 / 0.3,
            "trace_id": f"{number:032x}",
        }
        for number in range(100 * times)
    ]


def snapshot(rows: list[Row]) -> Snapshot:
    board = ReadingBoard()
    counters = {}
    for monitor in MONITOR_LIST:
        summary = monitor.summary()
        summary.update(batch_of(rows))
        counters[monitor.name] = {SERIES: summary}
        board.add(monitor.read(Window(0, 60_000_000), counters[monitor.name], {SERIES: 0}))
    return Snapshot(counters=counters, readings=board.current())


@pytest.fixture
def collector() -> SnapshotCollector:
    collector = SnapshotCollector(MONITOR_LIST)
    collector.publish(snapshot(traffic(1)))
    return collector


@pytest.fixture
def serve(collector: SnapshotCollector) -> Iterator[Callable[..., MetricsServer]]:
    servers: list[MetricsServer] = []

    def start(config: HttpConfig, environ: dict[str, str] | None = None) -> MetricsServer:
        health = Health(alive=True, ready=True)
        servers.append(MetricsServer(config, collector, lambda: health, environ))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_prometheus_reads_the_figures_trace_ids_and_expiries(
    collector: SnapshotCollector,
    serve: Callable[..., MetricsServer],
    prometheus_server: Callable[..., PrometheusServer],
) -> None:
    server = serve(HttpConfig(port=0))
    prometheus = prometheus_server(f"127.0.0.1:{server.port}")
    prometheus.wait_value("sum(mlmon_sampled_requests_total)", 100)
    figures = {
        'mlmon_sampled_requests_total{status="error"}': 10,
        "sum(mlmon_requests_total)": 100 / 0.3,
        "sum(mlmon_requests_total)^2 / sum(mlmon_requests_weight_squared_total)": 100,
        'mlmon_sampled_request_latency_seconds_bucket{part="total",le="0.05"}': 75,
        'mlmon_request_latency_seconds_count{part="total"}': 333,
        'mlmon_sampled_request_latency_seconds_sum{part="total"}': 25 * 0.75 + 75 * 0.03,
        'mlmon_token_ratio_numerator_total{ratio="unknown_token"}'
        ' / mlmon_token_ratio_denominator_total{ratio="unknown_token"}': 0.15,
        "mlmon_unknown_token_ratio": 0.15,
        "mlmon_tokens_per_word": 2,
        'mlmon_version_mismatch_ratio{deployment="stable"}': 0.5,
        'mlmon_versions_serving{kind="model_version"}': 2,
        "sum(mlmon_version_traffic_ratio)": 1,
        'mlmon_version_mismatches_total{kind="model_version"}'
        " / ignoring(kind) mlmon_version_checked_requests_total": 0.5,
    }
    for expression, expected in figures.items():
        found = [value for _, value in prometheus.query(expression)]
        assert found == [pytest.approx(expected)], expression
    quantile = 'histogram_quantile(0.9, mlmon_request_latency_seconds_bucket{part="total"})'
    ((labels, value),) = prometheus.query(quantile)
    assert 0.5 < value < 1.0, "the slow quarter lies in the bucket from 0.5 to 1"
    assert {name: labels[name] for name in SERIES._fields} == SERIES._asdict()
    kinds = prometheus.api("metadata", metric="mlmon_request_latency_seconds")
    assert kinds["mlmon_request_latency_seconds"][0]["type"] == "histogram"

    exemplars = prometheus.wait_for(
        lambda: prometheus.exemplars('mlmon_request_latency_seconds_bucket{part="total"}')
    )
    shown = {exemplar["labels"]["trace_id"]: float(exemplar["value"]) for exemplar in exemplars}
    assert shown == {f"{99:032x}": 0.03, f"{96:032x}": 0.75}

    collector.publish(snapshot(traffic(3)))
    prometheus.wait_value("sum(mlmon_sampled_requests_total)", 300)
    assert prometheus.query("mlmon_unknown_token_ratio") != []

    board = ReadingBoard()
    board.add([Reading(UNKNOWN_TOKEN_RATIO, tuple(SERIES), 0.5, Window(0, 10), 1, 1.0)])
    collector.publish(Snapshot(readings=board.current()))
    prometheus.wait_value("mlmon_unknown_token_ratio", 0.5)
    board.expire(11)
    collector.publish(Snapshot(readings=board.current()))
    prometheus.wait_for(lambda: prometheus.query("mlmon_unknown_token_ratio") == [])


def test_prometheus_scrapes_with_password_and_tls(
    serve: Callable[..., MetricsServer],
    prometheus_server: Callable[..., PrometheusServer],
    certificates: Certificates,
) -> None:
    config = HttpConfig(
        port=0,
        username="prometheus",
        password_env="MLMON_PASSWORD",  # noqa: S106 - a name
        tls_cert_file=str(certificates.cert),
        tls_key_file=str(certificates.key),
    )
    server = serve(config, {"MLMON_PASSWORD": "right"})
    job = {
        "scheme": "https",
        "basic_auth": {"username": "prometheus", "password": "right"},
        "tls_config": {"ca_file": str(certificates.ca)},
    }
    target = f"127.0.0.1:{server.port}"
    right = prometheus_server(target, job)
    wrong = prometheus_server(target, {**job, "basic_auth": {"username": "prometheus", "password": "wrong"}})
    right.wait_value('mlmon_sampled_requests_total{status="error"}', 10)
    wrong.wait_for(lambda: wrong.target().get("health") == "down")
    assert "401" in wrong.target()["lastError"]
    assert wrong.query("mlmon_sampled_requests_total") == []
