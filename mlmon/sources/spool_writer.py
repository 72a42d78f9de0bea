"""The writing side of the spool: one process, one slot, frames appended one system call each.

Delivery: when `append` has returned, the record survives `kill -9` of this process at any moment; with
`fsync = "batch"` it also survives a power failure. A record whose `append` did not return may or may not be
in the log, whole or not at all. Why a lock per slot and not one file for all writers: offsets of a partition
must rise by one, and a crashed writer must not leave its torn tail in another's way.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from mlmon.clock import SystemClock
from mlmon.errors import SourceError
from mlmon.sources.spool_format import encode_frame
from mlmon.sources.spool_retention import trim
from mlmon.sources.spool_segment import list_segments, segment_path, tail_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.clock import Clock

__all__ = ["SpoolWriter", "SpoolWriterConfig"]

_TRIM_SECONDS = 10.0


class SpoolWriterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a spool directory is written and bounded. All writers of a directory should have the same."""

    directory: Annotated[
        str, msgspec.Meta(min_length=1, description="The spool directory; created when missing.")
    ]
    max_slots: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=1024,
            description="Processes that can write at the same time; each takes a slot, and each slot is a "
            "partition for the reader.",
        ),
    ] = 64
    segment_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=4096,
            le=1 << 30,
            description="A segment file that would grow over this is closed and a new one begun; at most "
            "half of max_bytes counts. Larger segments are fewer files, removed in coarser steps.",
        ),
    ] = 16 * 1024 * 1024
    segment_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=604_800,
            description="A segment older than this is closed, so that max_age_seconds can remove it.",
        ),
    ] = 600.0
    max_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=8192,
            le=1 << 44,
            description="Bytes the directory may take; the oldest closed segments of any slot are removed, "
            "read or not. Raising it lets the reader be away for longer. Each further slot in use can add "
            "one segment.",
        ),
    ] = 1024 * 1024 * 1024
    max_age_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0, le=31_536_000, description="Closed segments last written longer ago than this are removed."
        ),
    ] = 86_400.0
    fsync: Annotated[
        Literal["never", "batch"],
        msgspec.Meta(
            description="never: the operating system writes to disk when it likes, and a power failure can "
            "take the last seconds. batch: every append waits for the disk."
        ),
    ] = "never"


class SpoolWriter:
    """Append records to the first free slot of a spool. One thread uses it, in the process that made it.

    Raises:
        SourceError: the directory cannot be written, or all slots are taken.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     writer = SpoolWriter(SpoolWriterConfig(directory))
        ...     offsets = [writer.append(b"a"), writer.append(b"b", [("content-type", b"text/plain")])]
        ...     writer.close()
        >>> offsets
        [0, 1]
    """

    def __init__(self, config: SpoolWriterConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._root = Path(config.directory)
        self._segment_bytes = min(config.segment_bytes, config.max_bytes // 2)
        self._pid = os.getpid()
        self._fd = self._lock = -1
        self._size = self._next = 0
        self._born = self._trimmed = self._clock.monotonic()
        #: Bytes that retention, run by this writer, has removed.
        self.removed_bytes = 0
        try:
            self._slot, self._lock = self._take_slot()
            self._resume()
            self._trim()
        except OSError as error:
            self.close()
            raise SourceError(f"the spool {self._root} cannot be written: {error}") from error

    @property
    def slot(self) -> str:
        """Name of the slot this writer holds: the partition its records are in."""
        return self._slot.name

    def append(self, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> int:
        """Write one record and return its offset.

        Raises:
            SourceError: it could not be written (a full disk, a size limit) or is too large. Nothing of it
                is left in the log, its offset goes to the next record, and appending may be tried again.
                Only when `fsync` fails after the write, which the message says, the record is in the log.
        """
        if os.getpid() != self._pid:
            raise SourceError(
                "this spool writer was inherited over fork, and two processes would write the same offsets: "
                "open one in each process after it was forked"
            )
        if self._lock < 0:
            raise SourceError(f"the writer of {self._slot} is closed: open a new one")
        header, meta = encode_frame(value, headers, self._next, self._clock.now_us() // 1000)
        size = len(header) + len(meta) + len(value)
        try:
            self._make_room(size)
            self._write((header, meta, value), size)
        except OSError as error:
            raise SourceError(f"the spool {self._slot} cannot be written: {error}") from error
        offset = self._next
        self._next += 1
        self._size += size
        if self._config.fsync == "batch":
            self.flush()
        return offset

    def flush(self) -> None:
        """Make what was appended as durable as `fsync` promises; appends do so themselves.

        Raises:
            SourceError: the disk refused.
        """
        try:
            if self._config.fsync == "batch" and self._fd >= 0:
                os.fdatasync(self._fd)
        except OSError as error:
            raise SourceError(
                f"the spool {self._slot} is written but could not be flushed to disk: {error}"
            ) from error

    def close(self) -> None:
        """Give the slot back. Closing twice, or in a forked child, does no harm."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def _take_slot(self) -> tuple[Path, int]:
        """Lock the first slot that nobody holds; return its directory and the lock's file descriptor."""
        count = self._config.max_slots
        for attempt in range(3):  # another writer's retention holds the lock of a slot for a moment
            self._clock.sleep(0.05 * attempt)
            for number in range(count):
                slot = self._root / f"slot-{number}"
                slot.mkdir(parents=True, exist_ok=True)
                lock = _lock(slot / "lock")
                if lock is not None:
                    return slot, lock
        raise SourceError(
            f"all {count} slots of the spool {self._root} are held by running writers: "
            "stop some, or raise max_slots"
        )

    def _resume(self) -> None:
        """Go on after the last whole frame: in its segment if that ends cleanly, otherwise in a new one."""
        segments = list_segments(self._slot)
        if not segments:
            self._begin(0)
            return
        base = segments[-1]
        self._fd = os.open(segment_path(self._slot, base), os.O_RDWR | os.O_APPEND)
        tail = tail_of(self._fd, 0, base)
        # Damage may have been a frame that was acknowledged: its offset is not given to another record.
        self._next = tail.next_offset + int(tail.damaged)
        self._size = tail.position
        if not tail.clean:
            self._begin(self._next)

    def _begin(self, base: int) -> None:
        """Open a new segment. What a file of that name holds is at most a torn first frame, and goes."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
        fd = os.open(segment_path(self._slot, base), flags, 0o644)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self._next = fd, 0, base
        self._born = self._clock.monotonic()
        if self._config.fsync == "batch":
            _sync_directory(self._slot)

    def _make_room(self, size: int) -> None:
        now = self._clock.monotonic()
        full = self._size + size > self._segment_bytes or now - self._born > self._config.segment_seconds
        if self._fd < 0 or (full and self._size):
            self._begin(self._next)
            self._trim()
        elif now - self._trimmed > _TRIM_SECONDS:
            self._trim()

    def _write(self, parts: tuple[bytes, ...], size: int) -> None:
        try:
            written = os.writev(self._fd, parts)
        except OSError:
            self._undo()
            raise
        if written != size:
            self._undo()
            raise OSError(f"{written} of {size} bytes were written: the disk or the file size limit is full")

    def _undo(self) -> None:
        """Cut a partial frame off; where that fails too, leave it as a torn tail and begin a new segment."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            os.close(self._fd)
            self._fd = -1

    def _trim(self) -> None:
        """Remove the oldest closed segments, leaving room for the one being written to fill up."""
        self._trimmed = self._clock.monotonic()
        keep = self._config.max_bytes - (self._segment_bytes - self._size)
        before_ms = self._clock.now_us() // 1000 - int(self._config.max_age_seconds * 1000)
        self.removed_bytes += trim(self._root, keep, before_ms)


def _lock(path: Path) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
