"""How a value is written in TOML: what messages suggest and `mlmon init` writes."""

from __future__ import annotations

import json
import math
import re
from enum import Enum
from typing import Any

import msgspec

__all__ = ["toml_key", "toml_value"]


def toml_key(name: str) -> str:
    """A key, in quotes where TOML asks for them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's too, but for DEL, which JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_value(value: Any) -> str:
    """A value that `tomllib` reads back as the same.

    Raises:
        TypeError: TOML has no such value (None among them).

    Example:
        >>> toml_value(True), toml_value(("a", 'b"')), toml_value(0.5), toml_value({"a": 1})
        ('true', '["a", "b\\\\""]', '0.5', '{ a = 1 }')
    """
    match value:
        case Enum():
            return toml_value(value.value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str():
            return _quoted(value)
        case list() | tuple() | set() | frozenset():
            items = sorted(value) if isinstance(value, set | frozenset) else value
            return f"[{', '.join(map(toml_value, items))}]"
        case msgspec.Struct():
            return toml_value({k: v for k, v in msgspec.structs.asdict(value).items() if v is not None})
        case dict():
            inner = ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case _:
            raise TypeError(f"TOML has no way to write a {type(value).__name__}")
