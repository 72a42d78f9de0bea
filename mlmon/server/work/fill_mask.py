"""Fill-mask: the most probable tokens for every mask of a text, as the transformers pipeline gives them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.work.pieces import PieceBuilder
from mlmon.server.work.task import check_tokens, pool_rows, pooled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from mlmon.server.config import Pooling
    from mlmon.server.work.pieces import Seen
    from mlmon.server.work.task import Setting
    from mlmon.server.work.text import Text, Texts

__all__ = ["Candidate", "FillMask", "FillOptions", "Mask", "target_ids"]


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A token that may stand for a mask."""

    score: float
    token: int
    token_str: str
    sequence: str


@dataclass(frozen=True, slots=True)
class FillOptions:
    """What is asked of each mask.

    Attributes:
        top_k: answers, best first.
        targets: ids that may be answers; None: all. Probabilities are of the whole vocabulary either way.
        pooling: of the embeddings that are wanted of the same texts; None: none are.
        masks: whether masks are answered; without, only embeddings are.
    """

    top_k: int = 5
    targets: tuple[int, ...] | None = None
    pooling: Pooling | None = None
    masks: bool = True


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask: of which text, and at which of its tokens, special tokens around it not counted."""

    text: int
    index: int


#: A mask, its best ids and their probabilities.
_Row = tuple[Mask, list[int], list[float]]


def target_ids(texts: Texts, targets: Sequence[str]) -> tuple[tuple[int, ...], list[str]]:
    """Ids of targets; one that is no token stands for its first token, as in transformers.

    Returns:
        The ids, rising, each once; and the targets that were no tokens.

    Raises:
        RefusalError: none of them has a token.
    """
    found: set[int] = set()
    inexact = []
    for target in targets:
        token = texts.tokenizer.token_to_id(target)
        if token is None:
            inexact.append(target)
            ids = texts.tokenizer.encode(target, add_special_tokens=False).ids
            if not ids:
                continue
            token = ids[0]
        found.add(token)
    if not found:
        raise RefusalError(
            Refusal.INVALID,
            "targets that are tokens of the vocabulary",
            f"{', '.join(map(repr, targets[:3]))}",
            "name tokens (see /tokenize), or leave targets out",
        )
    return tuple(sorted(found)), inexact


class FillMask:
    """The masks of some texts; windows without a mask do not go through the model.

    Args:
        setting: the model's.
        texts: with a mask each, unless `options.pooling` is set.
        options: what is asked.

    Raises:
        RefusalError: a text has no mask (left), or there are too many tokens.

    Attributes:
        masks: in the order of the rows of what the model says.
    """

    def __init__(self, setting: Setting, texts: Sequence[Text], options: FillOptions) -> None:
        self._setting, self._texts, self._options = setting, texts, options
        self.masks: list[Mask] = []
        top_k = options.top_k if options.targets is None else min(options.top_k, len(options.targets))
        self._builder = PieceBuilder(
            small_tokens=setting.small_tokens,
            most_tokens=setting.most_tokens,
            top_k=min(top_k, setting.vocabulary),
            targets=options.targets,
        )
        self._tokens = 0
        for number, text in enumerate(texts):
            self._add(number, text)
        self.pieces = self._builder.build()

    @property
    def pooling(self) -> Pooling | None:
        """How the texts are embedded; None where they are not."""
        return self._options.pooling

    def _add(self, number: int, text: Text) -> None:
        helper = self._setting.texts
        places = np.flatnonzero(text.ids[: text.kept] == helper.special.mask)
        if not self._options.masks:
            places = places[:0]
        if not len(places) and self._options.pooling is None:
            mask = helper.tokenizer.id_to_token(helper.special.mask)
            cut = " in what is left of it" if text.kept < len(text.ids) else ""
            raise RefusalError(
                Refusal.INVALID,
                f"{mask} in every text",
                f"none in text {number}{cut}",
                f"put {mask} where a token is to be filled in",
            )
        self.masks += [Mask(number, index) for index in places.tolist()]
        how = self._pooling_of(number)
        for window in text.windows:
            low, high = np.searchsorted(places, (window.own_start, window.own_stop))
            if low == high and how is None:
                continue
            sequence = helper.sequence(text.ids[window.start : window.stop])
            self._tokens += len(sequence)
            check_tokens(self._tokens, self._setting.request_tokens)
            rows = pool_rows(helper, window, how) if how is not None else np.empty(0, np.int64)
            self._builder.add(sequence[np.newaxis], top=helper.row(window, places[low:high]), pool=rows)

    def _pooling_of(self, number: int) -> Pooling | None:
        if self._options.pooling is not None:
            return self._options.pooling
        return self._setting.watched if number == 0 else None

    def answer(self, seen: Seen) -> list[list[list[Candidate]]]:
        """Candidates, best first, by text and mask."""
        helper, rows = self._setting.texts, list(self.rows(seen))
        counts = Counter(mask.text for mask in self.masks)
        # one mask: a text to read; several: the other masks, which are special tokens, are to be seen
        alone, beside = (
            iter(helper.tokenizer.decode_batch(self._filled(rows, chosen), skip_special_tokens=skip))
            for skip, chosen in ((True, lambda n: counts[n] == 1), (False, lambda n: counts[n] > 1))
        )
        found: list[list[list[Candidate]]] = [[] for _ in self._texts]
        for mask, ids, scores in rows:
            written = alone if counts[mask.text] == 1 else beside
            found[mask.text].append(
                [
                    Candidate(score, token, helper.written(token), next(written))
                    for token, score in zip(ids, scores, strict=True)
                ]
            )
        return found

    def _filled(self, rows: list[_Row], chosen: Callable[[int], bool]) -> list[list[int]]:
        """Of the texts that are chosen: each with each candidate in the place of its mask."""
        helper, number = self._setting.texts, -1
        padding, before = helper.special.pad, len(helper.prefix)
        sequence: list[int] = []
        filled: list[list[int]] = []
        for mask, ids, _ in rows:
            if not chosen(mask.text):
                continue
            if mask.text != number:
                number = mask.text
                text = self._texts[number]
                sequence = helper.sequence(text.ids[: text.kept]).tolist()
            at = before + mask.index
            filled += [[*sequence[:at], token, *sequence[at + 1 :]] for token in ids]
        if padding is None:
            return filled
        return [[one for one in row if one != padding] if padding in row else row for row in filled]

    def rows(self, seen: Seen) -> Iterator[_Row]:
        """Each mask with its best ids and their probabilities."""
        for mask, ids, scores in zip(self.masks, seen.top_ids, np.exp(seen.top_logprob), strict=True):
            there = ids >= 0
            yield mask, ids[there].tolist(), scores[there].tolist()

    def vectors(self, seen: Seen, *, normalize: bool) -> NDArray[np.float32]:
        """The embeddings, where they were asked for, shape (texts, hidden size)."""
        assert self._options.pooling is not None  # noqa: S101 - the caller asked for them
        rows, at = [], 0
        for text in self._texts:
            sums = seen.sums[at : at + len(text.windows)]
            rows.append(pooled(self._setting.texts, text, self._options.pooling, sums, normalize=normalize))
            at += len(text.windows)
        return np.stack(rows)

    def fields(self, seen: Seen) -> dict[str, Any]:
        """The first mask's prediction and uncertainty, and the first text's vector where events carry one."""
        fields: dict[str, Any] = {}
        first = next(self.rows(seen), None)
        if first is not None:
            most = self._setting.watched_k
            ids, scores = first[1][:most], first[2][:most]
            labels = [self._setting.texts.tokenizer.id_to_token(i) or f"<{i}>" for i in ids]
            fields |= {
                "prediction": labels[0],
                "confidence": scores[0],
                "entropy": max(0.0, float(seen.top_entropy[0])),
                "top_labels": labels,
                "top_scores": scores,
            }
        how = self._pooling_of(0)
        if self._setting.watched is not None and how is not None:
            text = self._texts[0]
            sums = seen.sums[: len(text.windows)]
            fields["embedding"] = pooled(self._setting.texts, text, how, sums, normalize=True)
        return fields
