"""The configuration written out from the code: a commented file for `mlmon init`, and the reference."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from mlmon.config.describe import REQUIRED, expected, sections
from mlmon.config.values import toml_key, toml_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import msgspec

    from mlmon.config.describe import Key, Section

__all__ = ["markdown", "markdown_of", "toml"]

_WIDTH = 100


def toml(
    config_type: type[msgspec.Struct],
    *,
    values: Mapping[str, Any] | None = None,
    off: Callable[[tuple[str, ...]], bool] = lambda _: False,
    head: str = "",
) -> str:
    """Write a configuration with every key, its default, and what it is.

    A key without a default value is written as a comment with an example, unless `values` gives it one. What
    is written reads back as `config_type`, and so does each commented line once its leading `# ` is gone.

    Args:
        config_type: the type of the whole file.
        values: what to write instead of defaults, by dotted key.
        off: says of a table's path whether it is written as a comment only.
        head: comment lines for the top of the file.
    """
    parts = [_comment(head)] if head else []
    for section in sections(config_type):
        silent = off(section.path) or "NAME" in section.path or section.shape.kind == "list"
        absent = section.shape.optional and section.default is None
        silent = silent or (absent and not _given(section, values or {}))
        parts.append(_table(section, values or {}, silent=silent))
    return "\n".join(part for part in parts if part)


def _given(section: Section, values: Mapping[str, Any]) -> bool:
    place = ".".join(section.path)
    return any(name == place or name.startswith(f"{place}.") for name in values)


def _table(section: Section, values: Mapping[str, Any], *, silent: bool) -> str:
    if not section.keys:
        return ""
    lines = []
    if section.path:
        lines.append(_comment(section.description).rstrip())
        name = ".".join(map(toml_key, section.path))
        header = f"[[{name}]]" if section.shape.kind == "list" else f"[{name}]"
        lines.append(f"# {header}" if silent else header)
    for index, key in enumerate(section.keys):
        if index:
            lines.append("")
        lines.append(_comment(_about(key)).rstrip())
        value = values.get(".".join((*section.path, key.name)), key.default)
        unset = value is None or value is REQUIRED
        line = f"{toml_key(key.name)} = {toml_value(_example(key) if unset else value)}"
        lines.append(f"# {line}" if unset or silent else line)
    return "\n".join(lines) + "\n"


def _about(key: Key) -> str:
    """A key's description and what it may be."""
    allowed = expected(key.info, key.name)
    note = f"{allowed[:1].upper()}{allowed[1:]}."
    if key.default is REQUIRED:
        note = f"Required: {allowed}."
    elif key.default is None:
        note += " Not set by default."
    return f"{key.description} {note}".strip()


def _example(key: Key) -> Any:
    """A value for a key that has none: the first example of its type, or a plain one of the right kind."""
    if key.examples:
        return key.examples[0]
    words = expected(key.info)
    if words.startswith("one of"):
        return words.partition('"')[2].partition('"')[0]
    if words.startswith("a list"):
        return []
    if words.startswith("true"):
        return False
    if words.startswith(("a whole number", "a number")):
        return _number(words)
    return {} if words.startswith("a table") else "…"


def _number(words: str) -> int:
    """The lowest number that a range in words allows, or 1."""
    digits = [int(float(word)) for word in words.replace(",", " ").split() if word.replace(".", "").isdigit()]
    return digits[0] + (1 if "above" in words else 0) if digits else 1


def _comment(text: str) -> str:
    lines = [wrapped for line in text.splitlines() for wrapped in textwrap.wrap(line, _WIDTH) or [""]]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def markdown(config_type: type[msgspec.Struct]) -> str:
    """A table for every section: key, what it takes, default, meaning."""
    parts = []
    for section in sections(config_type):
        name = ".".join(map(toml_key, section.path))
        title = f"[[{name}]]" if section.shape.kind == "list" else f"[{name}]"
        parts.append(_keys(f"`{title}`" if section.path else "Top level", section))
    return "\n".join(part for part in parts if part)


def markdown_of(types: Iterable[type[msgspec.Struct]]) -> str:
    """The same for configuration objects that are made in code, under their names."""
    return "\n".join(_keys(f"`{cls.__name__}`", next(sections(cls)), level="###") for cls in types)


def _keys(title: str, section: Section, level: str = "##") -> str:
    if not section.keys:
        return ""
    rows = "\n".join(_row(key) for key in section.keys)
    head = "| key | takes | default | meaning |\n|---|---|---|---|"
    return f"{level} {title}\n\n{section.description}\n\n{head}\n{rows}\n"


def _row(key: Key) -> str:
    if key.default is REQUIRED:
        default = "required"
    else:
        default = "not set" if key.default is None else f"`{_shortened(toml_value(key.default))}`"
    cells = (f"`{key.name}`", expected(key.info, key.name), default, key.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shortened(text: str) -> str:
    """A long list by its first and last values."""
    if len(text) <= _WIDTH or not text.startswith("["):
        return text
    items = text[1:-1].split(", ")
    return f"[{', '.join(items[:3])}, …, {items[-1]}]"
