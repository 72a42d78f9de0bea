"""English text that every machine with Python has: the standard library's docstrings, and query templates.

The docstrings are read from the source files, nothing is imported. What the templates say is in
`demo.intents`.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from mlmon.demo.intents import BANKING, TRAVEL, WORDS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["docstring_sentences", "labelled_queries", "query", "travel_queries"]

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SLOT = re.compile(r"{(\w+)}")
_MODULES = (
    "argparse.py asyncio/base_events.py calendar.py collections/__init__.py configparser.py contextlib.py "
    "csv.py datetime.py decimal.py difflib.py doctest.py email/message.py fractions.py functools.py "
    "gettext.py heapq.py http/client.py http/cookiejar.py imaplib.py inspect.py ipaddress.py "
    "json/__init__.py logging/__init__.py mailbox.py os.py pathlib.py pdb.py pickle.py platform.py pprint.py "
    "random.py re.py "
    "sched.py shutil.py smtplib.py socket.py ssl.py statistics.py string.py subprocess.py tarfile.py "
    "tempfile.py textwrap.py threading.py tkinter/__init__.py turtle.py typing.py unittest/case.py "
    "unittest/mock.py urllib/request.py uuid.py weakref.py xml/sax/handler.py zipfile.py"
)
#: How people begin and end what they write, each as often as it stands here.
_OPENINGS = ("", "", "", "", "hello, ", "hi, ", "good morning, ", "one question: ", "it is urgent, ")
_ENDINGS = ("", "", "", "", "", " Thank you", " Thanks!", " Please reply soon", " I am waiting")


def docstring_sentences(limit: int = 4000) -> list[str]:
    """Sentences of 4 to 60 words from the docstrings of well-documented standard library modules.

    Args:
        limit: at most so many sentences.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, None] = {}
    for name in _MODULES.split():
        path = root / name
        if not path.exists():
            continue
        for text in _docstrings(path):
            for sentence in _SENTENCE.split(" ".join(text.split())):
                if 4 <= len(sentence.split()) <= 60:
                    found[sentence] = None
        if len(found) >= limit:
            break
    return list(found)[:limit]


def _docstrings(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def labelled_queries() -> list[tuple[str, str]]:
    """Every banking query the templates can make, without opening and ending, with its intent."""
    return _all_of(BANKING)


def travel_queries() -> list[tuple[str, str]]:
    """Every travel query the templates can make, in the same way."""
    return _all_of(TRAVEL)


def _all_of(topic: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    made: list[tuple[str, str]] = []
    for intent, templates in topic.items():
        for template in templates:
            names = _SLOT.findall(template)
            made.extend(
                (intent, template.format(**dict(zip(names, words, strict=True))))
                for words in product(*(WORDS[name] for name in names))
            )
    return made


def query(rng: random.Random, travel: float = 0.0) -> tuple[str, str]:
    """Draw what a customer writes: every intent as often, some hundred thousand different texts.

    Args:
        rng: where chance comes from.
        travel: share of travel queries.

    Returns:
        (intent, text).

    Example:
        >>> import random
        >>> query(random.Random(3))
        ('close account', 'close my account and send the fifty dollars to my bank in Dublin')
    """
    topic = TRAVEL if rng.random() < travel else BANKING
    intent = rng.choice(list(topic))
    template = rng.choice(topic[intent])
    text = template.format(**{name: rng.choice(WORDS[name]) for name in _SLOT.findall(template)})
    text = rng.choice(_OPENINGS) + text + rng.choice(_ENDINGS)
    return intent, text[0].upper() + text[1:] if rng.random() < 0.7 else text
