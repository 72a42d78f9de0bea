"""The mirror in a real topic: written, read by a group, and refused where it keeps texts for too long."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from server_kit import sentences
from shadow_kit import PLENTY, answers_of, event, masked

from mlmon.attach import Mirror
from mlmon.attach.mirror_kafka import KafkaMirror, KafkaMirrorConfig
from mlmon.errors import ConfigError, SourceError
from mlmon.shadow.reading import KafkaMirrorReader

if TYPE_CHECKING:
    from mlmon.attach import MirrorRecord

pytestmark = pytest.mark.kafka


def topic_of(broker: Any, **settings: str) -> KafkaMirrorConfig:
    name = f"mirror-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name, 2, {key.replace("_", "."): value for key, value in settings.items()})
    return KafkaMirrorConfig(bootstrap_servers=(broker.bootstrap,), topic=name, retention_seconds=3600.0)


def polled(reader: KafkaMirrorReader, count: int) -> list[MirrorRecord]:
    found: list[MirrorRecord] = []
    for _ in range(60):
        found += reader.poll(100, 1.0)
        if len(found) >= count:
            return found
    raise AssertionError(f"{len(found)} of {count}")


def test_texts_go_through_a_topic_and_what_is_committed_does_not_come_again(
    kafka_broker: Any, server_url: str
) -> None:
    config = topic_of(kafka_broker, retention_ms="1800000", segment_ms="1800000")
    texts = masked(sentences(20, seed=40))
    mirror = Mirror(KafkaMirror(config), PLENTY)
    for number, (text, answer) in enumerate(zip(texts, answers_of(server_url, texts), strict=True)):
        assert mirror.offer(event(number, answer), text, answer.sequence)
    assert mirror.close(60)
    assert mirror.stats().written == 20
    reader = KafkaMirrorReader(config, "shadow-test")
    records = polled(reader, 20)
    assert sorted(record.text for record in records) == sorted(texts)
    assert all(record.top_labels and record.sequence for record in records)
    reader.commit()
    reader.close()
    again = KafkaMirrorReader(config, "shadow-test")
    assert again.poll(100, 3.0) == []
    again.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retention_ms": "604800000", "segment_ms": "1000"}, r"retention\.ms=604800000"),
        ({"retention_ms": "-1", "segment_ms": "1000"}, "unlimited"),
        ({"retention_ms": "1000"}, r"segment\.ms=604800000"),
        ({"retention_ms": "1000", "segment_ms": "1000", "cleanup_policy": "compact"}, "policy=compact"),
    ],
)
def test_a_topic_that_keeps_texts_too_long_is_refused_by_both_sides(
    kafka_broker: Any, settings: dict[str, str], said: str
) -> None:
    config = topic_of(kafka_broker, **settings)
    for opened in (lambda: Mirror(KafkaMirror(config), PLENTY), lambda: KafkaMirrorReader(config, "g")):
        with pytest.raises(ConfigError, match=said) as caught:
            opened()
        assert "kafka-configs.sh" in str(caught.value)
        assert f"--entity-name {config.topic}" in str(caught.value)


def test_no_topic_and_no_broker_are_said(kafka_broker: Any) -> None:
    missing = KafkaMirrorConfig(bootstrap_servers=(kafka_broker.bootstrap,), topic="mirror-that-is-not")
    with pytest.raises(ConfigError, match="there is no topic mirror-that-is-not"):
        Mirror(KafkaMirror(missing), PLENTY)
    away = KafkaMirrorConfig(bootstrap_servers=("127.0.0.1:9",), connect_timeout_seconds=0.5)
    with pytest.raises(SourceError, match="cannot be looked at"):
        Mirror(KafkaMirror(away), PLENTY)
