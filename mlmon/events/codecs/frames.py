"""What an Arrow IPC stream is made of, read from its message headers before Arrow is given the bytes.

A stream is `[marker, length, metadata, body]...` and an end mark. The few fields needed are read from the
flatbuffer with bounds-checked `struct` calls, so hostile bytes can only raise. Arrow verifies the rest.

Why not leave it all to Arrow: it would accept a stream cut between two messages as a shorter one, inflate
compressed bodies without a bound, and let many columns share one buffer so that a copy is far larger than
the record.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mlmon.errors import DecodeError, DecodeReason

__all__ = ["BATCH", "DICTIONARY", "END", "SCHEMA", "Frame", "read_frame", "read_frames"]

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
#: The end-of-stream mark.
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"

_MAX_FRAMES = 4096
_HEAD = struct.Struct("<Ii")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_I64 = struct.Struct("<q")
_MESSAGE = struct.Struct("<HHHHHH")  # vtable: its size, table size, version, header type, header, body length
_RECORDS = struct.Struct("<HHHHHH")  # vtable: its size, table size, length, nodes, buffers, compression


class Frame(NamedTuple):
    """One message: its kind, and where it ends in the stream."""

    kind: int
    end: int


def read_frames(value: bytes) -> list[Frame]:
    """All messages of a stream, the end mark left out.

    Raises:
        DecodeError: MALFORMED, the bytes are not a whole stream that ends with its end mark.
    """
    frames: list[Frame] = []
    position = 0
    stop = len(value) - len(END)
    if not value.endswith(END):
        raise _malformed("no end-of-stream mark: the record was cut short, or its writer not closed")
    while position < stop:
        if len(frames) >= _MAX_FRAMES:
            raise DecodeError(DecodeReason.TOO_LARGE, f"more than {_MAX_FRAMES} Arrow messages in one record")
        frame = read_frame(value, position)
        frames.append(frame)
        position = frame.end
    if position != stop:
        raise _malformed(f"a message ends at byte {position} of {stop}")
    return frames


def read_frame(value: bytes, position: int) -> Frame:
    """The message at `position`.

    Raises:
        DecodeError: MALFORMED, it is none, or reaches past the record; BAD_VALUE, its body is compressed or
            its buffers overlap.
    """
    try:
        marker, size = _HEAD.unpack_from(value, position)
        table_start = position + 8
        body = table_start + size
        if marker != 0xFFFFFFFF or size < 8 or size % 8 or body > len(value):
            raise _malformed(f"no Arrow message at byte {position}")
        table = table_start + _U32.unpack_from(value, table_start)[0]
        vtable = table - _I32.unpack_from(value, table)[0]
        vsize, _, _, kind_at, header_at, body_at = _MESSAGE.unpack_from(value, vtable)
        kind = value[table + kind_at] if vsize > 6 and kind_at else 0
        body_size = _I64.unpack_from(value, table + body_at)[0] if vsize > 10 and body_at else 0
        end = body + body_size
        if body_size < 0 or end > len(value):
            raise _malformed(f"the message at byte {position} reaches past the end of the record")
        if kind in (BATCH, DICTIONARY) and vsize > 8 and header_at:
            header = table + header_at
            header += _U32.unpack_from(value, header)[0]
            if kind == DICTIONARY:
                header = _dictionary_data(value, header)
            _check_buffers(value, header, body_size)
    except (struct.error, IndexError):
        raise _malformed(f"the message at byte {position} has a broken header") from None
    return Frame(kind, end)


def _dictionary_data(value: bytes, table: int) -> int:
    """Where the record batch inside a dictionary batch is."""
    vtable = table - _I32.unpack_from(value, table)[0]
    vsize, _, _, data_at, _, _ = _RECORDS.unpack_from(value, vtable)
    if vsize <= 6 or not data_at:
        raise _malformed("a dictionary batch without data")
    data: int = table + data_at
    return data + int(_U32.unpack_from(value, data)[0])


def _check_buffers(value: bytes, table: int, body_size: int) -> None:
    vtable = table - _I32.unpack_from(value, table)[0]
    vsize, _, _, _, buffers_at, compression_at = _RECORDS.unpack_from(value, vtable)
    if vsize > 10 and compression_at:
        raise DecodeError(
            DecodeReason.BAD_VALUE,
            "the Arrow body is compressed: send it plain and let the log compress (compression.type)",
        )
    if vsize <= 8 or not buffers_at:
        return
    vector = table + buffers_at
    vector += _U32.unpack_from(value, vector)[0]
    count = _U32.unpack_from(value, vector)[0]
    if count * 16 > len(value):
        raise _malformed("a record batch lists more buffers than it can hold")
    sizes = struct.unpack_from(f"<{2 * count}q", value, vector + 4)[1::2]
    if sum(sizes) > body_size or (sizes and min(sizes) < 0):
        raise DecodeError(DecodeReason.BAD_VALUE, "buffers of the Arrow body overlap: write each on its own")


def _malformed(detail: str) -> DecodeError:
    return DecodeError(DecodeReason.MALFORMED, f"expected an Arrow IPC stream: {detail}")
