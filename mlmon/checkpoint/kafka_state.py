"""The state topic as a table: how its records are keyed, and reading partitions of it to a given end.

A record's key is the input partition's name, a byte, and for state records the state's own key. The byte is 0
for state and 1 for the position, so neither can be taken for the other whatever a state key contains (a
topic's name contains neither byte).
"""

from __future__ import annotations

import contextlib
import struct
import time
from typing import TYPE_CHECKING

from kafka import KafkaConsumer
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from mlmon.checkpoint.base import Stored
from mlmon.errors import CheckpointError
from mlmon.kafka_client import client_settings, open_client, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlmon.kafka_client import KafkaConnection

__all__ = ["StateReader", "Tables", "position_key", "position_value", "split_key", "state_key"]

_POSITION = struct.Struct(">q")


def state_key(partition: str, key: bytes) -> bytes:
    """Key of a state record.

    Example:
        >>> split_key(state_key("events-0", b"meta"))
        ('events-0', b'meta')
    """
    return partition.encode() + b"\x00" + key


def position_key(partition: str) -> bytes:
    """Key of a position record.

    Example:
        >>> split_key(position_key("events-0"))
        ('events-0', None)
    """
    return partition.encode() + b"\x01"


def position_value(offset: int) -> bytes:
    """Value of a position record: eight bytes, big-endian."""
    return _POSITION.pack(offset)


def split_key(raw: bytes) -> tuple[str, bytes | None]:
    """The input partition's name and the state's key; None: the record is a position.

    Raises:
        ValueError: not a key of a state topic.
    """
    for index, byte in enumerate(raw):
        if byte == 0:
            return raw[:index].decode(), raw[index + 1 :]
        if byte == 1 and index == len(raw) - 1:
            return raw[:index].decode(), None
    raise ValueError(f"expected the key of a state record, got {raw[:40]!r}")


class Tables:
    """What records of a state topic, applied in order, leave standing."""

    def __init__(self, only: str | None = None) -> None:
        self._only = only
        self._records: dict[str, dict[bytes, bytes]] = {}
        self._positions: dict[str, int] = {}

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record.

        Raises:
            CheckpointError: it is not a state record.
        """
        try:
            name, inner = split_key(key or b"")
            if self._only is not None and name != self._only:
                return
            if inner is None:
                self._place(name, value)
                return
        except (ValueError, struct.error) as error:
            raise CheckpointError(
                f"the state topic holds a record that mlmon did not write ({error}); name a topic of its own"
            ) from error
        records = self._records.setdefault(name, {})
        if value is None:
            records.pop(inner, None)
        else:
            records[inner] = value

    def _place(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._positions.pop(name, None)
        else:
            (self._positions[name],) = _POSITION.unpack(value)

    def stored(self) -> dict[str, Stored]:
        """By partition.

        Raises:
            CheckpointError: a partition has state but no position.
        """
        orphans = [name for name, records in self._records.items() if records and name not in self._positions]
        if orphans:
            raise CheckpointError(
                f"the state topic has state but no position for {', '.join(sorted(orphans))}: records were "
                "removed from it; delete the topic (counting then goes on from the group's committed offsets)"
            )
        return {name: Stored(offset, self._records.get(name, {})) for name, offset in self._positions.items()}


class StateReader:
    """Reads committed records of one topic, outside any group; one consumer, opened when first needed."""

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._consumer: KafkaConsumer | None = None

    def read(
        self, spans: Mapping[int, tuple[int | None, int]], deadline: float
    ) -> Iterator[tuple[int, bytes | None, bytes | None]]:
        """Records (state partition, key, value) of these spans, each partition's in order.

        Args:
            spans: by state partition: first offset (None: the beginning) and end, exclusive.
            deadline: of `time.monotonic`.

        Raises:
            CheckpointError: the ends were not reached in time (a transaction is still open before one of
                them, or brokers do not answer), or reading failed.
        """
        ends = {TopicPartition(self._topic, number): end for number, (_, end) in spans.items() if end > 0}
        if not ends:
            return
        try:
            consumer = self._consumer or self._open()
            consumer.assign(list(ends))
            for tp in ends:
                start = spans[tp.partition][0]
                if start is None:
                    consumer.seek_to_beginning(tp)
                else:
                    consumer.seek(tp, start)
            yield from self._drain(consumer, ends, deadline)
        except KafkaError as error:
            self.close()
            raise CheckpointError(
                f"the state topic {self._topic} cannot be read ({reason(error)})"
            ) from error
        except BaseException:
            self.close()
            raise

    def _drain(
        self, consumer: KafkaConsumer, ends: dict[TopicPartition, int], deadline: float
    ) -> Iterator[tuple[int, bytes | None, bytes | None]]:
        left = dict(ends)
        while left:
            for tp, records in consumer.poll(timeout_ms=20).items():
                for record in records:
                    yield tp.partition, record.key, record.value
            # The position, not the last record: an end is often a control record or an aborted batch, which
            # yields nothing but moves the position.
            positions = {tp: consumer.position(tp, timeout_ms=1000) for tp in left}
            left = {tp: end for tp, end in left.items() if (positions[tp] or 0) < end}
            if left and time.monotonic() > deadline:
                where = ", ".join(f"{tp.partition} at {positions[tp]} of {end}" for tp, end in left.items())
                raise CheckpointError(
                    f"the state topic {self._topic} could not be read to its end in time (partition "
                    f"{where}): another member's transaction is still open, or brokers do not "
                    "answer; it is tried again"
                )

    def _open(self) -> KafkaConsumer:
        settings = client_settings(self._connection) | {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
            "max_poll_records": 10_000,
            "fetch_max_wait_ms": 20,
            "max_partition_fetch_bytes": 4 * 1024 * 1024,
            "metrics_enabled": False,
        }
        self._consumer = open_client(KafkaConsumer, settings)
        return self._consumer

    def close(self) -> None:
        """Free the consumer."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(Exception):
                consumer.close(autocommit=False, timeout_ms=2000)
