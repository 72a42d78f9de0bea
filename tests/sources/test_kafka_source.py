"""The Kafka source against a real broker."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.future import Future
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import OffsetAndMetadata

from mlmon.errors import FencedError, SourceError
from mlmon.sources.kafka import KafkaConfig, KafkaSource

pytestmark = pytest.mark.kafka


@pytest.fixture
def log(kafka_broker):
    """A topic to write to: `log(name, partitions)` gives `send(partition, *values)`."""
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)

    def make(name, partitions=1):
        kafka_broker.create_topic(name, partitions)

        def send(partition, *values):
            for value in values:
                producer.send(name, value, partition=partition)
            producer.flush(20)

        return send

    yield make
    producer.close()


@pytest.fixture
def source(kafka_broker):
    """Make a source: `source(topic, **settings)`; closed at the end."""
    made = []

    def make(*topics, **settings):
        settings = {"group": topics[0], "session_timeout_seconds": 6} | settings
        made.append(
            KafkaSource(KafkaConfig(bootstrap_servers=(kafka_broker.bootstrap,), topics=topics, **settings))
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def until(source, done, seconds=20, start=None, sought=True):
    """Poll until `done(records so far by partition)`; returns (records, assigned, revoked, chunks)."""
    records, assigned, revoked, chunks = {}, [], [], []
    deadline = time.monotonic() + seconds
    while not done(records):
        assert time.monotonic() < deadline, (records, assigned, revoked)
        with contextlib.suppress(SourceError):
            polled = source.poll(0.1)
            revoked += polled.revoked
            assigned += polled.assigned
            for partition in polled.assigned if sought else ():
                source.seek(partition, start)
            for chunk in polled.chunks:
                chunks.append(chunk)
                records.setdefault(chunk.partition, []).extend(chunk.records)
    return records, assigned, revoked, chunks


def poll_for_ever(source):
    while True:
        for partition in source.poll(0.1).assigned:
            source.seek(partition, None)


def count(number):
    return lambda records: sum(map(len, records.values())) >= number


def test_nothing_comes_before_a_seek(log, source):
    log("src-seek")(0, b"a", b"b", b"c")
    one = source("src-seek")
    assigned = until(one, lambda _: one._members.partition("src-seek-0"), sought=False)[1]
    assert assigned == ["src-seek-0"]
    for _ in range(5):
        assert one.poll(0.1).chunks == []
    one.seek("src-seek-0", 1)
    records, _, _, chunks = until(one, count(2))
    assert [r.value for r in records["src-seek-0"]] == [b"b", b"c"]
    assert chunks[-1].next_offset == 3
    assert one.lag()["src-seek-0"].records == 0
    assert one.finished is False
    # Back again: positions are the caller's.
    one.seek("src-seek-0", 0)
    assert [r.offset for r in until(one, count(3))[0]["src-seek-0"]] == [0, 1, 2]


def test_start_without_state(log, source, kafka_broker):
    send = log("src-start", 2)
    send(0, b"old")
    latest = source("src-start", group="src-late", auto_offset_reset="latest")
    until(latest, lambda _: len(latest._members.readable()) == 2)
    send(0, b"new")
    assert [r.value for r in until(latest, count(1))[0]["src-start-0"]] == [b"new"]
    earliest = source("src-start", group="src-early")
    assert [r.value for r in until(earliest, count(2))[0]["src-start-0"]] == [b"old", b"new"]
    earliest._consumer.commit({TopicPartition("src-start", 0): OffsetAndMetadata(1, "", -1)})
    earliest.close()
    again = source("src-start", group="src-early")
    assert [r.value for r in until(again, count(1))[0]["src-start-0"]] == [b"new"]


def test_polls_are_bounded_and_topics_may_be_several(log, source):
    first, second = log("src-many-a", 2), log("src-many-b")
    first(0, *[b"x"] * 50)
    second(0, *[b"y"] * 50)
    one = source("src-many-a", "src-many-b", max_poll_records=7)
    records, assigned, _, chunks = until(one, count(100))
    assert sorted(assigned) == ["src-many-a-0", "src-many-a-1", "src-many-b-0"]
    assert max(len(chunk.records) for chunk in chunks) <= 7
    assert {r.value for r in records["src-many-b-0"]} == {b"y"}
    assert [r.offset for r in records["src-many-a-0"]] == list(range(50))


def test_keys_headers_and_time_come_through(log, source, kafka_broker):
    log("src-record")
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, compression_type="zstd")
    producer.send("src-record", b"\xff\x00", b"key", headers=[("a", b"1"), ("a", b"2")], timestamp_ms=1234)
    producer.send("src-record", None, b"tombstone").get(10)
    producer.close()
    record, tombstone = until(source("src-record"), count(2))[0]["src-record-0"]
    assert (record.value, record.key, record.timestamp, record.offset) == (b"\xff\x00", b"key", 1234, 0)
    assert list(record.headers) == [("a", b"1"), ("a", b"2")]
    assert tombstone.value is None


def test_records_of_aborted_transactions_are_passed_over(log, source, kafka_broker):
    log("src-txn")
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id="src-txn")
    producer.init_transactions()
    for value, end in ((b"no", producer.abort_transaction), (b"yes", producer.commit_transaction)):
        producer.begin_transaction()
        producer.send("src-txn", value, partition=0).get(10)
        end()
    producer.close()
    one = source("src-txn")
    records, _, _, chunks = until(one, count(1))
    assert [r.value for r in records["src-txn-0"]] == [b"yes"]
    # The position passes the markers, so that the lag of what cannot be read is nought.
    deadline = time.monotonic() + 60
    while chunks[-1].next_offset < 4:
        assert time.monotonic() < deadline
        chunks += one.poll(0.1).chunks
    assert one.lag()["src-txn-0"].records == 0


def test_what_retention_took_is_counted(log, source, kafka_broker):
    send = log("src-lost")
    send(0, *[b"x"] * 10)
    admin = kafka_broker.admin()
    admin.delete_records({TopicPartition("src-lost", 0): 6})
    admin.close()
    records, _, _, chunks = until(source("src-lost"), count(4), start=2)
    assert [r.offset for r in records["src-lost-0"]] == [6, 7, 8, 9]
    assert sum(chunk.lost for chunk in chunks) == 4


def test_an_offset_beyond_the_end_goes_to_the_earliest(log, source):
    send = log("src-beyond")
    send(0, b"x", b"y")
    records, _, _, chunks = until(source("src-beyond"), count(2), start=100)
    assert [r.value for r in records["src-beyond-0"]] == [b"x", b"y"]
    assert sum(chunk.lost for chunk in chunks) == 0


def test_a_failed_checksum_costs_a_rejoin_and_no_record(log, source, monkeypatch):
    send = log("src-crc")
    send(0, *[b"%d" % n for n in range(20)])
    one = source("src-crc")
    validate, failures = DefaultRecordBatch.validate_crc, []

    def fail_once(batch):
        if not failures:
            failures.append(batch)
            return False
        return validate(batch)

    monkeypatch.setattr(DefaultRecordBatch, "validate_crc", fail_once)
    records, assigned, revoked, _ = until(one, count(20))
    assert failures
    assert one.recreated == 1
    assert assigned == ["src-crc-0", "src-crc-0"]
    assert revoked == ["src-crc-0"]
    assert [r.value for r in records["src-crc-0"]] == [b"%d" % n for n in range(20)]


def test_a_poll_that_spins_is_broken_off(log, source, monkeypatch):
    """What kafka-python does when it is polled once more after a failed checksum."""
    send = log("src-spin")
    send(0, *[b"%d" % n for n in range(5)])
    one = source("src-spin", stall_seconds=5)
    one._watchdog._limit = 1.0
    validate, failures = DefaultRecordBatch.validate_crc, []

    def fail_once(batch):
        failures.append(batch)
        return len(failures) > 1 and validate(batch)

    fetched = Fetcher.fetched_records

    def careless(self, *args, **kwargs):
        try:
            return fetched(self, *args, **kwargs)
        except CorruptRecordError:
            return fetched(self, *args, **kwargs)

    monkeypatch.setattr(DefaultRecordBatch, "validate_crc", fail_once)
    monkeypatch.setattr(Fetcher, "fetched_records", careless)
    records = until(one, count(5))[0]
    assert one.recreated == 1
    assert [r.value for r in records["src-spin-0"]] == [b"%d" % n for n in range(5)]
    assert not one.stalled


def test_a_poll_that_hangs_is_broken_off(log, source, monkeypatch):
    send = log("src-hang")
    send(0, b"x")
    one = source("src-hang", stall_seconds=5)
    one._watchdog._limit = 1.0
    fetch, hung = Fetcher.fetch_records, []

    def hang_once(self, *args, **kwargs):
        if not hung:
            hung.append(one)
            self._net.run(self._manager.wait_for, Future(), None)
        return fetch(self, *args, **kwargs)

    monkeypatch.setattr(Fetcher, "fetch_records", hang_once)
    with pytest.raises(SourceError, match="broken off"):
        poll_for_ever(one)
    assert one.stalled
    assert until(one, count(1))[0]["src-hang-0"][0].value == b"x"
    assert not one.stalled


def test_the_broker_may_come_back(log, source, kafka_broker):
    if not kafka_broker.managed:
        pytest.skip("the broker of MLMON_TEST_KAFKA is not ours to restart")
    send = log("src-restart")
    send(0, b"before")
    one = source("src-restart")
    assert until(one, count(1))[0]["src-restart-0"][0].value == b"before"
    kafka_broker.restart()
    send(0, b"after")
    assert until(one, count(1), seconds=40)[0]["src-restart-0"][-1].value == b"after"


def test_reset_and_claim(log, source):
    log("src-reset")(0, b"x")
    one = source("src-reset")
    until(one, count(1))
    assert one.claim(["src-reset-0"]).generation_id == 1
    with pytest.raises(FencedError, match="src-reset-5"):
        one.claim(["src-reset-5"])
    one.reset()
    with pytest.raises(FencedError, match="poll"):
        one.claim(["src-reset-0"])
    with pytest.raises(SourceError, match="not assigned"):
        one.seek("src-reset-0", 0)
    _, assigned, revoked, _ = until(one, count(1))
    assert revoked == ["src-reset-0"]
    assert assigned == ["src-reset-0"]


def test_a_join_that_outlasts_its_poll_is_not_forgotten(log, source):
    """It would be, when new metadata is why a leader joins again and the poll ends before the join."""
    send = log("src-forgotten")
    send(0, b"x")
    one = source("src-forgotten")
    until(one, count(1))
    coordinator = one._consumer._coordinator
    coordinator._metadata_snapshot = {"src-forgotten": {0, 1}}
    one._consumer.poll(timeout_ms=1)
    deadline = time.monotonic() + 20
    while not coordinator.stable():
        assert time.monotonic() < deadline, "the join was forgotten"
        for partition in one.poll(0.05).assigned:
            one.seek(partition, 1)
    send(0, b"y")
    assert until(one, count(1))[0]["src-forgotten-0"][-1].value == b"y"


def test_two_members_share_and_inherit(log, source):
    send = log("src-share", 4)
    first, second = source("src-share"), source("src-share")
    stop = threading.Event()
    owned: dict[str, set[str]] = {"first": set(), "second": set()}

    def run(name, one):
        while not stop.is_set():
            polled = one.poll(0.1)
            owned[name] -= set(polled.revoked)
            for partition in polled.assigned:
                owned[name].add(partition)
                one.seek(partition, None)
        one.close()

    def wait(done):
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline, owned
            time.sleep(0.05)

    threads = [threading.Thread(target=run, args=pair) for pair in (("first", first), ("second", second))]
    everything = {f"src-share-{n}" for n in range(4)}
    try:
        for thread in threads:
            thread.start()
        wait(lambda: len(owned["first"]) == len(owned["second"]) == 2)
        assert owned["first"] | owned["second"] == everything
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    heir = source("src-share")
    send(0, b"x")
    _, assigned, _, _ = until(heir, count(1))
    assert set(assigned) == everything


def test_no_broker_is_said_and_leaks_nothing():
    one = KafkaSource(KafkaConfig(bootstrap_servers=("127.0.0.1:1",), connect_timeout_seconds=0.2))
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(SourceError, match=r"127\.0\.0\.1:1"):
            poll_for_ever(one)
    assert threading.active_count() <= before
    assert one.recreated == 0
    one.close()


def test_impossible_configurations_are_refused():
    with pytest.raises(ValueError, match="twice"):
        KafkaConfig(topics=("a", "a"))
    with pytest.raises(ValueError, match="max_poll_interval_seconds"):
        KafkaConfig(session_timeout_seconds=20, max_poll_interval_seconds=10)
    with pytest.raises(ValueError, match="sasl_mechanism"):
        KafkaConfig(sasl_username="me")
