"""How a record lies in a spool segment: the bytes of a frame, and nothing about files.

    frame  = header (40 bytes, little endian) + meta + payload
    header = magic "ABh M L 01h" | header crc32 | body crc32 | payload bytes | meta bytes | flags (0)
             | offset (int64) | append time, ms since 1970 UTC (int64)
    meta   = MessagePack list of (header name, header value) pairs; empty when there are none

The header has a checksum of its own (over its bytes from 8 on), so a length is either right or known to be
wrong: a reader never waits for bytes that a flipped bit promised. The body checksum covers meta and payload.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mlmon.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "HEADER_BYTES",
    "MAGIC",
    "MAX_FRAME_BYTES",
    "FrameHeader",
    "encode_frame",
    "header_at",
    "read_meta",
]

MAGIC = b"\xabML\x01"
#: What one frame may take at most; a header that claims more is not a header.
MAX_FRAME_BYTES = 256 * 1024 * 1024

_HEADER = struct.Struct("<4sIIIIIqq")
_CHECKED = struct.Struct("<IIIIqq")
HEADER_BYTES = _HEADER.size
_META = msgspec.msgpack.Decoder(list[tuple[str, bytes]])


class FrameHeader(NamedTuple):
    """A header whose own checksum is right.

    Attributes:
        body_crc: crc32 of meta and payload.
        payload_bytes: length of the payload.
        meta_bytes: length of the meta.
        offset: of the record in its partition.
        time_ms: when it was appended, ms since 1970 UTC.
    """

    body_crc: int
    payload_bytes: int
    meta_bytes: int
    offset: int
    time_ms: int

    @property
    def frame_bytes(self) -> int:
        """Length of the whole frame."""
        return HEADER_BYTES + self.meta_bytes + self.payload_bytes


def encode_frame(
    value: bytes, headers: Sequence[tuple[str, bytes]], offset: int, time_ms: int
) -> tuple[bytes, bytes]:
    """Return what stands before the payload, as (header, meta); the frame is header + meta + value.

    Raises:
        SourceError: the frame would be larger than `MAX_FRAME_BYTES`.

    Example:
        >>> header, meta = encode_frame(b"abc", [], 7, 1)
        >>> header_at(header, 0).offset, meta
        (7, b'')
    """
    meta = msgspec.msgpack.encode(list(headers)) if headers else b""
    size = HEADER_BYTES + len(meta) + len(value)
    if size > MAX_FRAME_BYTES:
        raise SourceError(
            f"a record of {size} bytes does not fit the spool, whose limit is {MAX_FRAME_BYTES}: "
            "send smaller batches"
        )
    body_crc = zlib.crc32(value, zlib.crc32(meta))
    checked = _CHECKED.pack(body_crc, len(value), len(meta), 0, offset, time_ms)
    return MAGIC + zlib.crc32(checked).to_bytes(4, "little") + checked, meta


def header_at(data: bytes, at: int) -> FrameHeader | None:
    """Read the header that begins at `data[at]`, where at least `HEADER_BYTES` follow.

    Returns:
        The header, or None when these bytes are not one.
    """
    magic, crc, body_crc, payload, meta, flags, offset, time_ms = _HEADER.unpack_from(data, at)
    if magic != MAGIC or crc != zlib.crc32(memoryview(data)[at + 8 : at + HEADER_BYTES]):
        return None
    if flags or offset < 0 or HEADER_BYTES + payload + meta > MAX_FRAME_BYTES:
        return None
    return FrameHeader(body_crc, payload, meta, offset, time_ms)


def read_meta(data: bytes) -> list[tuple[str, bytes]]:
    """Decode the record headers of a frame whose checksum is right; what nobody wrote reads as none."""
    try:
        return _META.decode(data) if data else []
    except msgspec.DecodeError:
        return []
