"""How single events become columns: one Arrow array per field that some event has.

Used by the encoder over `Event` objects and by the decoder over what JSON and MessagePack records held.
The work per event is done by C loops (`astuple`, `zip`, `pa.array`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events.schema import FIELD_BY_NAME, FIELDS, TIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlmon.events.schema import Field

__all__ = ["build_columns", "columns_to_batch"]

Column = Sequence[Any]
_STRING = pa.string()


def build_columns(columns: Mapping[str, Column], count: int) -> dict[str, pa.Array]:
    """Build the Arrow arrays of `count` events.

    Args:
        columns: by field of the contract a list or tuple of `count` values, None where an event lacks it;
            fields may be left out.
        count: number of events, at least 1.

    Returns:
        By field name, in the contract's order; fields that no event has are left out.

    Raises:
        DecodeError: WRONG_TYPE, a value does not fit its field; the message names the field.
    """
    out: dict[str, pa.Array] = {}
    for name, build in _BUILDERS.items():
        column = columns.get(name)
        if column is None or (column[0] is None and column.count(None) == count):
            continue
        try:
            array = build(column)
        except (pa.ArrowException, ValueError, TypeError, OverflowError, AttributeError) as error:
            expected = FIELD_BY_NAME[name].type or "a map of names to values"
            raise DecodeError(DecodeReason.WRONG_TYPE, f"{name}: expected {expected}: {error}") from None
        if array is not None:
            out[name] = array
    return out


def columns_to_batch(columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """Make a record batch of columns of equal length."""
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _strings(column: Column) -> pa.Array:
    # Names and versions are mostly the same all along: telling costs a third of converting them.
    first = column[0]
    if first == column[-1] and isinstance(first, str) and column.count(first) == len(column):
        return _repeated([first], len(column))
    return pa.array(column, _STRING)


def _repeated(values: list[str], times: int) -> pa.Array:
    """A string array of `values`, over and over."""
    data = [value.encode() for value in values]
    lengths = np.tile(np.fromiter(map(len, data), np.int32, len(data)), times)
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.StringArray.from_buffers(
        len(lengths), pa.py_buffer(offsets), pa.py_buffer(b"".join(data) * times)
    )


def _numbers(dtype: type[np.generic], kind: pa.DataType, column: Column) -> pa.Array:
    try:
        values = np.fromiter(column, dtype, len(column))
    except TypeError:  # some are None, or no numbers at all
        return pa.array(column, kind)
    if dtype is np.float64 and np.isnan(values).any():
        return pa.array(
            values, kind, from_pandas=True
        )  # NumPy makes None and not-a-number one; both are a gap
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _embeddings(column: Column) -> pa.Array:
    """Lists of numbers, float arrays, or base64 of little-endian float16, as list<float16>."""
    vectors = [_vector(value) for value in column]
    lengths = np.fromiter(map(len, vectors), np.int32, len(vectors))
    offsets = np.zeros(len(vectors) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    with np.errstate(over="ignore"):  # what does not fit becomes inf, which the checks refuse
        if any(isinstance(vector, np.ndarray) for vector in vectors):
            values = np.concatenate([np.asarray(vector, np.float16) for vector in vectors])
        else:
            flat = np.fromiter(chain.from_iterable(vectors), np.float32, int(offsets[-1]))
            values = flat.astype(np.float16)
    mask = np.fromiter((value is None for value in column), np.bool_, len(column))
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values), mask=pa.array(mask) if mask.any() else None
    )


def _vector(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), "<f2")
    if isinstance(value, np.ndarray) and value.ndim != 1:
        raise ValueError(f"got an array of {value.ndim} dimensions, expected one")
    return value


def _features(kind: pa.DataType, column: Column) -> pa.Array | None:
    names = sorted(set(chain.from_iterable(filter(None, column))))
    if not names:
        return None
    return pa.array(column, pa.struct([(name, kind) for name in names]))


def _maps(column: Column) -> pa.Array:
    if None in column:
        return pa.array(
            [value if value is None else list(value.items()) for value in column],
            FIELD_BY_NAME["segments"].type,
        )
    lengths = np.fromiter(map(len, column), np.int32, len(column))
    offsets = np.zeros(len(column) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    keys, first = list(chain.from_iterable(column)), list(column[0])
    items = pa.array(list(chain.from_iterable(map(dict.values, column))), _STRING)
    same = keys == first * len(column) and not (lengths != len(first)).any()
    key_array = _repeated(first, len(column)) if same else pa.array(keys, _STRING)
    return pa.MapArray.from_arrays(pa.array(offsets), key_array, items)


def _builder(field: Field) -> Callable[[Column], pa.Array | None]:
    named: dict[str, Callable[[Column], pa.Array | None]] = {
        **dict.fromkeys(TIMES, partial(_numbers, np.int64, field.type)),
        "embedding": _embeddings,
        "numeric_features": partial(_features, pa.float64()),
        "categorical_features": partial(_features, _STRING),
        "segments": _maps,
    }
    if field.name in named:
        return named[field.name]
    if field.type == _STRING:
        return _strings
    if field.type == pa.int32():
        return partial(_numbers, np.int32, field.type)
    if field.type == pa.float64():
        return partial(_numbers, np.float64, field.type)
    return partial(pa.array, type=field.type)


_BUILDERS = {field.name: _builder(field) for field in FIELDS}
