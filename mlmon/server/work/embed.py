"""Embeddings: the mean of a text's last hidden states, or the first token's.

The mean takes the special tokens in, as sentence-transformers does. Of a text read in several windows each
token counts once, as the window sees it in which it stands furthest from a cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.work.pieces import PieceBuilder
from mlmon.server.work.task import check_tokens, pool_rows, pooled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlmon.server.config import Pooling
    from mlmon.server.work.pieces import Seen
    from mlmon.server.work.task import Setting
    from mlmon.server.work.text import Text

__all__ = ["Embed", "EmbedOptions"]


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How the vectors are made: which rows, and whether to length 1."""

    pooling: Pooling = "mean"
    normalize: bool = True


class Embed:
    """The embeddings of some texts.

    Raises:
        RefusalError: too many tokens, or a text without any for a model without special tokens.
    """

    def __init__(self, setting: Setting, texts: Sequence[Text], options: EmbedOptions) -> None:
        self._setting, self._texts, self._options = setting, texts, options
        around = len(setting.texts.prefix) + len(setting.texts.suffix)
        spans = [window for text in texts for window in text.windows]
        check_tokens(sum(w.stop - w.start + around for w in spans), setting.request_tokens)
        builder = PieceBuilder(small_tokens=setting.small_tokens, most_tokens=setting.most_tokens)
        for text in texts:
            for window in text.windows:
                sequence = setting.texts.sequence(text.ids[window.start : window.stop])
                if not len(sequence):
                    raise RefusalError(
                        Refusal.INVALID, "texts of at least one token", "an empty one", "leave it out"
                    )
                rows = pool_rows(setting.texts, window, options.pooling)
                builder.add(sequence[np.newaxis], pool=rows)
        self.pieces = builder.build()

    def answer(self, seen: Seen) -> NDArray[np.float32]:
        """The vectors, float32, shape (texts, hidden size)."""
        windows = [len(text.windows) for text in self._texts]
        sums, at = seen.sums, 0
        if max(windows) == 1:
            return self._single(sums)
        rows = []
        for text, count in zip(self._texts, windows, strict=True):
            rows.append(self._vector(text, sums[at : at + count]))
            at += count
        return np.stack(rows)

    def _single(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """All at once, where every text is one window."""
        if self._options.pooling == "mean":
            around = len(self._setting.texts.prefix) + len(self._setting.texts.suffix)
            counts = np.array([text.kept + around for text in self._texts], np.float32)
            sums = sums / counts[:, np.newaxis]
        if self._options.normalize:
            sums = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.float32(1e-12))
        return sums

    def _vector(self, text: Text, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        how, normalize = self._options.pooling, self._options.normalize
        return pooled(self._setting.texts, text, how, sums, normalize=normalize)

    def fields(self, seen: Seen) -> dict[str, Any]:
        """The first text's vector, where events carry embeddings."""
        if self._setting.watched is None:
            return {}
        first = self._texts[0]
        return {"embedding": self._vector(first, seen.sums[: len(first.windows)])}
