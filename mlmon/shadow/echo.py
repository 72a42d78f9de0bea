"""Does an answer carry its own request's text?

A server that mixes up the requests of a batch answers 200 to all of them; what gives it away is the
`sequence` of a fill-mask answer, the text with the mask filled in. Both are compared without what tokenizers
change: case, accents, white space, punctuation, unknown tokens, truncation.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["MASKS", "carries", "plain"]

#: Mask tokens as tokenizers write them.
MASKS = ("[MASK]", "<mask>")
_MASK = re.compile("|".join(map(re.escape, MASKS)))
#: In an answer: what the tokenizer could not keep, or left open.
_LOST = re.compile(r"\[UNK\]|<unk>|\[MASK\]|<mask>")
_EMPTY = re.compile(r"\[(?:CLS|SEP|PAD)\]|<s>|</s>|<pad>")
#: Letters that must be left of an answer's text for it to say whose it is.
_LEAST = 3
#: Letters that stand for a mask at most: of a token, which is a word or a part of one.
_LONGEST_FILLING = 32


def plain(text: str) -> str:
    """Letters and digits alone, without case and accents.

    Example:
        >>> plain("Ça va, don't?")
        'cavadont'
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if character.isalnum())


def carries(text: str, sequence: str) -> bool | None:
    """Whether `sequence`, the text that an answer gives back, is made of `text`.

    The letters must be the same in the same order; at a mask of the text the sequence may have any letters,
    and at an unknown token of the sequence the text may. The sequence may end early (truncation) if at least
    half of its letters are matched by letters of the text.

    Time: one step with an integer of as many bits as the text has letters for each letter of the sequence
    (Shift-And, Baeza-Yates and Gonnet 1992): 1 ms for texts of 512 tokens.

    Returns:
        None where nothing can be told: fewer than three letters or digits are left of the sequence.

    Example:
        >>> carries("The cat [MASK] here.", "the cat sits here .")
        True
        >>> carries("The dog [MASK] here.", "the cat sits here .")
        False
    """
    stretches = [plain(part) for part in _LOST.split(_EMPTY.sub(" ", sequence))]
    size = sum(map(len, stretches))
    if size < _LEAST:
        return None
    parts = [plain(part) for part in _MASK.split(text)]
    own, masks = sum(map(len, parts)), len(parts) - 1
    if size > own + masks * _LONGEST_FILLING:
        return False
    consumed, gaps = _consumed(parts, stretches)
    if consumed >> (own + masks) & 1:
        return True
    furthest = (consumed & ~gaps).bit_length() - 1
    return 2 * furthest >= size and furthest >= _LEAST


def _consumed(parts: list[str], stretches: list[str]) -> tuple[int, int]:
    """Which first letters of the text the sequence can be made of.

    The text is letters with a gap between parts. Bit i of the first result: the first i letters and gaps make
    the sequence. Bit i of the second: at i stands a gap, where any letters may follow.
    """
    letters: dict[str, int] = {}
    gaps, place = 0, 0
    for number, part in enumerate(parts):
        if number:
            gaps |= 1 << place
            place += 1
        for letter in part:
            letters[letter] = letters.get(letter, 0) | 1 << place
            place += 1
    every = (1 << (place + 1)) - 1
    state = _passed(1, gaps)
    for number, stretch in enumerate(stretches):
        if number and state:
            state = every & ~((state & -state) - 1)
        for letter in stretch:
            state = _passed((state & letters.get(letter, 0)) << 1 | state & gaps, gaps)
            if not state:
                return 0, gaps
    return state, gaps


def _passed(state: int, gaps: int) -> int:
    """A gap may also stay empty."""
    while (more := state | (state & gaps) << 1) != state:
        state = more
    return state
