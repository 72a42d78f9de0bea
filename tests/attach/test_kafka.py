"""The Kafka sink against a real broker."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import UserScramCredentialUpsertion

from mlmon.attach import Emitter, EmitterConfig, OutRecord, RefusedError
from mlmon.attach.kafka_sink import KafkaSink, KafkaSinkConfig
from mlmon.errors import ConfigError, SourceError
from mlmon.events.codecs.config import DecodeConfig
from mlmon.events.codecs.decoder import Decoder
from mlmon.events.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.kafka


def event(number: int, **fields: Any) -> Event:
    names = {"event_id": f"e{number}", "service": "s", "model_name": "m"}
    return Event(**{"event_time": 1_700_000_000_000_000 + number, **names, **fields})


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


@pytest.fixture
def topic(kafka_broker: Any) -> str:
    name = f"attach-{uuid.uuid4().hex[:12]}"
    kafka_broker.create_topic(name, partitions=4)
    return name


def sink(kafka_broker: Any, topic: str, **fields: Any) -> KafkaSink:
    return KafkaSink(KafkaSinkConfig(bootstrap_servers=(kafka_broker.bootstrap,), topic=topic, **fields))


def read_topic(kafka_broker: Any, topic: str) -> dict[int, list[Any]]:
    """Every record by partition."""
    consumer = KafkaConsumer(
        bootstrap_servers=kafka_broker.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    partitions = [TopicPartition(topic, number) for number in range(4)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    found: dict[int, list[Any]] = {number: [] for number in range(4)}
    deadline = time.monotonic() + 60
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        assert time.monotonic() < deadline
        for tp, records in consumer.poll(timeout_ms=200).items():
            found[tp.partition] += records
    consumer.close()
    return found


def ids_of(records: list[Any]) -> list[str]:
    decoded = Decoder(DecodeConfig()).decode(records, time.time_ns() // 1000)
    assert not decoded.rejects
    return [] if decoded.batch is None else decoded.batch.records.column("event_id").to_pylist()


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_events_arrive_in_order_and_a_series_has_one_partition(
    kafka_broker: Any, topic: str, compression: str
) -> None:
    emitter = Emitter(sink(kafka_broker, topic, compression=compression), EmitterConfig(batch_events=20))
    for i in range(600):
        emitter.emit(event(i, model_name=f"m{i % 6}"))
    assert emitter.close(30)
    found = read_topic(kafka_broker, topic)
    homes: dict[bytes, set[int]] = {}
    for partition, records in found.items():
        for record in records:
            homes.setdefault(record.key, set()).add(partition)
            assert dict(record.headers)["content-type"] == b"application/vnd.apache.arrow.stream"
    assert set(homes) == {f"s/m{i}".encode() for i in range(6)}
    assert all(len(home) == 1 for home in homes.values())
    ids = [name for records in found.values() for name in ids_of(records)]
    assert sorted(ids) == sorted(f"e{i}" for i in range(600))
    for model in range(6):
        mine = [int(name[1:]) for name in ids if int(name[1:]) % 6 == model]
        assert mine == sorted(mine)


def test_an_outage_loses_and_repeats_nothing_that_fits_the_queue(kafka_broker: Any, topic: str) -> None:
    if not kafka_broker.managed:
        pytest.skip("the broker is not ours to stop")
    emitter = Emitter(
        sink(kafka_broker, topic, ack_seconds=0.5),
        EmitterConfig(batch_events=10, queue_events=400, batch_age_seconds=0.1, retry_max_seconds=0.2),
    )
    for i in range(50):
        emitter.emit(event(i))
    assert emitter.flush(30)
    kafka_broker.stop(kill=True)
    try:
        kept = [emitter.emit(event(i)) for i in range(50, 1050)]
        until(lambda: emitter.stats().sink_errors >= 2)
        assert emitter.stats().queue_items <= 400
    finally:
        kafka_broker.start()
    until(lambda: emitter.stats().queue_items == 0)
    emitter.emit(event(5000))
    assert emitter.close(60)
    records = [record for part in read_topic(kafka_broker, topic).values() for record in part]
    ids = ids_of(records)
    expected = [f"e{i}" for i in range(50)] + [f"e{i + 50}" for i, yes in enumerate(kept) if yes] + ["e5000"]
    assert ids == expected
    dropped = sum(int(dict(record.headers)["mlmon-dropped"]) for record in records)
    assert dropped == kept.count(False) == emitter.stats().dropped > 0


def test_a_record_larger_than_the_broker_takes_is_refused(kafka_broker: Any, topic: str) -> None:
    out = sink(kafka_broker, topic, max_request_bytes=8 << 20, compression="none")
    header = [("content-type", b"x")]
    with pytest.raises(RefusedError, match="max_request_bytes"):
        out.write(OutRecord(b"k", os.urandom(3 << 20), header, 1))
    out.write(OutRecord(b"k", b"small", header, 1))  # and it goes on
    out.close(5)
    small = sink(kafka_broker, topic, max_request_bytes=16_384)
    with pytest.raises(RefusedError):
        small.write(OutRecord(b"k", os.urandom(20_000), header, 1))
    small.close(5)


def test_a_forked_child_has_a_connection_of_its_own(kafka_broker: Any, topic: str) -> None:
    code = f"""
        import os, sys
        from mlmon.attach import Emitter, EmitterConfig
        from mlmon.attach.kafka_sink import KafkaSink, KafkaSinkConfig
        from mlmon.events.event import Event
        config = KafkaSinkConfig(bootstrap_servers=({kafka_broker.bootstrap!r},), topic={topic!r})
        emitter = Emitter(KafkaSink(config), EmitterConfig(batch_age_seconds=0.1))
        def emit(name):
            emitter.emit(Event(event_id=name, event_time=1_700_000_000_000_000, service="s", model_name="m"))
        emit("e0")
        assert emitter.flush(30)
        child = os.fork()
        if child == 0:
            emit("e1")
            sys.exit(0 if emitter.flush(30) else 5)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        emit("e2")  # the parent's connection works on; what is queued is flushed at exit
        sys.exit(status)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ids = [name for records in read_topic(kafka_broker, topic).values() for name in ids_of(records)]
    assert sorted(ids) == ["e0", "e1", "e2"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_login(kafka_broker: Any, monkeypatch: pytest.MonkeyPatch, mechanism: str) -> None:
    """A right password is let in (this user may not write), a wrong one is not; neither is told."""
    if not kafka_broker.sasl_bootstrap:
        pytest.skip("the broker has no listener with login")
    monkeypatch.setenv("ATTACH_RIGHT", "alice-secret")
    monkeypatch.setenv("ATTACH_WRONG", "not-the-password")
    if mechanism.startswith("SCRAM"):
        admin = kafka_broker.admin()
        admin.alter_user_scram_credentials([UserScramCredentialUpsertion("alice", mechanism, "alice-secret")])
        admin.close()
    errors = {}
    for variable in ("ATTACH_RIGHT", "ATTACH_WRONG"):
        out = KafkaSink(
            KafkaSinkConfig(
                bootstrap_servers=(kafka_broker.sasl_bootstrap,),
                topic="attach-forbidden",
                sasl_mechanism=mechanism,  # type: ignore[arg-type]
                sasl_username="alice",
                sasl_password_env=variable,
                connect_timeout_seconds=5,
            )
        )
        with pytest.raises(SourceError) as caught:
            out.write(OutRecord(b"k", b"v", [], 1))
        out.close(1)
        errors[variable] = str(caught.value)
    assert "Topic" in errors["ATTACH_RIGHT"]
    assert "Topic" not in errors["ATTACH_WRONG"]
    assert not any(
        value in text for text in errors.values() for value in ("alice-secret", "not-the-password")
    )


def test_tls(kafka_broker: Any, topic: str) -> None:
    if not getattr(kafka_broker, "tls_bootstrap", None):
        pytest.skip("the broker has no listener with TLS")
    config = KafkaSinkConfig(
        bootstrap_servers=(kafka_broker.tls_bootstrap,),
        topic=topic,
        tls=True,
        tls_ca_file=str(kafka_broker.cafile),
        tls_verify_hostname=False,
    )
    emitter = Emitter(KafkaSink(config))
    emitter.emit(event(1))
    assert emitter.close(30)


def test_a_missing_secret_is_said_at_start_up() -> None:
    name = "NO_SUCH_VARIABLE"
    with pytest.raises(ConfigError, match=name):
        KafkaSink(KafkaSinkConfig(sasl_mechanism="PLAIN", sasl_username="u", sasl_password_env=name))
