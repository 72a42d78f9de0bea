"""Harnesses of what needs a broker: topics, and state in a topic."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from mlmon.checkpoint.kafka import KafkaCheckpoint, KafkaCheckpointConfig
from mlmon.errors import SourceError
from mlmon.sources.kafka import KafkaConfig, KafkaSource

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKS = (pytest.mark.kafka,)

SESSION_SECONDS = 2.0
_names = (f"contract-{os.getpid()}-{n}" for n in itertools.count())


def _die(source: KafkaSource) -> None:
    """What a killed process leaves: a member that is silent, and that nobody has told the group about."""
    consumer = source._consumer
    if consumer is not None:
        consumer._coordinator._close_heartbeat()
        consumer._net.stop(timeout_ms=1000)


class TopicHarness:
    """A topic of two partitions, read by a group of one."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._name = next(_names)
        broker.create_topic(self._name, 2)
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
        self._sources: list[KafkaSource] = []

    def append(self, hint: int, values: Sequence[bytes]) -> None:
        for value in values:
            self._producer.send(self._name, value, partition=hint % 2, headers=[("h", b"v")])
        self._producer.flush(20)

    def make_source(
        self,
        *,
        start: Any = "earliest",
        max_records: int = 1000,
        max_bytes: int = 1 << 20,
        bounded: bool = False,
    ) -> KafkaSource:
        assert not bounded
        config = KafkaConfig(
            bootstrap_servers=(self._broker.bootstrap,),
            topics=(self._name,),
            group=self._name,
            auto_offset_reset=start,
            session_timeout_seconds=SESSION_SECONDS,
            max_poll_records=max_records,
            max_partition_fetch_bytes=max_bytes,
            fetch_max_bytes=max_bytes,
        )
        self._sources.append(KafkaSource(config))
        return self._sources[-1]

    def abandon(self, source: KafkaSource) -> None:
        _die(source)

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self._producer.close()


class StateTopicHarness:
    """A state topic of two partitions; each checkpoint made takes the partitions from the one before."""

    rival = "fences"

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._name = next(_names)
        self.partitions = (f"{self._name}-0", f"{self._name}-1")
        broker.create_topic(self._name, 2)
        self._sources: list[KafkaSource] = []
        self._checkpoints: dict[int, tuple[KafkaCheckpoint, KafkaSource | None]] = {}

    def _config(self) -> KafkaConfig:
        return KafkaConfig(
            bootstrap_servers=(self._broker.bootstrap,),
            topics=(self._name,),
            group=self._name,
            session_timeout_seconds=SESSION_SECONDS,
        )

    def _open(self, source: KafkaSource | None) -> KafkaCheckpoint:
        config = self._config()
        settings = KafkaCheckpointConfig(
            replication_factor=1, transaction_timeout_seconds=3, load_timeout_seconds=20
        )
        made = KafkaCheckpoint(settings, config, self._name, (self._name,), source)
        self._checkpoints[id(made)] = made, source
        return made

    def make(self) -> KafkaCheckpoint:
        for earlier in self._sources:
            _die(earlier)
        source = KafkaSource(self._config())
        self._sources.append(source)
        left = set(self.partitions)
        deadline = time.monotonic() + 60
        while left:
            assert time.monotonic() < deadline, f"not assigned in time: {left}"
            with contextlib.suppress(SourceError):
                left -= set(source.poll(0.1).assigned)
        return self._open(source)

    def observer(self) -> KafkaCheckpoint:
        return self._open(None)

    def abandon(self, checkpoint: KafkaCheckpoint) -> None:
        """The member falls silent; the next one waits until the group has given it up."""
        _, source = self._checkpoints[id(checkpoint)]
        if source is not None:
            _die(source)

    def letters(self) -> list[tuple[str, int, int, str, bytes]]:
        consumer = KafkaConsumer(
            bootstrap_servers=self._broker.bootstrap,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        tp = TopicPartition(f"{self._name}-mlmon-dead-letters", 0)
        consumer.assign([tp])
        end = consumer.end_offsets([tp])[tp]
        found = []
        deadline = time.monotonic() + 60
        while consumer.position(tp) < end:
            assert time.monotonic() < deadline
            for record in consumer.poll(100).get(tp, []):
                headers = dict(record.headers)
                found.append(
                    (
                        headers["mlmon-partition"].decode(),
                        int(headers["mlmon-offset"]),
                        int(headers["mlmon-row"]),
                        headers["mlmon-reason"].decode(),
                        record.value,
                    )
                )
        consumer.close()
        return found

    def close(self) -> None:
        for checkpoint, _ in self._checkpoints.values():
            checkpoint.close()
        for source in self._sources:
            source.close()


LIVE_SOURCES = {"kafka": lambda path, request: TopicHarness(request.getfixturevalue("kafka_broker"))}
SOURCES = LIVE_SOURCES
CHECKPOINTS = {"kafka": lambda path, request: StateTopicHarness(request.getfixturevalue("kafka_broker"))}
