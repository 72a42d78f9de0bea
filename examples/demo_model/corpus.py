"""English text that a Debian machine with Python has: package descriptions and docstrings, split by origin.

Package descriptions are read with apt (`apt-cache`, `apt-helper`): the long ones where apt has fetched them
(`Acquire::Languages`), else the one-line ones. Docstrings are read from source files, nothing is imported.
Each text has an origin (source package, source file): a whole origin is either trained on or held out, so
that the paragraphs which packages of one source share cannot be on both sides.
"""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Document", "docstrings", "held_out", "package_descriptions", "without_repetition"]

#: One origin in so many is held out.
_HELD_OUT_ONE_IN = 50
_LIST_MARK = re.compile(r"^\s*[*+\-]\s+")
#: Folders of which nothing is read: tests, and, below the standard library, what is installed.
_SKIPPED = {"test", "tests", "testing", "idlelib", "site-packages", "dist-packages"}
#: Docstrings that are not prose: doctests, tables, argument grammars.
_PROSE = re.compile(r"[A-Za-z][a-z]+(?:[ ,]+[A-Za-z][a-z'-]+){3}")


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it is from.

    Attributes:
        origin: source package or source file.
        paragraphs: in order, white space collapsed.
    """

    origin: str
    paragraphs: tuple[str, ...]


def held_out(origin: str) -> bool:
    """Whether texts of this origin are kept from training: one in fifty, by a hash of the name."""
    return _by_hash(origin) % _HELD_OUT_ONE_IN == 0


def package_descriptions(lists: str | None = None, language: str = "en") -> list[Document]:
    """Descriptions of every Debian package that apt knows.

    Args:
        lists: apt's list directory (`Dir::State::lists`); default: the machine's own.
        language: of the descriptions. Where apt has none in English, the one-line ones are taken.
    """
    options = ["-o", f"Acquire::Languages={language}"]
    if lists:
        options += [
            "-o",
            f"Dir::State::lists={lists}",
            "-o",
            "Dir::Cache::pkgcache=",
            "-o",
            "Dir::Cache::srcpkgcache=",
        ]
    sources: dict[str, str] = {}
    synopses: dict[str, str] = {}
    for stanza in _stanzas(_run("apt-cache", *options, "dumpavail")):
        name = stanza.get("Package", [""])[0]
        sources[name] = stanza.get("Source", [name])[0].split(" ")[0]
        synopses[name] = stanza.get("Description", [""])[0]
    files = _run(
        "apt-get", *options, "indextargets", "--format", "$(FILENAME)", "Created-By: Translations"
    ).split()
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(files):
        for stanza in _stanzas(_run("/usr/lib/apt/apt-helper", "cat-file", file)):
            lines = stanza.get(f"Description-{language}")
            if lines:
                found[stanza["Package"][0]] = _paragraphs(lines)
    if not found and language == "en":
        found = {name: (synopsis,) for name, synopsis in synopses.items() if synopsis}
    return [Document(sources.get(name, name), found[name]) for name in sorted(found)]


def docstrings(limit: int = 16_000_000) -> list[Document]:
    """Docstrings of the standard library, then of packages installed in the same Python, tests left out.

    Args:
        limit: at most about so many characters; installed files are gone through in the order of a hash of
            their names, so that no one package fills it.
    """
    paths = sysconfig.get_paths()
    documents: list[Document] = []
    seen: set[str] = set()
    for key in ("stdlib", "purelib"):
        root = Path(paths[key])
        files = [path.relative_to(root) for path in root.rglob("*.py")]
        for file in sorted((f for f in files if not _SKIPPED.intersection(f.parts)), key=_by_hash):
            paragraphs = tuple(p for text in _docstrings(root / file) for p in _prose(text) if p not in seen)
            if paragraphs:
                seen.update(paragraphs)
                documents.append(Document(file.as_posix(), paragraphs))
                limit -= sum(map(len, paragraphs))
            if limit <= 0:
                return documents
    return documents


def without_repetition(documents: Iterable[Document]) -> list[Document]:
    """The documents less every paragraph that an earlier one of the same half has; held-out ones come first.

    Many paragraphs are shared between packages. Held-out documents are gone through first, so that none of
    their paragraphs is left in a training document.
    """
    seen: set[str] = set()
    kept: list[Document] = []
    for document in sorted(documents, key=lambda d: not held_out(d.origin)):
        new = tuple(p for p in dict.fromkeys(document.paragraphs) if p not in seen)
        seen.update(new)
        if new:
            kept.append(Document(document.origin, new))
    return kept


def _by_hash(name: object) -> int:
    digest = hashlib.blake2b(str(name).encode("utf-8"), digest_size=8, person=b"demo-model").digest()
    return int.from_bytes(digest, "big")


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - apt's own programs
    return done.stdout.decode("utf-8", "replace")


def _stanzas(text: str) -> Iterator[dict[str, list[str]]]:
    """Each stanza's fields, a field's lines without the leading blank."""
    for block in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in block.split("\n"):
            if line[:1] == " ":
                lines.append(line[1:])
            elif line:
                name, _, value = line.partition(":")
                lines = fields.setdefault(name, [])
                lines.append(value.strip())
        if fields:
            yield fields


def _paragraphs(lines: list[str]) -> tuple[str, ...]:
    """Synopsis, then the paragraphs; an item of a list goes on in its paragraph."""
    made = [[lines[0]], []]
    for line in lines[1:]:
        if line == ".":
            made.append([])
        else:
            made[-1].append(_LIST_MARK.sub("- ", line))
    return tuple(text for text in (" ".join(" ".join(part).split()) for part in made) if text)


def _prose(text: str) -> Iterator[str]:
    for part in re.split(r"\n\s*\n", text):
        paragraph = " ".join(part.split())
        if (
            len(paragraph) >= 40
            and not paragraph.startswith((">>>", "..", "|", "+-"))
            and _PROSE.search(paragraph)
        ):
            yield paragraph


def _docstrings(path: Path) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
        if '"""' not in source:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, OSError):
        return  # templates and test data with the name of a source file
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
