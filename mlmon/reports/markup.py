"""HTML elements that cannot be written unescaped: text is escaped where it enters, and only markup is not."""

from __future__ import annotations

from html import escape
from typing import TypeAlias

__all__ = ["Markup", "Part", "element", "joined", "trusted"]

_VOID = frozenset({"br", "input", "meta", "wbr"})


class Markup(str):
    """Text that is HTML already. Made here, and by `trusted` for what this package itself wrote."""

    __slots__ = ()


#: What an element may hold: strings are escaped.
Part: TypeAlias = str


def element(tag: str, *parts: Part, **attributes: str | bool) -> Markup:
    """An element. Attributes that are Python words end with `_`; True is an attribute without a value.

    Example:
        >>> element("td", "a < b", element("b", "&"), class_="n")
        '<td class="n">a &lt; b<b>&amp;</b></td>'
    """
    shown = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for name, value in attributes.items()
        if value is not False
    )
    opened = f"<{tag}{shown}>"
    return Markup(opened if tag in _VOID else f"{opened}{joined(*parts)}</{tag}>")


def joined(*parts: Part) -> Markup:
    """Parts one after the other."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def trusted(html: str) -> Markup:
    """HTML of our own that is not built of elements: a style sheet, a script."""
    return Markup(html)
