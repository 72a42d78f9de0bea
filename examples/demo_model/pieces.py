"""From text to token sequences: the WordPiece tokenizer, pieces of up to 126 tokens, masking.

A piece is some whole sentences of one document between [CLS] and [SEP]. How long it may be is drawn for each,
so that the model sees every length it will be asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from corpus import Document

__all__ = ["Pieces", "cut", "mask", "train_tokenizer"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP, MASK = 2, 3, 4
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+")
_SHORTEST_TARGET = 16


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A lower-casing WordPiece tokenizer as BERT has it, with its special tokens at ids 0 to 4."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), limit_alphabet=128, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return tokenizer


@dataclass(frozen=True, slots=True)
class Pieces:
    """Token sequences, one after another.

    Attributes:
        ids: uint16 (T,), every piece with [CLS] and [SEP].
        ends: int64 (n,), where each piece ends.
    """

    ids: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, pieces: Iterable[Sequence[int]]) -> Pieces:
        """From lists of ids."""
        arrays = [np.asarray(piece, np.uint16) for piece in pieces]
        return cls(np.concatenate(arrays), np.cumsum([len(a) for a in arrays]))

    def by_length(self) -> dict[int, np.ndarray]:
        """For each length, where the pieces of this length start."""
        starts = np.concatenate(([0], self.ends[:-1]))
        lengths = self.ends - starts
        return {int(length): starts[lengths == length] for length in np.unique(lengths)}


def cut(documents: Iterable[Document], tokenizer: Tokenizer, longest: int, seed: int) -> Iterator[list[int]]:
    """Cut documents into pieces of whole sentences.

    Args:
        documents: the text.
        tokenizer: how it is tokenized; its special tokens are not used.
        longest: tokens in a piece, the two special ones among them; a longer sentence is cut.
        seed: of the drawn lengths.
    """
    rng = np.random.default_rng([seed, 1])
    for document in documents:
        sentences = [s for paragraph in document.paragraphs for s in _SENTENCE.split(paragraph)]
        piece: list[int] = []
        target = int(rng.integers(_SHORTEST_TARGET, longest - 1))
        for encoding in tokenizer.encode_batch_fast(sentences, add_special_tokens=False):
            rest = encoding.ids
            while rest:
                if piece and len(piece) + len(rest) > target:
                    yield [CLS, *piece, SEP]
                    piece, target = [], int(rng.integers(_SHORTEST_TARGET, longest - 1))
                room = longest - 2 - len(piece)
                piece, rest = piece + rest[:room], rest[room:]
        if len(piece) > 2:
            yield [CLS, *piece, SEP]


def mask(ids: np.ndarray, rng: np.random.Generator, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Mask as BERT does: of 15 % of the tokens, which are asked for, 80 % are [MASK], 10 % any token.

    Args:
        ids: (rows, length).
        rng: where chance comes from.
        vocabulary: number of tokens.

    Returns:
        (what the model sees, which positions are asked for), both of the same shape.
    """
    asked = (rng.random(ids.shape) < 0.15) & (ids >= len(SPECIAL))
    fate = rng.random(ids.shape)
    seen = np.where(asked & (fate < 0.8), MASK, ids)
    other = rng.integers(len(SPECIAL), vocabulary, ids.shape)
    return np.where(asked & (fate >= 0.9), other, seen), asked
