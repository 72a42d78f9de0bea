"""How a request on the event loop waits for its job: until that is over, late, or nobody's any more."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.work.scheduler import out_of_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from mlmon.server.work.jobs import Job
    from mlmon.server.work.scheduler import Scheduler

    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

__all__ = ["Waiting"]


class Waiting:
    """Hands jobs to a scheduler and wakes who waits for them. Used on one event loop.

    The scheduler is made with `deliver`, then given here by `bind`, on the loop.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduler: Scheduler | None = None
        self._futures: dict[Job, asyncio.Future[None]] = {}

    def bind(self, scheduler: Scheduler) -> None:
        """Begin; called on the event loop."""
        self._loop, self._scheduler = asyncio.get_running_loop(), scheduler

    def deliver(self, jobs: list[Job]) -> None:
        """Tell that jobs are over; from any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake, jobs)

    def _wake(self, jobs: list[Job]) -> None:
        for job in jobs:
            future = self._futures.pop(job, None)
            if future is not None and not future.done():
                future.set_result(None)

    async def run(self, job: Job, receive: Receive) -> None:
        """Have a job done.

        Args:
            job: new; its deadline is kept here too, so that it holds while a batch is on the device.
            receive: the ASGI one of a request that has been read to its end.

        Raises:
            RefusalError: it was refused, failed or given up.
        """
        loop, scheduler = self._loop, self._scheduler
        if loop is None or scheduler is None:
            raise RefusalError(Refusal.STOPPING, "a running server", "one that starts", "try again")
        future = self._futures[job] = loop.create_future()
        try:
            scheduler.submit(job)
        except RefusalError:
            del self._futures[job]
            raise
        timer = None
        if job.deadline < float("inf"):
            left = max(0.0, job.deadline - time.monotonic())
            timer = loop.call_later(left, scheduler.give_up, job, out_of_time(), "timeout")
        watcher = loop.create_task(self._watch(scheduler, job, receive))
        try:
            await future
        except asyncio.CancelledError:
            scheduler.give_up(job, _stopping(), "stopping")
            raise
        finally:
            if timer is not None:
                timer.cancel()
            watcher.cancel()
        if job.error is not None:
            raise job.error

    async def _watch(self, scheduler: Scheduler, job: Job, receive: Receive) -> None:
        """Give the job up when its client goes away."""
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = RefusalError(Refusal.GONE, "a client that waits", "one that went away", "nothing")
        scheduler.give_up(job, gone, "disconnect")


def _stopping() -> RefusalError:
    return RefusalError(Refusal.STOPPING, "a running server", "one that stops", "try again")
