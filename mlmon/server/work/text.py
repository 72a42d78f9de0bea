"""Texts to token ids, once per request: what every task starts from, and what its event counts.

Short texts are encoded where they are (some 50 µs); long ones should be encoded in a thread, and then the
library lets go of the interpreter lock. Special tokens are added here and not by the library, since windows
need them around each of their sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.work.windows import windows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Encoding, Tokenizer

    from mlmon.server.model import SpecialIds
    from mlmon.server.work.windows import LongText, Window

__all__ = ["LONG_CHARACTERS", "Text", "Texts"]

#: From this many characters on, encoding is worth a thread of its own.
LONG_CHARACTERS = 2000
#: Texts tried to find out which special tokens the tokenizer puts around one.
_PROBES = ("a", "1", ".", "the", "あ")


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A text as tokens, special tokens that the model wants around it not among them.

    Attributes:
        ids: token ids, int64, shape (n,): all of them, also where the text is truncated.
        words: number of the word each token is of, rising, int64, shape (n,); None where it was not asked for
            or cannot be known.
        windows: what goes through the model.
    """

    ids: NDArray[np.int64]
    words: NDArray[np.int64] | None
    windows: list[Window]

    @property
    def kept(self) -> int:
        """Tokens that are not cut off."""
        return self.windows[-1].stop


class Texts:
    """Encodes for one model. Any number of threads may use it.

    Args:
        tokenizer: with padding and truncation off.
        special: ids of special tokens.
        max_length: tokens a sequence may have, special ones included.

    Attributes:
        tokenizer, special: as given.
        prefix, suffix: ids put before and after each sequence, int64.
        capacity: tokens that a sequence has room for between them.
        unscored: ids whose probability is not asked for: special tokens and the mask.
        ordinary: the other ids that the tokenizer has.
    """

    def __init__(self, tokenizer: Tokenizer, special: SpecialIds, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.special = special
        self.prefix, self.suffix = _surroundings(tokenizer, special)
        self.capacity = max_length - len(self.prefix) - len(self.suffix)
        self._written: dict[int, str] = {}
        known = (special.cls, special.sep, special.pad, special.mask)
        self.unscored = np.array(sorted({i for i in known if i is not None}), np.int64)
        self.ordinary = np.setdiff1d(
            np.array(sorted(tokenizer.get_vocab().values()), np.int64), self.unscored
        )

    def encode(self, texts: Sequence[str], long: LongText, *, words: bool = False) -> list[Text]:
        """Encode texts and lay out their windows.

        Args:
            texts: any number of them.
            long: what to do with those that are too long.
            words: whether the numbers of the words are wanted.

        Raises:
            RefusalError: a text is too long, or holds lone surrogates.
        """
        try:
            encodings = self._encodings(texts, words=words)
        except (TypeError, UnicodeEncodeError):
            raise RefusalError(
                Refusal.INVALID, "texts of Unicode characters", "a lone surrogate", "remove it from the text"
            ) from None
        found = []
        for encoding in encodings:
            ids = np.array(encoding.ids, np.int64)
            numbers = _numbers(encoding.word_ids) if words else None
            found.append(Text(ids, numbers, windows_of(len(ids), self.capacity, long)))
        return found

    def _encodings(self, texts: Sequence[str], *, words: bool) -> list[Encoding]:
        if sum(map(len, texts)) < LONG_CHARACTERS:
            return [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        encode = self.tokenizer.encode_batch if words else self.tokenizer.encode_batch_fast
        return encode(list(texts), add_special_tokens=False)

    def take_ids(self, rows: Sequence[Sequence[int]], vocabulary: int, long: LongText) -> list[Text]:
        """Texts that come as token ids; special tokens around them are taken off if they are there.

        Args:
            rows: token ids of each text.
            vocabulary: ids lie below this.
            long: what to do with those that are too long.

        Raises:
            RefusalError: an id outside the vocabulary, or a text that is too long.
        """
        found = []
        for row in rows:
            if any(not 0 <= i < vocabulary for i in row):
                wrong = next(i for i in row if not 0 <= i < vocabulary)
                raise RefusalError(
                    Refusal.INVALID,
                    f"token ids from 0 to {vocabulary - 1}",
                    f"{wrong}",
                    "send ids of this model's tokenizer (see /tokenize), or text",
                )
            ids = self._bare(np.array(row, np.int64))
            found.append(Text(ids, None, windows_of(len(ids), self.capacity, long)))
        return found

    def _bare(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        before, after = len(self.prefix), len(self.suffix)
        if len(ids) < before + after or before + after == 0:
            return ids
        end = len(ids) - after
        around = np.array_equal(ids[:before], self.prefix) and np.array_equal(ids[end:], self.suffix)
        return ids[before:end] if around else ids

    def written(self, token: int) -> str:
        """A token by itself, as text; each is looked up once, so there are at most as many as tokens."""
        known = self._written.get(token)
        if known is None:
            known = self._written[token] = self.tokenizer.decode([token], skip_special_tokens=False)
        return known

    def sequence(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids with the special tokens around them, shape (n + prefix + suffix,)."""
        return np.concatenate([self.prefix, ids, self.suffix])

    def row(self, window: Window, index: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of a window's sequence at which tokens of the text stand."""
        return np.asarray(index) - window.start + len(self.prefix)


def _numbers(words: Sequence[int | None]) -> NDArray[np.int64] | None:
    """Numbers of words; None where a token has none."""
    return None if any(word is None for word in words) else np.array(words, np.int64)


def _surroundings(tokenizer: Tokenizer, special: SpecialIds) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids that the tokenizer puts before and after a single text."""
    for probe in _PROBES:
        encoding = tokenizer.encode(probe, add_special_tokens=True)
        inner = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
        if len(inner):
            ids = np.array(encoding.ids, np.int64)
            return ids[: inner[0]], ids[inner[-1] + 1 :]
    before = [] if special.cls is None else [special.cls]
    after = [] if special.sep is None else [special.sep]
    return np.array(before, np.int64), np.array(after, np.int64)
