"""Traffic for the live demo: English sentences with a word masked, as whoever completes texts sends them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mlmon.demo.corpus import docstring_sentences
from mlmon.demo.traffic import Traffic

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

__all__ = ["Questions", "masked", "sentences"]

_MASK = "[MASK]"
_WORD = re.compile(r"(?<!\S)[a-z]{2,12}(?=[\s.,;:!?]|$)")
_PLAIN = re.compile(r"[A-Za-z ,.;:'()-]+")
#: Words to mask that a sentence must have, and its characters at most: the model takes 128 tokens.
_LEAST_WORDS, _MOST_CHARACTERS = 6, 120


def sentences() -> list[str]:
    """Plain sentences of the standard library's documentation with words to mask, in a fixed order."""
    found = docstring_sentences(8000)
    plain = [text for text in found if len(text) <= _MOST_CHARACTERS and _PLAIN.fullmatch(text)]
    return [text for text in plain if len(_WORD.findall(text)) >= _LEAST_WORDS]


def masked(text: str, rng: random.Random) -> str:
    """The sentence with one of its words masked.

    Example:
        >>> import random
        >>> masked("return the number of bytes written", random.Random(5))
        'return the number of [MASK] written'
    """
    word = rng.choice(list(_WORD.finditer(text)))
    return text[: word.start()] + _MASK + text[word.end() :]


class Questions(Traffic):
    """Posts such sentences to `/fill-mask`.

    Args:
        texts: the sentences.
        port: called before every request.
        per_second: requests a second over all clients.
    """

    path = "/fill-mask"

    def __init__(self, texts: Sequence[str], port: Callable[[], int], per_second: float) -> None:
        super().__init__(port, per_second, clients=2)
        self._texts = texts

    def body(self, rng: random.Random) -> dict[str, Any]:
        """A sentence, and how many answers are wanted."""
        return {"inputs": masked(rng.choice(self._texts), rng), "parameters": {"top_k": 5}}
