"""A series that arrives in partitions of two sidecars is noticed by both, and by `mlmon status`."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from kafka import KafkaProducer

from mlmon.app import build as building
from mlmon.app.status import report
from mlmon.clock import SystemClock
from mlmon.config import parse_config
from mlmon.events.encode import ARROW_CONTENT_TYPE, encode_arrow
from mlmon.events.event import Event

CONFIG = """
[source]
kind = "kafka"
[source.kafka]
bootstrap_servers = ["{bootstrap}"]
topics = ["{topic}"]
group = "{topic}"
[loop]
checkpoint_interval_seconds = 0.2
peer_interval_seconds = 0.2
[history]
enabled = false
[http]
port = 0
"""


def event(number: int, service: str) -> Event:
    return Event(
        event_id=str(number),
        event_time=SystemClock().now_us(),
        service=service,
        model_name="m",
        model_version="1",
    )


@pytest.mark.kafka
@pytest.mark.timeout(120)
def test_a_split_series_is_noticed(kafka_broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = f"split-{time.time_ns()}"
    kafka_broker.create_topic(topic, 2)
    config = parse_config(CONFIG.format(bootstrap=kafka_broker.bootstrap, topic=topic))
    sidecars = []
    for name in ("one", "two"):
        monkeypatch.setattr(building, "owner_name", lambda name=name: name)
        sidecars.append(building.build(config))
    stop = threading.Event()
    threads = [threading.Thread(target=step_until, args=(running, stop)) for running in sidecars]
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    headers = [("content-type", ARROW_CONTENT_TYPE.encode())]
    deadline = time.monotonic() + 90
    try:
        for thread in threads:
            thread.start()
        number = 0
        while [s.sidecar.status.split_series for s in sidecars] != [1, 1]:
            assert time.monotonic() < deadline, [s.sidecar.status for s in sidecars]
            for partition in (0, 1):
                for service in ("split", f"whole-{partition}"):
                    number += 1
                    value = encode_arrow([event(number, service)])
                    producer.send(topic, value, headers=headers, partition=partition)
            producer.flush()
            time.sleep(0.1)
        assert b"mlmon_split_series 1.0" in sidecars[0].collector.render(openmetrics=False)
        reading = building.open_for_reading(config)
        try:
            (split,) = report(reading.scan()).split
        finally:
            reading.close()
        assert (split.service, split.owners) == ("split", ("one", "two"))
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        producer.close()
        for running in sidecars:
            running.close()


def step_until(running: building.Running, stop: threading.Event) -> None:
    while not stop.is_set():
        running.sidecar.step(0.05)
