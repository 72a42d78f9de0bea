"""The loop with real parts: a spool, a SQLite checkpoint, and faults in both."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from mlmon.app.build import build
from mlmon.app.own import MAX_PARTITIONS, own_samples
from mlmon.app.sidecar import Status
from mlmon.app.status import report
from mlmon.checkpoint.sqlite import SqliteCheckpoint
from mlmon.clock import SystemClock
from mlmon.config import parse_config
from mlmon.errors import CheckpointError, SourceError
from mlmon.events.encode import ARROW_CONTENT_TYPE, encode_arrow
from mlmon.events.event import Event
from mlmon.sources.base import Lag
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig
from mlmon.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlmon.app.build import Running
    from mlmon.config import Config

pytestmark = pytest.mark.slow

HEADERS = [("content-type", ARROW_CONTENT_TYPE.encode())]


def configuration(folder: Path, extra: str = "") -> Config:
    return parse_config(
        f"""
        [source.spool]
        directory = "{folder}/spool"
        [checkpoint.sqlite]
        path = "{folder}/checkpoint.sqlite"
        [dead_letters]
        directory = "{folder}/letters"
        [history]
        directory = "{folder}/history"
        [http]
        port = 0
        {extra}
        """
    )


def events(count: int, **fields: Any) -> list[Event]:
    now = SystemClock().now_us() - 5_000_000
    return [
        Event(event_id=f"{i:x}", event_time=now + i, service="s", model_name="m", **fields)
        for i in range(count)
    ]


class Log:
    """A spool with one slot."""

    def __init__(self, folder: Path) -> None:
        self._writer = SpoolWriter(SpoolWriterConfig(directory=str(folder / "spool")))

    def add(self, batch: list[Event], *more: tuple[str, bytes]) -> None:
        self._writer.append(encode_arrow(batch), [*HEADERS, *more])

    def add_bytes(self, value: bytes) -> None:
        self._writer.append(value, HEADERS)

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    log.close()


@pytest.fixture
def running(tmp_path: Path, log: Log) -> Iterator[Running]:
    running = build(configuration(tmp_path))
    yield running
    running.close()


def settle(running: Running, steps: int = 6) -> None:
    for _ in range(steps):
        running.sidecar.step(0.01)
    running.sidecar.commit()


def totals(running: Running) -> tuple[int, int, int]:
    (partition,) = report(running.checkpoint.scan()).partitions
    return partition.records, partition.events, partition.rejects


def scraped(running: Running, name: str) -> float:
    lines = running.collector.render(openmetrics=False).decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))


def test_what_is_published_is_what_is_committed(running: Running, log: Log) -> None:
    log.add(events(100))
    for _ in range(6):
        running.sidecar.step(0.01)
    assert scraped(running, "mlmon_sampled_requests_total") == 0, "counted, but not yet safe"
    running.sidecar.commit()
    assert scraped(running, "mlmon_sampled_requests_total") == 100
    assert totals(running) == (1, 100, 0)


def test_a_commit_of_unknown_outcome_is_neither_lost_nor_repeated(
    running: Running, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction commits, and then the answer is lost: memory is dropped, the checkpoint decides."""
    log.add(events(100))
    real = SqliteCheckpoint.write

    def lost_answer(self: SqliteCheckpoint, changes: Any, letters: Any) -> Any:
        real(self, changes, letters)
        raise CheckpointError("the answer was lost")

    monkeypatch.setattr(SqliteCheckpoint, "write", lost_answer)
    settle(running)
    assert running.sidecar.status.failures["error"] == 1
    assert "the answer was lost" in running.sidecar.status.problem
    monkeypatch.setattr(SqliteCheckpoint, "write", real)
    log.add(events(50))
    settle(running)
    assert totals(running) == (2, 150, 0)
    assert running.sidecar.status.problem == ""
    assert scraped(running, "mlmon_sampled_requests_total") == 50, "this process saw 50 committed"


def test_a_failed_commit_is_counted_again_from_the_log(
    running: Running, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.add(events(100))
    log.add_bytes(b"poison")
    real = SqliteCheckpoint.write

    def refuse(_self: SqliteCheckpoint, _changes: Any, _letters: Any) -> Any:
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(SqliteCheckpoint, "write", refuse)
    settle(running)
    assert scraped(running, "mlmon_checkpoint_failures_total") >= 1
    assert scraped(running, "mlmon_dead_letters_total") == 0
    monkeypatch.setattr(SqliteCheckpoint, "write", real)
    settle(running)
    assert totals(running) == (2, 100, 1)
    assert scraped(running, "mlmon_dead_letters_total") == 1


def test_a_lock_that_was_taken_away_fences_and_is_recovered(
    running: Running, log: Log, tmp_path: Path
) -> None:
    log.add(events(10))
    settle(running)
    for path in tmp_path.glob("checkpoint.sqlite*lock*"):
        path.unlink()
    log.add(events(10))
    settle(running)
    assert running.sidecar.status.failures["fenced"] == 1
    settle(running)
    assert totals(running) == (2, 20, 0)


def test_a_source_that_fails_is_polled_again(
    running: Running, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.add(events(10))
    real = running.source.poll
    failures = iter([True, True])

    def poll(wait: float) -> Any:
        if next(failures, False):
            raise SourceError("the disk hiccuped")
        return real(wait)

    monkeypatch.setattr(running.source, "poll", poll)
    running.sidecar.step(0.01)
    running.sidecar.commit()
    assert running.sidecar.status.problem == "source: the disk hiccuped", "a commit does not hide it"
    settle(running, 10)
    assert running.sidecar.status.problem == ""
    assert scraped(running, "mlmon_source_errors_total") == 2
    assert totals(running) == (1, 10, 0)


def test_many_dead_letters_make_a_commit_before_its_time(tmp_path: Path, log: Log) -> None:
    for _ in range(300):
        log.add_bytes(b"poison")
    slow = "[loop]\ncheckpoint_interval_seconds = 300\nmax_letters = 100\ngather_records = 50\n"
    running = build(configuration(tmp_path, slow))
    try:
        for _ in range(12):
            running.sidecar.step(0.01)
        assert running.sidecar.status.checkpoints >= 1
        assert len(running.sidecar._letters) <= 100 + 50
    finally:
        running.close()


def test_drops_that_emitters_report_are_published(running: Running, log: Log) -> None:
    log.add(events(5), ("mlmon-dropped", b"7"))
    settle(running)
    assert scraped(running, "mlmon_dropped_events_total") == 7


@pytest.mark.timeout(120)
def test_memory_and_labels_stay_bounded_under_a_flood(tmp_path: Path, log: Log) -> None:
    """Every event has a segment, a version and a digest of its own; only the caps' worth is kept."""
    config = configuration(
        tmp_path, '[series]\nsegment_by = ["tenant"]\nmax_series = 100\nmax_segments = 20\n'
    )
    running = build(config)
    rounds, size = 24, 2_000
    try:
        settle(running)
        rss = []
        for number in range(rounds):
            batch = events(size)
            for i, event in enumerate(batch):
                unique = number * size + i
                event.segments = {"tenant": f"t{unique}"}
                event.model_version = f"v{unique}" if i % 2 else "v"
                event.model_digest = f"d{unique}"
            log.add(batch)
            settle(running)
            rss.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        exposition = running.collector.render(openmetrics=False)
        assert running.engine.series_count <= 100 + 2
        assert scraped(running, "mlmon_sampled_requests_total") == rounds * size, "folded, never dropped"
        overflow = scraped(running, "mlmon_label_overflow_total")
        assert overflow >= rounds * size - 100
        assert exposition.count(b"\n") < 102 * 1_200
        assert rss[-1] - rss[rounds // 2] < 32 * 1024, f"peak memory (KiB) grows: {rss}"
    finally:
        running.close()


def test_own_samples_fold_partitions_beyond_the_bound() -> None:
    from mlmon.engine import Engine, EngineConfig

    status = Status(lag={f"p{i:04}": Lag(1, 1) for i in range(MAX_PARTITIONS + 50)})
    samples = list(own_samples(status, Engine(EngineConfig(), [], "me"), ManualClock(), "kafka"))
    lags = {s.labels[0]: s.value for s in samples if s.metric.name == "mlmon_consumer_lag_records"}
    assert len(lags) == MAX_PARTITIONS + 1
    assert lags["other"] == 50


def test_every_metric_of_the_sidecar_is_published_or_belongs_to_a_part(running: Running, log: Log) -> None:
    """The catalog's own section against what a scrape shows: nothing declared stays unsaid."""
    from mlmon.catalog import sidecar as own
    from mlmon.catalog.base import Metric

    log.add(events(10))
    log.add_bytes(b"poison")
    settle(running)
    text = running.collector.render(openmetrics=False).decode()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    declared = {value.name for value in vars(own).values() if isinstance(value, Metric)}
    of_registry = (own.REGISTRY_RELOADS, own.REGISTRY_ENTRIES, own.TRAINING_FAILED, own.TRAINING_TIME)
    with_registry = {metric.name for metric in of_registry}
    missing = {n for n in declared if not {n, n + "_total", n + "_info"} & shown}
    assert missing <= with_registry | {own.WATERMARK_AGE.name}


def test_status_report_names_series_of_two_owners() -> None:
    from mlmon.checkpoint.base import Stored
    from mlmon.engine.state import META_KEY, PartitionMeta, SeriesSeen
    from mlmon.monitors.base import SeriesKey

    key = SeriesKey("s", "m", "1", "stable", "")
    stored = [
        (
            f"p{i}",
            Stored(
                i, {META_KEY: PartitionMeta(owner=f"o{i}", series=[(key, SeriesSeen(1, 2, 3))]).to_bytes()}
            ),
        )
        for i in range(2)
    ]
    found = report(stored)
    (split,) = found.split
    assert (split.events, split.partitions, split.owners) == (6, ("p0", "p1"), ("o0", "o1"))
    assert msgspec.json.decode(msgspec.json.encode(found))["split"][0]["service"] == "s"
