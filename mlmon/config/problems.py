"""How a mistake in a configuration is told: which key, which value, why it cannot be, and what to write.

Every mistake of a file is gathered and told at once. Values are shown so that they can be found, except where
they could be a secret: under a key that sounds like one, even misspelt, and passwords inside addresses.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlmon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Problem", "dotted", "error", "is_secret", "nearest", "shown", "without_secrets"]

_SECRET_WORDS = (
    "password", "passwd", "passphrase", "secret", "credential", "credentials", "token", "apikey", "auth"
)  # fmt: skip
_NO_SECRET = re.compile(r"_(seconds|bytes|ratio|count|size)$|^max_|^min_")
_USERINFO = re.compile(r"//[^/@\s]+@")
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake.

    Attributes:
        key: where it is, such as `windows.size_seconds`; empty for the file as a whole.
        value: what stands there as the file would write it; None where there is nothing to show.
        reason: what was expected, and what came.
        remedy: what to do about it.
    """

    key: str
    value: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        """The problem in one line."""
        head = f"{self.key} = {self.value}" if self.value is not None else self.key
        return f"{head}: {self.reason}; {self.remedy}" if head else f"{self.reason}; {self.remedy}"


def error(where: str, problems: Sequence[Problem]) -> ConfigError:
    """The one error for all of a file's problems.

    Example:
        >>> print(error("mlmon.toml", [Problem("source.kind", '"kafak"', "expected kafka", "write it so")]))
        mlmon.toml: source.kind = "kafak": expected kafka; write it so
    """
    if len(problems) == 1:
        return ConfigError(f"{where}: {problems[0]}")
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return ConfigError(f"{where}: {len(problems)} problems\n{lines}")


def dotted(path: Iterable[str | int]) -> str:
    """A key's path as TOML writes it.

    Example:
        >>> dotted(["monitors", "tokenizer", "files", "v 1", 0])
        'monitors.tokenizer.files."v 1"[0]'
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


def is_secret(name: str) -> bool:
    """Whether a key sounds like it holds a secret, or like a misspelling of one that does.

    Example:
        >>> is_secret("sasl_password"), is_secret("passwrod"), is_secret("max_tokens"), is_secret("tokenizer")
        (True, True, False, False)
    """
    if _NO_SECRET.search(name):
        return False
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    return any(difflib.get_close_matches(word, _SECRET_WORDS, 1, 0.8) for word in words if word != "author")


def shown(value: Any, path: Sequence[str | int]) -> str:
    """A value as it may be shown in a message: short, and without secrets.

    Args:
        value: as TOML gave it.
        path: the keys that lead to it; one that sounds like a secret hides the value.
    """
    if any(is_secret(part) for part in path if isinstance(part, str)):
        return "(hidden)"
    if isinstance(value, dict):
        return "(a table)"
    if isinstance(value, list):
        return "(a list)" if any(isinstance(v, dict | list) for v in value) else _cut(_scalar(value))
    return _cut(_scalar(value))


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return _USERINFO.sub("//(hidden)@", text)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def without_secrets(text: str, data: Any) -> str:
    """A component's own message, with every secret that stands in the table it speaks of taken out.

    Example:
        >>> without_secrets("bad pair a:hunter2", {"sasl_password": "hunter2"})
        'bad pair a:(hidden)'
    """
    for secret in _secrets(data, hidden=False):
        text = text.replace(secret, "(hidden)")
    return _USERINFO.sub("//(hidden)@", text)


def _secrets(data: Any, *, hidden: bool) -> Iterator[str]:
    """Every text under a key that sounds like a secret."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _secrets(value, hidden=hidden or is_secret(name))
    elif isinstance(data, list):
        for value in data:
            yield from _secrets(value, hidden=hidden)
    elif hidden and isinstance(data, str) and data:
        yield data


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known key that was probably meant, if any.

    Tried in turn: the same letters in another case, the same name with another unit (or none), and the most
    similar.

    Example:
        >>> nearest("size", ["size_seconds", "kind"]), nearest("knid", ["size_seconds", "kind"])
        ('size_seconds', 'kind')
    """
    names = list(known)
    for norm in (_folded, _stem):
        for candidate in names:
            if norm(candidate) == norm(name):
                return candidate
    stems = {_stem(candidate): candidate for candidate in names}
    close = difflib.get_close_matches(name, names, 1, 0.6)
    if close:
        return close[0]
    by_stem = difflib.get_close_matches(_stem(name), stems, 1, 0.7)
    return stems[by_stem[0]] if by_stem else None


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _stem(name: str) -> str:
    return _folded(
        re.sub(
            r"_(ms|us|s|sec|secs|seconds|minutes|min|hours|days|b|kb|mb|gb|kib|mib|bytes|ratio|percent)$",
            "",
            name,
        )
    )
