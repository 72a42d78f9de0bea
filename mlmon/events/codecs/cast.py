"""Which Arrow types a column may arrive in, and how it becomes the type of the contract.

Producers in other languages send what their writers make of a string or a number: dictionaries, large
strings, wider integers, other units of time. Those are taken in; a string where a number belongs is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlmon.errors import DecodeError, DecodeReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlmon.events.schema import Field

__all__ = [
    "accepts",
    "cast_column",
    "check_features",
    "decode_dictionaries",
    "feature_struct",
    "has_dictionary",
    "is_ascii",
    "is_stringlike",
    "plain_type",
    "wrong_type",
]

_TYPES = pa.types


def is_stringlike(kind: pa.DataType) -> bool:
    """Whether a plain or dictionary-encoded string type."""
    if _TYPES.is_dictionary(kind):
        kind = kind.value_type
    return bool(_TYPES.is_string(kind) or _TYPES.is_large_string(kind) or _TYPES.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(_TYPES.is_integer(kind) or _TYPES.is_floating(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(_TYPES.is_list(kind) or _TYPES.is_large_list(kind) or _TYPES.is_fixed_size_list(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(_TYPES.is_timestamp(kind) or kind == pa.int64())


def _plain_string(kind: pa.DataType) -> bool:
    return is_stringlike(kind) and not _TYPES.is_dictionary(kind)


def is_ascii(array: pa.Array) -> bool:
    """Whether this is a string array of ASCII only with offsets in order: valid, and found out cheaply.

    The array must have passed Arrow's quick validation.
    """
    if array.type != pa.string() or not len(array):
        return False
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, len(array) + 1, array.offset * 4)
    if (offsets[1:] < offsets[:-1]).any():
        return False
    first, last = int(offsets[0]), int(offsets[-1])
    return first == last or int(np.frombuffer(data, np.uint8, last - first, first).max()) < 0x80


def accepts(field: Field, kind: pa.DataType) -> bool:
    """Whether a column of this type can be cast to the field's type.

    Example:
        >>> from mlmon.events.schema import FIELD_BY_NAME
        >>> accepts(FIELD_BY_NAME["tokens"], pa.int64()), accepts(FIELD_BY_NAME["tokens"], pa.string())
        (True, False)
    """
    if field.type is None:
        return bool(_TYPES.is_struct(kind))
    return any(
        belongs(field.type) and fits(kind)
        for belongs, fits in (
            (_TYPES.is_string, is_stringlike),
            (_TYPES.is_integer, _is_number),
            (_TYPES.is_floating, _is_number),
            (_TYPES.is_timestamp, _is_time),
            (_TYPES.is_map, _is_string_map),
            (_TYPES.is_list, _list_test(field.type)),
        )
    )


def _is_string_map(kind: pa.DataType) -> bool:
    return bool(_TYPES.is_map(kind)) and _plain_string(kind.key_type) and _plain_string(kind.item_type)


def _list_test(target: pa.DataType) -> Callable[[pa.DataType], bool]:
    inner = _plain_string if target == pa.list_(pa.string()) else _is_number
    return lambda kind: _is_list(kind) and inner(kind.value_type)


def cast_column(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, NDArray[np.intp] | None]:
    """Cast to the contract's type.

    Args:
        array: validated, of a type that `accepts` allows, not dictionary-encoded.
        target: the type of the contract.

    Returns:
        The cast array and the rows whose value does not fit, ascending, None where all do. Those rows hold
        an arbitrary value and must be refused. Numbers may lose precision but not range; times finer than
        µs are cut.
    """
    if _TYPES.is_integer(target):
        return _to_integers(array, target)
    if _TYPES.is_timestamp(target):
        return _to_times(array, target)
    if target == pa.list_(pa.int32()):
        return _to_integer_lists(array, target)
    return array.cast(target, safe=False), None


def _to_integers(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, NDArray[np.intp] | None]:
    if _TYPES.is_floating(array.type):
        if _TYPES.is_float16(array.type):
            array = array.cast(pa.float32())
        # How data frames write a missing integer.
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return _checked(array, target)


def _to_times(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, NDArray[np.intp] | None]:
    if _TYPES.is_timestamp(array.type):
        if array.type.unit == "ns":
            return array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(target), None
        array, bad = _checked(array.cast(pa.timestamp(array.type.unit)), pa.timestamp("us"))
        return array.cast(target), bad
    return array.cast(target), None


def _checked(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, NDArray[np.intp] | None]:
    try:
        return array.cast(target), None
    except pa.ArrowInvalid:
        loose = array.cast(target, safe=False)
        same = pc.equal(loose.cast(array.type, safe=False), array)
        if _TYPES.is_unsigned_integer(array.type):
            # What wraps to below zero would wrap back to the same.
            same = pc.and_(same, pc.greater_equal(loose, pa.scalar(0, target)))
        wrong = np.flatnonzero(~same.fill_null(True).to_numpy(zero_copy_only=False))
        return loose, wrong


def _to_integer_lists(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, NDArray[np.intp] | None]:
    try:
        return array.cast(target), None
    except pa.ArrowInvalid:
        _, bad = _to_integers(pc.list_flatten(array), target.value_type)
        parents = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
        rows = np.unique(parents[bad]).astype(np.intp) if bad is not None else None
        return array.cast(target, safe=False), rows


def check_features(struct: pa.DataType, target: pa.DataType) -> None:
    """Check the children of a feature struct.

    Raises:
        DecodeError: WRONG_TYPE, a child is not a number or not a string, as `target` asks.
    """
    fits = is_stringlike if _TYPES.is_string(target) else _is_feature_number
    for field in struct:
        if not fits(field.type) and not _TYPES.is_null(field.type):
            raise wrong_type(f"feature {field.name[:100]!r}", target, field.type)


def feature_struct(array: pa.Array, target: pa.DataType, names: frozenset[str]) -> pa.Array | None:
    """A feature struct's children of these names as `target`; None where there are none.

    Of two children of one name the first is kept. The struct itself is never null: a null one hands its null
    down to its children, so readers need not look at both.
    """
    children: dict[str, pa.Array] = {}
    for field, child in zip(array.type, array.flatten(), strict=True):
        if field.name in names and field.name not in children:
            children[field.name] = child if child.type == target else child.cast(target, safe=False)
    if not children:
        return None
    return pa.StructArray.from_arrays(list(children.values()), names=list(children))


def _is_feature_number(kind: pa.DataType) -> bool:
    return _is_number(kind) or bool(_TYPES.is_boolean(kind))


def has_dictionary(kind: pa.DataType) -> bool:
    """Whether a type is, or holds, dictionary encoding."""
    if _TYPES.is_dictionary(kind):
        return True
    return any(has_dictionary(kind.field(index).type) for index in range(kind.num_fields))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that `decode_dictionaries` makes of this one."""
    if _TYPES.is_struct(kind) and has_dictionary(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    return pa.string() if _TYPES.is_dictionary(kind) else kind


def decode_dictionaries(array: pa.Array, max_length: int) -> pa.Array:
    """Replace dictionary encoding of strings, also within a struct, by plain strings.

    Dictionary values are cut to one character over `max_length` first, so that a short index cannot stand
    for a huge string many times over; the check of lengths still refuses the row.
    """
    if not has_dictionary(array.type):
        return array
    if _TYPES.is_struct(array.type):
        children = [decode_dictionaries(child, max_length) for child in array.flatten()]
        return pa.StructArray.from_arrays(children, names=[field.name for field in array.type])
    values = array.dictionary.cast(pa.string())
    return pc.utf8_slice_codeunits(values, 0, max_length + 1).take(array.indices)


def wrong_type(what: str, expected: Any, got: Any) -> DecodeError:
    """The error of a column that cannot be cast."""
    return DecodeError(DecodeReason.WRONG_TYPE, f"{what}: expected {expected}, got {str(got)[:200]}")
