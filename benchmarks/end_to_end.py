"""Reading a real topic, and committing to Kafka, beside what kafka-python costs by itself.

    python benchmarks/end_to_end.py [--events 200000]

Reading: events per CPU-second of this process, all threads, best of three rounds over the same topic; the
broker is a process of its own (the tests' own, or the one in MLMON_TEST_KAFKA). The bar is a bare loop over
`KafkaConsumer.poll` that looks at nothing. Committing: milliseconds and CPU milliseconds of one transaction,
medians. (A file named kafka.py here would hide the library from every benchmark.)
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from pipeline import START, make_events

from mlmon.app.sidecar import LoopConfig, Parts, Sidecar
from mlmon.checkpoint.base import PartitionChange
from mlmon.checkpoint.kafka import KafkaCheckpoint, KafkaCheckpointConfig
from mlmon.clock import SystemClock
from mlmon.engine import Engine, EngineConfig
from mlmon.events.codecs import DecodeConfig, Decoder
from mlmon.events.encode import ARROW_CONTENT_TYPE, JSON_CONTENT_TYPE, encode_arrow, encode_json
from mlmon.monitors import MONITORS, build_monitors
from mlmon.sources.kafka import KafkaConfig, KafkaSource

if TYPE_CHECKING:
    from collections.abc import Callable

PARTITIONS = 4
ROUNDS = 3
JSON_BYTES = 1_200
READ_SECONDS = 300.0


def find_broker() -> Any:
    """The broker of the tests."""
    path = Path(__file__).parents[1] / "tests" / "kafka" / "broker.py"
    spec = importlib.util.spec_from_file_location("mlmon_test_broker", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.find_broker()


# -- Topics --------------------------------------------------------------------------------------------


def fill(broker: Any, topic: str, values: list[bytes], content_type: str) -> None:
    """A topic with these records, dealt to its partitions."""
    broker.create_topic(topic, PARTITIONS)
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, batch_size=256 * 1024, linger_ms=20)
    headers = [("content-type", content_type.encode())]
    for index, value in enumerate(values):
        producer.send(topic, value, headers=headers, partition=index % PARTITIONS)
    producer.flush(120)
    producer.close()


def json_values(count: int) -> list[bytes]:
    """One event to a record, filled up to 1.2 kB with a field that is ignored."""
    values = []
    for event in make_events(count):
        value = encode_json(event)
        values.append(value[:-1] + b',"note":"' + b"x" * max(0, JSON_BYTES - len(value) - 10) + b'"}')
    return values


def arrow_values(count: int, size: int) -> list[bytes]:
    """`size` events of one service to a record, as the emitter packs them."""
    events = make_events(count, services=1)
    return [encode_arrow(events[start : start + size]) for start in range(0, count, size)]


# -- Readers: each reads a topic to its end and returns when it has ------------------------------------


def bare(bootstrap: str, topic: str, records: int, _events: int) -> None:
    """kafka-python alone."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_poll_records=5_000,
        fetch_max_bytes=16 * 1024 * 1024,
        metrics_enabled=False,
    )
    with closing(consumer):
        consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
        left, deadline = records, time.monotonic() + READ_SECONDS
        while left > 0 and time.monotonic() < deadline:
            left -= sum(map(len, consumer.poll(200).values()))
    assert left == 0


def source_only(bootstrap: str, topic: str, records: int, _events: int) -> None:
    """`KafkaSource.poll`, as the sidecar calls it."""
    config = KafkaConfig(bootstrap_servers=(bootstrap,), topics=(topic,), group=uuid.uuid4().hex)
    with closing(KafkaSource(config)) as source:
        left, deadline = records, time.monotonic() + READ_SECONDS
        while left > 0 and time.monotonic() < deadline:
            polled = source.poll(0.2)
            for partition in polled.assigned:
                source.seek(partition, None)
            left -= sum(len(chunk.records) for chunk in polled.chunks)
    assert left == 0


class AfterClock(SystemClock):
    """A clock that stands after all events, whatever the machine's says."""

    def now_us(self) -> int:
        """Some days after the first event."""
        return START + 10**12


def sidecar(bootstrap: str, topic: str, _records: int, events: int) -> None:
    """The whole loop: read, decode, count with all monitors, commit to Kafka every two seconds."""
    group = uuid.uuid4().hex
    config = KafkaConfig(bootstrap_servers=(bootstrap,), topics=(topic,), group=group)
    source = KafkaSource(config)
    settings = KafkaCheckpointConfig(replication_factor=1)
    checkpoint = KafkaCheckpoint(settings, config, group, [topic], source)
    monitors = build_monitors({name: entry.config() for name, entry in MONITORS.items()})
    engine = Engine(EngineConfig(), monitors, "bench")
    decoder = Decoder(DecodeConfig(), engine.fields)
    loop = Sidecar(LoopConfig(), Parts(source, decoder, engine, checkpoint, lambda _: None, AfterClock()))
    with closing(source), closing(checkpoint):
        deadline = time.monotonic() + READ_SECONDS
        while counted(engine) < events and time.monotonic() < deadline:
            loop.step()
        assert loop.commit()
    assert counted(engine) == events


def counted(engine: Engine) -> int:
    """Events that an engine has counted."""
    return sum(state.meta.events for state in engine.partitions.values())


READERS: dict[str, Callable[[str, str, int, int], None]] = {
    "kafka-python alone": bare,
    "KafkaSource.poll": source_only,
    "the whole sidecar": sidecar,
}


def rates(broker: Any, topic: str, records: int, events: int) -> dict[str, float]:
    """Events per CPU-second of every reader, in turns, best of the rounds."""
    best = dict.fromkeys(READERS, 0.0)
    for _ in range(ROUNDS):
        for name, read in READERS.items():
            started = time.process_time()
            read(broker.bootstrap, topic, records, events)
            best[name] = max(best[name], events / (time.process_time() - started))
    return best


# -- Transactions --------------------------------------------------------------------------------------


def transactions(broker: Any, partitions: int, records: int, size: int) -> tuple[float, float, int]:
    """Median milliseconds and CPU milliseconds of a commit, and its bytes."""
    topic = uuid.uuid4().hex
    broker.create_topic(topic, partitions)
    config = KafkaConfig(bootstrap_servers=(broker.bootstrap,), topics=(topic,), group=topic)
    source = KafkaSource(config)
    checkpoint = KafkaCheckpoint(KafkaCheckpointConfig(replication_factor=1), config, topic, [topic], source)
    with closing(source), closing(checkpoint):
        owned: list[str] = []
        while len(owned) < partitions:
            owned += source.poll(0.2).assigned
        wall, cpu, written = [], [], 0
        for turn in range(12):
            puts = {b"series-%d" % n: bytes([turn, n % 251]) * (size // 2) for n in range(records)}
            changes = [PartitionChange(name, turn, puts) for name in owned]
            before, before_cpu = time.perf_counter(), time.process_time()
            written = checkpoint.write(changes, []).bytes
            wall.append(time.perf_counter() - before)
            cpu.append(time.process_time() - before_cpu)
            time.sleep(0.1)  # as in the sidecar, the last transaction is over when the next begins
    return statistics.median(wall[2:]) * 1000, statistics.median(cpu[2:]) * 1000, written


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=200_000)
    count = parser.parse_args().events
    with closing(find_broker()) as broker:
        kinds = [
            ("JSON, one event a record", json_values(count // 2), JSON_CONTENT_TYPE, count // 2),
            ("Arrow, 256 events a record", arrow_values(count * 4, 256), ARROW_CONTENT_TYPE, count * 4),
        ]
        for number, (name, values, content_type, events) in enumerate(kinds):
            topic = f"bench-{number}-{uuid.uuid4().hex[:6]}"
            fill(broker, topic, values, content_type)
            per_event = sum(map(len, values)) / events
            print(f"\n{name}: {events:,} events, {per_event:.0f} bytes each")
            found = rates(broker, topic, len(values), events)
            for reader, rate in found.items():
                print(f"  {reader:<24}{rate:>12,.0f} events/CPU-s {rate / found['kafka-python alone']:>6.0%}")
        print(f"\n{'partitions':>10} {'records each':>13} {'bytes':>12} {'ms':>8} {'CPU ms':>8}")
        for partitions, records, size in [
            (1, 10, 500), (1, 1000, 500), (1, 10_000, 500), (8, 10, 500), (8, 1000, 500), (32, 100, 500),
        ]:  # fmt: skip
            wall, cpu, written = transactions(broker, partitions, records, size)
            print(f"{partitions:>10} {records:>13} {written:>12,} {wall:>8.1f} {cpu:>8.1f}")


if __name__ == "__main__":
    main()
