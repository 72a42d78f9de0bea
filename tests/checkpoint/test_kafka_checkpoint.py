"""The Kafka checkpoint against a real broker: what is there after a commit, a fault, a takeover."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError

from mlmon.checkpoint.base import DeadLetter, PartitionChange
from mlmon.checkpoint.kafka import KafkaCheckpoint, KafkaCheckpointConfig
from mlmon.checkpoint.kafka_letters import letter_record
from mlmon.checkpoint.kafka_state import position_key, split_key, state_key
from mlmon.errors import CheckpointError, DecodeReason, FencedError
from mlmon.events.record import Reject
from mlmon.kafka_client import KafkaConnection

pytestmark = pytest.mark.kafka


def reader(broker, topics, group, **settings):
    connection = KafkaConnection(bootstrap_servers=(broker.bootstrap,), connect_timeout_seconds=2)
    config = KafkaCheckpointConfig(replication_factor=1, **settings)
    return KafkaCheckpoint(config, connection, group, topics, None)


def committed(broker, group, tp):
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group, enable_auto_commit=False)
    try:
        return consumer.committed(tp, timeout_ms=5000)
    finally:
        consumer.close()


def test_what_was_written_is_loaded_and_the_groups_offset_agrees(kafka_broker, kafka_group, kafka_fill):
    member = kafka_group("cp-basic")().own("cp-basic-0", "cp-basic-1")
    kafka_fill("cp-basic", 0, 9)
    checkpoint = member.checkpoint
    assert checkpoint.load("cp-basic-0") is None
    written = checkpoint.write(
        [
            PartitionChange("cp-basic-0", 5, {b"a": b"1", b"b": b"2", b"": b"empty", b"\x00\x01": b"odd"}),
            PartitionChange("cp-basic-1", 3, {b"a": b"other"}),
        ],
        [],
    )
    assert written.bytes > 0
    checkpoint.write([PartitionChange("cp-basic-0", 9, {b"b": b"3"}, [b"a", b"never was"])], [])
    stored = checkpoint.load("cp-basic-0")
    assert stored is not None
    assert (stored.next_offset, stored.records) == (9, {b"b": b"3", b"": b"empty", b"\x00\x01": b"odd"})
    assert dict(checkpoint.scan()) == {"cp-basic-0": stored, "cp-basic-1": checkpoint.load("cp-basic-1")}
    assert committed(kafka_broker, "cp-basic", TopicPartition("cp-basic", 0)) == 9
    assert checkpoint.write([], []).bytes == 0


def test_a_failed_commit_leaves_nothing_and_the_next_succeeds(kafka_group, monkeypatch):
    member = kafka_group("cp-abort")().own("cp-abort-0")
    checkpoint = member.checkpoint
    checkpoint.write([PartitionChange("cp-abort-0", 1, {b"k": b"old"})], [])
    transactions = checkpoint._transactions
    finish, calls = transactions._finish, []

    def fail_second(producer, result, deadline):
        calls.append(1)
        if len(calls) == 2:
            raise KafkaTimeoutError("before the commit is awaited")
        finish(producer, result, deadline)

    def fail(*_):
        raise KafkaTimeoutError("injected")

    reject = Reject(1, -1, DecodeReason.EMPTY, "", b"x", [])
    with monkeypatch.context() as patch:
        patch.setattr(transactions, "_finish", fail)
        with pytest.raises(CheckpointError, match="injected"):
            checkpoint.write(
                [PartitionChange("cp-abort-0", 2, {b"k": b"new"})], [DeadLetter("cp-abort-0", reject)]
            )
    stored = checkpoint.load("cp-abort-0")
    assert stored is not None
    assert (stored.next_offset, stored.records) == (1, {b"k": b"old"})
    # A commit whose answer is lost is decided by the next load, whichever way.
    with monkeypatch.context() as patch:
        patch.setattr(transactions, "_finish", fail_second)
        with pytest.raises(CheckpointError):
            checkpoint.write([PartitionChange("cp-abort-0", 3, {b"k": b"newer"})], [])
    stored = checkpoint.load("cp-abort-0")
    assert stored is not None
    assert (stored.next_offset, stored.records[b"k"]) in {(1, b"old"), (3, b"newer")}
    checkpoint.write([PartitionChange("cp-abort-0", 4, {b"k": b"newest"})], [])
    assert checkpoint.load("cp-abort-0").next_offset == 4


def test_a_new_owner_waits_for_its_predecessors_open_transaction(kafka_group, monkeypatch):
    make = kafka_group("cp-takeover", 1)
    first = make(transaction_timeout_seconds=15).own("cp-takeover-0")
    first.checkpoint.write([PartitionChange("cp-takeover-0", 1, {b"k": b"1"})], [])
    transactions = first.checkpoint._transactions
    finish, go_on, offsets_sent = transactions._finish, threading.Event(), threading.Event()

    def hold(producer, result, deadline):
        finish(producer, result, deadline)
        if not offsets_sent.is_set():
            offsets_sent.set()
            assert go_on.wait(20)

    monkeypatch.setattr(transactions, "_finish", hold)
    changes = [PartitionChange("cp-takeover-0", 2, {b"k": b"2"})]
    writer = threading.Thread(target=first.checkpoint.write, args=(changes, []))
    writer.start()
    assert offsets_sent.wait(10)
    first.source.reset()
    second = make().own("cp-takeover-0")
    loaded = []
    loader = threading.Thread(target=lambda: loaded.append(second.checkpoint.load("cp-takeover-0")))
    loader.start()
    loader.join(1.0)
    assert loader.is_alive(), "state was trusted while the predecessor could still commit"
    go_on.set()
    writer.join(10)
    loader.join(10)
    assert (loaded[0].next_offset, loaded[0].records) == (2, {b"k": b"2"})


def test_a_dead_predecessors_transaction_is_waited_out(kafka_group, monkeypatch):
    make = kafka_group("cp-dead", 1)
    first = make(transaction_timeout_seconds=2).own("cp-dead-0")
    first.checkpoint.write([PartitionChange("cp-dead-0", 1, {b"k": b"1"})], [])
    transactions = first.checkpoint._transactions

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    monkeypatch.setattr(transactions, "_finish", die)
    monkeypatch.setattr(transactions, "_discard", lambda: None)
    with pytest.raises(Killed):
        first.checkpoint.write([PartitionChange("cp-dead-0", 2, {b"k": b"2"})], [])
    first.source.reset()
    second = make().own("cp-dead-0")
    began = time.monotonic()
    stored = second.checkpoint.load("cp-dead-0")
    assert (stored.next_offset, stored.records) == (1, {b"k": b"1"})
    assert time.monotonic() - began > 0.5
    monkeypatch.undo()


def test_load_gives_up_when_a_transaction_stays_open(kafka_broker, kafka_group):
    member = kafka_group("cp-stuck", 1)(transaction_timeout_seconds=1, load_timeout_seconds=1.5).own(
        "cp-stuck-0"
    )
    member.checkpoint.write([PartitionChange("cp-stuck-0", 1, {b"k": b"1"})], [])
    stranger = KafkaProducer(
        bootstrap_servers=kafka_broker.bootstrap, transactional_id="stranger", transaction_timeout_ms=60_000
    )
    stranger.init_transactions()
    stranger.begin_transaction()
    stranger.send("cp-stuck-mlmon-state", b"", state_key("cp-stuck-0", b"x"), partition=0).get(10)
    with pytest.raises(CheckpointError, match="could not be read to its end in time"):
        member.checkpoint.load("cp-stuck-0")
    # Those who only look do not wait.
    assert dict(member.checkpoint.scan())["cp-stuck-0"].next_offset == 1
    stranger.abort_transaction()
    stranger.close()
    assert member.checkpoint.load("cp-stuck-0").records == {b"k": b"1"}


def test_a_member_the_group_has_left_behind_is_refused_by_the_brokers(kafka_group, monkeypatch):
    make = kafka_group("cp-fence", 1)
    first = make().own("cp-fence-0")
    first.checkpoint.write([PartitionChange("cp-fence-0", 1, {b"k": b"1"})], [])
    stale = first.source.claim(["cp-fence-0"])
    first.source.reset()
    with pytest.raises(FencedError, match="rebalanced since"):
        first.checkpoint.write([PartitionChange("cp-fence-0", 2, {})], [])
    second = make().own("cp-fence-0")
    monkeypatch.setattr(first.source, "claim", lambda _: stale)  # as a thawed member believes
    for _ in range(2):
        with pytest.raises(FencedError, match="another member"):
            first.checkpoint.write([PartitionChange("cp-fence-0", 9, {b"k": b"stale"})], [])
    assert second.checkpoint.load("cp-fence-0").records == {b"k": b"1"}
    second.checkpoint.write([PartitionChange("cp-fence-0", 2, {b"k": b"2"})], [])
    # The fenced one starts over and is as good as new.
    monkeypatch.undo()
    second.source.reset()
    second.close()
    first.own("cp-fence-0")
    assert first.checkpoint.load("cp-fence-0").next_offset == 2
    first.checkpoint.write([PartitionChange("cp-fence-0", 3, {b"k": b"3"})], [])
    assert first.checkpoint.load("cp-fence-0").records == {b"k": b"3"}


def test_partitions_of_others_are_refused_before_anything_is_sent(kafka_group):
    member = kafka_group("cp-foreign")().own("cp-foreign-0", "cp-foreign-1")
    with pytest.raises(FencedError, match="cp-foreign-7"):
        member.checkpoint.write([PartitionChange("cp-foreign-7", 1, {})], [])


def test_dead_letters_carry_bytes_place_and_reason(kafka_broker, kafka_group):
    member = kafka_group("cp-letters", 1)(dead_letter_max_bytes=2000).own("cp-letters-0")
    whole = Reject(
        41, 3, DecodeReason.WRONG_TYPE, "expected a number", b"\xff\x00", [("content-type", b"x/y")]
    )
    large = Reject(42, -1, DecodeReason.TOO_LARGE, "x" * 5000, b"z" * 5000, [("big", b"h" * 40_000)])
    member.checkpoint.write(
        [PartitionChange("cp-letters-0", 43, {})],
        [DeadLetter("cp-letters-0", whole), DeadLetter("cp-letters-0", large)],
    )
    consumer = KafkaConsumer(
        member.checkpoint.dead_letter_topic,
        bootstrap_servers=kafka_broker.bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        consumer_timeout_ms=10_000,
    )
    first, second = next(consumer), next(consumer)
    consumer.close()
    assert first.value == b"\xff\x00"
    assert first.headers == [
        ("content-type", b"x/y"),
        ("mlmon-reason", b"wrong_type"),
        ("mlmon-detail", b"expected a number"),
        ("mlmon-partition", b"cp-letters-0"),
        ("mlmon-offset", b"41"),
        ("mlmon-row", b"3"),
    ]
    assert len(second.value) == 2000
    assert dict(second.headers)["mlmon-size"] == b"5000"
    assert len(dict(second.headers)["mlmon-detail"]) == 2000
    assert "big" not in dict(second.headers)


def test_the_largest_letter_fits_its_topic(kafka_group):
    member = kafka_group("cp-huge", 1)(compression="none").own("cp-huge-0")
    reject = Reject(1, -1, DecodeReason.TOO_LARGE, "d" * 9000, b"z" * 3_000_000, [("h", b"h" * 32_000)])
    member.checkpoint.write(
        [PartitionChange("cp-huge-0", 2, {b"k": b"v" * 2_000_000})], [DeadLetter("cp-huge-0", reject)]
    )
    assert len(member.checkpoint.load("cp-huge-0").records[b"k"]) == 2_000_000


def test_peers_are_read_from_the_end(kafka_group):
    member = kafka_group("cp-peers", 3)().own("cp-peers-0", "cp-peers-1", "cp-peers-2")
    for turn in (b"1", b"2"):
        member.checkpoint.write(
            [
                PartitionChange(f"cp-peers-{n}", 1, {b"k%d" % i: b"v" for i in range(50)} | {b"meta": turn})
                for n in (0, 2)
            ],
            [],
        )
    assert member.checkpoint.peers(frozenset()) == {"cp-peers-0": b"2", "cp-peers-2": b"2"}
    assert member.checkpoint.peers(frozenset({"cp-peers-0", "cp-peers-1"})) == {"cp-peers-2": b"2"}


def test_topics_that_do_not_fit_are_refused_with_a_remedy(kafka_broker, kafka_group):
    make = kafka_group("cp-shape", 3)
    kafka_broker.create_topic("cp-shape-narrow", 2, {"cleanup.policy": "compact"})
    kafka_broker.create_topic("cp-shape-wide", 4, {"cleanup.policy": "compact"})
    kafka_broker.create_topic("cp-shape-deleting", 3)
    for topic, message in (
        ("cp-shape-narrow", "has 2 partitions, expected 3.*add partitions"),
        ("cp-shape-wide", "has 4 partitions, expected 3.*another"),
        ("cp-shape-deleting", "cleanup.policy=delete"),
    ):
        with pytest.raises(CheckpointError, match=message):
            make(state_topic=topic).checkpoint.load("cp-shape-0")
    with contextlib.closing(reader(kafka_broker, ["cp-nowhere"], "cp-nowhere")) as nowhere:
        with pytest.raises(CheckpointError, match="there is no topic cp-nowhere"):
            nowhere.load("cp-nowhere-0")
        assert list(nowhere.scan()) == []
        with pytest.raises(CheckpointError, match="for reading only"):
            nowhere.write([PartitionChange("cp-nowhere-0", 1, {})], [])


def test_created_topics_are_compacted_and_bounded(kafka_group):
    member = kafka_group("cp-made", 3)().own("cp-made-0")
    member.checkpoint.load("cp-made-0")
    topics = member.checkpoint._topics
    assert topics.partitions([member.checkpoint.state_topic]) == {"cp-made-mlmon-state": 3}
    assert topics.setting("cp-made-mlmon-state", "cleanup.policy") == "compact"
    assert topics.setting("cp-made-mlmon-state", "segment.ms") == "600000"
    assert topics.setting("cp-made-mlmon-dead-letters", "retention.bytes") == str(1024**3)


def test_records_of_others_in_the_state_topic_are_an_error(kafka_broker, kafka_group):
    member = kafka_group("cp-alien", 1)().own("cp-alien-0")
    member.checkpoint.write([PartitionChange("cp-alien-0", 1, {b"k": b"v"})], [])
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    producer.send("cp-alien-mlmon-state", b"hello", b"no zero byte", partition=0).get(10)
    producer.close()
    with pytest.raises(CheckpointError, match="mlmon did not write"):
        member.checkpoint.load("cp-alien-0")


def test_no_broker_is_said_soon():
    connection = KafkaConnection(bootstrap_servers=("127.0.0.1:1",), connect_timeout_seconds=0.3)
    before = threading.active_count()
    checkpoint = KafkaCheckpoint(KafkaCheckpointConfig(), connection, "g", ["t"], None)
    for _ in range(3):
        with pytest.raises(CheckpointError, match=r"127\.0\.0\.1:1.*no broker answers"):
            checkpoint.load("t-0")
    checkpoint.close()
    assert threading.active_count() == before, "an attempt left a thread behind"


@pytest.mark.parametrize("inner", [b"", b"meta", b"\x00", b"\x01", b"a\x00b\x01"])
def test_keys_are_told_apart_whatever_they_contain(inner):
    assert split_key(state_key("a.b-c_1-0", inner)) == ("a.b-c_1-0", inner)
    assert split_key(position_key("a.b-c_1-0")) == ("a.b-c_1-0", None)
    assert state_key("p-0", inner) != position_key("p-0")


@pytest.mark.parametrize("raw", [b"", b"name", b"name\x01more"])
def test_keys_of_others_are_refused(raw):
    with pytest.raises(ValueError, match="state record"):
        split_key(raw)


def test_impossible_timeouts_are_refused():
    with pytest.raises(ValueError, match="load_timeout_seconds"):
        KafkaCheckpointConfig(transaction_timeout_seconds=30, load_timeout_seconds=30)


def test_letters_without_headers():
    value, headers = letter_record(DeadLetter("p-0", Reject(1, -1, DecodeReason.EMPTY, "", b"", [])), 10)
    assert value == b""
    assert next(key for key, _ in headers) == "mlmon-reason"
