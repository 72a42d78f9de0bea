"""Scores of texts: pseudo-log-likelihood, and accuracy and loss on masked tokens.

    pll            Σᵢ log p(wᵢ | the text with wᵢ masked)                      Salazar et al. 2020
    pll-word-l2r   the same, with the later tokens of wᵢ's word masked too      Kauf and Ivanova 2023
    masked         a share of the tokens is masked; how many are guessed, and the mean of -log p

PLL overestimates words of several tokens, since the rest of a word gives a token away; pll-word-l2r does not.
Special tokens and masks that are in the text are not scored. All copies of a text with one token masked go
through the model together, in one batch where they fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.work.masking import Masking, mask_tokens
from mlmon.server.work.pieces import PieceBuilder
from mlmon.server.work.task import check_tokens, pool_rows, pooled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlmon.server.work.pieces import Seen
    from mlmon.server.work.task import Setting
    from mlmon.server.work.text import Text
    from mlmon.server.work.windows import Window

__all__ = ["LikelihoodScore", "MaskedScore", "Method", "Score", "ScoreOptions", "TokenScore"]

Method = Literal["pll", "pll-word-l2r", "masked"]


class TokenScore(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One scored token: its place in the text, and log p of it in nats."""

    index: int
    id: int
    token: str
    logprob: float
    predicted: str | None = None


class LikelihoodScore(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pseudo-log-likelihood: `score` is its sum in nats, `pseudo_perplexity` exp(-score / tokens)."""

    method: Method
    tokens: int
    score: float
    pseudo_perplexity: float | None
    per_token: list[TokenScore] | None = None


class MaskedScore(msgspec.Struct, frozen=True, omit_defaults=True):
    """How masked tokens were guessed: `loss` is the mean of -log p in nats; both None without any."""

    method: Method
    tokens: int
    masked_tokens: int
    right_tokens: int
    accuracy: float | None
    loss: float | None
    per_token: list[TokenScore] | None = None


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What is asked: the method, and with `masked` how."""

    method: Method = "pll"
    masking: Masking = field(default_factory=Masking)
    per_token: bool = False


class Score:
    """The scores of some texts.

    Raises:
        RefusalError: too many tokens, or words are wanted of a tokenizer that knows none.
    """

    def __init__(self, setting: Setting, texts: Sequence[Text], options: ScoreOptions) -> None:
        self._setting, self._texts, self._options = setting, texts, options
        self._watched_sums = 0
        self._places: list[list[NDArray[np.int64]]] = [[] for _ in texts]
        self._allowed = [~np.isin(text.ids[: text.kept], setting.texts.unscored) for text in texts]
        copies = self._tokens_needed()
        check_tokens(
            copies, setting.request_tokens, "send fewer or shorter texts, or a method other than pll"
        )
        self._builder = PieceBuilder(small_tokens=setting.small_tokens, most_tokens=setting.most_tokens)
        if setting.watched is not None and texts:
            self._watch(texts[0])
        add = self._add_masked if options.method == "masked" else self._add_likelihood
        for number in range(len(texts)):
            add(number)
        self.pieces = self._builder.build()

    def _tokens_needed(self) -> int:
        """Tokens that will go through the model, before any copy is made."""
        around = len(self._setting.texts.prefix) + len(self._setting.texts.suffix)
        total = 0
        for text, allowed in zip(self._texts, self._allowed, strict=True):
            for window in text.windows:
                length = window.stop - window.start + around
                if self._options.method == "masked":
                    total += self._options.masking.repeats * length
                else:
                    total += int(allowed[window.own_start : window.own_stop].sum()) * length
        return total

    def _watch(self, text: Text) -> None:
        """Let the text itself through the model too, for the embedding that its event carries."""
        how = self._setting.watched
        assert how is not None  # noqa: S101 - the caller asked
        helper = self._setting.texts
        for window in text.windows:
            sequence = helper.sequence(text.ids[window.start : window.stop])
            if len(sequence):
                self._builder.add(sequence[np.newaxis], pool=pool_rows(helper, window, how))
                self._watched_sums += 1

    def _add_likelihood(self, number: int) -> None:
        text, helper = self._texts[number], self._setting.texts
        by_word = self._options.method == "pll-word-l2r"
        if by_word and text.words is None and len(text.ids):
            raise RefusalError(
                Refusal.INVALID,
                "a tokenizer that tells words apart",
                "one that does not",
                'use the method "pll"',
            )
        for window in text.windows:
            own = np.flatnonzero(self._allowed[number][window.own_start : window.own_stop])
            places = own + window.own_start
            self._places[number].append(places)
            if not len(places):
                continue
            rows = helper.row(window, places)
            sequence = helper.sequence(text.ids[window.start : window.stop])
            copies = np.repeat(sequence[np.newaxis], len(places), axis=0)
            if by_word and text.words is not None:
                copies[_later_in_word(text.words, window, places, len(helper.prefix), len(sequence))] = (
                    helper.special.mask
                )
            copies[np.arange(len(places)), rows] = helper.special.mask
            truth = np.arange(len(places)) * len(sequence) + rows
            self._builder.add(copies, truth=(truth, text.ids[places]))

    def _add_masked(self, number: int) -> None:
        text, helper, options = self._texts[number], self._setting.texts, self._options
        ids = text.ids[: text.kept]
        vocabulary = (helper.special.mask, helper.ordinary)
        for repeat in range(options.masking.repeats):
            masked, where = mask_tokens(ids, self._allowed[number], options.masking, repeat, vocabulary)
            for window in text.windows:
                low, high = np.searchsorted(where, (window.own_start, window.own_stop))
                places = where[low:high]
                self._places[number].append(places)
                if len(places):
                    sequence = helper.sequence(masked[window.start : window.stop])
                    rows = helper.row(window, places)
                    self._builder.add(sequence[np.newaxis], truth=(rows, ids[places]))

    def answer(self, seen: Seen) -> list[LikelihoodScore | MaskedScore]:
        """One score for each text."""
        found: list[LikelihoodScore | MaskedScore] = []
        at = 0
        for text, parts in zip(self._texts, self._places, strict=True):
            places = np.concatenate(parts) if parts else np.empty(0, np.int64)
            span = slice(at, at + len(places))
            at += len(places)
            found.append(self._scored(text, places, seen.nll[span], seen.best[span]))
        return found

    def _scored(
        self, text: Text, places: NDArray[np.int64], nll: NDArray[np.float32], best: NDArray[np.int64]
    ) -> LikelihoodScore | MaskedScore:
        method, count = self._options.method, len(places)
        total = float(nll.sum(dtype=np.float64))
        detail = self._detail(text, places, nll, best) if self._options.per_token else None
        if method == "masked":
            right = int((best == text.ids[places]).sum())
            accuracy, loss = (right / count, total / count) if count else (None, None)
            return MaskedScore(method, text.kept, count, right, accuracy, loss, detail)
        # a pseudo-perplexity beyond the range of a float is none that could be written
        mean = total / count if count else None
        perplexity = float(np.exp(mean)) if mean is not None and mean < 700 else None
        return LikelihoodScore(method, count, -total, perplexity, detail)

    def _detail(
        self, text: Text, places: NDArray[np.int64], nll: NDArray[np.float32], best: NDArray[np.int64]
    ) -> list[TokenScore]:
        name = self._setting.texts.tokenizer.id_to_token
        masked = self._options.method == "masked"
        ids = text.ids[places].tolist()
        return [
            TokenScore(place, token, name(token) or "", -loss, (name(guess) or "") if masked else None)
            for place, token, loss, guess in zip(
                places.tolist(), ids, nll.tolist(), best.tolist(), strict=True
            )
        ]

    def fields(self, seen: Seen) -> dict[str, Any]:
        """Of the masked method, how many tokens were masked and guessed; the first text's vector if "
        "wanted."""
        fields: dict[str, Any] = {}
        if self._options.method == "masked":
            truth = np.concatenate(
                [t.ids[p] for t, ps in zip(self._texts, self._places, strict=True) for p in ps]
            )
            fields |= {
                "labelled_masked_tokens": len(truth),
                "right_masked_tokens": int((seen.best == truth).sum()),
            }
        if self._watched_sums and self._setting.watched is not None:
            sums = seen.sums[: self._watched_sums]
            how = self._setting.watched
            fields["embedding"] = pooled(self._setting.texts, self._texts[0], how, sums, normalize=True)
        return fields


def _later_in_word(
    words: NDArray[np.int64], window: Window, places: NDArray[np.int64], before: int, length: int
) -> NDArray[np.bool_]:
    """Which tokens of each copy follow the scored one in its word, shape (copies, length)."""
    inside = words[window.start : window.stop]
    later = np.zeros((len(places), length), np.bool_)
    same = inside[np.newaxis] == words[places][:, np.newaxis]
    after = np.arange(window.start, window.stop)[np.newaxis] > places[:, np.newaxis]
    later[:, before : before + len(inside)] = same & after
    return later
