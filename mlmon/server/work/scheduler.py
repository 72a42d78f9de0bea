"""The one thread that owns the device: it makes batches of what waits, and tells whose work is done.

Any number of threads may submit and cancel. What is accepted ends in exactly one of: done, failed, given up;
and `deliver` is told. Nothing waits for a fuller batch: while one is on the device the next one gathers.

When the device runs out of memory a batch is halved until its parts go through; only a single sequence that
does not fit fails, and alone. The budget of later batches is lowered to what was too much by half, and grows
back after `CALM_BATCHES` batches without.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.work.halving import bare, in_halves, is_out_of_memory
from mlmon.server.work.jobs import Lane
from mlmon.server.work.lanes import LaneQueue
from mlmon.server.work.sharing import ShadowShare

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlmon.server.meters import Meters
    from mlmon.server.work.halving import Landing, Model
    from mlmon.server.work.jobs import Job
    from mlmon.server.work.lanes import Taken
    from mlmon.server.work.pieces import Seen

__all__ = ["BROKEN_AFTER", "CALM_BATCHES", "Budgets", "Scheduler", "out_of_time"]

log = logging.getLogger(__name__)

#: After so many batches that had enough memory a lowered budget is doubled.
CALM_BATCHES = 256
#: After so many batches in a row that failed for no want of memory the device is taken for broken.
BROKEN_AFTER = 3
#: Clients are told to come back in this range of seconds.
_RETRY_SECONDS = (1, 60)
#: How long `close` waits for the batch that is on the device when time is up.
_LAST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bounds in tokens and jobs; see `BatchConfig`, where some may be left open."""

    batch_tokens: int
    shadow_batch_tokens: int
    queue_jobs: int
    queue_tokens: int
    shadow_queue_jobs: int
    shadow_queue_tokens: int
    shadow_wait_seconds: float
    longest: int  #: tokens of the longest sequence: no budget falls below it
    #: shadow work makes no batch longer than by about this, since who comes meanwhile waits for all of it
    shadow_batch_seconds: float = 0.02


@dataclass(slots=True, eq=False)
class _Begun:
    """A batch on the device: what it is made of, when it began, and its flight or why there is none."""

    taken: list[Taken]
    at: float
    flight: Landing | None
    error: Exception | None


_Late = tuple["Job", RefusalError, str]


def out_of_time() -> RefusalError:
    """What a job ends with whose deadline passed."""
    return RefusalError(
        Refusal.TIMEOUT,
        "an answer within the time the request was given",
        "none so far",
        "give it more time (x-mlmon-timeout), or send less at once",
    )


class Scheduler:
    """Queues and thread. Made, started, and closed once.

    Args:
        runner: the model; used by the scheduler's thread only.
        budgets: bounds.
        meters: what is counted.
        deliver: called with jobs that are over, from the thread or from whoever cancelled; must not wait.
    """

    def __init__(
        self, runner: Model, budgets: Budgets, meters: Meters, deliver: Callable[[list[Job]], None]
    ) -> None:
        self._runner, self._budgets, self._meters, self._deliver = runner, budgets, meters, deliver
        self._changed = threading.Condition()
        self._lanes = {
            Lane.INTERACTIVE: LaneQueue(budgets.queue_jobs, budgets.queue_tokens),
            Lane.SHADOW: LaneQueue(budgets.shadow_queue_jobs, budgets.shadow_queue_tokens),
        }
        self._budget = budgets.batch_tokens
        self._calm = 0
        self._on_device: set[Job] = set()
        self._stopping = False
        self._failures = 0
        self._rate = 0.0  # tokens a second of device time, smoothed
        self._free_at = 0.0  # until when the device's time is counted
        self._share = ShadowShare(budgets.shadow_batch_seconds)
        self._thread = threading.Thread(target=self._run, name="mlmon-device", daemon=True)
        meters.budget.set(self._budget)

    # What requests call

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Accept a job.

        Raises:
            RefusalError: the lane is full, or the server stops; says when to come back.
        """
        with self._changed:
            lane = self._lanes[job.lane]
            tokens = job.waiting_tokens
            reason = "stopping" if self._stopping else lane.refuses(tokens)
            if reason is None:
                job.timing.queued = time.monotonic()
                lane.put(job)
                self._show(job.lane)
                self._changed.notify_all()
                return
            seconds = self._retry_seconds()
        self._meters.refused.labels(job.lane, reason).inc()
        raise self._refusal(reason, job.lane, seconds)

    def give_up(self, job: Job, error: RefusalError, reason: str) -> bool:
        """End a job that nobody waits for any more; its place is free at once. False when it was over.

        What is on the device goes through, and is thrown away.

        Args:
            job: any job that was accepted.
            error: what it ends with.
            reason: for the metric: one of `meters.GIVEN_UP`.
        """
        with self._changed:
            if not self._end(job, error):
                return False
        self._meters.given_up.labels(job.lane, reason).inc()
        self._deliver([job])
        return True

    @property
    def alive(self) -> bool:
        """Whether the thread runs and the device answers."""
        return self._thread.is_alive() and self._failures < BROKEN_AFTER

    @property
    def ready(self) -> bool:
        """Whether jobs are accepted."""
        return self.alive and not self._stopping

    def waiting(self, lane: Lane) -> tuple[int, int]:
        """Jobs and tokens that wait."""
        with self._changed:
            return len(self._lanes[lane]), self._lanes[lane].tokens

    def stop(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def close(self, timeout_seconds: float) -> bool:
        """Stop, and let accepted work end; what has not by then is given up. False where some was.

        Args:
            timeout_seconds: how long it gets.
        """
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        with self._changed:
            left = [job for lane in self._lanes.values() for job in lane] + list(self._on_device)
        error = RefusalError(Refusal.STOPPING, "a running server", "one that stops", "try again")
        for job in left:
            self.give_up(job, error, "stopping")
        if self._thread.ident is not None:
            self._thread.join(_LAST_SECONDS)
        return not left

    # Under the lock

    def _end(self, job: Job, error: Exception | None) -> bool:
        if job.settled:
            return False
        job.settled, job.error = True, error
        if self._lanes[job.lane].remove(job):
            self._show(job.lane)
        self._on_device.discard(job)
        if error is not None:
            job.parts.clear()
        self._changed.notify_all()
        return True

    def _show(self, lane: Lane) -> None:
        queue = self._lanes[lane]
        self._meters.queue_jobs.labels(lane).set(len(queue))
        self._meters.queue_tokens.labels(lane).set(queue.tokens)

    def _retry_seconds(self) -> int:
        """When about half of what waits will be through."""
        waiting = sum(lane.tokens for lane in self._lanes.values())
        low, high = _RETRY_SECONDS
        return max(low, min(high, round(waiting / 2 / self._rate))) if self._rate else low

    def _refusal(self, reason: str, lane: Lane, seconds: int) -> RefusalError:
        queue = self._lanes[lane]
        if reason == "stopping":
            return RefusalError(
                Refusal.STOPPING, "a running server", "one that stops", "try another", retry_seconds=seconds
            )
        most = queue.max_jobs if reason == "jobs" else queue.max_tokens
        return RefusalError(
            Refusal.FULL,
            f"at most {most} {reason} waiting in the {lane} lane",
            "one too many",
            f"come back in {seconds} s",
            retry_seconds=seconds,
        )

    # The thread

    def _run(self) -> None:
        begun: deque[_Begun] = deque()
        while True:
            taken, late = self._next(wait=not begun)
            for job, error, reason in late:
                self.give_up(job, error, reason)
            if taken:
                begun.append(self._begin(taken))
            elif not begun and not late:
                return  # stopping, and nothing is left
            # what failed to begin is tried again when nothing else is on the device
            while begun and (len(begun) >= self._runner.depth or not taken or begun[-1].flight is None):
                self._land(begun.popleft())

    def _next(self, *, wait: bool) -> tuple[list[Taken], list[_Late]]:
        """What the next batch is made of, and jobs whose time is over; nothing only when stopping.

        Args:
            wait: for something to do.
        """
        with self._changed:
            while True:
                late = self._late(time.monotonic())
                taken = [] if late else self._take()
                if taken or late or not wait or self._stopping:
                    self._on_device.update(item.job for item in taken)
                    return taken, late
                waits = self._lanes[Lane.SHADOW]
                self._changed.wait(self._share.wait(time.monotonic()) if len(waits) else None)

    def _late(self, now: float) -> list[_Late]:
        """Jobs past their deadline, and shadow jobs of which nothing was begun in the time they may wait."""
        late: list[_Late] = []
        for lane, queue in self._lanes.items():
            oldest = now - self._budgets.shadow_wait_seconds if lane is Lane.SHADOW else 0.0
            for job in queue:
                if job.deadline <= now:
                    late.append((job, out_of_time(), "timeout"))
                elif job.timing.queued < oldest and job.taken == 0:
                    late.append((job, self._starved(), "starved"))
        return late

    def _starved(self) -> RefusalError:
        return RefusalError(
            Refusal.STARVED,
            f"room for shadow work within {self._budgets.shadow_wait_seconds:g} s",
            "none: interactive work took it all",
            "send less shadow traffic, or come back later",
            retry_seconds=_RETRY_SECONDS[1],
        )

    def _take(self) -> list[Taken]:
        now = time.monotonic()
        taken = self._lanes[Lane.INTERACTIVE].take(self._budget, whole=math.inf)
        if taken:
            self._share.came(now)
        if len(self._lanes[Lane.SHADOW]):
            more = self._take_shadow(now, sum(item.piece.tokens for item in taken))
            if taken and not more:
                self._meters.starved.inc()
            taken += more
        for lane in {item.job.lane for item in taken}:
            self._show(lane)
        return taken

    def _take_shadow(self, now: float, used: int) -> list[Taken]:
        """Shadow work for a batch of which interactive work has taken `used` tokens."""
        share = self._budgets.shadow_batch_tokens / self._budgets.batch_tokens
        left = self._budget - used
        room = min(left, max(1, int(share * self._budget)))
        most = self._budgets.shadow_batch_seconds
        seconds = most if self._stopping else self._share.seconds(now)
        if self._rate:
            room = min(room, int(self._rate * seconds))
        # once it has saved up for a batch of its own, at least one piece
        whole = (left if used else math.inf) if seconds >= most else 0
        return self._lanes[Lane.SHADOW].take(room, whole=whole)

    def _begin(self, taken: list[Taken]) -> _Begun:
        at = time.monotonic()
        jobs = {item.job for item in taken}
        for job in jobs:
            job.timing.begun = job.timing.begun or at
            job.timing.batch_jobs = max(job.timing.batch_jobs, len(jobs))
        try:
            return _Begun(taken, at, self._runner.begin([item.piece for item in taken]), None)
        except Exception as error:  # noqa: BLE001 - whatever the model raises ends its jobs, not the thread
            return _Begun(taken, at, None, bare(error))

    def _land(self, begun: _Begun) -> None:
        seen: list[Seen | Exception] = []
        if begun.flight is not None:
            try:
                seen = list(begun.flight.land())
            except Exception as error:  # noqa: BLE001 - as above
                begun.error = bare(error)
        if begun.error is not None:
            begun.flight = None
            pieces = [item.piece for item in begun.taken]
            seen = in_halves(self._runner, pieces, begun.error, self._ran_out)
        self._count(begun, failed=all(isinstance(part, Exception) for part in seen))
        self._settle(begun.taken, seen)

    def _ran_out(self, tokens: int) -> None:
        """The device had no memory for so many tokens, which are now split."""
        self._meters.memory_splits.inc()
        self._calm = 0
        self._budget = max(self._budgets.longest, min(self._budget, tokens // 2))
        self._meters.budget.set(self._budget)
        log.warning("no memory for a batch of %d tokens; batches have %d from now on", tokens, self._budget)

    def _count(self, begun: _Begun, *, failed: bool) -> None:
        """The device's time, batches and tokens; and whether the device is still to be trusted."""
        now = time.monotonic()
        busy = now - max(begun.at, self._free_at)
        self._free_at = now
        by_lane, sequences = dict.fromkeys(Lane, 0), dict.fromkeys(Lane, 0)
        for item in begun.taken:
            by_lane[item.job.lane] += item.piece.tokens
            sequences[item.job.lane] += len(item.piece.lengths)
        total = sum(by_lane.values())
        for lane, tokens in by_lane.items():
            self._meters.tokens.labels(lane).inc(tokens)
            self._meters.sequences.labels(lane).inc(sequences[lane])
            self._meters.busy.labels(lane).inc(busy * tokens / total)
        self._share.spend(busy * by_lane[Lane.SHADOW] / total)
        self._meters.batches.inc()
        self._meters.batch_tokens.observe(total)
        if begun.error is None:
            rate = total / max(busy, 1e-6)
            self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
            self._calm += 1
            if self._calm >= CALM_BATCHES and self._budget < self._budgets.batch_tokens:
                self._calm, self._budget = 0, min(self._budgets.batch_tokens, 2 * self._budget)
                self._meters.budget.set(self._budget)
        broken = failed and begun.error is not None and not is_out_of_memory(begun.error)
        self._failures = self._failures + 1 if broken and not isinstance(begun.error, ValueError) else 0

    def _settle(self, taken: list[Taken], seen: list[Seen | Exception]) -> None:
        over: list[Job] = []
        now = time.monotonic()
        with self._changed:
            for item, part in zip(taken, seen, strict=True):
                job = item.job
                if job.settled:
                    continue
                if isinstance(part, Exception):
                    self._fail(job, part)
                    over.append(job)
                    continue
                job.parts[item.place] = part
                if len(job.parts) == len(job.pieces):
                    job.timing.ended = now
                    self._end(job, None)
                    over.append(job)
        if over:
            self._deliver(over)

    def _fail(self, job: Job, error: Exception) -> None:
        if is_out_of_memory(error):
            reason = "memory"
            told = RefusalError(
                Refusal.MEMORY,
                "a sequence for which the device has memory",
                "one that it ran out of memory with",
                "send shorter texts, or try again",
                retry_seconds=_RETRY_SECONDS[0],
            )
        else:
            reason = "error"
            log.error("a batch failed", exc_info=error)
            told = RefusalError(
                Refusal.FAILED, "a model that answers", f"{type(error).__name__}", "see the server's log"
            )
        self._meters.failed.labels(job.lane, reason).inc()
        self._end(job, told)
