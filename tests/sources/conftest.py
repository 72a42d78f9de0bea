"""Spools of known content, and a way to read them to the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlmon.events.record import CORRUPT_HEADER
from mlmon.sources.spool import SpoolConfig, SpoolSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Tailer:
    """Follows a spool; keeps what came, by slot.

    Attributes:
        offsets, values: of intact records, by slot.
        corrupt: offsets of records marked as damaged, by slot.
        lost: records reported as lost, by slot.
    """

    def __init__(self, directory: Path, **config: Any) -> None:
        self.source = SpoolSource(SpoolConfig(str(directory), **config))
        self.offsets: dict[str, list[int]] = {}
        self.values: dict[str, list[bytes]] = {}
        self.corrupt: dict[str, list[int]] = {}
        self.lost: dict[str, int] = {}
        self.next: dict[str, int] = {}

    def poll(self, wait: float = 0.0, start: dict[str, int] | None = None) -> int:
        """Poll once; return how many records came."""
        polled = self.source.poll(wait)
        for name in polled.assigned:
            self.source.seek(name, (start or {}).get(name))
        for chunk in polled.chunks:
            self.lost[chunk.partition] = self.lost.get(chunk.partition, 0) + chunk.lost
            self.next[chunk.partition] = chunk.next_offset
            for record in chunk.records:
                if dict(record.headers).get(CORRUPT_HEADER):
                    self.corrupt.setdefault(chunk.partition, []).append(record.offset)
                else:
                    self.offsets.setdefault(chunk.partition, []).append(record.offset)
                    self.values.setdefault(chunk.partition, []).append(record.value)
        return sum(len(chunk.records) for chunk in polled.chunks)

    def drain(self, start: dict[str, int] | None = None) -> Tailer:
        """Poll until nothing more comes."""
        self.poll(0, start)
        while self.poll(0, start):
            pass
        return self


@pytest.fixture
def tailer() -> Iterator[Callable[..., Tailer]]:
    made: list[Tailer] = []

    def make(directory: Path, **config: Any) -> Tailer:
        made.append(Tailer(directory, **config))
        return made[-1]

    yield make
    for one in made:
        one.source.close()
