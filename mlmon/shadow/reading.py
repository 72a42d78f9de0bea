"""Mirrored requests out of the directory or the topic, in the order they came, each committed once it was
replayed.

At least once: what was replayed but not committed when the evaluator was killed is replayed again, and counts
twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Protocol

import msgspec
from kafka import KafkaConsumer
from kafka.errors import KafkaError

from mlmon.attach.mirror_kafka import check_topic
from mlmon.attach.mirror_record import MirrorRecord
from mlmon.attach.mirror_spool import begun_us, list_files, private_directory, sweep
from mlmon.clock import SystemClock
from mlmon.errors import ConfigError, SourceError
from mlmon.kafka_client import client_settings, open_client, reason

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.attach.mirror_kafka import KafkaMirrorConfig
    from mlmon.attach.mirror_spool import MirrorSpoolConfig
    from mlmon.clock import Clock
    from mlmon.shadow.config import MirrorPlace

__all__ = ["KafkaMirrorReader", "MirrorReader", "SpoolMirrorReader", "open_mirror"]

log = logging.getLogger(__name__)

_POSITION = "evaluator.position"
#: A line longer than this is damage.
_MOST_LINE = 16 * 1024 * 1024
_POLL_SECONDS = 0.2


class MirrorReader(Protocol):
    """Where mirrored requests come from. One thread uses it.

    Attributes:
        unreadable: lines or records that were passed over.
    """

    unreadable: int

    def poll(self, most: int, wait_seconds: float) -> list[MirrorRecord]:
        """The next requests, at most so many; empty when none came in that time."""
        ...

    def commit(self) -> None:
        """What was polled need not come again."""
        ...

    def close(self) -> None:
        """Free what is held, without a commit."""
        ...


def open_mirror(place: MirrorPlace, clock: Clock | None = None) -> MirrorReader:
    """The reader of a configured mirror.

    Raises:
        ConfigError: the place is not private, or keeps texts for too long.
        SourceError: it cannot be reached.
    """
    if place.kind == "spool":
        return SpoolMirrorReader(place.spool, clock)
    return KafkaMirrorReader(place.kafka, place.group)


class SpoolMirrorReader:
    """Reads the files of `MirrorFiles`, oldest first, and enforces their retention while it does.

    Its position is a file beside them: the newest file that was begun, and how far each that is there was
    read.
    """

    def __init__(self, config: MirrorSpoolConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._root = private_directory(config.directory)
        self._read: dict[str, int] = {}
        self.unreadable = 0
        self._load()

    def poll(self, most: int, wait_seconds: float) -> list[MirrorRecord]:
        """The next requests; looks every 0.2 s. Texts older than the retention are removed unread."""
        deadline = self._clock.monotonic() + wait_seconds
        while True:
            sweep(self._config, self._clock.now_us())
            found = self._next(most)
            left = deadline - self._clock.monotonic()
            if found or left <= 0:
                return found
            self._clock.sleep(min(_POLL_SECONDS, left))

    def commit(self) -> None:
        """Write the position, whole or not at all."""
        there = {path.name for path in list_files(self._root)}
        self._read = {name: offset for name, offset in self._read.items() if name in there}
        target, fresh = self._root / _POSITION, self._root / f"{_POSITION}.{os.getpid()}"
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(self._read))
            fresh.replace(target)
        except OSError as error:
            raise SourceError(f"the position {target} cannot be written: {error}") from error

    def close(self) -> None:
        """Nothing is held."""

    def lag_seconds(self) -> float:
        """Age of the oldest file that is not read to its end; 0 where all are."""
        for path in list_files(self._root):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size > self._read.get(path.name, 0):
                    return max(0.0, (self._clock.now_us() - begun_us(path)) / 1e6)
        return 0.0

    def _load(self) -> None:
        try:
            self._read = msgspec.json.decode((self._root / _POSITION).read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            self._read = {}
        except (OSError, msgspec.DecodeError) as error:
            raise SourceError(
                f"{self._root / _POSITION} cannot be read: {error}; remove it to begin with the oldest text"
            ) from None

    def _next(self, most: int) -> list[MirrorRecord]:
        found: list[MirrorRecord] = []
        for path in list_files(self._root):
            if len(found) >= most:
                break
            with contextlib.suppress(FileNotFoundError):
                self._lines(path, most, found)
        return found

    def _lines(self, path: Path, most: int, found: list[MirrorRecord]) -> None:
        offset = self._read.get(path.name, 0)
        if path.stat().st_size <= offset:
            return
        with path.open("rb") as file:
            file.seek(offset)
            while len(found) < most:
                line = file.readline(_MOST_LINE)
                if not line.endswith(b"\n") and len(line) < _MOST_LINE:
                    break  # still being written, or cut by a crash: then nothing follows in this file
                offset += len(line)
                record = _decoded(line)
                if record is None:
                    self.unreadable += 1
                else:
                    found.append(record)
        self._read[path.name] = offset


class KafkaMirrorReader:
    """Reads the topic of `KafkaMirror` as a member of a group; refuses a topic that keeps texts too long.

    Needs Read on topic and group, Describe and DescribeConfigs on the topic.

    Raises:
        ConfigError: the topic keeps too long, or is not there.
        SourceError: no broker answers.
    """

    def __init__(self, config: KafkaMirrorConfig, group: str) -> None:
        check_topic(config, config.topic, config.retention_seconds)
        self._config = config
        self.unreadable = 0
        settings = client_settings(config) | {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        try:
            self._consumer: KafkaConsumer = open_client(KafkaConsumer, settings)
            self._consumer.subscribe([config.topic])
        except KafkaError as error:
            raise SourceError(f"{self._where()} cannot be read ({reason(error)})") from error

    def poll(self, most: int, wait_seconds: float) -> list[MirrorRecord]:
        """The next requests.

        Raises:
            SourceError: the brokers do not answer.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                parts = self._consumer.poll(timeout_ms=round(1000 * min(left, 1.0)), max_records=most)
            except KafkaError as error:
                raise SourceError(f"{self._where()} cannot be read ({reason(error)})") from error
            found = [_decoded(record.value or b"") for records in parts.values() for record in records]
            self.unreadable += sum(record is None for record in found)
            readable = [record for record in found if record is not None]
            if readable or time.monotonic() >= deadline:
                return readable

    def commit(self) -> None:
        """Commit the group's offsets; where the group has moved on, another member replays them again."""
        try:
            self._consumer.commit()
        except KafkaError as error:
            log.warning(
                "the mirror's offsets were not committed (%s): replays may be repeated", reason(error)
            )

    def close(self) -> None:
        """Leave the group."""
        with contextlib.suppress(KafkaError, OSError, RuntimeError):
            self._consumer.close()

    def _where(self) -> str:
        return f"topic {self._config.topic} at {','.join(self._config.bootstrap_servers)}"


def _decoded(data: bytes) -> MirrorRecord | None:
    try:
        return MirrorRecord.decoded(data)
    except ConfigError:
        return None
