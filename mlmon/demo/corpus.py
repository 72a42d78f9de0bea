"""English text that every machine with Python has: the standard library's docstrings, and query templates.

The docstrings are read from the source files, nothing is imported. The templates are written for the demo;
they also train the demo's intent classifier.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["INTENTS", "docstring_sentences", "labelled_queries", "queries"]

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
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

#: Templates of queries by intent; braces name the word lists below.
INTENTS: dict[str, tuple[str, ...]] = {
    "card": (
        "my {card} card was {trouble} at the {place}",
        "when will the new {card} card arrive in {city}?",
        "please block my {card} card, it was {trouble} yesterday",
    ),
    "transfer": (
        "how long does a transfer to {city} take?",
        "my transfer of {amount} to the {place} is still pending",
        "can I cancel a transfer of {amount} that I made {when}?",
    ),
    "account": (
        "how do I change the {detail} of my account?",
        "I cannot log in to my account since {when}",
        "close my account and send the {amount} to my bank in {city}",
    ),
    "fees": (
        "why was I charged {amount} at the {place}?",
        "is there a fee for using the {card} card in {city}?",
        "there is a charge of {amount} from {when} that I do not know",
    ),
    "exchange": (
        "what is the exchange rate for {amount} in {city}?",
        "the exchange rate at the {place} was wrong {when}",
        "can I hold {amount} in two currencies?",
    ),
}
_WORDS = {
    "card": ("debit", "credit", "virtual", "disposable", "business"),
    "trouble": ("declined", "swallowed", "stolen", "lost", "copied"),
    "place": ("supermarket", "petrol station", "cash machine", "restaurant", "hotel", "railway station"),
    "city": ("Lisbon", "Warsaw", "Nairobi", "Osaka", "Toronto", "Helsinki"),
    "amount": ("twenty pounds", "300 euros", "fifty dollars", "1500 yen", "a small sum"),
    "when": ("yesterday", "last week", "on Monday", "two days ago", "this morning"),
    "detail": ("address", "phone number", "family name", "email", "password"),
}


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
    """Every query the templates can make, with its intent."""
    made: list[tuple[str, str]] = []
    for intent, templates in INTENTS.items():
        for template in templates:
            names = re.findall(r"{(\w+)}", template)
            made.extend(
                (intent, template.format(**dict(zip(names, words, strict=True))))
                for words in product(*(_WORDS[name] for name in names))
            )
    return made


def queries(seed: int) -> Iterator[str]:
    """Traffic without end: two queries to one docstring sentence, in an order fixed by the seed."""
    rng = random.Random(seed)  # noqa: S311 - traffic, not secrets
    templates = [text for _, text in labelled_queries()]
    sentences = docstring_sentences()
    while True:
        yield rng.choice(templates if rng.random() < 2 / 3 else sentences)
