"""Self-labels: mask a word that is known, and see whether it comes back. Nobody has to label anything.

Which word is decided by a keyed hash of the text, so that both servers, and every later run, are asked for
the same. Only words of letters are masked, and none where the text has no blanks to tell words by.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import TYPE_CHECKING, NamedTuple

from mlmon.shadow.clients import MaskedCount, label_of
from mlmon.shadow.echo import MASKS

if TYPE_CHECKING:
    from mlmon.shadow.clients import Answer

__all__ = ["MaskedText", "mask_word", "recovered"]

_WORD = re.compile(r"(?<!\S)[^\W\d_]{2,16}(?=[\s.,;:!?]|$)")
_MASKED = re.compile("|".join(map(re.escape, MASKS)))
_LEAST_WORDS = 3
#: What is at most left for words that are not among the best.
_FLOOR = 1e-6


class MaskedText(NamedTuple):
    """A text with a word masked: the word, and how many masks stand before it."""

    text: str
    word: str
    place: int


def mask_word(text: str, seed: int, mask: str) -> MaskedText | None:
    """Mask one word.

    Args:
        text: masks that are in it stay.
        seed: of the choice.
        mask: the token to put in its place, where the text has none to go by.

    Returns:
        None where the text has fewer than three words to choose among.

    Example:
        >>> mask_word("the cat sat on the mat", 1, "[MASK]")
        MaskedText(text='the cat sat on [MASK] mat', word='the', place=0)
    """
    words = [found for found in _WORD.finditer(text) if not _MASKED.search(found.group())]
    if len(words) < _LEAST_WORDS:
        return None
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, key=str(seed).encode()).digest()
    chosen = words[int.from_bytes(digest, "big") % len(words)]
    present = _MASKED.search(text)
    token = present.group() if present else mask
    place = len(_MASKED.findall(text[: chosen.start()]))
    return MaskedText(text[: chosen.start()] + token + text[chosen.end() :], chosen.group(), place)


def recovered(masked: MaskedText, answer: Answer) -> tuple[MaskedCount, float] | None:
    """Whether the word came first, its loss, and the first answer's probability; None without an answer.

    The loss is -ln p of the word. Where it is not among the k best, p is at most what they leave and at most
    the k-th probability, and the smaller of these is taken: then the loss is a lower bound.
    """
    if len(answer.rankings) <= masked.place:
        return None
    ranked = answer.rankings[masked.place]
    if not ranked.scores:
        return None
    word = masked.word.casefold()
    labels = [label_of(label).casefold() for label in ranked.labels]
    if word in labels:
        probability = ranked.scores[labels.index(word)]
    else:
        probability = min(1 - math.fsum(ranked.scores), ranked.scores[-1])
    loss = -math.log(max(probability, _FLOOR))
    return MaskedCount(1, int(labels[0] == word), loss), ranked.scores[0]
