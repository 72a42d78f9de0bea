"""From a request to a query: the FastAPI example, a real Kafka, `mlmon run`, a real Prometheus."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi"

CONFIG = """
[source]
kind = "kafka"
[source.kafka]
bootstrap_servers = ["{bootstrap}"]
topics = ["{topic}"]
group = "{topic}"
[loop]
checkpoint_interval_seconds = 0.3
[windows]
size_seconds = 2
allowed_lateness_seconds = 1
idle_timeout_seconds = 2
[history]
enabled = false
[http]
port = 0
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def service(kafka_broker: Any, topic: str) -> Iterator[str]:
    """The example under uvicorn, writing to Kafka; its address."""
    port = free_port()
    environment = os.environ | {
        "MLMON_EXAMPLE_KAFKA": kafka_broker.bootstrap,
        "MLMON_EXAMPLE_TOPIC": topic,
        "MLMON_EXAMPLE_SERVICE": "shop",
    }
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=EXAMPLE, env=environment)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/openapi.json", timeout=2)
            break
        except httpx.HTTPError:
            assert process.poll() is None, "the example ended"
            assert time.monotonic() < deadline, "the example did not come up"
            time.sleep(0.1)
    yield url
    process.send_signal(signal.SIGTERM)
    process.wait(20)


@pytest.fixture
def topic(kafka_broker: Any) -> str:
    name = f"e2e-{time.time_ns()}"
    kafka_broker.create_topic(name, 4)
    return name


@pytest.fixture
def metrics(kafka_broker: Any, topic: str, tmp_path: Path) -> Iterator[str]:
    """`mlmon run` on the topic; host:port of its metrics."""
    config = tmp_path / "mlmon.toml"
    config.write_text(CONFIG.format(bootstrap=kafka_broker.bootstrap, topic=topic))
    command = [sys.executable, "-m", "mlmon.cli", "run", "--config", str(config)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
    deadline = time.monotonic() + 30
    while not (found := re.search(r"http://([\d.:]+)/metrics", (tmp_path / "log").read_text())):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    yield found[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.kafka
@pytest.mark.prometheus
@pytest.mark.timeout(240)
def test_figures_in_prometheus_are_those_of_the_requests(
    service: str, metrics: str, prometheus_server: Any
) -> None:
    prometheus = prometheus_server(metrics)
    good, bad = 120, 7
    words = 0
    with httpx.Client(base_url=service) as client:
        for number in range(good):
            text = "please block my card " + "now " * (number % 5)
            words += len(text.split())
            trace = f"00-{number + 1:032x}-{number + 1:016x}-01"
            answer = client.post("/classify", json={"text": text}, headers={"traceparent": trace})
            assert answer.status_code == 200
        for _ in range(bad):
            assert client.post("/classify", json={"wrong": 1}).status_code == 422

    series = 'service="shop",model="intent",deployment="stable"'
    prometheus.wait_value(f'sum(mlmon_requests_total{{{series},status="ok"}})', good, seconds=60)
    prometheus.wait_value(f'sum(mlmon_requests_total{{{series},status="client_error"}})', bad)
    prometheus.wait_value(f"sum(mlmon_sampled_requests_total{{{series}}})", good + bad)
    prometheus.wait_value(f"sum(mlmon_words_total{{{series}}})", words)
    prometheus.wait_value(f"sum(mlmon_unknown_tokens_total{{{series}}})", 0)
    prometheus.wait_value(f'sum(mlmon_request_latency_seconds_count{{{series},part="total"}})', good + bad)
    prometheus.wait_value("sum(mlmon_dead_letters_total)", 0)
    prometheus.wait_value("sum(mlmon_consumer_lag_records)", 0)
    prometheus.wait_value("sum(mlmon_partitions_assigned)", 4)
    (_, fertility), *_ = prometheus.wait_for(lambda: prometheus.query("mlmon_tokens_per_word"))
    assert 0.9 < fertility < 4
    quantile = f"histogram_quantile(0.95, sum by (le) (mlmon_request_latency_seconds_bucket{{{series}}}))"
    assert 0 < prometheus.query(quantile)[0][1] < 5
