"""How a configuration file becomes configuration objects, or one error that lists all of its mistakes.

msgspec stops at the first mistake, so the types are walked here key by key; what each key may be is decided
by msgspec alone. The whole table is converted once more at the end, which runs the checks that a component's
`__post_init__` makes over its own keys.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mlmon.config.describe import REQUIRED, expected, keys_of, sections, unit_of
from mlmon.config.problems import Problem, dotted, error, nearest, shown, without_secrets
from mlmon.config.values import toml_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlmon.config.describe import Key, Shape

__all__ = ["convert", "parse_toml", "read_toml"]

_T = TypeVar("_T", bound=msgspec.Struct)

_SECONDS: dict[str, float] = {
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
}
_SECONDS |= {"h": 3600, "hour": 3600, "d": 86_400, "day": 86_400}
_BYTES: dict[str, float] = {
    "b": 1,
    "byte": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "k": 2**10,
    "kib": 2**10,
    "m": 2**20,
}
_BYTES |= {"mib": 2**20, "g": 2**30, "gib": 2**30}
_QUANTITY = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([a-zµ%]*)\s*", re.IGNORECASE)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ConfigError: it is none; says what is wrong and where, without quoting the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        # Its message says what and where (line and column) and quotes at most one character of the file.
        problem = Problem("", None, f"not valid TOML: {exc}", "correct the line, or start from `mlmon init`")
        raise error(where, [problem]) from None


def read_toml(text: str, config_type: type[_T], where: str) -> _T:
    """Read a configuration.

    Args:
        text: the file's content.
        config_type: the type of the whole file.
        where: the file's name, for messages.

    Raises:
        ConfigError: with every mistake found, each with key, value, reason and remedy; never with a secret.
    """
    return convert(parse_toml(text, where), config_type, where)


def convert(data: dict[str, Any], config_type: type[_T], where: str) -> _T:
    """`read_toml` for what has been parsed already."""
    problems: list[Problem] = []
    _Walk(config_type, problems).table(data, config_type, (), None)
    if problems:
        raise error(where, problems)
    return msgspec.convert(_completed(data, config_type, None), config_type)


def _completed(
    data: dict[str, Any], struct: type[msgspec.Struct], default: msgspec.Struct | None
) -> dict[str, Any]:
    """A table with the defaults that the table above has for its keys, where they are not the type's own."""
    full = dict(data)
    own = {key.name: key.default for key in keys_of(struct)}
    for key in keys_of(struct, default):
        inner = key.default if isinstance(key.default, msgspec.Struct) else None
        if key.name not in data:
            if default is not None and key.default != own[key.name]:
                full[key.name] = msgspec.to_builtins(key.default)
        elif key.shape.struct is not None and key.shape.kind == "table" and isinstance(data[key.name], dict):
            full[key.name] = _completed(data[key.name], key.shape.struct, inner)
    return full


class _Walk:
    """One pass over a file, gathering problems."""

    def __init__(self, root: type[msgspec.Struct], problems: list[Problem]) -> None:
        self._root = root
        self._problems = problems

    def table(
        self,
        data: Any,
        struct: type[msgspec.Struct],
        path: tuple[str | int, ...],
        default: msgspec.Struct | None,
    ) -> None:
        """Check a table's keys, then the table as a whole.

        `default` is what the table above has for this one when it is left out: its values are the defaults.
        """
        if not isinstance(data, dict):
            name = dotted(path)
            self._add(path, data, f"expected a table, got {_kind(data)}", f"write its keys under [{name}]")
            return
        before = len(self._problems)
        keys = {key.name: key for key in keys_of(struct, default)}
        for name, value in data.items():
            if name in keys:
                self._key(value, keys[name], (*path, name))
            else:
                self._unknown(value, keys, (*path, name))
        for key in keys.values():
            if key.default is REQUIRED and key.name not in data:
                self._missing(key, (*path, key.name))
        if len(self._problems) == before:
            self._whole(_completed(data, struct, default), struct, path)

    def _key(self, value: Any, key: Key, path: tuple[str | int, ...]) -> None:
        shape = key.shape
        if shape.struct is None:
            self._value(value, key, path)
        elif shape.kind == "table":
            self.table(
                value, shape.struct, path, key.default if isinstance(key.default, msgspec.Struct) else None
            )
        else:
            self._many(value, shape, path)

    def _many(self, value: Any, shape: Shape, path: tuple[str | int, ...]) -> None:
        """Check tables by name, or in a row."""
        assert shape.struct is not None  # noqa: S101 - the caller chose this branch by it
        items: Iterable[tuple[str | int, Any]]
        if shape.kind == "tables" and isinstance(value, dict):
            items = value.items()
        elif shape.kind == "list" and isinstance(value, list):
            items = enumerate(value)
        else:
            form = f"[{dotted(path)}.NAME]" if shape.kind == "tables" else f"[[{dotted(path)}]]"
            self._add(path, value, f"expected tables, got {_kind(value)}", f"write each under {form}")
            return
        for name, item in items:
            self.table(item, shape.struct, (*path, name), None)

    def _value(self, value: Any, key: Key, path: tuple[str | int, ...]) -> None:
        try:
            msgspec.convert(value, key.type)
        except msgspec.ValidationError as exc:
            wanted = expected(key.info, key.name)
            message, inner = _at(exc)
            reason = f"expected {wanted}"
            if inner:
                reason += f" ({inner}: {message})"
            elif ", got `" in message:
                reason += f", got {_kind(value)}"
            self._add(path, value, reason, _remedy(value, key))

    def _whole(self, data: dict[str, Any], struct: type[msgspec.Struct], path: tuple[str | int, ...]) -> None:
        try:
            msgspec.convert(data, struct)
        except msgspec.ValidationError as exc:
            text = without_secrets(str(exc).partition(" - at `$")[0], data)
            reason, _, remedy = text.partition("; ")
            place = dotted(path)
            where = f"the keys under [{place}]" if place else "the keys that it names"
            self._problems.append(Problem(place, None, reason, remedy or f"correct {where}"))

    def _unknown(self, value: Any, keys: dict[str, Key], path: tuple[str | int, ...]) -> None:
        name = str(path[-1])
        near = nearest(name, keys)
        elsewhere = [
            dotted((*section.path, key.name))
            for section in sections(self._root)
            for key in section.keys
            if key.name == name
        ]
        if near is not None:
            remedy = f"did you mean `{near}`?"
            if unit_of(near) and unit_of(near) not in name:
                remedy += f" It is given in {unit_of(near)}."
        elif elsewhere:
            remedy = f"it belongs elsewhere: {' or '.join(f'`{place}`' for place in elsewhere)}"
        else:
            known = ", ".join(keys) or "none"
            remedy = f"remove it; the keys known here are: {known}"
        # A value under a misspelt key could be meant for the secret it is a misspelling of.
        hidden = (*path, near) if near else path
        self._add(path, value, "unknown key", remedy, hidden)

    def _missing(self, key: Key, path: tuple[str | int, ...]) -> None:
        wanted = expected(key.info, key.name)
        what = f" ({key.description.rstrip('.')})" if key.description else ""
        self._problems.append(
            Problem(dotted(path), None, f"missing; expected {wanted}{what}", f"add  {key.name} = …")
        )

    def _add(
        self,
        path: tuple[str | int, ...],
        value: Any,
        reason: str,
        remedy: str,
        hidden: Sequence[str | int] | None = None,
    ) -> None:
        self._problems.append(Problem(dotted(path), shown(value, hidden or path), reason, remedy))


def _at(exc: msgspec.ValidationError) -> tuple[str, str]:
    """What msgspec says, and where inside a list or table it says it (nothing: of the value itself)."""
    message, _, place = str(exc).partition(" - at `$")
    return message[:1].lower() + message[1:], place.rstrip("`")


def _kind(value: Any) -> str:
    """What a TOML value is, in words."""
    match value:
        case bool():
            return "true or false"
        case int():
            return "a whole number" if abs(value) < 2**63 else "a number too large"
        case float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _remedy(value: Any, key: Key) -> str:
    """What to write instead, as exactly as can be said."""
    guess = _guess(value, key)
    if guess is not None:
        return f"write  {key.name} = {guess}"
    if key.default in (REQUIRED, None):
        return "correct it"
    return f"correct it, or leave the key out for its default of {toml_value(key.default)}"


def _guess(value: Any, key: Key) -> str | None:
    """The value that was probably meant: a quantity with a unit, a number in quotes, a near word."""
    if not isinstance(value, str):
        if isinstance(value, float) and value.is_integer():
            return _accepted(int(value), key)
        return _accepted([value], key)
    words = re.findall(r'"([^"]+)"', expected(key.info))
    near = nearest(value, words)
    if near is not None:
        return f'"{near}"'
    if value.lower() in ("true", "yes", "on", "false", "no", "off"):
        return _accepted(value.lower() in ("true", "yes", "on"), key)
    match = _QUANTITY.fullmatch(value)
    if match is None:
        return _accepted([value], key)
    number, unit = float(match[1].replace("_", "")), match[2].lower()
    units: dict[str, float] = {"seconds": _SECONDS, "bytes": _BYTES, "ratio": {"%": 0.01}}.get(
        unit_of(key.name), {}
    )
    factor = 1 if not unit else units.get(unit) or units.get(unit.removesuffix("s"))
    if factor is None:
        return None
    exact = round(number * factor, 9)
    return _accepted(int(exact) if exact.is_integer() else exact, key)


def _accepted(value: Any, key: Key) -> str | None:
    """A value as TOML writes it, if the key would take it."""
    try:
        msgspec.convert(value, key.type)
    except msgspec.ValidationError:
        return None
    return toml_value(value)
