"""Reading one slot of a spool: the records after a position, over torn tails, damage and removed segments.

What is skipped and what is not:

- A torn tail (a frame that a crash cut short) is skipped once a newer segment exists; until then it may be a
  frame being written, and the reader waits.
- A whole frame with a wrong body checksum, and bytes that are no frame between frames, are delivered as one
  record that carries `CORRUPT_HEADER`, so they end as a dead letter.
- Records that retention removed, or whose offsets vanished in damage, are counted as lost.
"""

from __future__ import annotations

import logging
import os
import zlib
from typing import TYPE_CHECKING

from mlmon.events.record import CORRUPT_HEADER, LogRecord
from mlmon.sources.spool_format import HEADER_BYTES, header_at, read_meta
from mlmon.sources.spool_segment import find_header, list_segments, segment_path, tail_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlmon.sources.budget import Budget
    from mlmon.sources.spool_format import FrameHeader

__all__ = ["SlotReader"]

_LOG = logging.getLogger(__name__)
_BLOCK = 256 * 1024
#: How much of a stretch without frames is kept in its dead letter.
_DAMAGE_KEPT = 1024 * 1024


class SlotReader:
    """The records of one slot from a position on. One thread uses it.

    Attributes:
        name: of the slot.
        next_offset: of the next record to read; None until the slot has its first segment.
        limit: records from this offset on are not delivered.
    """

    def __init__(self, slot: Path) -> None:
        self.name = slot.name
        self.next_offset: int | None = None
        self.limit: int | None = None
        self._slot = slot
        self._lost = 0
        self._fd = -1
        self._base = -1
        self._pos = 0
        self._buf = b""
        self._at = 0
        self._searched = (-1, -1)
        self._tail = (-1, 0, 0)
        self._meta: tuple[bytes, Sequence[tuple[str, bytes]]] = (b"", ())

    def seek(self, offset: int | None, *, latest: bool = False) -> None:
        """Read on from this offset; None means the oldest record, or the end as it is now."""
        self.close()
        self._lost = 0
        end = self.end_offset() if latest or offset is not None else None
        if offset is None and latest:
            offset = end
        elif offset is not None and end is not None and offset > end:
            _LOG.warning(
                "%s ends at offset %d, before the position %d to read from: the directory was replaced or "
                "lost its tail; reading goes on from its end",
                self._slot,
                end,
                offset,
            )
            offset = end
        self.next_offset = offset

    def read(self, budget: Budget) -> tuple[list[LogRecord], int]:
        """Return the next records that fit the budget, and how many were lost before or between them.

        Raises:
            OSError: a segment cannot be read.
        """
        records: list[LogRecord] = []
        self._buf, self._at = b"", 0
        try:
            while self._read_on(records, budget):
                pass
        except OSError:
            if not records:
                raise  # otherwise the next call meets it again, and these records are not forgotten
        lost, self._lost = self._lost, 0
        return records, lost

    def _read_on(self, records: list[LogRecord], budget: Budget) -> bool:
        """Read in the segment of the position; True when there is another one to go on with."""
        segments = list_segments(self._slot)  # before reading: a torn tail of the newest may yet grow
        try:
            if not self._on_segment(segments):
                return False
            newer = next((base for base in segments if base > self._base), None)
            if not self._read_segment(records, budget, newer) or newer is None:
                return False
            self._open(newer)
        except FileNotFoundError:
            _LOG.info("a segment of %s was removed while it was about to be read", self._slot)
        return True

    def end_offset(self) -> int | None:
        """The offset after the last whole frame, or None where there is no segment yet.

        Costs 40 bytes of reading per frame appended since it was last asked or read.
        """
        segments = list_segments(self._slot)
        if not segments:
            return None
        base, position, following = self._tail
        if base != segments[-1]:
            base, position, following = segments[-1], 0, segments[-1]
        if self._base == base and self._pos > position and self.next_offset is not None:
            position, following = self._pos, self.next_offset
        try:
            fd = os.open(segment_path(self._slot, base), os.O_RDONLY)
        except FileNotFoundError:  # removed since it was listed, so a newer one exists now
            return self.end_offset()
        try:
            if os.fstat(fd).st_size < position:  # it was replaced
                position, following = 0, base
            tail = tail_of(fd, position, following)
        finally:
            os.close(fd)
        self._tail = (base, tail.position, tail.next_offset)
        return tail.next_offset

    def oldest_offset(self) -> int | None:
        """The offset of the oldest record kept, or None where there is no segment yet."""
        segments = list_segments(self._slot)
        return segments[0] if segments else None

    def close(self) -> None:
        """Free the open segment; reading opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._base = -1
        self._buf, self._at = b"", 0

    def _on_segment(self, segments: list[int]) -> bool:
        """Make sure the segment of the position is open; False when there is none yet."""
        if self._fd >= 0 and self._replaced(segments):
            _LOG.warning("%s was replaced by another log: reading it from its beginning", self._slot)
            self.close()
            self.next_offset = None
        if self._fd >= 0:
            return True
        if not segments:
            return False
        if self.next_offset is None:
            self.next_offset = segments[0]
        before = [base for base in segments if base <= self.next_offset]
        self._open(before[-1] if before else segments[0])
        return True

    def _replaced(self, segments: list[int]) -> bool:
        if self._base in segments:
            own, there = os.fstat(self._fd), segment_path(self._slot, self._base).stat()
            return (own.st_ino, own.st_dev) != (there.st_ino, there.st_dev)
        return bool(segments) and segments[-1] < self._base

    def _open(self, base: int) -> None:
        fd = os.open(segment_path(self._slot, base), os.O_RDONLY)
        self.close()
        self._fd, self._base, self._pos = fd, base, 0
        self._step_to(base)

    def _step_to(self, offset: int) -> None:
        """The next record known to exist has this offset: what lies between was lost."""
        expected = self.next_offset
        if expected is not None and offset > expected:
            self._lost += offset - expected
            self.next_offset = offset

    def _have(self, size: int) -> bool:
        """Hold at least this many bytes from the position on; False when the file has fewer."""
        if len(self._buf) - self._at < size:
            self._buf, self._at = os.pread(self._fd, max(size, _BLOCK), self._pos), 0
        return len(self._buf) >= self._at + size

    def _advance(self, size: int) -> None:
        self._pos += size
        self._at += size

    def _read_segment(self, records: list[LogRecord], budget: Budget, newer: int | None) -> bool:
        """Read on in the open segment; True when its end is reached, False when the budget or limit is."""
        while self._have(HEADER_BYTES):
            if self.limit is not None and (self.next_offset or 0) >= self.limit:
                return False
            header = self._header()
            if header is None:
                end = self._damage_end(newer)
                if end is None:
                    return True
                if not self._take_damage(records, budget, end, newer):
                    return False
                continue
            if not self._have(header.frame_bytes):
                return True
            if header.offset >= (self.next_offset or 0):
                if not budget.take(header.frame_bytes):
                    return False
                record = self._record(header)
                if record is None:
                    return True
                self._step_to(header.offset)
                records.append(record)
                self.next_offset = header.offset + 1
            self._advance(header.frame_bytes)
        return True

    def _header(self) -> FrameHeader | None:
        header = header_at(self._buf, self._at)
        if header is None:
            self._buf, self._at = b"", 0  # look again, at what the file holds now
            header = header_at(self._buf, self._at) if self._have(HEADER_BYTES) else None
        return header

    def _record(self, header: FrameHeader) -> LogRecord | None:
        """The record of the frame at the position; None when it is no longer there as it was read."""
        size = header.frame_bytes
        if not self._intact(header):  # perhaps half written when it was read: look again
            self._buf, self._at = b"", 0
            if not self._have(size) or header_at(self._buf, self._at) != header:
                return None
            if not self._intact(header):
                raw = self._buf[self._at : self._at + size]
                return _corrupt(header.offset, header.time_ms, raw, "the checksum of the frame differs")
        middle = self._at + HEADER_BYTES + header.meta_bytes
        meta = self._buf[self._at + HEADER_BYTES : middle]
        if meta != self._meta[0]:
            self._meta = (meta, read_meta(meta))
        value = self._buf[middle : self._at + size]
        return LogRecord(header.offset, header.time_ms, None, value, self._meta[1])

    def _intact(self, header: FrameHeader) -> bool:
        body = memoryview(self._buf)[self._at + HEADER_BYTES : self._at + header.frame_bytes]
        return zlib.crc32(body) == header.body_crc

    def _damage_end(self, newer: int | None) -> int | None:
        """Where the bytes that are no frame end; None while that may still turn out to be a frame."""
        size = os.fstat(self._fd).st_size
        if (self._pos, size) != self._searched:
            found = find_header(self._fd, self._pos, self.next_offset or 0)
            if found is not None:
                return found
            self._searched = (self._pos, size)
        return None if newer is None else size

    def _take_damage(self, records: list[LogRecord], budget: Budget, end: int, newer: int | None) -> bool:
        """Step over damage, delivering it as one record if the offsets show that a record stood there."""
        size = end - self._pos
        raw = os.pread(self._fd, min(size, _DAMAGE_KEPT), self._pos)
        offset = self.next_offset or 0
        header = header_at(os.pread(self._fd, HEADER_BYTES, end).ljust(HEADER_BYTES, b"\0"), 0)
        following = header.offset if header is not None else newer
        if following is not None and following > offset:
            if not budget.take(len(raw)):
                return False
            records.append(_corrupt(offset, -1, raw, f"{size} bytes are not a frame"))
            self.next_offset = offset + 1
        _LOG.warning(
            "%s: %d bytes at %d of segment %d are not a frame", self._slot, size, self._pos, self._base
        )
        self._pos = end
        self._buf, self._at = b"", 0
        return True


def _corrupt(offset: int, time_ms: int, raw: bytes, detail: str) -> LogRecord:
    return LogRecord(offset, time_ms, None, raw, [(CORRUPT_HEADER, detail.encode())])
