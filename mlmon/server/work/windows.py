"""Texts longer than the model takes: where they are cut, or through which windows they are read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from mlmon.server.refusals import Refusal, RefusalError

if TYPE_CHECKING:
    from mlmon.server.config import LongInputs

__all__ = ["LongText", "Window", "default_stride", "windows_of"]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a text's tokens that goes through the model as one sequence.

    Attributes:
        start, stop: tokens of the text in it.
        own_start, own_stop: those that are read off this window: of the windows a token is in, the one in
            which it stands furthest from a cut.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int


@dataclass(frozen=True, slots=True)
class LongText:
    """What to do with a text that is too long.

    Attributes:
        how: `error`, `truncate` (keep the beginning) or `window`.
        stride: tokens that two neighbouring windows share; None: a quarter of a window.
    """

    how: LongInputs = "error"
    stride: int | None = None


def default_stride(capacity: int) -> int:
    """A quarter of a window: every token then has an eighth of a window beside it at least."""
    return capacity // 4


def windows_of(tokens: int, capacity: int, long: LongText) -> list[Window]:
    """The windows of a text; one where it fits.

    All windows are full: the last one ends with the text and shares with its neighbour what is left over.

    Args:
        tokens: of the text, special tokens not counted.
        capacity: tokens that the model takes beside its special tokens.
        long: what to do when they do not fit.

    Raises:
        RefusalError: they do not fit, and `error` was asked for or the stride is no smaller than a window.

    Example:
        >>> [(w.start, w.stop, w.own_start, w.own_stop) for w in windows_of(9, 4, LongText("window", 2))]
        [(0, 4, 0, 3), (2, 6, 3, 5), (4, 8, 5, 6), (5, 9, 6, 9)]
        >>> windows_of(9, 4, LongText("truncate"))
        [Window(start=0, stop=4, own_start=0, own_stop=4)]
    """
    if tokens <= capacity:
        return [Window(0, tokens, 0, tokens)]
    if long.how == "error":
        raise RefusalError(
            Refusal.TOO_LONG,
            f"at most {capacity} tokens in a text",
            f"{tokens}",
            'shorten it, or set parameters.long to "truncate" or "window"',
        )
    if long.how == "truncate":
        return [Window(0, capacity, 0, capacity)]
    stride = default_stride(capacity) if long.stride is None else long.stride
    if stride >= capacity:
        raise RefusalError(
            Refusal.INVALID,
            f"a stride below {capacity}, the tokens of a window",
            f"{stride}",
            "let neighbouring windows share fewer tokens",
        )
    starts = [*range(0, tokens - capacity, capacity - stride), tokens - capacity]
    cuts = [0, *((b + a + capacity) // 2 for a, b in pairwise(starts)), tokens]
    return [
        Window(start, start + capacity, low, high)
        for start, (low, high) in zip(starts, pairwise(cuts), strict=True)
    ]
