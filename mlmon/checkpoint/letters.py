"""Dead letters in files: what could not be decoded, kept with its bytes, its place and the reason.

    DIR/letters-<20 digits>.jsonl     one letter a line; the digits are the running number of the first

Exactly once over crashes: letters are written before the commit that covers them, and that commit stores how
far the files were then valid (`LettersState`). On opening, everything beyond is cut off, because the records
it came from will be read again. Bounded in bytes: the oldest file goes first, and since names carry running
numbers, how many letters went is known from the names alone.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from mlmon.clock import SystemClock
from mlmon.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlmon.checkpoint.base import DeadLetter
    from mlmon.clock import Clock

__all__ = ["DeadLetterConfig", "DeadLetterFile", "Letter", "LettersState", "read_letters"]

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"letters-(\d{20})\.jsonl")


class DeadLetterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where dead letters are kept when there is no topic for them."""

    directory: Annotated[str, msgspec.Meta(min_length=1, description="Directory of the dead-letter files.")]
    file_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=4096,
            le=1 << 32,
            description="Size at which a new file is begun; at most half of max_bytes counts. Larger files "
            "are removed in coarser steps.",
        ),
    ] = 16 * 1024 * 1024
    max_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=8192,
            le=1 << 40,
            description="Bytes all files may take; the oldest is removed when they take more.",
        ),
    ] = 256 * 1024 * 1024
    max_payload_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=1 << 28,
            description="A letter keeps its payload up to here; its full size is kept in payload_bytes.",
        ),
    ] = 16 * 1024 * 1024


class Letter(msgspec.Struct, frozen=True):
    """One line of a dead-letter file; bytes are base64 in the file.

    Attributes:
        partition: where it came from.
        offset: of its record there.
        row: of the event within the record, or -1 for the whole record.
        reason: class of fault.
        detail: what was expected and what came.
        headers: the record's headers.
        payload: the original bytes, perhaps cut.
        payload_bytes: length of the original bytes; more than `len(payload)` when they were cut.
        received_us: when it was written here, µs since 1970 UTC.
    """

    partition: str
    offset: int
    row: int
    reason: str
    detail: str
    headers: list[tuple[str, bytes]]
    payload: bytes
    payload_bytes: int
    received_us: int


class LettersState(NamedTuple):
    """How far the files are valid.

    Attributes:
        base: running number of the first letter of the newest file, which names the file.
        length: its bytes.
        following: running number of the next letter.
    """

    base: int
    length: int
    following: int


class DeadLetterFile:
    """Append dead letters to numbered files. One thread uses it; `SqliteCheckpoint` drives it."""

    def __init__(self, config: DeadLetterConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._directory = Path(config.directory)
        self._file_bytes = min(config.file_bytes, config.max_bytes // 2)
        self._state = LettersState(0, 0, 0)
        self._fd = -1

    @property
    def removed(self) -> int:
        """Letters that the bound in bytes has removed so far, over all runs."""
        bases = _bases(self._directory)
        return bases[0] if bases else self._state.base

    def restore(self, state: LettersState | None) -> LettersState:
        """Go on from a committed state, cutting off what was written after it.

        Args:
            state: as the last commit stored it; None where no commit ever did, and all that is there stays.

        Returns:
            The state to go on from; where it differs from the one given, it is to be stored at once.

        Raises:
            CheckpointError: the directory cannot be written.
        """
        self.close()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._state = self._after_all() if state is None else self._cut(state)
        except OSError as error:
            raise self._failed(error) from error
        return self._state

    def append(self, letters: Sequence[DeadLetter]) -> LettersState:
        """Write letters out to the operating system and return the state a commit must store.

        Raises:
            CheckpointError: they could not be written; `restore` must come next.
        """
        if self._fd >= 0 and not os.fstat(self._fd).st_nlink:  # somebody cleaned up
            self.close()
            self._state = LettersState(self._state.following, 0, self._state.following)
        base, length, following = self._state
        lines: list[bytes] = []
        now_us = self._clock.now_us()
        try:
            for letter in letters:
                line = _encode(letter, self._config.max_payload_bytes, now_us)
                if length and length + len(line) > self._file_bytes:
                    self._write(base, lines)
                    self.close()
                    base, length, lines = following, 0, []
                lines.append(line)
                length += len(line)
                following += 1
            self._write(base, lines)
        except OSError as error:
            raise self._failed(error) from error
        self._state = LettersState(base, length, following)
        return self._state

    def sync(self) -> None:
        """Wait until the newest file is on the disk.

        Raises:
            CheckpointError: the disk refused.
        """
        try:
            if self._fd >= 0:
                os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error) from error

    def trim(self) -> int:
        """Remove the oldest files until the rest fits the bound; called after a commit.

        Returns:
            Letters removed.
        """
        bases = _bases(self._directory)
        sizes = {base: _path(self._directory, base).stat().st_size for base in bases}
        total = sum(sizes.values())
        ends = [*bases[1:], self._state.following]
        removed = 0
        for base, end in zip(bases, ends, strict=True):
            if total <= self._config.max_bytes or base >= self._state.base:
                break
            _path(self._directory, base).unlink(missing_ok=True)
            total -= sizes[base]
            removed += end - base
        return removed

    def close(self) -> None:
        """Close the open file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _write(self, base: int, lines: list[bytes]) -> None:
        if not lines:
            return
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._fd = os.open(_path(self._directory, base), flags, 0o600)
        data = memoryview(b"".join(lines))
        while data:
            data = data[os.write(self._fd, data) :]

    def _after_all(self) -> LettersState:
        """Begin a new file after the files that are there."""
        bases = _bases(self._directory)
        if not bases:
            return LettersState(0, 0, 0)
        following = bases[-1]
        with _path(self._directory, bases[-1]).open("rb") as file:
            while block := file.read(1 << 20):
                following += block.count(b"\n")
        following += 1  # a line without its end also counts, and no file name is used twice
        return LettersState(following, 0, following)

    def _cut(self, state: LettersState) -> LettersState:
        path = _path(self._directory, state.base)
        there = path.stat().st_size if path.exists() else 0
        if there >= state.length:
            for base in _bases(self._directory):
                if base > state.base or (base == state.base and state.length == 0):
                    _path(self._directory, base).unlink()
            if there > state.length > 0:
                os.truncate(path, state.length)
            return state
        _LOG.warning("%s holds %d bytes where %d were committed: letters are lost", path, there, state.length)
        following = max(state.following, self._after_all().following)
        return LettersState(following, 0, following)

    def _failed(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"dead letters cannot be written to {self._directory}: {error}")


def read_letters(directory: str | Path) -> Iterator[Letter]:
    """Every letter kept in a directory, oldest first; while a sidecar writes, perhaps some not yet committed.

    Lines that are no letters, such as a last one cut short by a crash, are skipped and logged.
    """
    for base in _bases(Path(directory)):
        try:
            file = _path(Path(directory), base).open("rb")
        except FileNotFoundError:
            continue  # removed by the bound in the meantime
        with file:
            for number, line in enumerate(file, 1):
                try:
                    yield _DECODER.decode(line)
                except msgspec.DecodeError as error:
                    _LOG.warning("%s:%d is not a dead letter: %s", file.name, number, error)


_DECODER = msgspec.json.Decoder(Letter)


def _encode(letter: DeadLetter, most: int, now_us: int) -> bytes:
    reject = letter.reject
    line = Letter(
        partition=letter.partition,
        offset=reject.offset,
        row=reject.row,
        reason=str(reject.reason),
        detail=_clean(reject.detail),
        headers=[(_clean(name), bytes(value or b"")) for name, value in reject.headers],
        payload=bytes(reject.payload[:most]),
        payload_bytes=len(reject.payload),
        received_us=now_us,
    )
    return msgspec.json.encode(line) + b"\n"


def _clean(text: str) -> str:
    """Text as UTF-8 can carry it: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def _bases(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    found = [_NAME.fullmatch(path.name) for path in directory.iterdir()]
    return sorted(int(match[1]) for match in found if match)


def _path(directory: Path, base: int) -> Path:
    return directory / f"letters-{base:020}.jsonl"
