"""What goes wrong with a model's input in production, done on purpose: wrong tokenizers, typos.

Each tokenizer here is a plausible mistake in a deployment. All of them give ids that the model accepts, so
that nothing fails; only what the model says gets worse.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from pieces import SPECIAL, train_tokenizer
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["cased", "other_vocabulary", "permuted", "with_typos"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def cased(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary without lower-casing: `do_lower_case` was lost on the way."""
    content = json.loads(tokenizer.to_str())
    content["normalizer"] |= {"lowercase": False, "strip_accents": False}
    return Tokenizer.from_str(json.dumps(content))


def permuted(tokenizer: Tokenizer, seed: int = 0) -> Tokenizer:
    """The same tokens under other ids, special ones apart: the vocabulary file was sorted or merged anew."""
    content = json.loads(tokenizer.to_str())
    tokens = [token for token in content["model"]["vocab"] if token not in SPECIAL]
    ids = [content["model"]["vocab"][token] for token in tokens]
    random.Random(seed).shuffle(ids)  # noqa: S311 - no secret
    content["model"]["vocab"] |= dict(zip(tokens, ids, strict=True))
    return Tokenizer.from_str(json.dumps(content))


def other_vocabulary(tokenizer: Tokenizer, texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of the same kind and at most the same size made from other text: another model's file."""
    return train_tokenizer(texts, tokenizer.get_vocab_size())


def with_typos(text: str, share: float, rng: random.Random) -> str:
    """The text with one letter dropped, doubled, replaced or swapped in this share of its words.

    Args:
        text: any text.
        share: 0 to 1, of words of three letters or more.
        rng: where chance comes from.

    Example:
        >>> with_typos("text to be mistyped", 1.0, random.Random(0))
        'txt to be mistpyed'
    """
    return " ".join(_mistype(w, rng) if len(w) >= 3 and rng.random() < share else w for w in text.split())


def _mistype(word: str, rng: random.Random) -> str:
    at = rng.randrange(len(word) - 1)
    before, letter, after = word[:at], word[at], word[at + 1 :]
    kind = rng.randrange(4)
    if kind == 0:
        return before + after
    if kind == 1:
        return before + letter * 2 + after
    if kind == 2:
        return before + rng.choice(_LETTERS) + after
    return before + after[0] + letter + after[1:]
