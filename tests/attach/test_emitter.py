"""The emitter: bounds, batches, retries, forks and ends of processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mlmon.attach import Emitter, EmitterConfig, RefusedError, SpoolSink
from mlmon.attach.kafka_sink import KafkaSink, KafkaSinkConfig
from mlmon.attach.metrics import EmitterCollector
from mlmon.catalog import METRICS
from mlmon.errors import SourceError
from mlmon.events.event import Event
from mlmon.sources.spool import SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlmon.attach import OutRecord


def event(number: int, **fields: Any) -> Event:
    base: dict[str, Any] = {
        "event_id": f"e{number}",
        "event_time": 1_700_000_000_000_000 + number,
        "service": "s",
        "model_name": "m",
    }
    return Event(**base | fields)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.005)


class Gate:
    """A sink in front of another one that fails, or blocks, until opened."""

    def __init__(self, inner: SpoolSink) -> None:
        self.inner = inner
        self.failures = 0  #: writes still to fail
        self.open = threading.Event()
        self.open.set()
        self.seen: list[OutRecord] = []

    def write(self, record: OutRecord) -> None:
        self.seen.append(record)
        self.open.wait(10)
        if self.failures:
            self.failures -= 1
            raise SourceError("closed for the test")
        self.inner.write(record)

    def close(self, timeout_seconds: float) -> None:
        self.inner.close(timeout_seconds)

    def after_fork(self) -> None:
        self.inner.after_fork()


@pytest.fixture
def gate(spool: Path) -> Gate:
    return Gate(SpoolSink(SpoolWriterConfig(str(spool))))


def test_events_arrive_once_and_in_order(make_emitter: Any, read_back: Any) -> None:
    emitter = make_emitter(batch_events=7)
    assert all(emitter.emit(event(i)) for i in range(100))
    assert emitter.close(5)
    found = read_back()
    assert [e["event_id"] for e in found.events] == [f"e{i}" for i in range(100)]
    stats = emitter.stats()
    assert (stats.emitted, stats.sent_events, stats.dropped, stats.queue_items) == (100, 100, 0, 0)
    assert stats.sent_records == len(found.sizes) == 15


def test_a_batch_closes_by_count_and_the_rest_by_age(make_emitter: Any) -> None:
    emitter = make_emitter(batch_events=10, batch_age_seconds=0.2)
    for i in range(15):
        emitter.emit(event(i))
    until(lambda: emitter.stats().sent_events >= 10)
    until(lambda: emitter.stats().sent_events == 15)
    assert emitter.stats().sent_records == 2


def test_a_batch_closes_by_bytes(make_emitter: Any, read_back: Any) -> None:
    emitter = make_emitter(batch_bytes=10_000, batch_age_seconds=60)
    for i in range(40):
        emitter.emit(event(i, embedding=[0.5] * 500))  # about 1.3 kB each as float16
    until(lambda: emitter.stats().sent_events >= 32)
    emitter.close(5)
    assert max(read_back().sizes) < 20_000


def test_models_have_records_of_their_own(gate: Gate, read_back: Any) -> None:
    emitter = Emitter(gate, EmitterConfig(batch_age_seconds=0.05))
    for i in range(30):
        emitter.emit(event(i, model_name=f"m{i % 3}", service=f"s{i % 2}"))
    assert emitter.close(5)
    assert {r.key for r in gate.seen} == {f"s{i % 2}/m{i % 3}".encode() for i in range(6)}
    assert len(read_back().by_id) == 30


def test_many_models_do_not_grow_memory(make_emitter: Any, read_back: Any) -> None:
    emitter = make_emitter(batch_age_seconds=60)
    for i in range(500):
        emitter.emit(event(i, model_name=f"m{i}"))
    until(lambda: emitter.stats().sent_events >= 500 - 64)
    assert emitter._packer.pending <= 64
    emitter.close(5)
    assert len(read_back().by_id) == 500


def test_the_queue_is_bounded_in_events_and_drops_the_newest(gate: Gate, read_back: Any) -> None:
    gate.open.clear()
    emitter = Emitter(gate, EmitterConfig(queue_events=50, batch_events=5, batch_age_seconds=0.05))
    kept = [emitter.emit(event(i)) for i in range(5)]
    until(lambda: len(gate.seen) == 1)  # the thread is held in its first write
    kept += [emitter.emit(event(i)) for i in range(5, 100)]
    assert kept == [True] * 55 + [False] * 45
    assert emitter.stats().queue_items == 50
    gate.open.set()
    assert emitter.close(5)
    found = read_back()
    assert sorted(found.by_id) == sorted(f"e{i}" for i in range(55))
    assert found.dropped == emitter.stats().dropped == 45


def test_the_queue_is_bounded_in_bytes(gate: Gate) -> None:
    gate.open.clear()
    emitter = Emitter(gate, EmitterConfig(queue_bytes=10_000, batch_events=1))
    emitter.emit(event(0))
    until(lambda: len(gate.seen) == 1)
    kept = [emitter.emit_deferred(lambda: event(1), 3000) for _ in range(5)]
    assert kept == [True, True, True, False, False]
    assert emitter.stats().queue_bytes == 9000
    gate.open.set()
    assert emitter.close(5)
    assert emitter.stats().queue_bytes == 0


def test_drops_are_told_once_though_writes_are_retried(gate: Gate, read_back: Any) -> None:
    gate.open.clear()
    emitter = Emitter(
        gate,
        EmitterConfig(queue_events=2, batch_events=1, retry_initial_seconds=0.01, retry_max_seconds=0.02),
    )
    emitter.emit(event(0))
    until(lambda: len(gate.seen) == 1)
    for i in range(1, 6):
        emitter.emit(event(i))  # two fit, three are dropped
    gate.failures = 4
    gate.open.set()
    assert emitter.close(5)
    stats = emitter.stats()
    assert (stats.sink_errors, stats.dropped, stats.sent_events) == (4, 3, 3)
    found = read_back()
    assert (found.dropped, sorted(found.by_id)) == (3, ["e0", "e1", "e2"])
    assert gate.seen[0] is gate.seen[1]  # the same record object, so that a sink can know it again


def test_deferred_work_runs_in_the_emitters_thread_and_may_fail(emitter: Emitter, read_back: Any) -> None:
    threads: list[str] = []

    def good() -> Event:
        threads.append(threading.current_thread().name)
        return event(1)

    def bad() -> Event:
        raise ValueError("not today")

    emitter.emit_deferred(bad, 10)
    emitter.emit_deferred(good, 10)
    assert emitter.flush(5)
    stats = emitter.stats()
    assert (stats.emitted, stats.sent_events, stats.dropped, stats.tap_errors) == (2, 1, 1, 1)
    assert threads == ["mlmon-emitter"]
    assert read_back().dropped == 1


def test_an_event_that_cannot_be_encoded_costs_only_itself(emitter: Emitter, read_back: Any) -> None:
    for i in range(20):
        emitter.emit(event(i, prediction=object() if i == 13 else "fine"))  # type: ignore[arg-type]
    assert emitter.flush(5)
    assert sorted(read_back().by_id) == sorted(f"e{i}" for i in range(20) if i != 13)
    assert emitter.stats().dropped == 1


def test_records_stay_below_their_limit(make_emitter: Any, read_back: Any) -> None:
    emitter = make_emitter(record_bytes=20_000, batch_bytes=1_000_000)
    for i in range(64):
        emitter.emit(event(i, embedding=[0.25] * 1000))
    emitter.emit(event(64, embedding=[0.25] * 20_000))  # alone too large
    assert emitter.flush(5)
    found = read_back()
    assert max(found.sizes) <= 20_000
    assert len(found.by_id) == 64
    assert emitter.stats().dropped == 1


def test_what_the_log_refuses_is_dropped_and_told(spool: Path, read_back: Any) -> None:
    class Picky(Gate):
        def write(self, record: OutRecord) -> None:
            if b"bad" in record.key:
                raise RefusedError("not this one")
            super().write(record)

    sink = Picky(SpoolSink(SpoolWriterConfig(str(spool))))
    emitter = Emitter(sink, EmitterConfig(batch_age_seconds=0.05))
    emitter.emit(event(0, model_name="bad"))
    emitter.flush(5)
    emitter.emit(event(1))
    assert emitter.close(5)
    assert (emitter.stats().dropped, read_back().dropped) == (1, 1)


def test_flush_waits_for_the_log_and_gives_up_in_time(gate: Gate) -> None:
    emitter = Emitter(gate, EmitterConfig(batch_age_seconds=60))
    emitter.emit(event(0))
    assert emitter.flush(5)
    assert emitter.stats().sent_events == 1
    gate.open.clear()
    emitter.emit(event(1))
    assert not emitter.flush(0.1)
    gate.open.set()
    assert emitter.flush(5)
    emitter.close(5)


def test_flush_returns_under_steady_traffic(emitter: Emitter) -> None:
    stop = threading.Event()

    def traffic() -> None:
        number = 0
        while not stop.is_set():
            emitter.emit(event(number))
            number += 1
            time.sleep(0)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        assert all(emitter.flush(5) for _ in range(5))
    finally:
        stop.set()
        thread.join()


def test_close_gives_up_in_time_and_counts_what_is_lost(gate: Gate) -> None:
    gate.failures = 10**9
    emitter = Emitter(gate, EmitterConfig(batch_events=10, retry_initial_seconds=0.01))
    for i in range(95):
        emitter.emit(event(i))
    start = time.monotonic()
    assert not emitter.close(0.3)
    assert time.monotonic() - start < 30
    stats = emitter.stats()
    assert (stats.emitted, stats.dropped, stats.sent_events, stats.queue_items) == (95, 95, 0, 0)
    assert not emitter.emit(event(1))  # closed
    assert emitter.stats().dropped == 96


def test_nothing_is_started_before_it_is_needed(spool: Path) -> None:
    emitter = Emitter(SpoolSink(SpoolWriterConfig(str(spool))))
    assert emitter.flush(0.1)
    assert emitter.close(0.1)
    assert not spool.exists()


def test_threads_may_emit_at_once(make_emitter: Any, read_back: Any) -> None:
    emitter = make_emitter(queue_events=100_000)

    def work(base: int) -> None:
        for i in range(500):
            emitter.emit(event(base + i))

    threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert emitter.close(10)
    assert len(read_back().by_id) == 4000


def test_a_dead_broker_never_blocks_and_memory_stays_bounded() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sink = KafkaSink(KafkaSinkConfig(bootstrap_servers=(f"127.0.0.1:{port}",), connect_timeout_seconds=0.3))
    emitter = Emitter(
        sink,
        EmitterConfig(queue_events=200, batch_events=10, retry_initial_seconds=0.05, retry_max_seconds=0.1),
    )
    worst = 0.0
    for i in range(2000):
        start = time.perf_counter()
        emitter.emit(event(i))
        worst = max(worst, time.perf_counter() - start)
    until(lambda: emitter.stats().sink_errors >= 2)
    stats = emitter.stats()
    assert stats.queue_items <= 200
    assert stats.dropped >= 2000 - 200 - 10
    assert worst < 5
    assert not emitter.close(0.5)
    until(lambda: emitter.stats().dropped == 2000)


def test_a_full_disk_is_an_outage_not_an_error(tmp_path: Path, make_emitter: Any, spool: Path) -> None:
    spool.write_text("a file where the directory should be")
    emitter = make_emitter(retry_initial_seconds=0.01, retry_max_seconds=0.05)
    emitter.emit(event(0))
    until(lambda: emitter.stats().sink_errors >= 2)
    spool.unlink()
    until(lambda: emitter.stats().sent_events == 1)
    assert emitter.stats().dropped == 0


def test_a_forked_child_starts_anew(make_emitter: Any, read_back: Any) -> None:
    emitter = make_emitter()
    emitter.emit(event(0))
    assert emitter.flush(5)
    emitter.emit(event(1))  # still queued or under way when the child is born
    child = os.fork()
    if child == 0:
        status = 1
        try:
            fresh = emitter.stats().emitted == 0
            emitter.emit(event(2))
            status = 0 if fresh and emitter.close(5) and emitter.stats().sent_events == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    emitter.emit(event(3))
    assert emitter.close(5)
    assert sorted(read_back().by_id) == ["e0", "e1", "e2", "e3"]


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise RuntimeError('a crash')"])
def test_what_is_queued_is_flushed_when_the_process_ends(spool: Path, read_back: Any, end: str) -> None:
    code = f"""
        from mlmon.attach import Emitter, EmitterConfig, SpoolSink
        from mlmon.events.event import Event
        from mlmon.sources.spool import SpoolWriterConfig
        emitter = Emitter(SpoolSink(SpoolWriterConfig({str(spool)!r})), EmitterConfig(batch_age_seconds=60))
        for i in range(300):
            emitter.emit(Event(event_id=str(i), event_time=1700000000000000, service="s", model_name="m"))
        {end}
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=False, timeout=60
    )
    assert len(read_back().by_id) == 300


def test_counts_are_exposed_under_their_catalog_names(emitter: Emitter) -> None:
    registry = CollectorRegistry()
    registry.register(EmitterCollector(emitter))
    emitter.emit(event(0))
    emitter.flush(5)
    text = generate_latest(registry).decode()
    assert "mlmon_tap_sent_events_total 1.0" in text
    names = {
        line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE")
    }
    assert names == {name for name in METRICS if name.startswith("mlmon_tap_")}
