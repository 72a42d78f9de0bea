"""Whose turn it is: two bounded queues, and what the next batch is made of. No threads, no clock.

Within a lane jobs go first in, first out, but in the first round no job takes more than half of a batch while
others wait: a long score does not keep short requests waiting for all of its batches. The shadow lane is only
given tokens that the interactive lane left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.server.work.jobs import Job
    from mlmon.server.work.pieces import Piece

__all__ = ["LaneQueue", "Taken"]


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """A piece that goes into a batch: whose it is, and which of its pieces."""

    job: Job
    place: int

    @property
    def piece(self) -> Piece:
        """The piece."""
        return self.job.pieces[self.place]


class LaneQueue:
    """Jobs that wait, in the order they came. Leaving from anywhere takes the same time.

    Args:
        max_jobs: that wait at most.
        max_tokens: that wait with them at most; a job that finds the queue empty may bring more.
    """

    def __init__(self, max_jobs: int, max_tokens: int) -> None:
        self.max_jobs, self.max_tokens = max_jobs, max_tokens
        self.tokens = 0
        self._jobs: dict[int, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def refuses(self, tokens: int) -> str | None:
        """Why a job of so many tokens cannot be taken in (`jobs` or `tokens`); None when it can."""
        if len(self._jobs) >= self.max_jobs:
            return "jobs"
        if self._jobs and self.tokens + tokens > self.max_tokens:
            return "tokens"
        return None

    def put(self, job: Job) -> None:
        """Take a job in; ask `refuses` first."""
        self._jobs[id(job)] = job
        self.tokens += job.waiting_tokens

    def remove(self, job: Job) -> bool:
        """Take a job out with all it has left; False when it does not wait."""
        if self._jobs.pop(id(job), None) is None:
            return False
        self.tokens -= job.waiting_tokens
        return True

    def take(self, budget: int, *, whole: float = 0) -> list[Taken]:
        """Pieces of at most `budget` tokens, and of the jobs at the front.

        Args:
            budget: tokens.
            whole: tokens that the first piece may have, where it is larger than the budget.
        """
        taken: list[Taken] = []
        left = budget
        for share in (budget // 2, budget) if len(self._jobs) > 1 else (budget,):
            for job in list(self._jobs.values()):
                if left <= 0 and (taken or not whole):
                    return taken
                used = self._take_from(job, min(share, left), taken, first=0 if taken else whole)
                left -= used
        return taken

    def _take_from(self, job: Job, room: int, taken: list[Taken], *, first: float) -> int:
        """Take pieces of one job while they fit; how many tokens that were."""
        used = 0
        while job.taken < len(job.pieces):
            tokens = job.pieces[job.taken].tokens
            if used + tokens > room and not (used == 0 and tokens <= first):
                break
            taken.append(Taken(job, job.taken))
            job.taken += 1
            used += tokens
        self.tokens -= used
        if job.taken == len(job.pieces):
            del self._jobs[id(job)]
        return used
