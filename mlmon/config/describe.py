"""What a configuration type holds: its keys, their types, units, limits and defaults, read from the code.

The reader checks files against it, and the written references (`mlmon init`, `docs/configuration.md`) are
made from it, so that none of them can say something else than the code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["REQUIRED", "Key", "Section", "Shape", "expected", "keys_of", "sections", "shape_of", "unit_of"]

#: The default of a key that has none.
REQUIRED = msgspec.NODEFAULT

_UNITS = ("seconds", "bytes", "ratio", "records", "events", "segments", "series", "rows", "days")


@dataclass(frozen=True, slots=True)
class Shape:
    """How a value is built: of which table, and whether one, many by name, or many in a row.

    Attributes:
        kind: `value` (no table), `table`, `tables` (by name) or `list` (of tables).
        struct: the table's type; None for a plain value.
        optional: whether the key may be left out for good (`None`).
    """

    kind: str
    struct: type[msgspec.Struct] | None
    optional: bool


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table.

    Attributes:
        name: as written in the file.
        type: what msgspec converts its value to.
        info: the same, taken apart.
        default: its default, or `REQUIRED`.
        description: what it is, from the type's `Meta`.
        examples: from the type's `Meta`; the first stands in for a required key's value.
        shape: whether it is a value or a table.
    """

    name: str
    type: Any
    info: inspect.Type
    default: Any
    description: str
    examples: tuple[Any, ...]
    shape: Shape


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the file: where it stands, what it is, and the keys that are plain values.

    `default` is what the table above has when this one is left out; None: nothing.
    """

    path: tuple[str, ...]
    struct: type[msgspec.Struct]
    shape: Shape
    description: str
    default: msgspec.Struct | None
    keys: tuple[Key, ...]


def _unwrap(info: inspect.Type) -> inspect.Type:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _members(info: inspect.Type) -> list[inspect.Type]:
    """The alternatives of a type without None."""
    info = _unwrap(info)
    types = info.types if isinstance(info, inspect.UnionType) else (info,)
    return [t for t in map(_unwrap, types) if not isinstance(t, inspect.NoneType)]


def shape_of(info: inspect.Type) -> Shape:
    """Say whether a type is a plain value or made of tables."""
    bare = _unwrap(info)
    optional = isinstance(bare, inspect.UnionType) and any(
        isinstance(_unwrap(t), inspect.NoneType) for t in bare.types
    )
    members = _members(info)
    if len(members) == 1:
        only = members[0]
        if isinstance(only, inspect.StructType):
            return Shape("table", only.cls, optional)
        if isinstance(only, inspect.DictType):
            inner = _unwrap(only.value_type)
            if isinstance(inner, inspect.StructType):
                return Shape("tables", inner.cls, optional)
        if isinstance(only, inspect.ListType | inspect.VarTupleType):
            inner = _unwrap(only.item_type)
            if isinstance(inner, inspect.StructType):
                return Shape("list", inner.cls, optional)
    return Shape("value", None, optional)


def _documentation(info: inspect.Type) -> tuple[str, tuple[Any, ...]]:
    """The description and examples of a type's outermost `Meta` that has them."""
    description: str = ""
    examples: tuple[Any, ...] = ()
    while isinstance(info, inspect.Metadata):
        schema = info.extra_json_schema or {}
        description = description or schema.get("description", "")
        examples = examples or tuple(schema.get("examples", ()))
        info = info.type
    return description, examples


def keys_of(struct: type[msgspec.Struct], instance: msgspec.Struct | None = None) -> tuple[Key, ...]:
    """Every key of a table, in the order of the code.

    Args:
        struct: the table's type.
        instance: what the table above has as its default for this one: its values are the defaults here.
    """
    typed = inspect.type_info(struct)
    if not isinstance(typed, inspect.StructType):
        raise TypeError(f"{struct!r} is not a msgspec.Struct")
    infos = {field.encode_name: field.type for field in typed.fields}
    keys = []
    for field in msgspec.structs.fields(struct):
        info = infos[field.encode_name]
        default = field.default
        if default is REQUIRED and field.default_factory is not REQUIRED:
            default = field.default_factory()
        if instance is not None:
            default = getattr(instance, field.name)
        description, examples = _documentation(info)
        keys.append(Key(field.encode_name, field.type, info, default, description, examples, shape_of(info)))
    return tuple(keys)


def sections(struct: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[Section]:
    """Every table below and including `struct`, parents first, in the order of the code.

    A table with a name of the user's choosing has `NAME` in its path.
    """
    yield from _sections(struct, path, Shape("table", struct, optional=False), None)


def _sections(
    struct: type[msgspec.Struct], path: tuple[str, ...], shape: Shape, default: msgspec.Struct | None
) -> Iterator[Section]:
    keys = keys_of(struct, default)
    plain = tuple(key for key in keys if key.shape.struct is None)
    yield Section(path, struct, shape, _first_line(struct), default, plain)
    for key in keys:
        if key.shape.struct is not None:
            below = (*path, key.name, "NAME") if key.shape.kind == "tables" else (*path, key.name)
            inner = key.default if isinstance(key.default, msgspec.Struct) else None
            yield from _sections(key.shape.struct, below, key.shape, inner)


def _first_line(struct: type[msgspec.Struct]) -> str:
    """What the docstring says of a table: its first paragraph, without a leading `[name]:`."""
    text = " ".join((struct.__doc__ or "").strip().split("\n\n")[0].split())
    if text.startswith("`["):
        text = text.partition("]`:")[2].strip() or text
    return text[:1].upper() + text[1:]


def unit_of(name: str) -> str:
    """The unit that a key's name ends in, or nothing.

    Example:
        >>> unit_of("idle_timeout_seconds"), unit_of("kind")
        ('seconds', '')
    """
    last = name.rpartition("_")[2]
    return last if last in _UNITS and last != name else ""


def expected(info: inspect.Type, name: str = "") -> str:
    """Say in words what a value must be.

    Args:
        info: the value's type.
        name: its key, whose ending tells the unit.

    Example:
        >>> from typing import Annotated
        >>> expected(inspect.type_info(Annotated[int, msgspec.Meta(ge=1, le=86400)]), "size_seconds")
        'a whole number of seconds from 1 to 86400'
    """
    return " or ".join(dict.fromkeys(_in_words(member, unit_of(name)) for member in _members(info)))


def _in_words(info: inspect.Type, unit: str = "") -> str:
    of = f" of {unit}" if unit and unit != "ratio" else ""
    match info:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{of}{_limits(info)}"
        case inspect.FloatType():
            return f"a number{of}{_limits(info)}"
        case inspect.LiteralType(values=values):
            return f"one of {_quoted(values)}"
        case inspect.EnumType(cls=cls):
            return f"one of {_quoted(member.value for member in cls)}"
        case inspect.StrType(pattern=pattern):
            return "text" + (f" of the form {pattern}" if pattern else "")
        case _:
            return _container(info)


def _container(info: inspect.Type) -> str:
    match info:
        case inspect.CollectionType(item_type=item):
            return f"a list of {_plural(expected(item))}{_length(info)}"
        case inspect.DictType(value_type=value):
            return f"a table of names to {_plural(expected(value))}"
        case inspect.StructType():
            return "a table"
        case _:
            return type(info).__name__.removesuffix("Type").lower()


def _quoted(values: Iterable[Any]) -> str:
    return ", ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)


def _plural(words: str) -> str:
    """Turn "a number above 0" into "numbers above 0"."""
    for one, many in (
        ("a whole number", "whole numbers"),
        ("a number", "numbers"),
        ("a table", "tables"),
        ("one of ", ""),
        ("text", "texts"),
    ):
        if words.startswith(one):
            return many + words[len(one) :]
    return words


def _limits(info: inspect.IntType | inspect.FloatType) -> str:
    """The range of a number in words, with a leading space."""
    if info.ge is not None and info.le is not None:
        return f" from {_plain(info.ge)} to {_plain(info.le)}"
    low = f"{_plain(info.ge)} or more" if info.ge is not None else None
    low = f"above {_plain(info.gt)}" if info.gt is not None else low
    high = f"at most {_plain(info.le)}" if info.le is not None else None
    high = f"below {_plain(info.lt)}" if info.lt is not None else high
    both = " and ".join(part for part in (low, high) if part)
    return f", {both}" if both else ""


def _length(info: Any) -> str:
    low, high = info.min_length, info.max_length
    if low and high is not None:
        return f", {low} to {high} of them"
    if low:
        return f", at least {low}"
    return f", at most {high}" if high is not None else ""


def _plain(number: float) -> str:
    """A limit as one would write it: 86400, 0.5."""
    return str(int(number)) if float(number).is_integer() else str(number)
