"""Arrays and plain values to bytes and back: how summaries are stored. MessagePack, never pickle."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from mlmon.errors import IncompatibleStateError

__all__ = ["pack", "unpack"]

_ARRAY = 1


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        header = msgspec.msgpack.encode((value.dtype.str, value.shape))
        return msgspec.msgpack.Ext(_ARRAY, len(header).to_bytes(2, "big") + header + value.tobytes())
    raise TypeError(f"cannot store {type(value).__name__}: expected arrays, numbers, strings, lists, dicts")


def _decode(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise IncompatibleStateError(f"stored state has extension type {code}: expected {_ARRAY}")
    start = 2 + int.from_bytes(data[:2], "big")
    dtype, shape = msgspec.msgpack.decode(data[2:start])
    return np.frombuffer(data[start:], dtype=np.dtype(dtype)).reshape(shape).copy()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode)
_DECODER = msgspec.msgpack.Decoder(ext_hook=_decode)


def pack(value: Any) -> bytes:
    """Encode NumPy arrays, numbers, strings, lists and dicts.

    Example:
        >>> unpack(pack({"a": np.arange(3), "b": "x"}))
        {'a': array([0, 1, 2]), 'b': 'x'}
    """
    return _ENCODER.encode(value)


def unpack(data: bytes) -> Any:
    """Decode what `pack` made.

    Raises:
        IncompatibleStateError: the bytes are not of this format.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise IncompatibleStateError(f"stored state cannot be read: {error}") from error
