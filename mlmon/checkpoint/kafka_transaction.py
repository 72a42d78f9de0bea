"""One Kafka transaction from beginning to end, in bounded time, by a producer discarded after any fault.

kafka-python's `send_offsets_to_transaction` and `commit_transaction` wait without limit, and `close` gives up
half-way when records are unsent, so this goes through the producer's transaction manager and sender directly
(private parts; the version is bounded for that).
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    InvalidProducerEpochError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFencedError,
    UnknownMemberIdError,
)

from mlmon.errors import CheckpointError, FencedError
from mlmon.kafka_client import client_settings, open_client, reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition

    from mlmon.kafka_client import KafkaConnection

__all__ = ["Outgoing", "Transactions"]

log = logging.getLogger(__name__)

FENCED = (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    InvalidProducerEpochError,
    ProducerFencedError,
    UnknownMemberIdError,
)
ABORT_SECONDS = 2.0
MAX_RECORD_BYTES = 8 * 1024 * 1024 - 4096


class Outgoing(NamedTuple):
    """A record to be sent; value None: a tombstone."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None


class Transactions:
    """Commits transactions under one transactional id, one at a time."""

    def __init__(
        self,
        connection: KafkaConnection,
        transactional_id: str,
        timeout_seconds: float,
        compression: str | None,
    ) -> None:
        self._connection = connection
        self._id = transactional_id
        self._timeout = timeout_seconds
        self._compression = compression
        self._producer: KafkaProducer | None = None
        self._undecided = False

    def commit(
        self,
        records: Sequence[Outgoing],
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        membership: ConsumerGroupMetadata,
    ) -> int:
        """Send all, add the offsets under the membership, commit; returns bytes of keys and values.

        Raises:
            FencedError: the brokers do not know the membership any more, or have aborted the transaction.
            CheckpointError: anything else; the transaction was aborted or is undecided.
        """
        try:
            producer = self._producer or self._open()
            deadline = time.monotonic() + self._timeout
            self._undecided = True
            producer.begin_transaction()
            size = _send(producer, records, deadline)
            manager = producer._transaction_manager
            if offsets:
                self._finish(
                    producer, manager.send_offsets_to_transaction(dict(offsets), membership), deadline
                )
            self._finish(producer, manager.begin_commit(), deadline)
            self._undecided = False
        except (KafkaError, ValueError, TypeError) as error:
            cause = self._discard() or error
            message = f"the commit to Kafka failed ({reason(cause)})"
            if isinstance(cause, FENCED) or isinstance(error, FENCED):
                raise FencedError(f"{message}: another member owns the partitions now") from error
            raise CheckpointError(message) from error
        except BaseException:
            self._discard()
            raise
        return size

    def settle(self) -> None:
        """Have the brokers decide a transaction that this process left open, now and not at its timeout.

        Raises:
            CheckpointError: the brokers do not answer.
        """
        if not self._undecided:
            return
        try:
            if self._producer is None:
                self._open()
        except (KafkaError, ValueError) as error:
            self._discard()
            self._undecided = True
            raise CheckpointError(f"the last transaction cannot be decided yet ({reason(error)})") from error

    def close(self) -> None:
        """Free the producer; an open transaction is aborted."""
        self._discard()

    def _open(self) -> KafkaProducer:
        connection_ms = round(self._connection.request_timeout_seconds * 1000)
        timeout_ms = round(self._timeout * 1000)
        settings = client_settings(self._connection) | {
            "transactional_id": self._id,
            "transaction_timeout_ms": timeout_ms,
            "request_timeout_ms": min(connection_ms, timeout_ms),
            # No record is worth more than its transaction.
            "delivery_timeout_ms": min(connection_ms, timeout_ms) + 1000,
            "max_block_ms": timeout_ms,
            # A transaction begun just after another meets the brokers still at work on that one.
            "retry_backoff_ms": 20,
            # Batches fill while records are handed over; flush sends them at once.
            "linger_ms": 500,
            "batch_size": 256 * 1024,
            "max_request_size": MAX_RECORD_BYTES,
            "compression_type": self._compression,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        producer = open_client(KafkaProducer, settings)
        self._producer = producer
        # Under the same id as before: the brokers abort whatever the last producer left open.
        producer.init_transactions()
        self._undecided = False
        return producer

    def _finish(self, producer: KafkaProducer, result: Any, deadline: float) -> None:
        producer._sender.wakeup()
        if not result.wait(timeout_ms=max(0.0, deadline - time.monotonic()) * 1000):
            raise KafkaTimeoutError(f"no answer within {self._timeout:g} s")

    def _discard(self) -> BaseException | None:
        """Abort what is open and be rid of the producer; returns the producer's own account of the fault."""
        producer, self._producer = self._producer, None
        if producer is None:
            return None
        manager = producer._transaction_manager
        cause: BaseException | None = manager.last_error
        if self._undecided:
            try:
                self._finish(producer, manager.begin_abort(), time.monotonic() + ABORT_SECONDS)
                self._undecided = False
            except Exception as error:  # noqa: BLE001 - the fault that led here is the one to tell
                log.info("a transaction is left to the brokers to decide (%s)", reason(error))
        with contextlib.suppress(Exception):
            producer._sender.force_close()
            producer.close(timeout=ABORT_SECONDS)
        return cause


def _send(producer: KafkaProducer, records: Sequence[Outgoing], deadline: float) -> int:
    """Send records and see every one acknowledged; returns bytes of keys and values."""
    futures = []
    size = 0
    for record in records:
        futures.append(
            producer.send(record.topic, record.value, record.key, record.headers, partition=record.partition)
        )
        size += len(record.key) + len(record.value or b"")
    producer.flush(max(0.001, deadline - time.monotonic()))
    for future in futures:
        if not future.succeeded():
            raise future.exception or KafkaTimeoutError("a record was not acknowledged")
    return size
