"""Harnesses of what needs no broker: spool and replay, SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlmon.checkpoint.letters import DeadLetterConfig, DeadLetterFile, read_letters
from mlmon.checkpoint.sqlite import SqliteCheckpoint, SqliteCheckpointConfig
from mlmon.sources.replay import ReplayConfig, ReplaySource
from mlmon.sources.spool import SpoolConfig, SpoolSource, SpoolWriter, SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MARKS: tuple[Any, ...] = ()


class SpoolHarness:
    """A spool whose slots are written by one writer each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "spool"
        self._writers: list[SpoolWriter] = []
        self._sources: list[SpoolSource] = []

    def append(self, hint: int, values: Sequence[bytes]) -> None:
        while len(self._writers) <= hint:
            config = SpoolWriterConfig(str(self._directory), segment_bytes=4096)
            self._writers.append(SpoolWriter(config))
        for value in values:
            self._writers[hint].append(value, [("content-type", b"application/json")])

    def make_source(
        self,
        *,
        start: Any = "earliest",
        max_records: int = 1000,
        max_bytes: int = 1 << 20,
        bounded: bool = False,
    ) -> SpoolSource:
        config = SpoolConfig(str(self._directory), start, max_records, max_bytes, bounded)
        source = SpoolSource(config)
        self._sources.append(source)
        return source

    def abandon(self, source: SpoolSource) -> None:
        """A dead process' files are closed by the system, and nothing else happens."""

    def close(self) -> None:
        for held in (*self._sources, *self._writers):
            held.close()


class ReplayHarness:
    """A file of JSON lines per partition, complete before it is read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "recorded"
        self._directory.mkdir()
        self._sources: list[ReplaySource] = []

    def append(self, hint: int, values: Sequence[bytes]) -> None:
        with (self._directory / f"{hint}.jsonl").open("ab") as file:
            file.write(b"\n".join([*values, b""]))

    def make_source(
        self,
        *,
        start: Any = "earliest",
        max_records: int = 1000,
        max_bytes: int = 1 << 20,
        bounded: bool = False,
    ) -> ReplaySource:
        paths = (str(self._directory / "*.jsonl"),)
        source = ReplaySource(ReplayConfig(paths, max_records=max_records, max_bytes=max_bytes))
        self._sources.append(source)
        return source

    def abandon(self, source: ReplaySource) -> None:
        """A dead process' files are closed by the system, and nothing else happens."""

    def close(self) -> None:
        for source in self._sources:
            source.close()


class SqliteHarness:
    """A checkpoint file and its dead letters in a directory."""

    partitions = ("slot-0", "slot-1")
    rival = "locked"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: list[SqliteCheckpoint] = []

    def make(self) -> SqliteCheckpoint:
        letters = DeadLetterFile(DeadLetterConfig(str(self._directory / "letters")))
        config = SqliteCheckpointConfig(str(self._directory / "state" / "checkpoint.db"))
        made = SqliteCheckpoint(config, letters)
        self._made.append(made)
        return made

    def observer(self) -> SqliteCheckpoint:
        return self.make()

    def abandon(self, checkpoint: SqliteCheckpoint) -> None:
        """What the system does with a dead process' files; tests/checkpoint kills real ones."""
        checkpoint.close()

    def letters(self) -> list[tuple[str, int, int, str, bytes]]:
        return [
            (letter.partition, letter.offset, letter.row, letter.reason, letter.payload)
            for letter in read_letters(self._directory / "letters")
        ]

    def close(self) -> None:
        for made in self._made:
            made.close()


LIVE_SOURCES = {"spool": lambda path, request: SpoolHarness(path)}
BOUNDED_SOURCES = {**LIVE_SOURCES, "replay": lambda path, request: ReplayHarness(path)}
SOURCES = BOUNDED_SOURCES
CHECKPOINTS = {"sqlite": lambda path, request: SqliteHarness(path)}
