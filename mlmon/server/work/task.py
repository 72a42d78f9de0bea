"""What a task is: texts that became pieces, and what the model says of them that becomes an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlmon.server.refusals import Refusal, RefusalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.server.config import Pooling
    from mlmon.server.work.pieces import Piece, Seen
    from mlmon.server.work.text import Text, Texts
    from mlmon.server.work.windows import Window

__all__ = ["Setting", "Task", "check_tokens", "pool_rows", "pooled"]


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What every task is made with.

    Attributes:
        texts: encodes, and knows the special tokens.
        vocabulary: rows of the model's head.
        most_tokens: of a piece: those of a batch.
        request_tokens: most tokens a request may bring through the model.
        watched: pooling of the embedding of the first text that its event carries; None: it carries none.
        watched_k: answers for the first mask that its event carries, at most.
    """

    texts: Texts
    vocabulary: int
    most_tokens: int
    request_tokens: int
    watched: Pooling | None = None
    watched_k: int = 5

    @property
    def small_tokens(self) -> int:
        """Short texts are gathered into pieces of at most so many tokens: a sixteenth of a batch."""
        return self.most_tokens // 16


class Task(Protocol):
    """A request made ready.

    Attributes:
        pieces: what goes through the model.
    """

    pieces: list[Piece]

    def answer(self, seen: Seen) -> Any:
        """What is sent back, of what the model said of the pieces."""
        ...

    def fields(self, seen: Seen) -> dict[str, Any]:
        """What the event says of it, by field."""
        ...


def check_tokens(tokens: int, limit: int, remedy: str = "send fewer or shorter texts") -> None:
    """Refuse a request before anything of its size is made.

    Raises:
        RefusalError: it would bring more tokens through the model than the limit.
    """
    if tokens > limit:
        raise RefusalError(
            Refusal.TOO_LARGE,
            f"a request that brings at most {limit} tokens through the model (limits.request_tokens)",
            f"{tokens}",
            remedy,
        )


def pool_rows(texts: Texts, window: Window, how: Pooling) -> NDArray[np.int64]:
    """Rows of a window's sequence that are summed for an embedding.

    For `mean` those of the tokens the window owns and of the special tokens around, so that of a text with
    one window it is all rows; for `cls` the first.
    """
    if how == "cls":
        return np.zeros(1, np.int64)
    before, after = len(texts.prefix), len(texts.suffix)
    inner = window.stop - window.start
    own = texts.row(window, np.arange(window.own_start, window.own_stop))
    return np.concatenate([np.arange(before), own, np.arange(before + inner, before + inner + after)])


def pooled(
    texts: Texts, text: Text, how: Pooling, sums: NDArray[np.float32], *, normalize: bool
) -> NDArray[np.float32]:
    """The embedding of a text from the sums of its windows, shape (hidden size,).

    `mean`: of all rows that were summed. `cls`: the mean over the windows.
    """
    count = sum(len(pool_rows(texts, window, how)) for window in text.windows)
    vector: NDArray[np.float32] = sums.sum(axis=0) / np.float32(count)
    if normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return vector.astype(np.float32)
