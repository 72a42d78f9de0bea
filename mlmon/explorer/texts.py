"""Texts of events, out of the mirror: only where a short-lived store is given and showing them is allowed.

The history has no text and never gets one. The mirror keeps texts for its retention in files that only their
owner reads; what is gone from there is gone from here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mlmon.attach.mirror_spool import list_files
from mlmon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["Asked", "find_texts"]

#: A line longer than this is damage.
_MOST_LINE = 1024 * 1024
#: Letters of a text that are shown.
_SHOWN = 500


class Asked(NamedTuple):
    """An event whose text is asked for; time in µs since 1970."""

    service: str
    model: str
    time_us: int


class _Line(msgspec.Struct):
    event_time: int
    service: str
    model_name: str
    text: str


def find_texts(directory: str | Path, asked: Collection[Asked]) -> dict[Asked, str]:
    """Texts of those that the mirror still has, cut to 500 letters. An event that is there twice has none.

    Reads the whole mirror once, a line at a time; the mirror bounds its own size. Nothing is written.

    Raises:
        ConfigError: it is no directory, is somebody else's, or others may look into it.
    """
    found: dict[Asked, str] = {}
    twice: set[Asked] = set()
    for path in list_files(_private(Path(directory))):
        for line in _lines(path):
            key = Asked(line.service, line.model_name, line.event_time)
            if key not in asked:
                continue
            if found.get(key, line.text) != line.text:
                twice.add(key)
            found[key] = line.text
    return {key: _cut(text) for key, text in found.items() if key not in twice}


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."


def _private(root: Path) -> Path:
    """The directory, if it is this user's alone."""
    try:
        held = root.stat()
    except OSError as error:
        raise ConfigError(
            f"--texts {root}: expected the directory of a mirror, got: {error.strerror}; name the one that "
            "the service's mirror writes"
        ) from error
    if not stat.S_ISDIR(held.st_mode) or held.st_uid != os.geteuid() or stat.S_IMODE(held.st_mode) & 0o077:
        raise ConfigError(
            f"--texts {root}: expected a directory of this user with mode 0700, since it holds raw texts; it "
            f"has mode {stat.S_IMODE(held.st_mode):04o} and is of uid {held.st_uid}; chmod 700 it, or name "
            "the mirror's own"
        )
    return root


def _lines(path: Path) -> Iterator[_Line]:
    """Whole records of a file; what is half written or damaged is passed over."""
    decoder = msgspec.json.Decoder(_Line)
    try:
        with path.open("rb") as file:
            while data := file.readline(_MOST_LINE):
                try:
                    yield decoder.decode(data)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
    except FileNotFoundError:
        return
