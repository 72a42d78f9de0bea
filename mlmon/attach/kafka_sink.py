"""Records into a Kafka topic, in order and without duplicates over outages of the broker.

One record is under way at a time. While a broker is away the producer keeps that record and its sequence
number and goes on trying, so a retry can't write it twice; nothing more is buffered here, the emitter's queue
is the buffer. Only when the producer itself has to be made anew (a fatal error, or no acknowledgement for
`delivery_timeout_seconds`) may a record whose acknowledgement was lost be written a second time.
"""

from __future__ import annotations

import atexit
import contextlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, RecordListTooLargeError

from mlmon.attach.sinks import RefusedError
from mlmon.errors import SourceError
from mlmon.kafka_client import KafkaConnection, client_settings, open_client, reason

if TYPE_CHECKING:
    from kafka.producer.future import FutureRecordMetadata

    from mlmon.attach.sinks import OutRecord

__all__ = ["KafkaSink", "KafkaSinkConfig"]

#: Producers a forked child inherited. They are kept, since their finalizer would use the parent's sockets.
_INHERITED: list[Any] = []


class KafkaSinkConfig(KafkaConnection, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where and how records are produced; addresses, TLS and SASL are those of every Kafka component."""

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=249, description="Topic to write to.")] = (
        "mlmon.events"
    )
    compression: Annotated[
        Literal["none", "lz4", "zstd"],
        msgspec.Meta(description="Compression of records. zstd is smaller, lz4 takes less time."),
    ] = "lz4"
    max_request_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=16_384,
            le=1 << 30,
            description="Largest record, before compression; not more than the brokers' message.max.bytes. "
            "Larger ones are dropped and counted.",
        ),
    ] = 1024 * 1024
    ack_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=300,
            description="How long one attempt waits for all in-sync replicas before it is counted as failed; "
            "the record stays under way.",
        ),
    ] = 5.0
    delivery_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=60,
            le=1_000_000,
            description="After this long without acknowledgement the record is sent anew by a new producer, "
            "and may be in the log twice.",
        ),
    ] = 3600.0


class KafkaSink:
    """An idempotent producer (`acks=all`) that connects on the first write.

    Threads: two of kafka-python's while connected. Memory: one record.

    Raises:
        ConfigError: a secret or file that the configuration names is not there.
    """

    def __init__(self, config: KafkaSinkConfig) -> None:
        self._config = config
        self._producer: Any = None
        self._under_way: tuple[OutRecord, FutureRecordMetadata] | None = None
        client_settings(config)  # a missing secret is said at start-up, not in the emitter's thread

    def write(self, record: OutRecord) -> None:
        """Send and wait for the acknowledgement of all in-sync replicas.

        Blocks for up to `connect_timeout_seconds` while connecting, then `ack_seconds`.

        Raises:
            SourceError: no broker answered, it let us not in, or the acknowledgement is still awaited.
            RefusedError: the record is larger than the producer or the broker takes.
        """
        try:
            future = self._send(record)
            future.get(timeout=self._config.ack_seconds)
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            # kafka-python 3.0 goes on failing whatever it is given after the broker refused a batch
            self._discard(0.0)
            raise RefusedError(
                f"a record of {len(record.value)} bytes is too large for {self._where()} ({reason(error)}): "
                "lower record_bytes of the emitter, or raise max_request_bytes and message.max.bytes"
            ) from error
        except Exception as error:
            waiting = isinstance(error, KafkaTimeoutError) and not self._failed()
            if not waiting:
                self._discard(0.0)
            raise SourceError(f"{self._where()} did not take a record ({reason(error)})") from error
        self._under_way = None

    def close(self, timeout_seconds: float) -> None:
        """End the producer's threads; what is still under way gets this long."""
        self._discard(timeout_seconds)

    def after_fork(self) -> None:
        """Leave the inherited producer alone: its sockets are the parent's."""
        if self._producer is not None:
            _INHERITED.append(self._producer)
            atexit.unregister(getattr(self._producer, "_cleanup", None) or _nothing)
        self._producer = self._under_way = None

    def _failed(self) -> bool:
        return self._under_way is not None and self._under_way[1].is_done

    def _send(self, record: OutRecord) -> FutureRecordMetadata:
        if self._under_way is not None and self._under_way[0] is record:
            return self._under_way[1]
        if self._producer is None:
            self._producer = self._open()
        future = self._producer.send(
            self._config.topic, value=record.value, key=record.key, headers=list(record.headers)
        )
        self._under_way = (record, future)
        return future

    def _open(self) -> Any:
        config = self._config
        settings = client_settings(config) | {
            "enable_idempotence": True,
            "acks": "all",
            "compression_type": None if config.compression == "none" else config.compression,
            "max_request_size": config.max_request_bytes,
            "max_block_ms": round(config.connect_timeout_seconds * 1000),
            "delivery_timeout_ms": round(config.delivery_timeout_seconds * 1000),
            "metrics_enabled": False,
        }
        return open_client(KafkaProducer, settings)

    def _discard(self, timeout_seconds: float) -> None:
        producer, self._producer, self._under_way = self._producer, None, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError, RuntimeError):
                producer.close(timeout=timeout_seconds)

    def _where(self) -> str:
        return f"topic {self._config.topic} at {','.join(self._config.bootstrap_servers)}"


def _nothing() -> None:
    """Stands in for a clean-up that was never registered."""
