"""Recorded events as a source: files read once through, at full speed or at the speed they were recorded.

Partitions are files. All are read together in the order of event time (within a second), so files of the same
hour interleave and files of different days follow each other, and none makes another's events late.
"""

from __future__ import annotations

import glob
import heapq
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from mlmon.clock import SystemClock
from mlmon.errors import SourceError
from mlmon.sources.base import Chunk, Lag, Polled
from mlmon.sources.budget import Budget
from mlmon.sources.replay_files import open_recorded
from mlmon.windows import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.clock import Clock
    from mlmon.events.record import LogRecord
    from mlmon.sources.replay_files import RecordedFile

__all__ = ["ReplayConfig", "ReplaySource"]

_SLACK_US = 1_000_000
_WAIT_SECONDS = 0.03


class ReplayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which recorded events are read, and how fast."""

    paths: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            min_length=1,
            description="Files or patterns (with *, ?, **) of JSON lines, Parquet, or Arrow IPC; told apart "
            "by what they begin with.",
        ),
    ]
    speed_ratio: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=1_000_000,
            description="0: as fast as it goes. 1: at the speed of the recording. 60: an hour in a minute.",
        ),
    ] = 0.0
    max_files: Annotated[
        int, msgspec.Meta(ge=1, le=4096, description="Files that may match; each is a partition, and open.")
    ] = 256
    batch_rows: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=1_000_000,
            description="Rows of a Parquet or Arrow file that make one record. Raising it is faster and "
            "takes memory.",
        ),
    ] = 1024
    max_records: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="Records one poll brings at most.")
    ] = 4096
    max_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=4096,
            le=1 << 32,
            description="Bytes one poll brings at most, unless a single record is larger. Raising it takes "
            "memory.",
        ),
    ] = 16 * 1024 * 1024
    max_record_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1024,
            le=1 << 30,
            description="A longer line is read only up to here and becomes a dead letter.",
        ),
    ] = 16 * 1024 * 1024


class ReplaySource:
    """Files of recorded events, read by one thread; it finishes.

    Delivery: from a position, the same records again, as long as the files do not change (at a speed, runs of
    rows may be cut elsewhere; rows are the same).

    Raises:
        SourceError: nothing matches, too much matches, or a file cannot be read.
    """

    def __init__(self, config: ReplayConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._paths = _matching(config)
        self._total_bytes = sum(path.stat().st_size for path in self._paths.values())
        self._files: dict[str, RecordedFile] = {}
        self._sought: dict[str, RecordedFile] = {}
        self._revoked: list[str] = []
        self._started: tuple[int, float] | None = None
        self._finished = False

    def poll(self, max_wait_seconds: float) -> Polled:
        """Bring the next records that are due, waiting up to this long for the first of them.

        Raises:
            SourceError: a file cannot be read; calling again retries.
        """
        deadline = self._clock.monotonic() + max_wait_seconds
        assigned = self._assign()
        revoked, self._revoked = self._revoked, []
        if assigned or revoked:
            return Polled(assigned=assigned, revoked=revoked)
        while True:
            chunks, wait = self._take()
            left = deadline - self._clock.monotonic()
            if chunks or self._finished or left <= 0:
                return Polled(chunks)
            self._clock.sleep(min(wait, left))

    def seek(self, partition: str, offset: int | None) -> None:
        """Read on from this offset; None means the beginning.

        Raises:
            SourceError: the file was not announced, or cannot be read.
        """
        if partition not in self._files:
            raise SourceError(f"{partition} was not announced by this replay: seek only what was")
        self._files[partition].seek(offset or 0)
        self._sought[partition] = self._files[partition]
        self._finished = False

    def reset(self) -> None:
        """Give every file up; the next poll revokes and assigns them."""
        self._revoked.extend(self._files)
        self.close()

    def lag(self) -> Mapping[str, Lag]:
        """Lines or rows left by file; of a large file of lines an estimate."""
        lags = {}
        for name, file in self._sought.items():
            end = max(file.end_offset(), file.next_offset)
            lags[name] = Lag(end - file.next_offset, end)
        return lags

    def progress(self) -> tuple[int, int]:
        """Bytes of the files that lie behind, and bytes in all."""
        return sum(file.done_bytes for file in self._files.values()), self._total_bytes

    @property
    def finished(self) -> bool:
        """Whether every file has been read to its end."""
        return self._finished

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files, self._sought, self._started, self._finished = {}, {}, None, False

    def _assign(self) -> list[str]:
        if self._files:
            return []
        config = self._config
        self._files = {
            name: open_recorded(
                path,
                batch_rows=config.batch_rows,
                max_record_bytes=config.max_record_bytes,
                paced=config.speed_ratio > 0,
            )
            for name, path in self._paths.items()
        }
        return list(self._files)

    def _take(self) -> tuple[list[Chunk], float]:
        """What is due now within the bounds of a poll, and seconds until something more is."""
        before = {name: file.next_offset for name, file in self._sought.items()}
        heap = [
            (time_us, name) for name, file in self._sought.items() if (time_us := file.peek_us()) is not None
        ]
        heapq.heapify(heap)
        due_us = self._due_us(heap)
        taken: dict[str, list[LogRecord]] = {}
        try:
            self._take_due(heap, due_us, taken)
        except SourceError:
            if not taken:
                raise  # otherwise the next poll meets it again, and what was taken is not forgotten
        else:
            self._finished = not heap and len(self._sought) == len(self._paths)
        chunks = [
            Chunk(name, taken.get(name, ()), file.next_offset)
            for name, file in self._sought.items()
            if file.next_offset != before[name]
        ]
        if due_us is None or not heap:
            return chunks, _WAIT_SECONDS
        return chunks, max(0.001, (heap[0][0] - due_us) / 1e6 / self._config.speed_ratio)

    def _take_due(
        self, heap: list[tuple[int, str]], due_us: int | None, taken: dict[str, list[LogRecord]]
    ) -> None:
        """Take from the file whose next event is the oldest, and again, until nothing is due or fits."""
        budget = Budget(self._config.max_records, self._config.max_bytes)
        while heap and (due_us is None or heap[0][0] <= due_us):
            name = heap[0][1]
            records = self._sought[name].take(_until(heap, due_us), budget)
            if not records:
                return
            taken.setdefault(name, []).extend(records)
            time_us = self._sought[name].peek_us()
            if time_us is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (time_us, name))

    def _due_us(self, heap: list[tuple[int, str]]) -> int | None:
        """The event time that has come by now; None at full speed. The first record sets the beginning."""
        if not self._config.speed_ratio:
            return None
        if self._started is None:
            known = [time_us for time_us, _ in heap if time_us > NEVER]
            if not known or len(self._sought) < len(self._paths):
                return NEVER
            self._started = (min(known), self._clock.monotonic())
        first_us, since = self._started
        return first_us + int((self._clock.monotonic() - since) * self._config.speed_ratio * 1e6)


def _until(heap: list[tuple[int, str]], due_us: int | None) -> int | None:
    """How far the first file of the heap may be read before another one's turn comes."""
    others = [time_us for time_us, _ in heap[1:3]]
    if not others:
        return due_us
    turn = min(others) + _SLACK_US
    return turn if due_us is None else min(turn, due_us)


def _matching(config: ReplayConfig) -> dict[str, Path]:
    """Files by partition name, sorted, each once."""
    found: dict[Path, str] = {}
    for pattern in config.paths:
        names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        files = [name for name in names if Path(name).is_file()]
        if not files:
            raise SourceError(f"no file matches {pattern}: name files, or a pattern such as events/*.jsonl")
        for name in files:
            found.setdefault(Path(name).resolve(), name)
    if len(found) > config.max_files:
        raise SourceError(
            f"{len(found)} files match, and {config.max_files} may: join small files, replay them in parts, "
            "or raise max_files"
        )
    return {name: path for path, name in sorted(found.items(), key=lambda item: item[1])}
