"""The check names exactly the rights that are missing, and changes nothing."""

from __future__ import annotations

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)

from mlmon.checkpoint.base import DeadLetter, PartitionChange
from mlmon.checkpoint.kafka import KafkaCheckpoint, KafkaCheckpointConfig
from mlmon.errors import DecodeReason
from mlmon.events.record import Reject
from mlmon.kafka_check import check_kafka
from mlmon.sources.kafka import KafkaConfig, KafkaSource


def bad(findings):
    return [(finding.what, finding.remedy) for finding in findings if not finding.ok]


def test_no_broker():
    config = KafkaConfig(bootstrap_servers=("127.0.0.1:1",), connect_timeout_seconds=0.3)
    ((what, remedy),) = bad(check_kafka(config, None))
    assert "no Kafka broker answers at 127.0.0.1:1" in what
    assert "source.kafka.bootstrap_servers" in remedy


def test_a_missing_secret():
    config = KafkaConfig(sasl_mechanism="PLAIN", sasl_username="me", sasl_password_env="NOWHERE_SET")  # noqa: S106
    ((_, remedy),) = bad(check_kafka(config, None))
    assert "NOWHERE_SET" in remedy


@pytest.mark.kafka
def test_missing_topics_and_widths(kafka_broker):
    config = KafkaConfig(bootstrap_servers=(kafka_broker.bootstrap,), topics=("chk-none",), group="chk-none")
    assert bad(check_kafka(config, KafkaCheckpointConfig())) == [
        ("there is no topic chk-none", "create it, or correct source.kafka.topics")
    ]
    admin = kafka_broker.admin()
    assert not [topic for topic in admin.list_topics() if topic.startswith("chk-none")], (
        "the check made topics"
    )
    admin.close()
    kafka_broker.create_topic("chk-in", 3)
    kafka_broker.create_topic("chk-in-mlmon-state", 2, {"cleanup.policy": "compact"})
    config = KafkaConfig(bootstrap_servers=(kafka_broker.bootstrap,), topics=("chk-in",), group="chk-in")
    ((what, _),) = bad(check_kafka(config, KafkaCheckpointConfig()))
    assert what == "topic chk-in-mlmon-state has 2 partitions, the input has 3"
    assert bad(check_kafka(config, None)) == []


@pytest.mark.kafka
def test_rights_are_named_one_by_one(kafka_broker, monkeypatch):
    if kafka_broker.sasl_bootstrap is None:
        pytest.skip("this broker has no SASL listener")
    monkeypatch.setenv("ALICE", "alice-secret")
    kafka_broker.create_topic("acl-in", 2)
    config = KafkaConfig(
        bootstrap_servers=(kafka_broker.sasl_bootstrap,),
        topics=("acl-in",),
        group="acl",
        sasl_mechanism="PLAIN",
        sasl_username="alice",
        sasl_password_env="ALICE",  # noqa: S106
    )
    checkpoint = KafkaCheckpointConfig()
    admin = kafka_broker.admin()
    granted = []

    def grant(kind, name, operation, pattern=ACLResourcePatternType.LITERAL):
        acl = ACL("User:alice", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name, pattern))
        admin.create_acls([acl])
        granted.append(acl)

    def remedies(expected):
        """The check's remedies, as soon as the brokers have taken the grants in."""
        found = []
        for _ in range(50):
            found = [remedy for _, remedy in bad(check_kafka(config, checkpoint))]
            if found == expected:
                break
        return found

    wanted = [
        "allow Describe and Read on Topic acl-in to User:alice",
        "allow Read on Group acl to User:alice",
        "allow Describe and Read and Write on Topic acl-mlmon-state to User:alice",
        "allow Describe and Write on Topic acl-mlmon-dead-letters to User:alice",
        "allow Write on TransactionalId acl-mlmon- (prefixed) to User:alice",
    ]
    try:
        assert remedies(wanted) == wanted
        grant(ResourceType.TOPIC, "acl-in", ACLOperation.READ)
        grant(ResourceType.GROUP, "acl", ACLOperation.READ)
        grant(ResourceType.TOPIC, "acl-mlmon-state", ACLOperation.WRITE)
        wanted = ["allow Read on Topic acl-mlmon-state to User:alice", *wanted[3:]]
        assert remedies(wanted) == wanted
        grant(ResourceType.TOPIC, "acl-mlmon-state", ACLOperation.READ)
        grant(ResourceType.TOPIC, "acl-mlmon-dead-letters", ACLOperation.WRITE)
        wanted = [
            "allow Create on Topic acl-mlmon-state to User:alice",
            "allow Create on Topic acl-mlmon-dead-letters to User:alice",
            wanted[-1],
        ]
        assert remedies(wanted) == wanted
        grant(ResourceType.TOPIC, "acl-mlmon-", ACLOperation.CREATE, ACLResourcePatternType.PREFIXED)
        grant(
            ResourceType.TRANSACTIONAL_ID, "acl-mlmon-", ACLOperation.WRITE, ACLResourcePatternType.PREFIXED
        )
        assert remedies([]) == []
        _runs_with_these_rights(config, checkpoint)
    finally:
        admin.delete_acls(granted)
        admin.close()


def _runs_with_these_rights(config, checkpoint):
    """The rights that the check asks for are enough to run."""
    source = KafkaSource(config)
    store = KafkaCheckpoint(checkpoint, config, config.group, config.topics, source)
    try:
        assigned = []
        for _ in range(200):
            assigned += source.poll(0.1).assigned
            if assigned:
                break
        for partition in assigned:
            assert store.load(partition) is None
            source.seek(partition, None)
        letter = DeadLetter("acl-in-0", Reject(0, -1, DecodeReason.EMPTY, "", b"", []))
        store.write([PartitionChange("acl-in-0", 0, {b"meta": b"m"})], [letter])
        assert store.load("acl-in-0").records == {b"meta": b"m"}
        assert dict(store.scan()).keys() == {"acl-in-0"}
        assert store.peers(frozenset()) == {"acl-in-0": b"m"}
    finally:
        store.close()
        source.close()
