"""A batch that did not go through is halved, until what can go through has.

Out of memory: down to single sequences, so that only what is too large by itself fails. An input the model
refuses (`ValueError`): down to single pieces, so that it fails alone. Any other error is the device's, and
fails the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from mlmon.server.work.pieces import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlmon.server.work.pieces import Piece

__all__ = ["Landing", "Model", "bare", "in_halves", "is_out_of_memory"]

#: What PyTorch says where a plain allocation on the host fails, in an error of no class of its own.
_HOST_FULL = "can't allocate memory"


class Landing(Protocol):
    """A batch that was begun."""

    def land(self) -> list[Seen]:
        """What the model says of each piece; waits for the device."""
        ...


class Model(Protocol):
    """What the scheduler drives: `runner.Runner`, or one made of other parts."""

    @property
    def depth(self) -> int:
        """Batches that may be begun before the first of them has landed."""
        ...

    def begin(self, pieces: Sequence[Piece]) -> Landing:
        """Send pieces to the device."""
        ...

    def free(self) -> None:
        """Give memory that is held in reserve back, after it ran out."""
        ...


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may go through where this one did not."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _HOST_FULL in str(error)
    )


def bare(error: Exception) -> Exception:
    """The error; where memory ran out, without the traceback that holds on to the batch's tensors."""
    return error.with_traceback(None) if is_out_of_memory(error) else error


def in_halves(
    model: Model, pieces: list[Piece], error: Exception, ran_out: Callable[[int], None]
) -> list[Seen | Exception]:
    """What the model says of each piece of a batch that failed; an error for what cannot go through.

    Args:
        model: on which nothing else runs.
        pieces: of the batch.
        error: how it failed.
        ran_out: called with the tokens of each batch that is split for want of memory.
    """
    short = is_out_of_memory(error)
    if short:
        model.free()
    elif not isinstance(error, ValueError):
        return [error] * len(pieces)
    if len(pieces) > 1:
        if short:
            ran_out(sum(piece.tokens for piece in pieces))
        middle = len(pieces) // 2
        halves = (pieces[:middle], pieces[middle:])
        return [part for half in halves for part in _attempt(model, half, ran_out)]
    (piece,) = pieces
    if not short or len(piece.lengths) == 1:
        return [error]
    ran_out(piece.tokens)
    found = [part for half in piece.split() for part in _attempt(model, [half], ran_out)]
    failed = next((part for part in found if isinstance(part, Exception)), None)
    return [failed or Seen.join([part for part in found if isinstance(part, Seen)])]


def _attempt(model: Model, pieces: list[Piece], ran_out: Callable[[int], None]) -> list[Seen | Exception]:
    try:
        return list(model.begin(pieces).land())
    except Exception as error:  # noqa: BLE001 - whatever the model raises is the caller's to tell
        failed = bare(error)
    # outside the handler: it holds on to the failed attempt's memory
    return in_halves(model, pieces, failed, ran_out)
