"""How single events become columns: one Arrow array per field that some event has.

Used by the encoder over `Event` objects and by the decoder over what JSON and MessagePack records held.
The work per event is done by C loops (`astuple`, `zip`, `pa.array`).
"""

from __future__ import annotations

import base64
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events.schema import FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlmon.events.schema import Field

__all__ = ["build_columns", "columns_to_batch"]

Column = tuple[Any, ...]


def build_columns(columns: Sequence[Column], count: int) -> dict[str, pa.Array]:
    """Build the Arrow arrays of `count` events.

    Args:
        columns: one tuple of values per field of the contract, in its order, None where an event lacks it.
        count: number of events.

    Returns:
        By field name, in the contract's order; fields that no event has are left out.

    Raises:
        DecodeError: WRONG_TYPE, a value does not fit its field; the message names the field.
    """
    out: dict[str, pa.Array] = {}
    for field, build, column in zip(FIELDS, _BUILDERS, columns, strict=True):
        if column.count(None) == count:
            continue
        try:
            array = build(column)
        except (pa.ArrowException, ValueError, TypeError, OverflowError, AttributeError) as error:
            raise DecodeError(
                DecodeReason.WRONG_TYPE, f"{field.name}: expected {_expected(field)}: {error}"
            ) from None
        if array is not None:
            out[field.name] = array
    return out


def columns_to_batch(columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """Make a record batch of columns of equal length."""
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _expected(field: Field) -> str:
    return "a map of names to values" if field.type is None else str(field.type)


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
    return pa.array(
        [value if value is None else list(value.items()) for value in column],
        pa.map_(pa.string(), pa.string()),
    )


def _builder(field: Field) -> Callable[[Column], pa.Array | None]:
    if field.name == "embedding":
        return _embeddings
    if field.name == "segments":
        return _maps
    if field.type is None:
        return partial(_features, pa.float64() if field.name == "numeric_features" else pa.string())
    return partial(pa.array, type=field.type)


_BUILDERS = tuple(_builder(field) for field in FIELDS)
