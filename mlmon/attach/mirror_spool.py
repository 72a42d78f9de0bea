"""The mirror in a directory: JSON lines in files that only their owner reads, and that do not outlive
retention.

Files are named by the moment they were begun, so that who removes them needs to read none: a file goes when
it was begun longer ago than the retention, and is left for a new one after a tenth of it. Nothing in it is
older than the file. The writer removes on every flush and while idle; the evaluator does too, and `mlmon
shadow purge` may be run by a timer where both can be gone. Why not the events' spool: it keeps whole segments
until they are read or trimmed by a next write, and others may read it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from mlmon.clock import SystemClock
from mlmon.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.clock import Clock

__all__ = ["MirrorFiles", "MirrorSpoolConfig", "begun_us", "list_files", "private_directory", "sweep"]

_PREFIX, _SUFFIX = "mirror-", ".jsonl"
#: A file is left for a new one after this part of the retention.
_ROLL = 0.1


class MirrorSpoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where mirrored requests are kept on this machine, and how long."""

    directory: Annotated[
        str,
        msgspec.Meta(min_length=1, description="Directory of its own; created with mode 0700 when missing."),
    ]
    retention_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=60,
            le=31 * 86_400,
            description="Nothing is kept longer, read or not. Raising it lets the evaluator be away "
            "longer, and "
            "keeps raw texts longer.",
        ),
    ] = 86_400.0
    max_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=65_536, le=1 << 40, description="Bytes the directory may take; the oldest files are removed."
        ),
    ] = 256 * 1024 * 1024


class MirrorFiles:
    """Appends to the newest file of this process. One thread uses it.

    Delivery: what `write` returned from survives `kill -9` of this process. A line cut by a crash or a full
    disk is passed over by the reader.
    """

    def __init__(self, config: MirrorSpoolConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._fd = -1
        self._path = Path()
        self._begun_us = 0
        self._size = 0
        self._number = 0

    def check(self) -> None:
        """Make the directory, and refuse one that others may look into.

        Raises:
            ConfigError: it is somebody else's, others may read it, or it cannot be made.
        """
        private_directory(self._config.directory)

    def write(self, key: bytes, records: Sequence[bytes]) -> None:  # noqa: ARG002 - files need no key
        """Append records, each a line.

        Raises:
            SourceError: the disk does not take them.
        """
        data = b"".join(record + b"\n" for record in records)
        try:
            self._roll(len(data))
            written = os.write(self._fd, data)
        except (OSError, ConfigError) as error:
            self._end()
            raise SourceError(f"the mirror {self._config.directory} cannot be written: {error}") from error
        self._size += written
        if written != len(data):
            self._end()
            raise SourceError(f"the mirror {self._config.directory} cannot be written: the disk is full")

    def sweep(self) -> int:
        """Remove what is too old or too much; returns how many files went."""
        return sweep(self._config, self._clock.now_us())

    def close(self) -> None:
        """Close the file. The next write begins another."""
        self._end()

    def after_fork(self) -> None:
        """Leave the parent's file to the parent."""
        self._end()

    def _roll(self, size: int) -> None:
        now = self._clock.now_us()
        old = now - self._begun_us > self._config.retention_seconds * _ROLL * 1e6
        full = self._size + size > self._config.max_bytes // 8
        if self._fd >= 0 and not old and not full and self._path.exists():
            return
        self._end()
        root = private_directory(self._config.directory)
        self._number += 1
        self._path = root / f"{_PREFIX}{now:020d}-{os.getpid()}-{self._number}{_SUFFIX}"
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600)
        os.fchmod(self._fd, 0o600)
        self._begun_us, self._size = now, 0

    def _end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def private_directory(directory: str) -> Path:
    """The directory, made where it is missing, with mode 0700.

    Raises:
        ConfigError: it is somebody else's, others may look into it, or it cannot be made.
    """
    path = Path(directory)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise ConfigError(
            f"the mirror's directory {directory} cannot be used: {error.strerror}; name one that this "
            f"user may "
            "write"
        ) from error
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"the mirror's directory {directory}: expected one of this user (uid {os.geteuid()}), it is "
            f"of uid "
            f"{found.st_uid}; name another, or give it to this user"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"the mirror's directory {directory}: expected mode 0700, since it holds raw texts, got "
            f"{stat.S_IMODE(found.st_mode):04o}; chmod 700 {directory}, or name one that does not exist yet"
        )
    return path


def list_files(directory: str | Path) -> list[Path]:
    """The mirror's files, oldest first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(Path(directory).glob(f"{_PREFIX}*{_SUFFIX}"))
    return []


def begun_us(path: Path) -> int:
    """When a file was begun, µs, by its name; 0 for a name that says no time.

    Example:
        >>> begun_us(Path("mirror-00001700000000000000-7-1.jsonl"))
        1700000000000000
    """
    number = path.name.removeprefix(_PREFIX).partition("-")[0]
    return int(number) if number.isdigit() else 0


def sweep(config: MirrorSpoolConfig, now_us: int) -> int:
    """Remove files begun longer ago than the retention, then the oldest beyond `max_bytes`."""
    before = now_us - round(config.retention_seconds * 1e6)
    kept: list[tuple[Path, int]] = []
    removed = 0
    for path in list_files(config.directory):
        with contextlib.suppress(FileNotFoundError):
            if begun_us(path) <= before:
                path.unlink()
                removed += 1
            else:
                kept.append((path, path.stat().st_size))
    total = sum(size for _, size in kept)
    for path, size in kept:
        if total <= config.max_bytes:
            break
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            removed += 1
        total -= size
    return removed
