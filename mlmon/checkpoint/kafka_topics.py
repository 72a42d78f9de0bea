"""The topics a Kafka checkpoint keeps its things in: that they exist, fit the input, how far they reach."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from kafka.protocol.consumer import IsolationLevel
from kafka.structs import TopicPartition

from mlmon.errors import CheckpointError
from mlmon.kafka_client import client_settings, open_client, reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlmon.kafka_client import KafkaConnection

__all__ = ["Topics"]


class Topics:
    """Looks at topics and creates them; one admin client, opened when first needed."""

    def __init__(self, connection: KafkaConnection, timeout_seconds: float) -> None:
        self._connection = connection
        self._timeout_ms = round(timeout_seconds * 1000)
        self._admin: KafkaAdminClient | None = None

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """Partitions of each topic that exists and may be seen.

        Raises:
            CheckpointError: no broker answers.
        """
        try:
            found = self._client().describe_topics(list(topics))
        except KafkaError as error:
            raise self._failed("topics cannot be described", error) from error
        counts = {}
        for topic in found:
            error_type = for_code(topic["error_code"])
            if topic["error_code"] == 0:
                counts[topic["name"]] = len(topic["partitions"])
            elif issubclass(error_type, AuthorizationError):
                raise CheckpointError(
                    f"topic {topic['name']}: this user may not see it; grant Describe on it"
                )
        return counts

    def ensure(self, name: str, partitions: int, replication_factor: int, config: Mapping[str, str]) -> bool:
        """Create a topic unless it exists; True when it did not.

        Raises:
            CheckpointError: it neither exists nor can be created.
        """
        if name in self.partitions([name]):
            return False
        options = {
            "num_partitions": partitions,
            "replication_factor": replication_factor,
            "configs": dict(config),
        }
        admin = self._client()
        try:
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics({name: options}, timeout_ms=self._timeout_ms)
            admin.wait_for_topics([name], timeout_ms=self._timeout_ms)
        except AuthorizationError as error:
            raise CheckpointError(
                f"topic {name} does not exist and this user may not create it: grant Create on it, or create "
                f"it with {partitions} partitions and {_words(config)}"
            ) from error
        except KafkaError as error:
            raise self._failed(f"topic {name} cannot be created", error) from error
        return True

    def setting(self, topic: str, key: str) -> str | None:
        """A topic's setting, or None when this user may not see it."""
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {key: None})
        try:
            answer = self._client().describe_configs([resource], config_filter="all")
        except AuthorizationError:
            return None
        except KafkaError as error:
            raise self._failed(f"the settings of topic {topic} cannot be read", error) from error
        found: Any = next(iter(answer.values())).get(topic, {}).get(key, {})
        value = found.get("value")
        return None if value is None else str(value)

    def ends(self, topic: str, numbers: Sequence[int], *, committed: bool) -> dict[int, int]:
        """Where partitions end: after the last record, or with `committed` before the first open transaction.

        Raises:
            CheckpointError: a broker does not say.
        """
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        specs = {TopicPartition(topic, number): OffsetSpec.LATEST for number in numbers}
        try:
            found = self._client().list_partition_offsets(specs, level, timeout_ms=self._timeout_ms)
        except (KafkaError, UnknownTopicOrPartitionError) as error:
            raise self._failed(f"the end of topic {topic} cannot be read", error) from error
        return {tp.partition: end.offset for tp, end in found.items()}

    def close(self) -> None:
        """Free the client."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(Exception):
                admin.close()

    def _client(self) -> KafkaAdminClient:
        if self._admin is None:
            try:
                self._admin = open_client(KafkaAdminClient, client_settings(self._connection))
            except KafkaError as error:
                raise self._failed("no broker answers", error) from error
        return self._admin

    def _failed(self, what: str, error: KafkaError) -> CheckpointError:
        self.close()
        where = ", ".join(self._connection.bootstrap_servers)
        return CheckpointError(f"Kafka at {where}: {what} ({reason(error)})")


def _words(config: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items())
