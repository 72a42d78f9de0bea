"""A range of a topic, read without a group, against a real broker."""

from __future__ import annotations

import time

import pytest
from kafka import KafkaProducer

from mlmon.errors import ConfigError, SourceError
from mlmon.sources.kafka import KafkaConfig
from mlmon.sources.kafka_range import Bound, KafkaRange, parse_bound

EARLIEST, LATEST = Bound(), Bound(latest=True)


@pytest.fixture
def topic(kafka_broker, request):
    """A topic of two partitions with values 0 to 49 in each, at times of one second each."""
    name = f"range-{abs(hash(request.node.name))}"
    kafka_broker.create_topic(name, 2)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    for number in range(50):
        for partition in (0, 1):
            stamp = 1_700_000_000_000 + 1000 * number
            producer.send(name, str(number).encode(), partition=partition, timestamp_ms=stamp)
    producer.flush(20)
    producer.close()
    return name


def opened(broker, topic, first, last, **settings):
    config = KafkaConfig(bootstrap_servers=(broker.bootstrap,), topics=(topic,), **settings)
    return KafkaRange(config, first, last)


def read(broker, topic, first, last, **settings):
    source = opened(broker, topic, first, last, **settings)
    found: dict[str, list[int]] = {f"{topic}-0": [], f"{topic}-1": []}
    try:
        deadline = time.monotonic() + 60
        while not source.finished:
            assert time.monotonic() < deadline
            for chunk in source.poll(0.2).chunks:
                found[chunk.partition] += [int(record.value) for record in chunk.records]
        done, total = source.progress()
        assert done == total
    finally:
        source.close()
    return [found[f"{topic}-0"], found[f"{topic}-1"]]


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (EARLIEST, LATEST, range(50)),
        (Bound(offset=10), Bound(offset=20), range(10, 20)),
        (Bound(offset=40), Bound(offset=900), range(40, 50)),
        (Bound(time_ms=1_700_000_005_000), Bound(time_ms=1_700_000_008_500), range(5, 9)),
        (Bound(time_ms=1_900_000_000_000), LATEST, range(0)),
        (Bound(offset=30), Bound(offset=10), range(0)),
    ],
)
def test_ranges_hold_exactly_what_lies_in_them(kafka_broker, topic, first, last, expected):
    assert read(kafka_broker, topic, first, last, max_poll_records=7) == [list(expected)] * 2


@pytest.mark.kafka
def test_no_group_is_joined_and_nothing_committed(kafka_broker, topic):
    read(kafka_broker, topic, EARLIEST, LATEST, group="of-the-sidecar")
    admin = kafka_broker.admin()
    try:
        assert "of-the-sidecar" not in str(admin.list_groups())
    finally:
        admin.close()


@pytest.mark.kafka
def test_without_an_end_it_brings_what_comes(kafka_broker, topic):
    source = opened(kafka_broker, topic, LATEST, None)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    try:
        assert source.poll(0.2).chunks == []
        producer.send(topic, b"50", partition=1)
        producer.flush(20)
        deadline = time.monotonic() + 60
        chunks = []
        while not chunks and time.monotonic() < deadline:
            chunks = source.poll(0.2).chunks
        assert [record.value for chunk in chunks for record in chunk.records] == [b"50"]
        assert chunks[0].next_offset == 51
        assert not source.finished
    finally:
        producer.close()
        source.close()


@pytest.mark.kafka
def test_marks_of_transactions_do_not_keep_it_from_ending(kafka_broker, topic):
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id=f"{topic}-txn")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"50", partition=0)
    producer.commit_transaction()
    producer.begin_transaction()
    producer.send(topic, b"51", partition=0)
    producer.flush(20)
    producer.abort_transaction()
    producer.close()
    assert read(kafka_broker, topic, Bound(offset=48), LATEST) == [[48, 49, 50], [48, 49]]


@pytest.mark.kafka
def test_a_topic_that_is_not_there(kafka_broker):
    with pytest.raises(SourceError, match="no topic nowhere"):
        opened(kafka_broker, "nowhere", EARLIEST, LATEST, connect_timeout_seconds=1)


def test_no_broker():
    config = KafkaConfig(bootstrap_servers=("127.0.0.1:1",), connect_timeout_seconds=0.5)
    with pytest.raises(SourceError, match="cannot be read"):
        KafkaRange(config, EARLIEST, LATEST)


@pytest.mark.parametrize("text", ["", "-1", "tomorrow", "1.5", "2025-13-01", "²"])
def test_ends_that_are_none(text):
    with pytest.raises(ConfigError, match="expected an offset, a time"):
        parse_bound(text)


def test_times_are_utc_unless_they_say():
    assert parse_bound("2025-03-01T08:00").time_ms == 1_740_816_000_000
    assert parse_bound("2025-03-01T08:00+01:00").time_ms == 1_740_816_000_000 - 3_600_000
    assert parse_bound("2025-03-01").time_ms == 1_740_787_200_000
