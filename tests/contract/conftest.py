"""One contract suite for every source and one for every checkpoint; harnesses say how to set one up.

A file `*_harness.py` beside this one registers what it has in two tables, and marks for the tests:

    SOURCES = {"spool": factory}        factory(tmp_path, request) -> SourceHarness
    LIVE_SOURCES = {...}                those of them that see what is appended after they were made
    BOUNDED_SOURCES = {...}             those of them that `make_source(bounded=True)` makes finish
    CHECKPOINTS = {"sqlite": factory}   factory(tmp_path, request) -> CheckpointHarness
    MARKS = ()                          pytest marks for its parameters

Harnesses are duck-typed: the protocols below are what the suites use.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlmon.checkpoint.base import Checkpoint
    from mlmon.sources.base import Polled, Source

#: No test waits longer than this for something that must happen.
DEADLINE_SECONDS = 60.0


class SourceHarness(Protocol):
    """A log to write to, and sources that read it."""

    def append(self, hint: int, values: Sequence[bytes]) -> None:
        """Write records, one-line JSON, durably to the partition that this small number stands for."""
        ...

    def make_source(
        self,
        *,
        start: str = "earliest",
        max_records: int = 1000,
        max_bytes: int = 1 << 20,
        bounded: bool = False,
    ) -> Source:
        """A new source over everything appended; the place of one that was abandoned or closed."""
        ...

    def abandon(self, source: Source) -> None:
        """Leave a source as `kill -9` leaves it: nothing is committed, nobody is told."""
        ...

    def close(self) -> None:
        """Free everything, abandoned sources too."""
        ...


class CheckpointHarness(Protocol):
    """A store, and checkpoints over it.

    Attributes:
        partitions: names of two partitions that can be stored.
        rival: what a second checkpoint of the same partitions does: `locked` refuses it, `fences` the first.
    """

    partitions: tuple[str, str]
    rival: str

    def make(self) -> Checkpoint:
        """A new checkpoint that owns both partitions."""
        ...

    def abandon(self, checkpoint: Checkpoint) -> None:
        """Leave a checkpoint as `kill -9` leaves it."""
        ...

    def observer(self) -> Checkpoint:
        """A checkpoint that is only scanned, as `mlmon status` does."""
        ...

    def letters(self) -> list[tuple[str, int, int, str, bytes]]:
        """Committed dead letters: (partition, offset, row, reason, payload)."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


def _harnesses() -> list[Any]:
    modules = []
    for path in sorted(Path(__file__).parent.glob("*_harness.py")):
        name = f"mlmon_contract_{path.stem}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        modules.append(sys.modules[name])
    return modules


_TABLES = {
    "harness": "SOURCES",
    "live_harness": "LIVE_SOURCES",
    "bounded_harness": "BOUNDED_SOURCES",
    "store": "CHECKPOINTS",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, table in _TABLES.items():
        if fixture in metafunc.fixturenames:
            parameters = [
                pytest.param(factory, id=name, marks=getattr(module, "MARKS", ()))
                for module in _harnesses()
                for name, factory in getattr(module, table, {}).items()
            ]
            metafunc.parametrize(fixture, parameters, indirect=True)


def _made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = request.param(tmp_path, request)
    yield made
    made.close()


harness = pytest.fixture(_made, name="harness")
live_harness = pytest.fixture(_made, name="live_harness")
bounded_harness = pytest.fixture(_made, name="bounded_harness")
store = pytest.fixture(_made, name="store")


def lines(hint: int, start: int, stop: int, pad: int = 0) -> list[bytes]:
    """Records that say where they belong: hint `h`, running number `n`."""
    return [
        json.dumps(
            {"h": hint, "n": n, "event_time": 1_700_000_000_000_000 + n * 1000, "pad": "x" * pad}
        ).encode()
        for n in range(start, stop)
    ]


class Reader:
    """Reads a source as the sidecar does, and checks with every poll what a source owes.

    Attributes:
        positions: next offset by partition; survives into another `Reader` as a checkpoint would.
        got: (offset, value, headers) by partition.
        numbers: the records' own numbers by hint, in order of arrival.
    """

    def __init__(self, source: Source, positions: Mapping[str, int] | None = None) -> None:
        self.source = source
        self.positions = dict(positions or {})
        self.got: dict[str, list[tuple[int, bytes | None, tuple[tuple[str, bytes], ...]]]] = {}
        self.numbers: dict[int, list[int]] = {}
        self.sought: set[str] = set()
        self.lost = 0

    def poll(self, wait: float = 0.2, *, seek: bool = True) -> Polled:
        polled = self.source.poll(wait)
        self.sought -= set(polled.revoked)
        for chunk in polled.chunks:
            assert chunk.partition in self.sought, "records of a partition that was not sought"
            self._take(chunk)
        for partition in polled.assigned:
            assert partition not in self.sought, "assigned twice"
            if seek:
                self.source.seek(partition, self.positions.get(partition))
                self.sought.add(partition)
        return polled

    def _take(self, chunk: Any) -> None:
        position = self.positions.get(chunk.partition, 0)
        for record in chunk.records:
            assert record.offset >= position, "offsets must rise"
            position = record.offset + 1
            key = (record.offset, record.value, tuple((k, bytes(v)) for k, v in record.headers))
            self.got.setdefault(chunk.partition, []).append(key)
            data = json.loads(record.value)
            self.numbers.setdefault(data["h"], []).append(data["n"])
        assert chunk.next_offset >= position, "the next offset lies after the records"
        self.positions[chunk.partition] = chunk.next_offset
        self.lost += chunk.lost

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not done():
            assert time.monotonic() < deadline, f"not in time: {self.numbers}"
            self.poll()

    def until_count(self, count: int) -> None:
        self.until(lambda: sum(map(len, self.numbers.values())) >= count)


@pytest.fixture
def reader() -> type[Reader]:
    return Reader


@pytest.fixture
def make_lines() -> Callable[..., list[bytes]]:
    return lines
