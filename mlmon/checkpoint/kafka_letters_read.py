"""Dead letters out of their topic, for people: `mlmon dlq`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from mlmon.checkpoint.letters import Letter
from mlmon.errors import CheckpointError
from mlmon.kafka_client import client_settings, open_client, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.events.record import Record
    from mlmon.kafka_client import KafkaConnection

__all__ = ["read_kafka_letters"]


def read_kafka_letters(
    connection: KafkaConnection, topic: str, timeout_seconds: float = 30.0
) -> Iterator[Letter]:
    """Every committed letter of the topic as it is now, partition by partition; joins no group.

    Raises:
        CheckpointError: the topic cannot be read, or not to its end in time.
    """
    settings = client_settings(connection) | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
    }
    deadline = time.monotonic() + timeout_seconds
    try:
        consumer = open_client(KafkaConsumer, settings)
        try:
            numbers = sorted(consumer.partitions_for_topic(topic) or ())
            for tp in (TopicPartition(topic, number) for number in numbers):
                yield from _read(consumer, tp, deadline)
        finally:
            consumer.close(autocommit=False, timeout_ms=2000)
    except KafkaError as error:
        raise CheckpointError(f"the dead letters {topic} cannot be read ({reason(error)})") from error


def _read(consumer: KafkaConsumer, tp: TopicPartition, deadline: float) -> Iterator[Letter]:
    consumer.assign([tp])
    end = consumer.end_offsets([tp])[tp]
    consumer.seek_to_beginning(tp)
    while (consumer.position(tp) or 0) < end:
        for records in consumer.poll(timeout_ms=200).values():
            yield from map(_letter, records)
        if time.monotonic() > deadline:
            raise CheckpointError(f"the dead letters {tp.topic} could not be read to their end in time")


def _letter(record: Record) -> Letter:
    """The letter that `kafka_letters.letter_record` made a record of."""
    added = {key: value.decode(errors="replace") for key, value in record.headers if key.startswith("mlmon-")}
    payload = record.value or b""
    return Letter(
        partition=added.get("mlmon-partition", ""),
        offset=int(added.get("mlmon-offset", -1)),
        row=int(added.get("mlmon-row", -1)),
        reason=added.get("mlmon-reason", ""),
        detail=added.get("mlmon-detail", ""),
        headers=[(key, value) for key, value in record.headers if not key.startswith("mlmon-")],
        payload=payload,
        payload_bytes=int(added.get("mlmon-size", len(payload))),
        received_us=record.timestamp * 1000,
    )
