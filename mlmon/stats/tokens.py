"""Counts of a text, from its token ids alone: look-up tables by id, and no loop over tokens.

One table is made per vocabulary (`mlmon.registry.tokenizers` reads them from `tokenizer.json`). The tap
counts with it, and so does the sidecar where events carry ids without counts; so both count alike.

What is counted. *Tokens* are the ids that are not control tokens ([CLS], [SEP], [PAD], <s>, ...); the
unknown token and the mask are part of the input and count. A *word* is what the pre-tokenizer makes one
piece; a *continuation* is a token that is not the first of its word, so words = tokens - continuations. Ids
alone tell where words start for most families (`WordRule`); for byte-level BPE they do not, because the
first letter of a word after a bracket looks like the middle of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

__all__ = ["TokenTable", "Vocabulary", "WordRule"]

_CONTROL, _UNKNOWN, _BYTE, _MASK, _STARTS, _ENDS, _ALONE = (1 << bit for bit in range(7))
#: What is counted follows from the first five flags: 32 kinds of token.
_KINDS = 32
_METASPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class WordRule(StrEnum):
    """How ids tell where a word starts."""

    PREFIX = "prefix"  #: a token that continues a word has a prefix (WordPiece: ##)
    METASPACE = "metaspace"  #: a token that starts a word begins with U+2581 (SentencePiece)
    SUFFIX = "suffix"  #: the last token of a word has a suffix (</w>)
    WHOLE = "whole"  #: every token is a word (WordLevel)
    NONE = "none"  #: ids do not tell


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What there is to know of a vocabulary.

    Attributes:
        tokens: id of each token; ids need not be dense, and lie in 0 <= id < 2**24.
        control: ids that are no part of an input: sequence and padding tokens.
        unknown: id of the unknown token, or None for vocabularies that have none (byte-level BPE).
        masks: ids of mask tokens.
        byte_fallback: whether tokens `<0xNN>` stand for single bytes.
        rule: how ids tell where words start.
        affix: the prefix or suffix of the rule, such as `##`; unused by the others.
        alone: ids of added tokens that are words of their own wherever they stand.
    """

    tokens: Mapping[str, int]
    control: frozenset[int] = frozenset()
    unknown: int | None = None
    masks: frozenset[int] = frozenset()
    byte_fallback: bool = False
    rule: WordRule = WordRule.NONE
    affix: str = ""
    alone: frozenset[int] = field(default=frozenset())


class TokenTable:
    """Flags of every id of one vocabulary; one byte per id.

    A count is given only where the vocabulary can have it: no `unknown_tokens` without an unknown token, no
    `byte_fallback_tokens` without byte fallback, no `masked_tokens` without a mask, and neither `words` nor
    `continuation_tokens` where ids do not tell. An id outside the vocabulary counts as unknown.

    Args:
        vocabulary: the vocabulary.

    Raises:
        ValueError: an id is negative or 2**24 or more.

    Example:
        >>> vocabulary = Vocabulary(
        ...     {"[CLS]": 0, "[UNK]": 1, "play": 2, "##ing": 3},
        ...     control=frozenset({0}), unknown=1, rule=WordRule.PREFIX, affix="##",
        ... )
        >>> counts = TokenTable(vocabulary).count(np.array([0, 2, 3, 1, 0]), np.array([0, 4, 5]))
        >>> {name: values.tolist() for name, values in counts.items()}
        {'tokens': [3, 0], 'unknown_tokens': [1, 0], 'continuation_tokens': [1, 0], 'words': [2, 0]}
    """

    __slots__ = ("_counts_of_kind", "_flags", "_names", "_rule")

    def __init__(self, vocabulary: Vocabulary) -> None:
        ids = [*vocabulary.tokens.values(), *vocabulary.control, *vocabulary.masks, *vocabulary.alone]
        if ids and not 0 <= min(ids) <= max(ids) < 2**24:
            raise ValueError(f"token ids from {min(ids)} to {max(ids)}: expected 0 <= id < {2**24}")
        # id i is looked up at i + 1; before the first and after the last stands what lies outside
        self._flags = np.zeros(max(ids, default=-1) + 3, np.uint8)
        self._flags[[0, -1]] = _UNKNOWN | _STARTS
        self._rule = vocabulary.rule
        self._mark_words(vocabulary)
        self._mark(vocabulary.control, _CONTROL)
        self._mark(vocabulary.masks, _MASK | _ALONE | _STARTS | _ENDS)
        self._mark(vocabulary.alone, _ALONE | _STARTS | _ENDS)
        if vocabulary.unknown is not None:
            self._mark((vocabulary.unknown,), _UNKNOWN)
        if vocabulary.byte_fallback:
            tokens = vocabulary.tokens
            names = (f"<0x{value:02X}>" for value in range(256))
            self._mark((tokens[name] for name in names if name in tokens), _BYTE)
        self._names, self._counts_of_kind = _counted(vocabulary)

    @property
    def tells_words(self) -> bool:
        """Whether `count` gives `words` and `continuation_tokens`."""
        return self._rule is not WordRule.NONE

    def _mark(self, ids: Iterable[int], flag: int) -> None:
        self._flags[np.fromiter(ids, np.int64) + 1] |= flag

    def _mark_words(self, vocabulary: Vocabulary) -> None:
        tokens, affix = vocabulary.tokens.items(), vocabulary.affix
        match vocabulary.rule:
            case WordRule.PREFIX:
                self._mark((i for token, i in tokens if not token.startswith(affix)), _STARTS)
            case WordRule.METASPACE:
                self._mark((i for token, i in tokens if token.startswith(_METASPACE)), _STARTS)
            case WordRule.SUFFIX:
                self._mark((i for token, i in tokens if token.endswith(affix)), _ENDS)
            case WordRule.WHOLE:
                self._mark((i for _, i in tokens), _STARTS)
            case WordRule.NONE:
                pass

    def control_mask(self, ids: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which ids are control tokens, shape of `ids`."""
        mask: NDArray[np.bool_] = self._look_up(ids) & _CONTROL != 0
        return mask

    def count(self, ids: NDArray[np.integer], offsets: NDArray[np.integer]) -> dict[str, NDArray[np.int64]]:
        """Count the tokens of n texts.

        Args:
            ids: token ids of all texts, one after the other, shape (m,). Control tokens may be among them.
            offsets: text i has `ids[offsets[i]:offsets[i + 1]]`; non-decreasing, shape (n + 1,).

        Returns:
            Counts by event field, each of shape (n,).
        """
        start, n = int(offsets[0]), len(offsets) - 1
        bounds = np.asarray(offsets, np.int64) - start
        flags = self._look_up(ids[start : int(offsets[-1])])
        if self._rule in (WordRule.METASPACE, WordRule.SUFFIX):
            flags = self._with_starts(flags, bounds)
        cells = flags & np.uint8(_KINDS - 1)
        if n != 1:
            cells = cells + np.repeat(np.arange(n) * _KINDS, np.diff(bounds))
        kinds = np.bincount(cells, minlength=n * _KINDS).reshape(n, _KINDS)
        return dict(zip(self._names, (kinds @ self._counts_of_kind).T, strict=True))

    def _look_up(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        return self._flags.take(ids + 1, mode="clip")

    def _with_starts(self, flags: NDArray[np.uint8], bounds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The flags with `_STARTS` set by context: a text's first token, and what follows a word's end."""
        kept = np.flatnonzero(flags & _CONTROL == 0)
        tokens = flags[kept]
        by_end = self._rule is WordRule.SUFFIX
        starts = tokens & (_ALONE if by_end else _STARTS) != 0
        starts[1:] |= tokens[:-1] & (_ENDS if by_end else _ALONE) != 0
        first = np.searchsorted(kept, bounds)
        starts[first[:-1][first[:-1] < first[1:]]] = True
        out = flags & np.uint8(0xFF ^ _STARTS)
        out[kept] |= starts.astype(np.uint8) * np.uint8(_STARTS)
        return out


def _counted(vocabulary: Vocabulary) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the counts, and how each of the 32 kinds of token adds to them, shape (32, counts)."""
    kinds = np.arange(_KINDS)
    token = kinds & _CONTROL == 0
    starts = kinds & _STARTS != 0
    words = vocabulary.rule is not WordRule.NONE
    columns = {
        "tokens": (True, token),
        "unknown_tokens": (vocabulary.unknown is not None, token & (kinds & _UNKNOWN != 0)),
        "byte_fallback_tokens": (vocabulary.byte_fallback, token & (kinds & _BYTE != 0)),
        "masked_tokens": (bool(vocabulary.masks), token & (kinds & _MASK != 0)),
        "continuation_tokens": (words, token & ~starts),
        "words": (words, token & starts),
    }
    names = [name for name, (possible, _) in columns.items() if possible]
    return names, np.stack([columns[name][1] for name in names], axis=1).astype(np.int64)
