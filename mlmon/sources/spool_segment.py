"""Which segment files a spool has, and where the whole frames of one end.

    DIR/slot-N/lock                         held by the writer of the slot (flock), names its pid
    DIR/slot-N/<20 digits>.seg              frames; the digits are the offset of the first

Both the writer and the reader stand on this; it never writes.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from mlmon.sources.spool_format import HEADER_BYTES, MAGIC, header_at

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.sources.spool_format import FrameHeader

__all__ = ["Tail", "find_header", "header_in", "list_segments", "list_slots", "segment_path", "tail_of"]

_SLOT = re.compile(r"slot-(0|[1-9]\d{0,4})")
_SEGMENT = re.compile(r"(\d{20})\.seg")
_BLOCK = 256 * 1024


class Tail(NamedTuple):
    """Where the whole frames of a segment end.

    Attributes:
        position: byte after the last whole frame.
        next_offset: offset after the last whole frame's.
        damaged: what follows is neither a frame nor the beginning of one.
        clean: nothing follows.
    """

    position: int
    next_offset: int
    damaged: bool
    clean: bool


def list_slots(directory: Path) -> list[str]:
    """Names of the slots of a spool by number; empty when the directory does not exist."""
    names = [name for name in _names(directory) if _SLOT.fullmatch(name)]
    return sorted(names, key=lambda name: int(name[5:]))


def list_segments(slot: Path) -> list[int]:
    """First offsets of a slot's segments, rising."""
    found = [_SEGMENT.fullmatch(name) for name in _names(slot)]
    return sorted(int(match[1]) for match in found if match)


def _names(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []


def segment_path(slot: Path, base: int) -> Path:
    """The file of the segment that begins with this offset."""
    return slot / f"{base:020}.seg"


def header_in(fd: int, position: int) -> FrameHeader | None:
    """The frame header at a byte of a file, or None when there is none."""
    data = os.pread(fd, HEADER_BYTES, position)
    return header_at(data, 0) if len(data) == HEADER_BYTES else None


def find_header(fd: int, damage: int, above: int) -> int | None:
    """Look for the next frame header after damage.

    A header inside the payload of the damaged frame cannot pass for the next one unless its offset is one
    that the frames fitting into the damage leave possible.

    Args:
        fd: the segment.
        damage: the byte at which a frame should begin and does not.
        above: the offset that this frame would have.

    Returns:
        Byte position of the next header, or None when there is none up to the end of the file.
    """
    position = damage + 1
    while True:
        block = os.pread(fd, _BLOCK, position)
        at = block.find(MAGIC)
        while 0 <= at <= len(block) - HEADER_BYTES:
            header = header_at(block, at)
            most = above + (position + at - damage) // HEADER_BYTES
            if header is not None and above <= header.offset <= most:
                return position + at
            at = block.find(MAGIC, at + 1)
        if len(block) < _BLOCK:
            return None
        position += at if at >= 0 else _BLOCK - len(MAGIC) + 1


def tail_of(fd: int, position: int, next_offset: int) -> Tail:
    """Walk the frame headers of a segment from a frame's beginning to the end of the whole frames.

    Reads 40 bytes of each frame. Damage that a frame follows is stepped over.

    Args:
        fd: the segment.
        position: byte at which a frame begins.
        next_offset: offset that this frame would have.
    """
    size = os.fstat(fd).st_size
    while True:
        if size - position < HEADER_BYTES:
            return Tail(position, next_offset, damaged=False, clean=size == position)
        header = header_in(fd, position)
        if header is None:
            found = find_header(fd, position, next_offset)
            if found is None:
                return Tail(position, next_offset, damaged=True, clean=False)
            position = found
        elif size - position < header.frame_bytes:
            return Tail(position, next_offset, damaged=False, clean=False)
        else:
            position += header.frame_bytes
            next_offset = header.offset + 1
