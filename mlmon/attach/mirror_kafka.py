"""The mirror in a Kafka topic of its own, whose retention is looked at before anything is written."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import AuthorizationError, KafkaError, for_code

from mlmon.attach.kafka_sink import KafkaSink, KafkaSinkConfig
from mlmon.attach.sinks import OutRecord
from mlmon.errors import ConfigError, SourceError
from mlmon.kafka_client import client_settings, open_client, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.kafka_client import KafkaConnection

__all__ = ["KafkaMirror", "KafkaMirrorConfig", "check_topic"]

_HEADERS = (("content-type", b"application/vnd.mlmon.mirror+json"),)


class KafkaMirrorConfig(KafkaSinkConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The topic, and how long it may keep texts."""

    topic: Annotated[
        str,
        msgspec.Meta(min_length=1, max_length=249, description="Topic of the mirror, and of nothing else."),
    ] = "mlmon.mirror"
    retention_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=60,
            le=31 * 86_400,
            description="The longest the topic may keep a text. The topic's own retention.ms and "
            "segment.ms do "
            "it; a topic that keeps longer is refused.",
        ),
    ] = 86_400.0


class KafkaMirror:
    """Writes mirrored requests to a topic; one record each, keyed by service and model.

    What is not acknowledged is dropped: a sample needs no second attempt, and texts must not pile up. Who may
    read the topic is the brokers' to say (access-control lists); the producer needs Write, Describe and
    DescribeConfigs.
    """

    def __init__(self, config: KafkaMirrorConfig) -> None:
        self._config = config
        names = KafkaSinkConfig.__struct_fields__
        self._sink = KafkaSink(KafkaSinkConfig(**{name: getattr(config, name) for name in names}))

    def check(self) -> None:
        """Refuse a topic that keeps texts for too long.

        Raises:
            ConfigError: it does, or this user may not see whether it does.
            SourceError: no broker answers.
        """
        check_topic(self._config, self._config.topic, self._config.retention_seconds)

    def write(self, key: bytes, records: Sequence[bytes]) -> None:
        """Send each record and wait for its acknowledgement.

        Raises:
            SourceError: one was not acknowledged; it and those after it are not sent again.
        """
        for value in records:
            try:
                self._sink.write(OutRecord(key, value, _HEADERS, 1))
            except SourceError:
                self._sink.close(0.0)
                raise

    def sweep(self) -> int:
        """Nothing: the brokers remove."""
        return 0

    def close(self) -> None:
        """End the producer."""
        self._sink.close(5.0)

    def after_fork(self) -> None:
        """Leave the parent's producer alone."""
        self._sink.after_fork()


def check_topic(connection: KafkaConnection, topic: str, retention_seconds: float) -> None:
    """Look at a topic's retention.

    Kafka removes whole segments, the last one only after it was closed: so a text may be kept for
    `retention.ms` and `segment.ms` together.

    Raises:
        ConfigError: they are longer than asked for or unlimited, or cannot be seen; says what to run.
        SourceError: no broker answers, or there is no such topic.
    """
    where = f"topic {topic} at {','.join(connection.bootstrap_servers)}"
    try:
        with closing(open_client(KafkaAdminClient, client_settings(connection))) as admin:
            found = _settings(admin, topic)
    except AuthorizationError as error:
        raise ConfigError(
            f"the retention of {where} cannot be seen: grant Describe and DescribeConfigs on it"
        ) from error
    except (KafkaError, OSError) as error:
        raise SourceError(f"the retention of {where} cannot be looked at ({reason(error)})") from error
    limit = round(retention_seconds * 1000)
    policy, kept, segment = found["cleanup.policy"], int(found["retention.ms"]), int(found["segment.ms"])
    if "delete" in policy.split(",") and kept >= 0 and kept + segment <= limit:
        return
    half = limit // 2
    raise ConfigError(
        f"{where} keeps texts too long: expected cleanup.policy=delete and retention.ms + segment.ms of "
        f"at most "
        f"{limit} (retention_seconds = {retention_seconds:g}), got cleanup.policy={policy}, "
        f"retention.ms={kept}"
        f"{' (unlimited)' if kept < 0 else ''}, segment.ms={segment}; run: kafka-configs.sh "
        f"--bootstrap-server "
        f"{connection.bootstrap_servers[0]} --alter --entity-type topics --entity-name {topic} --add-config "
        f"cleanup.policy=delete,retention.ms={limit - half},segment.ms={half}"
    )


def _settings(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    """The topic's settings that decide how long it keeps.

    Raises:
        ConfigError: there is no such topic, or not all of them can be seen.
    """
    described: dict[str, Any] = admin.describe_topics([topic])[0]
    error = for_code(described["error_code"])
    if issubclass(error, AuthorizationError):
        raise error
    if described["error_code"]:
        raise ConfigError(
            f"there is no topic {topic} for the mirror: create it with cleanup.policy=delete and short "
            "retention.ms and segment.ms, readable by the evaluator alone"
        )
    keys = ("cleanup.policy", "retention.ms", "segment.ms")
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(keys))
    answer = admin.describe_configs([resource], config_filter="all")
    values = next(iter(answer.values())).get(topic, {})
    found = {key: values.get(key, {}).get("value") for key in keys}
    lacking = [key for key, value in found.items() if value is None]
    if lacking:
        raise ConfigError(
            f"topic {topic}: {', '.join(lacking)} cannot be seen: grant DescribeConfigs on it to this user"
        )
    return {key: str(value) for key, value in found.items()}
