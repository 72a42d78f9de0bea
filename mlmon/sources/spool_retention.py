"""Keeping a spool directory within its bytes and age: which segments go.

Closed segments (all but the newest of a slot) go by age of last write, oldest first, over all slots. The
newest of a slot whose writer is gone goes too when it is its turn; an empty segment that carries the next
offset takes its place, so that offsets of the partition never start over. Several writers may trim at once.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, NamedTuple

from mlmon.sources.spool_segment import list_segments, list_slots, segment_path, tail_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["trim"]


class _Segment(NamedTuple):
    changed_ms: int
    slot: Path
    base: int
    size: int
    newest: bool


def trim(root: Path, max_bytes: int, before_ms: int) -> int:
    """Remove the oldest segments until the directory fits; segments being written are never touched.

    Args:
        root: the spool directory.
        max_bytes: what its segments may take together.
        before_ms: segments last written before this (ms since 1970 UTC) go in any case.

    Returns:
        Bytes removed.
    """
    segments = sorted(_segments(root))
    total = sum(segment.size for segment in segments)
    removed = 0
    for segment in segments:
        if total - removed <= max_bytes and segment.changed_ms >= before_ms:
            break
        removed += _retire(segment) if segment.newest else _remove(segment)
    return removed


def _segments(root: Path) -> list[_Segment]:
    found = []
    for name in list_slots(root):
        slot = root / name
        bases = list_segments(slot)
        for base in bases:
            try:
                stat = segment_path(slot, base).stat()
            except FileNotFoundError:
                continue  # another writer's trimming was faster
            if stat.st_size:
                changed = stat.st_mtime_ns // 1_000_000
                found.append(_Segment(changed, slot, base, stat.st_size, base == bases[-1]))
    return found


def _remove(segment: _Segment) -> int:
    segment_path(segment.slot, segment.base).unlink(missing_ok=True)
    return segment.size


def _retire(segment: _Segment) -> int:
    """Replace the last segment of a slot without a writer by an empty one; 0 when the slot has a writer."""
    lock = os.open(segment.slot / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        bases = list_segments(segment.slot)
        if bases and bases[-1] == segment.base:
            _replace(segment)
            return segment.size
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
    return 0


def _replace(segment: _Segment) -> None:
    path = segment_path(segment.slot, segment.base)
    fd = os.open(path, os.O_RDWR)
    try:
        tail = tail_of(fd, 0, segment.base)
        after = tail.next_offset + int(tail.damaged)
        if after == segment.base:
            os.ftruncate(fd, 0)
            return
    finally:
        os.close(fd)
    segment_path(segment.slot, after).touch()
    path.unlink(missing_ok=True)
