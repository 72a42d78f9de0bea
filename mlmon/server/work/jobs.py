"""A request's work: its pieces, whose turn it is, when it must be done, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from mlmon.server.work.pieces import Seen

if TYPE_CHECKING:
    from mlmon.server.work.pieces import Piece

__all__ = ["Job", "Lane", "Timing"]


class Lane(StrEnum):
    """Whose turn it is: shadow work only takes room that interactive work leaves."""

    INTERACTIVE = "interactive"
    SHADOW = "shadow"


@dataclass(slots=True)
class Timing:
    """Of one job; monotonic seconds, 0 where it did not come to it.

    Attributes:
        queued: when it was accepted.
        begun: when its first batch began.
        ended: when its last batch ended.
        batch_jobs: most jobs that shared a batch with it, itself included.
    """

    queued: float = 0.0
    begun: float = 0.0
    ended: float = 0.0
    batch_jobs: int = 0

    @property
    def queue_seconds(self) -> float:
        """Time waited for the first batch."""
        return max(0.0, self.begun - self.queued)

    @property
    def inference_seconds(self) -> float:
        """Time from the first batch's start to the last one's end."""
        return max(0.0, self.ended - self.begun)


@dataclass(slots=True, eq=False)
class Job:
    """One request's work. The scheduler owns everything below `deadline`, under its lock.

    Attributes:
        pieces: at least one.
        lane: whose turn it is.
        deadline: monotonic seconds; work not begun by then is given up.
        timing: as it went.
        taken: pieces that went into a batch so far.
        parts: what the model said of the pieces that are through, by place.
        error: why it failed; None while it did not.
        settled: whether it is over: done, failed or given up. Nothing changes afterwards.
    """

    pieces: list[Piece]
    lane: Lane = Lane.INTERACTIVE
    deadline: float = float("inf")
    timing: Timing = field(default_factory=Timing)
    taken: int = 0
    parts: dict[int, Seen] = field(default_factory=dict)
    error: Exception | None = None
    settled: bool = False

    @property
    def waiting_tokens(self) -> int:
        """Tokens of pieces that are in no batch yet."""
        return sum(piece.tokens for piece in self.pieces[self.taken :])

    def seen(self) -> Seen:
        """What the model said, of all pieces in order. Only of a job that is done."""
        return Seen.join([self.parts[place] for place in range(len(self.pieces))])
