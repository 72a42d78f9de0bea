"""Members of Kafka groups, for tests of the checkpoint."""

from __future__ import annotations

import itertools
import time

import pytest
from kafka import KafkaProducer

from mlmon.checkpoint.kafka import KafkaCheckpoint, KafkaCheckpointConfig
from mlmon.sources.kafka import KafkaConfig, KafkaSource


class Member:
    """A source and its checkpoint."""

    def __init__(self, bootstrap, topics, group, **settings):
        self.config = KafkaConfig(
            bootstrap_servers=(bootstrap,), topics=topics, group=group, session_timeout_seconds=6
        )
        self.source = KafkaSource(self.config)
        settings = {
            "replication_factor": 1,
            "transaction_timeout_seconds": 5,
            "load_timeout_seconds": 20,
        } | settings
        self.checkpoint = KafkaCheckpoint(
            KafkaCheckpointConfig(**settings), self.config, group, topics, self.source
        )

    def own(self, *partitions, seconds=20):
        """Poll until these are assigned; seek nothing."""
        left = set(partitions)
        deadline = time.monotonic() + seconds
        while left:
            assert time.monotonic() < deadline, f"not assigned in time: {left}"
            left -= set(self.source.poll(0.1).assigned)
        return self

    def close(self):
        self.source.close()
        self.checkpoint.close()


@pytest.fixture
def kafka_group(kafka_broker):
    """Make a topic of some partitions and members of one group over it: `(topic, make_member)`."""
    members = []

    def make(name, partitions=2):
        kafka_broker.create_topic(name, partitions)

        def member(**settings):
            members.append(Member(kafka_broker.bootstrap, (name,), name, **settings))
            return members[-1]

        return member

    yield make
    for member in members:
        member.close()


@pytest.fixture
def kafka_fill(kafka_broker):
    """Append records to a partition: `fill(topic, partition, count)`."""
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    numbers = itertools.count()

    def fill(topic, partition, count):
        for _ in range(count):
            producer.send(topic, b"%d" % next(numbers), partition=partition)
        producer.flush(20)

    yield fill
    producer.close()
