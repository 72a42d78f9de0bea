"""A dead Kafka is one page, about the pipeline, however many sidecars see it and whatever they were doing.

Real broker, emitter, two processes of `mlmon run`, Prometheus and Alertmanager, a minute a second long.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from paging_kit import PAGED, SCALE, TICKETS, Group, Sidecar, Watch, runbook
from paging_traffic import Service, Traffic, made, past

from mlmon.attach import Emitter
from mlmon.attach.kafka_sink import KafkaSink, KafkaSinkConfig
from mlmon.attach.limits import EmitterConfig

if TYPE_CHECKING:
    from pathlib import Path

PIPELINE = Group("mlmon", "pipeline")
FAILING = "MlmonSourceFailing"

#: Timeouts of Kafka's as short as they may be: they are minutes here.
CONFIG = """
[source]
kind = "kafka"
[source.kafka]
bootstrap_servers = ["{bootstrap}"]
topics = ["{topic}"]
group = "{topic}"
session_timeout_seconds = 2
connect_timeout_seconds = 0.5
request_timeout_seconds = 2
[checkpoint.kafka]
transaction_timeout_seconds = 2
load_timeout_seconds = 20
[loop]
checkpoint_interval_seconds = 0.3
[windows]
size_seconds = 1
allowed_lateness_seconds = 0
idle_timeout_seconds = 2
[history]
enabled = false
[monitors.traffic]
latency_buckets_seconds = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0]
"""
#: The longest pause between two attempts to reach a broker is no setting.
SHORTER = f"import mlmon.sources.kafka as kafka\nkafka.MAX_BACKOFF_SECONDS /= {SCALE}"


def start(stack: ExitStack, folder: Path, bootstrap: str, topic: str) -> tuple[Sidecar, Emitter]:
    """A sidecar that reads a topic, and an emitter that writes to it."""
    sidecar = Sidecar(folder, CONFIG.format(bootstrap=bootstrap, topic=topic), SHORTER)
    stack.callback(sidecar.close)
    sidecar.start()
    sink = KafkaSink(KafkaSinkConfig(bootstrap_servers=(bootstrap,), topic=topic))
    emitter = Emitter(sink, EmitterConfig(batch_age_seconds=0.2))
    stack.callback(emitter.close, 0.5)
    return sidecar, emitter


def healthy(stack: ExitStack, folder: Path, broker: Any) -> tuple[Watch, str, str]:
    """Two sidecars with a topic each, as Prometheus sees them; one event comes to the second, and no more."""
    service = Service("shop", 60, made("shop", 1), [])
    topics = {name: f"paging-{name}-{time.time_ns()}" for name in ("busy", "idle")}
    for topic in topics.values():
        broker.create_topic(topic, 2)
    busy, emitter = start(stack, folder / "busy", broker.bootstrap, topics["busy"])
    traffic = Traffic([service], emitter.emit)
    stack.callback(traffic.stop)
    traffic.start()
    idle, emitter = start(stack, folder / "idle", broker.bootstrap, topics["idle"])
    assert emitter.emit(msgspec.structs.replace(service.healthy[0], event_time=time.time_ns() // 1000))
    ready = "sum by (instance) (mlmon_partitions_assigned) == 2"
    watch = stack.enter_context(Watch(folder, [busy.target, idle.target], past([service]), ready))
    watch.wait_series('mlmon_slo:total:rate5m{service="shop",slo="availability"}', time.time())
    watch.wait_series(f'sum by (instance) (mlmon_events_total{{instance="{idle.target}"}}) == 1')
    return watch, busy.target, idle.target


@pytest.mark.kafka
@pytest.mark.prometheus
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dead_kafka_is_one_page_about_the_pipeline(kafka_broker: Any, tmp_path: Path) -> None:
    """One sidecar has its hands full when the broker dies, the other has nothing to do."""
    if not kafka_broker.managed:
        pytest.skip("the broker in MLMON_TEST_KAFKA is not ours to stop")
    with ExitStack() as stack:
        watch, *targets = healthy(stack, tmp_path, kafka_broker)
        stack.callback(kafka_broker.start)
        kafka_broker.stop(kill=True)
        for target in targets:
            watch.wait_firing(FAILING, instance=target)
        for receiver in PAGED:
            watch.wait_told(receiver, PIPELINE)
        watch.settle()
        for receiver in PAGED:
            assert watch.pagers.groups(receiver) == [PIPELINE], watch.pagers.text()
            pages = watch.pagers.told(receiver)
            blind = [alert["instance"] for alert in pages[-1].firing if alert["alertname"] == FAILING]
            assert sorted(blind) == sorted(targets)
            for one in pages:
                assert one.ended == []
                assert {alert["severity"] for alert in one.firing} == {"page"}
                assert all(runbook(url).is_file() for url in one.runbooks)
        assert watch.pagers.told(TICKETS) == [], watch.pagers.text()
