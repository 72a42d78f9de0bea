"""Members of a group are killed, frozen and thawed, and the broker is restarted: every count stays exact."""

from __future__ import annotations

import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from mlmon.checkpoint.kafka import KafkaCheckpoint, KafkaCheckpointConfig
from mlmon.errors import CheckpointError
from mlmon.kafka_client import KafkaConnection

pytestmark = [pytest.mark.kafka, pytest.mark.fire]

PARTITIONS = 6
PER_PARTITION = 3_000
WORKER = Path(__file__).parents[1] / "kafka" / "worker.py"
COUNTS = struct.Struct(">qq")


def start(broker, topic, log):
    return subprocess.Popen(
        [sys.executable, str(WORKER), broker.bootstrap, topic, topic], stdout=log, stderr=log
    )


def produce(bootstrap, topic, seconds):
    """Numbers 0, 1, 2 … into each partition, spread over some seconds; every 50th is a bad record."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, delivery_timeout_ms=120_000)
    pause = seconds / (PER_PARTITION / 50)
    for number in range(PER_PARTITION):
        for partition in range(PARTITIONS):
            value = b"%d" % number
            producer.send(topic, value + b"!" if number % 50 == 7 else value, partition=partition)
        if number % 50 == 49:
            time.sleep(pause)
    producer.flush(120)
    producer.close()


def totals(broker, topic):
    checkpoint = KafkaCheckpoint(
        KafkaCheckpointConfig(replication_factor=1),
        KafkaConnection(bootstrap_servers=(broker.bootstrap,)),
        topic,
        [topic],
        None,
    )
    try:
        return {
            name: (stored.next_offset, *COUNTS.unpack(stored.records[b"counts"]))
            for name, stored in checkpoint.scan()
        }
    except CheckpointError:
        return {}
    finally:
        checkpoint.close()


def letters(broker, topic):
    """(partition, offset) of every committed dead letter, with how often it is there."""
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    tp = TopicPartition(f"{topic}-mlmon-dead-letters", 0)
    consumer.assign([tp])
    end = consumer.end_offsets([tp])[tp]
    found = Counter()
    deadline = time.monotonic() + 60
    while consumer.position(tp) < end and time.monotonic() < deadline:
        for record in consumer.poll(200).get(tp, []):
            headers = dict(record.headers)
            found[headers["mlmon-partition"].decode(), int(headers["mlmon-offset"])] += 1
    consumer.close()
    return found


def test_counts_are_exact_under_kills_freezes_and_restarts(kafka_broker, tmp_path):
    topic = "fire"
    dice = random.Random(20240607)  # noqa: S311 - not a secret
    kafka_broker.create_topic(topic, PARTITIONS)
    producer = threading.Thread(target=produce, args=(kafka_broker.bootstrap, topic, 35))
    producer.start()
    log_path = tmp_path / "workers.log"
    done = Counter()
    with log_path.open("wb") as log:
        workers = [start(kafka_broker, topic, log) for _ in range(2)]
        thaw: dict[int, float] = {}
        try:
            for turn in range(18):
                time.sleep(dice.uniform(0.8, 2.2))
                for index, when in list(thaw.items()):
                    if time.monotonic() >= when:
                        workers[index].send_signal(signal.SIGCONT)
                        del thaw[index]
                index = dice.randrange(2)
                if turn in (6, 13) and kafka_broker.managed:
                    kafka_broker.restart(kill=turn == 13)
                    done["restart"] += 1
                elif turn % 3 == 1 and not thaw:
                    workers[index].send_signal(signal.SIGSTOP)
                    thaw[index] = time.monotonic() + 3.5  # past the session timeout of 2 s
                    done["freeze"] += 1
                elif index not in thaw:
                    workers[index].kill()
                    workers[index].wait()
                    workers[index] = start(kafka_broker, topic, log)
                    done["kill"] += 1
            for index in thaw:
                workers[index].send_signal(signal.SIGCONT)
            producer.join()
            good = [n for n in range(PER_PARTITION) if n % 50 != 7]
            expected = {f"{topic}-{p}": (PER_PARTITION, len(good), sum(good)) for p in range(PARTITIONS)}
            deadline = time.monotonic() + 60
            while (found := totals(kafka_broker, topic)) != expected and time.monotonic() < deadline:
                time.sleep(0.5)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    text = log_path.read_text()
    print(dict(done), "fenced", text.count("fenced:"), "checkpoint", text.count("checkpoint:"))
    assert found == expected, text[-3000:]
    bad = {(f"{topic}-{p}", n): 1 for p in range(PARTITIONS) for n in range(7, PER_PARTITION, 50)}
    assert letters(kafka_broker, topic) == bad
    assert done["kill"] >= 5
    assert done["freeze"] >= 3
    assert "Traceback" not in text, text[-3000:]
