"""The device's thread: whose turn it is, what is given up, and what happens when memory runs out."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from server_kit import LONGEST, Faulty, Held, Narrow, read_metrics, until

from mlmon.server.meters import Meters
from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.work.jobs import Job, Lane
from mlmon.server.work.pieces import PieceBuilder
from mlmon.server.work.runner import Runner
from mlmon.server.work.scheduler import BROKEN_AFTER, CALM_BATCHES, Budgets, Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlmon.server.model import LoadedModel
    from mlmon.server.work.halving import Landing, Model
    from mlmon.server.work.pieces import Piece, Seen

BUDGETS: dict[str, Any] = {
    "batch_tokens": 100,
    "shadow_batch_tokens": 40,
    "queue_jobs": 50,
    "queue_tokens": 2000,
    "shadow_queue_jobs": 20,
    "shadow_queue_tokens": 500,
    "shadow_wait_seconds": 60.0,
    "shadow_batch_seconds": 60.0,
    "longest": LONGEST,
}


class Line:
    """A scheduler, what it delivered, and its metrics."""

    def __init__(self, model: Model, **budgets: Any) -> None:
        self.registry = CollectorRegistry()
        self.meters = Meters(self.registry, ("other",))
        self.over: list[Job] = []
        self.scheduler = Scheduler(model, Budgets(**BUDGETS | budgets), self.meters, self.over.extend)

    def submit(self, *lengths: int, lane: Lane = Lane.INTERACTIVE, **more: Any) -> Job:
        job = Job(pieces(*lengths), lane, **more)
        self.scheduler.submit(job)
        return job

    def done(self, *jobs: Job) -> None:
        until(lambda: all(job in self.over for job in jobs))

    def metric(self, name: str, *labels: str) -> float:
        return read_metrics(generate_latest(self.registry).decode())[name, labels]


def pieces(*lengths: int) -> list[Piece]:
    """One sequence a piece; each wants its row 1 answered and scored, and all of its rows summed."""
    found = []
    for length in lengths:
        builder = PieceBuilder(small_tokens=1, most_tokens=10**6, top_k=2)
        ids = np.arange(5, 5 + length).reshape(1, -1)
        builder.add(ids, top=np.array([1]), truth=(np.array([1]), np.array([9])), pool=np.arange(length))
        found += builder.build()
    return found


def many(copies: int, length: int) -> list[Piece]:
    """One piece of equal sequences."""
    builder = PieceBuilder(small_tokens=1, most_tokens=10**6)
    rows = np.arange(copies) * length + 1
    builder.add(np.tile(np.arange(5, 5 + length), (copies, 1)), truth=(rows, np.full(copies, 9)))
    return builder.build()


@contextlib.contextmanager
def running(model: Model, **budgets: Any) -> Iterator[Line]:
    line = Line(model, **budgets)
    others = set(threading.enumerate())
    line.scheduler.start()
    try:
        yield line
    finally:
        if isinstance(model, Held):
            model.open.set()
        line.scheduler.close(20)
        left = set(threading.enumerate()) - others
        assert not any(thread.name == "mlmon-device" for thread in left)


@pytest.fixture
def held(bert: LoadedModel) -> Held:
    return Held(Runner(bert.encoder, bert.head))


def lengths(held: Held) -> list[list[int]]:
    """Of the sequences of each batch."""
    return [[int(n) for piece in batch for n in piece.lengths] for batch in held.batches]


def busy(line: Line, held: Held) -> Job:
    """Keep the device busy with a job of 7 tokens."""
    held.open.clear()
    job = line.submit(7)
    assert held.entered.acquire(timeout=60)
    return job


def same(job: Job, loaded: LoadedModel) -> None:
    """What a job got is what the model says of its pieces alone."""
    seen = job.seen()
    alone = Runner(loaded.encoder, loaded.head)
    parts = [alone.begin([piece]).land()[0] for piece in job.pieces]
    np.testing.assert_allclose(seen.nll, np.concatenate([part.nll for part in parts]), rtol=1e-4)
    np.testing.assert_array_equal(seen.best, np.concatenate([part.best for part in parts]))
    np.testing.assert_array_equal(seen.top_ids, np.concatenate([part.top_ids for part in parts]))
    np.testing.assert_allclose(seen.sums, np.concatenate([part.sums for part in parts]), atol=1e-4)


def test_what_waits_meanwhile_shares_the_next_batch(held: Held, bert: LoadedModel) -> None:
    with running(held) as line:
        first = busy(line, held)
        others = [line.submit(10), line.submit(20, 30), line.submit(40)]
        assert line.scheduler.waiting(Lane.INTERACTIVE) == (3, 100)
        assert line.metric("mlmon_server_queue_tokens", "interactive") == 100
        held.open.set()
        line.done(first, *others)
    assert lengths(held) == [[7], [10, 20, 30, 40]]
    assert [job.timing.batch_jobs for job in (first, *others)] == [1, 3, 3, 3]
    for job in others:
        same(job, bert)
        assert job.timing.queued <= job.timing.begun <= job.timing.ended
    assert line.metric("mlmon_server_batches_total") == 2
    assert line.metric("mlmon_server_tokens_total", "interactive") == 107
    assert line.metric("mlmon_server_sequences_total", "interactive") == 5
    assert line.metric("mlmon_server_queue_tokens", "interactive") == 0
    assert line.metric("mlmon_server_device_busy_seconds_total", "interactive") > 0


def test_shadow_work_takes_only_what_interactive_work_leaves(held: Held) -> None:
    with running(held) as line:
        jobs = [busy(line, held)]
        jobs += [line.submit(20, lane=Lane.SHADOW) for _ in range(3)]
        jobs += [line.submit(30) for _ in range(4)]
        held.open.set()
        line.done(*jobs)
    # 90 of 100 taken: no room for 20; then 30, and 40 for shadow work at most; then the rest
    assert lengths(held) == [[7], [30, 30, 30], [30, 20, 20], [20]]
    assert line.metric("mlmon_server_starved_batches_total") == 1
    assert line.metric("mlmon_server_tokens_total", "shadow") == 60
    assert line.metric("mlmon_server_tokens_total", "interactive") == 127


def test_shadow_work_makes_no_batch_much_longer(held: Held) -> None:
    """Once the device's speed is known; here no time is left for more than a piece."""
    with running(held, shadow_batch_seconds=1e-9) as line:
        jobs = [busy(line, held)]
        jobs += [line.submit(3, 3, lane=Lane.SHADOW) for _ in range(2)]
        jobs += [line.submit(30) for _ in range(4)]
        held.open.set()
        line.done(*jobs)
    found = lengths(held)
    assert found[:2] == [[7], [30, 30, 30, 3]]
    assert all(batch.count(3) <= 1 for batch in found)
    assert sorted(length for batch in found for length in batch) == [3] * 4 + [7] + [30] * 4


def test_shadow_work_that_waits_for_its_share_ends_when_the_server_does(held: Held) -> None:
    with running(held, shadow_batch_seconds=1e-9) as line:
        first = busy(line, held)
        shadow = line.submit(*[3] * 5, lane=Lane.SHADOW)
        line.scheduler.stop()
        held.open.set()
        line.done(first, shadow)
    assert shadow.error is None


def test_shadow_work_that_finds_no_room_in_time_is_given_up(held: Held) -> None:
    # what comes afterwards must reach the device in that time, also on a busy machine
    with running(held, shadow_wait_seconds=0.5) as line:
        first = busy(line, held)
        waiting = line.submit(20, lane=Lane.SHADOW)
        kept = line.submit(20)
        time.sleep(0.55)  # the wait itself is what is tested
        held.open.set()
        line.done(first, waiting, kept)
        fresh = line.submit(20, lane=Lane.SHADOW)
        line.done(fresh)
    assert isinstance(waiting.error, RefusalError)
    assert waiting.error.kind is Refusal.STARVED
    assert waiting.error.retry_seconds == 60
    assert kept.error is None
    assert fresh.error is None
    assert line.metric("mlmon_server_given_up_jobs_total", "shadow", "starved") == 1
    assert line.metric("mlmon_server_queue_tokens", "shadow") == 0


@pytest.mark.parametrize("lane", list(Lane))
def test_a_full_queue_refuses_by_jobs_and_by_tokens_and_says_when_to_come_back(
    held: Held, lane: Lane
) -> None:
    bounds = {"queue_jobs": 3, "queue_tokens": 60, "shadow_queue_jobs": 3, "shadow_queue_tokens": 60}
    with running(held, **bounds) as line:
        busy(line, held)
        line.submit(30, lane=lane)
        with pytest.raises(RefusalError, match=f"at most 60 tokens waiting in the {lane} lane") as refused:
            line.submit(31, lane=lane)
        assert refused.value.kind is Refusal.FULL
        assert refused.value.retry_seconds == 1
        line.submit(10, lane=lane)
        line.submit(10, lane=lane)
        with pytest.raises(RefusalError, match="at most 3 jobs waiting"):
            line.submit(5, lane=lane)
        assert line.metric("mlmon_server_refused_requests_total", lane, "tokens") == 1
        assert line.metric("mlmon_server_refused_requests_total", lane, "jobs") == 1
        assert line.scheduler.waiting(lane) == (3, 50)


def gone() -> RefusalError:
    return RefusalError(Refusal.GONE, "a", "b", "c")


def test_what_nobody_waits_for_leaves_the_queue_at_once(held: Held) -> None:
    with running(held) as line:
        first = busy(line, held)
        unwanted, wanted = line.submit(20, 20), line.submit(30)
        assert line.scheduler.give_up(unwanted, gone(), "disconnect")
        assert not line.scheduler.give_up(unwanted, gone(), "disconnect"), "it was over"
        assert line.scheduler.waiting(Lane.INTERACTIVE) == (1, 30)
        assert line.over == [unwanted]
        # what is on the device goes through, and is thrown away
        assert line.scheduler.give_up(first, gone(), "disconnect")
        held.open.set()
        line.done(wanted)
    assert lengths(held) == [[7], [30]]
    assert first.error is not None
    assert not first.parts
    assert line.over == [unwanted, first, wanted]
    assert line.metric("mlmon_server_given_up_jobs_total", "interactive", "disconnect") == 2


def test_a_job_of_several_batches_stops_when_it_is_given_up(held: Held) -> None:
    with running(held) as line:
        held.open.clear()
        long = line.submit(*[40] * 10)
        assert held.entered.acquire(timeout=60)
        assert line.scheduler.waiting(Lane.INTERACTIVE) == (1, 320)
        line.scheduler.give_up(long, gone(), "disconnect")
        assert line.scheduler.waiting(Lane.INTERACTIVE) == (0, 0)
        held.open.set()
    assert lengths(held) == [[40, 40]]


def test_work_past_its_deadline_is_not_begun(held: Held) -> None:
    with running(held) as line:
        first = busy(line, held)
        late = line.submit(20, deadline=time.monotonic())
        kept = line.submit(30, deadline=time.monotonic() + 60)
        held.open.set()
        line.done(first, late, kept)
    assert lengths(held) == [[7], [30]]
    assert isinstance(late.error, RefusalError)
    assert late.error.kind is Refusal.TIMEOUT
    assert line.metric("mlmon_server_given_up_jobs_total", "interactive", "timeout") == 1


def test_a_batch_too_large_for_the_device_is_halved_until_it_fits(bert: LoadedModel, held: Held) -> None:
    narrow = Narrow(Runner(bert.encoder, bert.head), 45)
    gate = Held(narrow)
    with running(gate) as line:
        first = busy(line, gate)
        jobs = [line.submit(40), line.submit(20, 20), line.submit(10)]
        gate.open.set()
        line.done(first, *jobs)
        for job in jobs:
            assert job.error is None
            same(job, bert)
        # 90 → 60 + 30; 60 → 40 + 20
        assert lengths(gate)[1:] == [[40, 20, 20, 10], [40, 20], [40], [20], [20, 10]]
        assert line.metric("mlmon_server_memory_splits_total") == 2
        assert line.metric("mlmon_server_batch_budget_tokens") == LONGEST, (
            "no lower than the longest sequence"
        )
        assert narrow.freed == 2
        # later batches are made to fit; after many that did, larger ones are tried again
        again = [line.submit(20) for _ in range(4)]
        line.done(*again)
        assert all(sum(batch) <= LONGEST for batch in lengths(gate)[6:])
        for _ in range(CALM_BATCHES):
            line.done(line.submit(5))
        assert line.metric("mlmon_server_batch_budget_tokens") == 2 * LONGEST


def test_copies_of_a_text_that_do_not_fit_together_go_in_parts(bert: LoadedModel) -> None:
    narrow = Narrow(Runner(bert.encoder, bert.head), 25)
    with running(narrow) as line:
        job = Job(many(9, 10))
        line.scheduler.submit(job)
        line.done(job)
    assert job.error is None
    (expected,) = Runner(bert.encoder, bert.head).begin(many(9, 10)).land()
    np.testing.assert_allclose(job.seen().nll, expected.nll, rtol=1e-4)
    assert len(job.seen().nll) == 9


def test_a_sequence_too_large_by_itself_fails_alone(bert: LoadedModel) -> None:
    gate = Held(Narrow(Runner(bert.encoder, bert.head), 25))
    with running(gate) as line:
        first = busy(line, gate)
        fits, large, partly = line.submit(20), line.submit(30), line.submit(10, 30)
        gate.open.set()
        line.done(first, fits, large, partly)
        assert fits.error is None
        for job in (large, partly):
            assert isinstance(job.error, RefusalError)
            assert job.error.kind is Refusal.MEMORY
        assert line.metric("mlmon_server_failed_jobs_total", "interactive", "memory") == 2
        assert line.scheduler.alive, "a device that has no room for one request is not broken"
        after = line.submit(20)
        line.done(after)
        assert after.error is None


def test_an_input_that_the_model_refuses_fails_alone(bert: LoadedModel, caplog: Any) -> None:
    faulty = Faulty(Runner(bert.encoder, bert.head))
    gate = Held(faulty)
    with running(gate) as line:
        first = busy(line, gate)
        faulty.error, faulty.only = ValueError("an id outside the vocabulary"), 13
        jobs = [line.submit(10), line.submit(13), line.submit(20)]
        gate.open.set()
        with caplog.at_level(logging.CRITICAL):
            line.done(first, *jobs)
    assert [job.error is None for job in jobs] == [True, False, True]
    assert line.metric("mlmon_server_failed_jobs_total", "interactive", "error") == 1


def test_a_device_that_fails_again_and_again_is_told_dead_and_one_that_recovers_is_not(
    bert: LoadedModel, caplog: Any
) -> None:
    faulty = Faulty(Runner(bert.encoder, bert.head))
    with caplog.at_level(logging.CRITICAL), running(faulty) as line:
        assert line.scheduler.alive
        faulty.error = RuntimeError("an illegal memory access was encountered")
        for count in range(1, BROKEN_AFTER + 1):
            job = line.submit(5)
            line.done(job)
            assert isinstance(job.error, RefusalError)
            assert job.error.kind is Refusal.FAILED
            assert line.scheduler.alive == (count < BROKEN_AFTER)
        assert not line.scheduler.ready
        faulty.error = None
        line.done(line.submit(5))
        assert line.scheduler.ready


def test_stopping_ends_what_was_accepted_and_accepts_no_more(held: Held) -> None:
    with running(held) as line:
        jobs = [busy(line, held), line.submit(40, 40), line.submit(40, 40)]
        line.scheduler.stop()
        with pytest.raises(RefusalError, match="one that stops") as refused:
            line.submit(5)
        assert refused.value.kind is Refusal.STOPPING
        assert not line.scheduler.ready
        held.open.set()
        assert line.scheduler.close(20)
        assert [job.error for job in jobs] == [None] * 3
        assert line.over == jobs
        assert line.metric("mlmon_server_refused_requests_total", "interactive", "stopping") == 1


def test_what_does_not_end_in_time_is_given_up(held: Held) -> None:
    line = Line(held)
    line.scheduler.start()
    jobs = [busy(line, held), line.submit(40)]

    def given_up() -> bool:
        return line.metric("mlmon_server_given_up_jobs_total", "interactive", "stopping") == 2

    def open_then() -> None:
        until(given_up)
        held.open.set()

    opener = threading.Thread(target=open_then)
    opener.start()
    assert not line.scheduler.close(0.05)
    opener.join()
    assert [type(job.error) for job in jobs] == [RefusalError] * 2
    assert line.metric("mlmon_server_given_up_jobs_total", "interactive", "stopping") == 2


class Ahead:
    """A real model whose batches land later than they are begun, as on a GPU."""

    depth = 2

    def __init__(self, model: Model, most: int = 10**6) -> None:
        self._model, self._most = model, most
        self.log: list[tuple[str, int]] = []
        self.in_flight = 0

    def begin(self, pieces: Sequence[Piece]) -> _Later:
        tokens = sum(piece.tokens for piece in pieces)
        if self.in_flight + tokens > self._most:
            raise torch.OutOfMemoryError("full")
        self.in_flight += tokens
        self.log.append(("begin", tokens))
        return _Later(self, self._model.begin(pieces), tokens)

    def free(self) -> None:
        """Nothing is held."""


class _Later:
    def __init__(self, ahead: Ahead, landing: Landing, tokens: int) -> None:
        self._ahead, self._landing, self._tokens = ahead, landing, tokens

    def land(self) -> list[Seen]:
        self._ahead.in_flight -= self._tokens
        self._ahead.log.append(("land", self._tokens))
        return self._landing.land()


def test_the_next_batch_is_begun_before_the_last_one_landed(bert: LoadedModel) -> None:
    ahead = Ahead(Runner(bert.encoder, bert.head))
    line = Line(ahead)
    jobs = [Job(pieces(*[40, 40] * 3))]
    for job in jobs:
        line.scheduler.submit(job)
    line.scheduler.start()
    line.done(*jobs)
    assert line.scheduler.close(20)
    for job in jobs:
        same(job, bert)
    kinds = [kind for kind, _ in ahead.log]
    assert kinds == ["begin", "begin", "land", "begin", "land", "land"]
    assert line.metric("mlmon_server_batches_total") == 3


def test_what_finds_no_memory_beside_another_batch_is_tried_again_alone(bert: LoadedModel) -> None:
    ahead = Ahead(Runner(bert.encoder, bert.head), most=120)
    line = Line(ahead)
    jobs = [Job(pieces(40, 40)), Job(pieces(40, 40)), Job(pieces(40, 40))]
    for job in jobs:
        line.scheduler.submit(job)
    line.scheduler.start()
    line.done(*jobs)
    assert line.scheduler.close(20)
    assert ahead.in_flight == 0
    for job in jobs:
        assert job.error is None
        same(job, bert)
