"""Kafka under fire: two sidecars killed, frozen past their session and rebalanced, the broker restarted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from kafka import KafkaProducer

from tests.fire.load import LATENESS_SECONDS, SIZE_SECONDS, Load, Writing
from tests.fire.sidecars import Sidecars, differences

if TYPE_CHECKING:
    from pathlib import Path

PARTITIONS, EVENTS, KILLS = 8, 200_000, 20
SESSION_SECONDS = 3.0

CONFIG = f"""
[source]
kind = "kafka"
[source.kafka]
bootstrap_servers = ["{{bootstrap}}"]
topics = ["{{topic}}"]
group = "{{topic}}"
session_timeout_seconds = {SESSION_SECONDS}
max_poll_interval_seconds = 30
[checkpoint.kafka]
transaction_timeout_seconds = 6
load_timeout_seconds = 30
[loop]
checkpoint_interval_seconds = 0.2
gather_records = 500
[windows]
size_seconds = {SIZE_SECONDS}
allowed_lateness_seconds = {LATENESS_SECONDS}
idle_timeout_seconds = 3600
[history]
directory = "{{folder}}/history"
[http]
port = 0
"""


@pytest.mark.fire
@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_totals_and_windows_are_exact_under_kills_freezes_and_a_broker_restart(
    kafka_broker: Any, tmp_path: Path
) -> None:
    topic = f"fire-{time.time_ns()}"
    kafka_broker.create_topic(topic, PARTITIONS)
    configs = [tmp_path / f"mlmon-{index}.toml" for index in range(2)]
    for config in configs:
        config.write_text(CONFIG.format(bootstrap=kafka_broker.bootstrap, topic=topic, folder=tmp_path))
    rng = np.random.default_rng(11)
    load = Load(PARTITIONS, seed=11)
    producer = KafkaProducer(
        bootstrap_servers=kafka_broker.bootstrap, acks="all", enable_idempotence=True, linger_ms=5
    )

    def append(partition: int, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        producer.send(topic, value=value, headers=headers, partition=partition)

    writing = Writing(load, EVENTS, 70.0, append)
    sidecars = Sidecars(configs, tmp_path)
    sidecars.start_all()
    writing.start()
    restarted = False
    try:
        while writing.is_alive() or sidecars.kills < KILLS:
            victim = int(rng.integers(2))
            sidecars.wait_started(victim)
            time.sleep(float(rng.uniform(0.5, 3.0)))  # a random moment, not a wait for something
            if sidecars.kills % 7 == 6 and sidecars.freezes < sidecars.kills // 7 + 1:
                sidecars.freeze(victim, SESSION_SECONDS + 2)
            elif sidecars.kills == 10 and not restarted and kafka_broker.managed:
                restarted = True
                kafka_broker.restart()
            else:
                sidecars.kill(victim)
        producer.flush(30)
        expected = {f"{topic}-{index}": want for index, want in writing.finish().items()}
        status = sidecars.wait_for(expected, 120)
    finally:
        sidecars.close()
        producer.close(5)
    assert differences(status, expected) == [], sidecars.log(0)[-1500:]
    assert sum(want.events for want in load.expected) == EVENTS
    assert sidecars.freezes >= 2
