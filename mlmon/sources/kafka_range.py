"""Reads a stretch of Kafka topics and nothing more: joins no group, commits nothing, disturbs no one.

For baselines. `KafkaSource` is for sidecars: it is a member of a group and never ends.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from mlmon.errors import ConfigError, SourceError
from mlmon.kafka_client import client_settings, open_client, partition_name, reason
from mlmon.sources.base import Chunk, Polled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.sources.kafka import KafkaConfig

__all__ = ["Bound", "KafkaRange", "parse_bound"]


class Bound(NamedTuple):
    """An end of a range: an offset, a time of the records (ms since 1970), or an end of the log.

    Attributes:
        offset: the same in every partition; None: not by offset.
        time_ms: None: not by time.
        latest: without either, whether the log's end is meant and not its beginning.
    """

    offset: int | None = None
    time_ms: int | None = None
    latest: bool = False


def parse_bound(text: str) -> Bound:
    """An offset, a time such as 2025-03-01T08:00 (UTC where it does not say), `earliest` or `latest`.

    Raises:
        ConfigError: it is none of these.

    Example:
        >>> parse_bound("120"), parse_bound("latest").latest, parse_bound("1970-01-01T00:00:01").time_ms
        (Bound(offset=120, time_ms=None, latest=False), True, 1000)
    """
    if text in ("earliest", "latest"):
        return Bound(latest=text == "latest")
    if text.isascii() and text.isdigit():
        return Bound(offset=int(text))
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is no end of a range: expected an offset, a time such as 2025-03-01T08:00, earliest "
            "or latest"
        ) from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return Bound(time_ms=round(when.timestamp() * 1000))


class KafkaRange:
    """Records of topics from one bound to another; a source for one reading, by one thread.

    What retention has removed is not waited for: an offset before the log's beginning means its beginning,
    one beyond its end its end as it is now. With `last` None it has no end and brings what comes.

    Args:
        config: brokers, topics and the bounds of a fetch; the group is not used.
        first: where it begins.
        last: up to where, exclusive; None: without end.

    Raises:
        SourceError: no broker answers, or a topic does not exist.
    """

    def __init__(self, config: KafkaConfig, first: Bound, last: Bound | None) -> None:
        self._config = config
        try:
            self._consumer: KafkaConsumer = open_client(KafkaConsumer, _settings(config))
        except KafkaError as error:
            raise SourceError(f"{self._where()} cannot be read ({reason(error)})") from error
        try:
            self._open(first, last)
        except KafkaError as error:
            self.close()
            raise SourceError(f"{self._where()} cannot be read ({reason(error)})") from error
        except BaseException:
            self.close()
            raise
        self._moved = time.monotonic()

    def _open(self, first: Bound, last: Bound | None) -> None:
        parts = [
            TopicPartition(topic, number) for topic in self._config.topics for number in self._numbers(topic)
        ]
        self._consumer.assign(parts)
        begins, ends = self._consumer.beginning_offsets(parts), self._consumer.end_offsets(parts)
        self._next = self._offsets(parts, first, begins, ends)
        self._stop = None if last is None else self._offsets(parts, last, begins, ends)
        for part in parts:
            self._consumer.seek(part, self._next[part])
        self._start = dict(self._next)
        self._pause()

    def _numbers(self, topic: str) -> list[int]:
        deadline = time.monotonic() + self._config.connect_timeout_seconds
        while not (numbers := self._consumer.partitions_for_topic(topic)):
            if time.monotonic() > deadline:
                raise SourceError(f"there is no topic {topic}, or this user may not see it")
            time.sleep(0.05)
        return sorted(numbers)

    def _offsets(
        self,
        parts: Sequence[TopicPartition],
        bound: Bound,
        begins: dict[TopicPartition, int],
        ends: dict[TopicPartition, int],
    ) -> dict[TopicPartition, int]:
        """The offset of a bound in every partition, within what there is."""
        if bound.time_ms is not None:
            found = self._consumer.offsets_for_times(dict.fromkeys(parts, bound.time_ms))
            at = {part: ends[part] if found[part] is None else found[part].offset for part in parts}
        elif bound.offset is not None:
            at = dict.fromkeys(parts, bound.offset)
        else:
            at = ends if bound.latest else begins
        return {part: min(max(at[part], begins[part]), ends[part]) for part in parts}

    def poll(self, max_wait_seconds: float) -> Polled:
        """Bring the next records of the range.

        Raises:
            SourceError: nothing can be read any more.
        """
        if self.finished:
            return Polled()
        try:
            found = self._consumer.poll(timeout_ms=max_wait_seconds * 1000)
            chunks = [self._chunk(part, records) for part, records in found.items()]
            self._follow()
        except OffsetOutOfRangeError as error:
            raise SourceError(
                f"retention removed records of {self._where()} before they were read: begin later"
            ) from error
        except KafkaError as error:
            raise SourceError(f"{self._where()} cannot be read ({reason(error)})") from error
        if chunks:
            self._moved = time.monotonic()
        elif self._stop is not None and time.monotonic() - self._moved > self._config.stall_seconds:
            raise SourceError(f"{self._where()} gives no more records although there are some; try again")
        return Polled([chunk for chunk in chunks if chunk.records])

    def _chunk(self, part: TopicPartition, records: list[Any]) -> Chunk:
        if self._stop is not None:
            records = [record for record in records if record.offset < self._stop[part]]
        return Chunk(partition_name(*part), records, records[-1].offset + 1 if records else self._next[part])

    def _follow(self) -> None:
        """Take positions over; they also pass what holds no records (marks of transactions)."""
        for part in self._next:
            self._next[part] = max(self._next[part], self._consumer.position(part) or 0)
        self._pause()

    def _pause(self) -> None:
        """Fetch no more of partitions that are read to their end."""
        stop = self._stop
        if stop is not None:
            self._consumer.pause(*(part for part in self._next if self._next[part] >= stop[part]))

    def seek(self, partition: str, offset: int | None) -> None:
        """Nothing: where it begins is fixed."""

    @property
    def finished(self) -> bool:
        """Whether the range was read to its end."""
        stop = self._stop
        return stop is not None and all(self._next[part] >= stop[part] for part in self._next)

    def progress(self) -> tuple[int, int]:
        """Offsets passed, and offsets in all; without an end both are of what was read."""
        done = sum(self._next[part] - self._start[part] for part in self._next)
        if self._stop is None:
            return done, done
        total = sum(max(0, self._stop[part] - self._start[part]) for part in self._next)
        return min(done, total), total

    def close(self) -> None:
        """Leave."""
        self._consumer.close(autocommit=False, timeout_ms=2000)

    def _where(self) -> str:
        return f"{', '.join(self._config.topics)} at {', '.join(self._config.bootstrap_servers)}"


def _settings(config: KafkaConfig) -> dict[str, Any]:
    return client_settings(config) | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "max_poll_records": config.max_poll_records,
        "max_partition_fetch_bytes": config.max_partition_fetch_bytes,
        "fetch_max_bytes": config.fetch_max_bytes,
        "metrics_enabled": False,
    }
