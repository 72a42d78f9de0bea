"""YAML documents with the place of every value, and what is said of values that cannot be.

A document is walked by `Item`s. One that finds something else than it expects notes a `Problem` and gives a
harmless value instead, so that all mistakes of all files are told at once; who reads documents must ask for
problems before using what was read.

Why nodes and not `yaml.safe_load`: a loaded mapping has forgotten its lines and its duplicate keys.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlmon.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import yaml

__all__ = ["Item", "Problem", "documents", "duration_seconds", "error", "nearest", "spec_files"]

_LONGEST_FILE = 4 << 20
_DEEPEST = 100
_LONGEST_SHOWN = 60
_SHOWN_PROBLEMS = 50
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800, "M": 2_592_000, "Q": 7_776_000, "Y": 31_536_000}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhdwMQY])")
_WORDS = {
    "map": "a table",
    "seq": "a list",
    "null": "nothing",
    "bool": "true or false",
    "timestamp": "a date",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file.

    Example:
        >>> print(Problem("a.yaml", 3, "spec.service", "a name", "a list", "write one name"))
        a.yaml:3: spec.service: expected a name, got a list; write one name
    """

    file: str
    line: int
    key: str
    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        """The problem in one line."""
        what = f"expected {self.expected}, got {self.got}; {self.remedy}"
        return (
            f"{self.file}:{self.line}: {self.key}: {what}" if self.key else f"{self.file}:{self.line}: {what}"
        )


def error(problems: Sequence[Problem]) -> ConfigError:
    """The one error for all problems, in the order of files and lines; at most 50 are written out."""
    ordered = sorted(set(problems), key=lambda p: (p.file, p.line, p.key))
    if len(ordered) == 1:
        return ConfigError(str(ordered[0]))
    lines = [f"  - {problem}" for problem in ordered[:_SHOWN_PROBLEMS]]
    if len(ordered) > _SHOWN_PROBLEMS:
        lines.append(f"  - and {len(ordered) - _SHOWN_PROBLEMS} more")
    return ConfigError("\n".join([f"{len(ordered)} problems in SLO specs", *lines]))


def nearest(word: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown word: the one probably meant, or all there are.

    Example:
        >>> nearest("indicater", ["indicator", "service"]), nearest("x", ["indicator", "service"])
        ('did you mean indicator?', 'write one of indicator, service')
    """
    names = list(known)
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), folded, 1, 0.6)
    return f"did you mean {folded[close[0]]}?" if close else f"write one of {', '.join(names)}"


def duration_seconds(text: str) -> int | None:
    """Seconds of OpenSLO's duration shorthand; None where it is none.

    A month is 30 days, a quarter 90 and a year 365: windows roll, so a calendar has no say in them.

    Example:
        >>> duration_seconds("5m"), duration_seconds("4w"), duration_seconds("1M"), duration_seconds("90s")
        (300, 2419200, 2592000, None)
    """
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _SECONDS[match[2]] if match else None


@dataclass(frozen=True, slots=True)
class Item:
    """A value in a document: its YAML node, its place, and the list that problems go to."""

    node: yaml.Node
    file: str
    path: str
    problems: list[Problem] = field(repr=False)
    key: yaml.Node | None = field(default=None, repr=False)

    @property
    def line(self) -> int:
        """Line in the file, from 1: of its key where it has one."""
        return int((self.key or self.node).start_mark.line) + 1

    @property
    def kind(self) -> str:
        """YAML's word for what it is: map, seq, str, int, float, bool, null, timestamp."""
        return str(self.node.tag).rpartition(":")[2]

    @property
    def plain(self) -> str:
        """A scalar as written; empty for tables and lists."""
        return str(self.node.value) if isinstance(self.node.value, str) else ""

    def complain(self, expected: str, remedy: str, got: str | None = None) -> None:
        """Note that something else was expected here."""
        found = self._shown() if got is None else got
        self.problems.append(Problem(self.file, self.line, self.path, expected, found, remedy))

    def _shown(self) -> str:
        if self.kind in _WORDS and self.kind not in ("bool", "timestamp"):
            return _WORDS[self.kind]
        text = self.plain if len(self.plain) <= _LONGEST_SHOWN else self.plain[:_LONGEST_SHOWN] + "…"
        return f'"{text}"' if self.kind == "str" else text

    def pairs(self) -> dict[str, Item]:
        """The entries of a table with any keys; a duplicate key is a problem."""
        found: dict[str, Item] = {}
        if self.kind != "map":
            self.complain("a table", "write its keys below it, indented")
            return found
        for key, value in self.node.value:
            name = str(key.value)
            item = Item(value, self.file, f"{self.path}.{name}" if self.path else name, self.problems, key)
            if name in found:
                item.complain(
                    "each key once", f"remove one; the first is on line {found[name].line}", "it twice"
                )
            found.setdefault(name, item)
        return found

    def table(self, required: Sequence[str] = (), optional: Sequence[str] = ()) -> Mapping[str, Item]:
        """The entries of a table whose keys are known; unknown and missing ones are problems."""
        before = len(self.problems)
        found = self.pairs()
        if self.kind != "map":
            return found
        known = (*required, *optional)
        for name in [name for name in found if name not in known]:
            found.pop(name).complain("a key that is known here", nearest(name, known), "an unknown one")
        if len(self.problems) == before:
            for name in required:
                if name not in found:
                    self.complain(f"the key {name}", f"add {name}", "none")
        return found

    def list(self) -> Iterator[Item]:
        """The entries of a list."""
        if self.kind != "seq":
            self.complain("a list", "begin each entry with a dash")
            return
        for index, node in enumerate(self.node.value):
            yield Item(node, self.file, f"{self.path}[{index}]", self.problems)

    def text(self, longest: int = 1050) -> str:
        """A text that is not empty."""
        if self.kind != "str":
            remedy = f'write it in quotes: "{self.plain}"' if self.plain else "write a text"
            self.complain("a text", remedy)
        elif not self.plain.strip() or len(self.plain) > longest:
            self.complain(f"1 to {longest} characters", "correct it", f"{len(self.plain)}")
        return self.plain.strip()

    def name(self, pattern: str = r"[A-Za-z0-9]([A-Za-z0-9._|/\\-]{0,253}[A-Za-z0-9])?") -> str:
        """A name as OpenSLO's metadata has it."""
        text = self.text(255)
        if text and not re.fullmatch(pattern, text):
            self.complain(
                "a name of letters, digits and dashes that begins and ends with no dash", "rename it"
            )
        return text

    def flag(self) -> bool:
        """True or false."""
        if self.kind != "bool" or self.plain not in ("true", "false"):
            self.complain("true or false", "write true or false, without quotes")
        return self.plain == "true"

    def choice(self, words: Sequence[str]) -> str:
        """One of some words."""
        if self.plain not in words:
            self.complain(f"one of {', '.join(words)}", nearest(self.plain, words))
            return words[0]
        return self.plain

    def number(self, wanted: str, accept: Any = math.isfinite) -> float:
        """A number for which `accept` holds; `wanted` says in words which those are."""
        try:
            value = float(self.plain.replace("_", "")) if not getattr(self.node, "style", None) else math.nan
        except ValueError:
            value = math.nan
        if self.kind not in ("int", "float", "str") or not math.isfinite(value) or not accept(value):
            quoted = self.kind == "str" and re.fullmatch(r"[-+.\deE]+", self.plain) is not None
            self.complain(wanted, "take it out of its quotes" if quoted else "write such a number")
            return 0.5
        return value

    def duration(self) -> int:
        """A duration in OpenSLO's shorthand, in seconds."""
        seconds = duration_seconds(self.plain) if self.kind == "str" else None
        if seconds is None:
            self.complain(
                "a whole number and one of m, h, d, w, M, Q, Y, such as 30m or 28d",
                "write it so, without spaces",
            )
            return 60
        return seconds


def spec_files(paths: Iterable[Path]) -> list[Path]:
    """The files that paths name: files as they are, directories as all `.yaml` and `.yml` in them, sorted.

    Raises:
        ConfigError: a path does not exist, or there is no file at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(
                f"{path}: expected a file or directory of SLO specs, got nothing; check the path"
            )
    if not found:
        raise ConfigError("expected at least one .yaml file of SLO specs, got none; name a file or directory")
    return list(dict.fromkeys(found))


def documents(path: Path, problems: list[Problem]) -> Iterator[Item]:
    """The documents of a file; one that is a list stands for its entries. Empty documents are left out.

    Raises:
        ConfigError: the file cannot be read.
        MissingExtraError: PyYAML is not installed.
    """
    name = str(path)
    try:
        if path.stat().st_size > _LONGEST_FILE:
            raise ConfigError(f"{name}: expected at most {_LONGEST_FILE} bytes of SLO specs; split the file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{name}: cannot read it: {exc}; check the path, its permissions and UTF-8"
        ) from None
    for node in _compose(text, name, problems):
        item = Item(node, name, "", problems)
        if item.kind == "seq":
            yield from (Item(entry.node, name, "", problems) for entry in item.list())
        elif item.kind != "null":
            yield item


def _compose(text: str, name: str, problems: list[Problem]) -> list[yaml.Node]:
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("PyYAML", "slo") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    nodes: list[yaml.Node] = []
    try:
        if _depth(yaml.parse(text, Loader=loader)) > _DEEPEST:
            problems.append(Problem(name, 1, "", f"at most {_DEEPEST} levels", "more", "nest it less"))
            return nodes
        nodes.extend(yaml.compose_all(text, Loader=loader))
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        problems.append(Problem(name, line, "", "YAML", str(exc.problem), "correct the line"))
    except yaml.YAMLError as exc:
        problems.append(Problem(name, 1, "", "YAML", type(exc).__name__, "correct the file"))
    return nodes


def _depth(events: Iterable[yaml.Event]) -> int:
    """Levels of nesting, counted up to one too many: composing is recursive, and libyaml's would crash."""
    depth = deepest = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        deepest = max(deepest, depth)
        if deepest > _DEEPEST:
            break
    return deepest
