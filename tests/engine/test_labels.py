"""Label events among requests: monitors of requests say what they would say without them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.catalog.base import SERIES_LABELS, Metric
from mlmon.catalog.requests import TOKENS_PER_WORD
from mlmon.drift.config import AlertsConfig, DriftConfig
from mlmon.drift.judge import Judge
from mlmon.engine import Engine, EngineConfig, Intake, SeriesConfig
from mlmon.engine.state import META_KEY, PartitionMeta, SeriesSeen
from mlmon.errors import IncompatibleStateError
from mlmon.events.batch import EventBatch
from mlmon.history.outbox import drift_fields, encode_window
from mlmon.monitors import Surroundings, build_monitors
from mlmon.monitors.base import Reading, SeriesKey
from mlmon.stats.pack import unpack
from mlmon.windows import WindowConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import drift_kit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlmon.engine import Published

SECOND = 1_000_000
START = 1_700_000_000 * SECOND - (1_700_000_000 * SECOND) % (10 * SECOND)
SEEN = Metric("test_label_rows", "gauge", "", SERIES_LABELS, "Label events of a window.")
#: Monitors of requests alone.
CONFIGS = {
    name: config
    for name, config in drift_kit.CONFIGS.items()
    if not getattr(build_monitors({name: config})[0], "labels", False)
}
NAMES = [*CONFIGS]
REQUESTS = SeriesKey("shop", "intent", "1", "stable", "")
UNNAMED = SeriesKey("shop", "intent", "", "stable", "")


class Truths:
    """Counts requests and label events."""

    def __init__(self, requests: int = 0, labels: int = 0) -> None:
        self.requests, self.labels = requests, labels

    def update(self, batch: EventBatch) -> None:
        rows = batch.label_rows()
        labels = 0 if rows is None else int(rows.sum())
        self.labels += labels
        self.requests += len(batch) - labels

    def merge(self, other: Truths) -> None:
        self.requests += other.requests
        self.labels += other.labels

    def copy(self) -> Truths:
        return Truths(self.requests, self.labels)

    def to_bytes(self) -> bytes:
        return f"{self.requests},{self.labels}".encode()


class TruthMonitor:
    name = "truths"
    labels = True
    fields = frozenset({"label", "prediction"})

    def summary(self) -> Truths:
        return Truths()

    def load(self, data: bytes) -> Truths:
        return Truths(*map(int, data.decode().split(",")))

    def collect(self, series: SeriesKey, summary: Any) -> list[Any]:
        return []

    def read(self, window: Any, summaries: Any, first_seen: Any) -> list[Reading]:
        assert set(summaries) <= set(first_seen)
        return [
            Reading(SEEN, tuple(key), float(truths.labels), window, truths.requests, 0.0)
            for key, truths in summaries.items()
        ]


@cache
def source() -> pa.RecordBatch:
    """What rows are drawn from: all that any monitor reads."""
    return drift_kit.events().combine_chunks().to_batches()[0]


def batch_of(rows: Sequence[tuple[int, int, int | None]], version: str | None = "1") -> EventBatch:
    """Events of (place in the source, event time, request time).

    Label events carry whatever their request carried, and a version that may be another.
    """
    drawn = source().take(pa.array([place for place, _, _ in rows]))
    times = pa.timestamp("us", tz="UTC")
    stated = [request for _, _, request in rows]
    versions = pa.array([version if request is not None else "1" for request in stated], pa.string())
    columns = {name: drawn.column(name) for name in drawn.schema.names} | {
        "event_id": pa.array([f"{place}-{time}" for place, time, _ in rows]),
        "event_time": pa.array([time for _, time, _ in rows], times),
        "model_version": versions,
    }
    if any(request is not None for request in stated):
        columns["request_time"] = pa.array(stated, times)
    return EventBatch(pa.record_batch(columns))


@dataclass
class Run:
    """An engine with everything a sidecar has, its store, and all it published."""

    engine: Engine = field(init=False)
    state: dict[bytes, bytes] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    chunks: int = 0
    offset: int = 0
    published: Published = field(init=False)

    def __post_init__(self) -> None:
        self.load()

    def load(self) -> None:
        reference = drift_kit.reference()
        around = Surroundings(parameters=reference.parameters)
        monitors = [*build_monitors(CONFIGS, around), TruthMonitor()]
        windows = WindowConfig(size_seconds=10, allowed_lateness_seconds=5)
        judge = Judge(reference, AlertsConfig(), DriftConfig(min_events=20), 10)
        encode = partial(encode_window, fields=drift_fields(monitors, reference.parameters))
        config = EngineConfig(windows, SeriesConfig())
        self.engine = Engine(config, monitors, "me", judge, encode)
        self.engine.assign("p", self.offset, self.state, 0.0)

    def process(self, batch: EventBatch) -> None:
        self.offset += 1
        self.engine.process("p", Intake(self.offset, batch), 0.0)

    def commit(self, *, final: bool = False) -> None:
        for change in self.engine.changes(START, 0.0, {"p": 1}, final=final):
            for key in change.deletes:
                self.state.pop(key, None)
            self.state.update(change.puts)
        self.published = self.engine.committed()
        self.readings += self.published.readings
        for name, chunks in self.engine.outbox.due():
            self.chunks += len(chunks)
            self.engine.delivered(name)

    def said(self) -> list[Reading]:
        """All readings but those of the truth."""
        return [reading for reading in self.readings if reading.metric is not SEEN]

    def counters(self) -> dict[str, dict[SeriesKey, bytes]]:
        counters = self.published.counters
        return {
            name: {key: part.to_bytes() for key, part in counters[name].items()}
            for name in NAMES
            if name in counters
        }

    def labels(self) -> int:
        return sum(int(reading.value) for reading in self.readings if reading.metric is SEEN)


def same(one: Any, other: Any) -> bool:
    """Whether two are equal, sums but for rounding: it differs with where in memory a request stands."""
    if isinstance(one, bytes) and one != other:
        try:
            one, other = unpack(one), unpack(other)
        except IncompatibleStateError:
            return False
    if type(one) is not type(other):
        return False
    if isinstance(one, float | np.ndarray):
        return np.shape(one) == np.shape(other) and np.allclose(
            one, other, rtol=1e-7, atol=1e-9, equal_nan=True
        )
    if is_dataclass(one):
        return all(same(getattr(one, part.name), getattr(other, part.name)) for part in fields(one))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[list[tuple[int, int, int | None]], str]]:
    """Lots of requests with label events among them, and what follows each lot.

    No label event is newer than the requests before it, so that both logs have one watermark.
    """
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    newest, lots = START, []
    for _ in range(draw(st.integers(1, 5))):
        lot: list[tuple[int, int, int | None]] = []
        for is_label in draw(st.lists(st.booleans(), min_size=1, max_size=40)):
            place = int(rng.integers(0, len(drift_kit.events())))
            if is_label:
                came = newest - int(rng.integers(0, 12)) * SECOND
                lot.append((place, came, came - int(rng.integers(0, 10**6)) * SECOND))
            else:
                time = newest + int(rng.integers(-9, 4)) * SECOND
                newest = max(newest, time)
                lot.append((place, time, None))
        lots.append((lot, draw(st.sampled_from(("go", "commit", "reload")))))
    return lots


@settings(max_examples=40, deadline=None)
@given(lots=logs(), version=st.sampled_from(["1", "2", None]))
def test_label_events_change_nothing_that_is_said_of_requests(
    lots: list[tuple[list[tuple[int, int, int | None]], str]], version: str | None
) -> None:
    plain, mixed = Run(), Run()
    labels = requests = 0
    for lot, then in lots:
        kept = [row for row in lot if row[2] is None]
        labels += len(lot) - len(kept)
        requests += len(kept)
        if kept:
            plain.process(batch_of(kept))
        mixed.process(batch_of(lot, version))
        for run in (plain, mixed):
            if then != "go":
                run.commit()
            if then == "reload":
                run.load()
    for run in (plain, mixed):
        run.commit(final=True)
    assert same(mixed.said(), plain.said())
    assert bool(plain.said()) == bool(requests)
    assert same(mixed.counters(), plain.counters())
    assert same(list(mixed.engine.standing()), list(plain.engine.standing()))
    meta = PartitionMeta.from_bytes(mixed.state[META_KEY])
    assert (meta.events, sum(seen.labels for _, seen in meta.series)) == (requests + labels, labels)
    assert mixed.labels() <= labels == mixed.labels() + late_labels(lots)


def late_labels(lots: list[tuple[list[tuple[int, int, int | None]], str]]) -> int:
    """Label events whose window was closed when they came, one event at a time."""
    late, newest = 0, None
    for lot, _ in lots:
        for _, time, request in lot:
            end = time - time % (10 * SECOND) + 10 * SECOND
            if newest is not None and end <= newest - 5 * SECOND and request is not None:
                late += 1
            newest = time if newest is None else max(newest, time)
    return late


def label_rows(count: int) -> Iterator[tuple[int, int, int]]:
    for number in range(count):
        yield number, START + number * SECOND, START - 3600 * SECOND


def test_a_series_of_labels_alone_is_read_counted_and_judged_by_no_other_monitor() -> None:
    run = Run()
    for lot in range(0, 60, 20):
        run.process(batch_of([*label_rows(60)][lot : lot + 20], None))
        run.commit()
    run.commit(final=True)
    assert run.labels() == 60
    assert run.said() == []
    assert run.counters() == {name: {} for name in run.published.counters if name != "truths"}
    assert run.published.counters["truths"].keys() == {UNNAMED}
    assert list(run.engine.standing()) == list(Run().engine.standing())
    assert run.chunks > 0, "windows of labels alone go into the history as well"
    assert run.engine.seen() == {UNNAMED: SeriesSeen(START, START + 59 * SECOND, 0, 60)}


def test_what_was_never_seen_is_stored_as_nothing_and_taken_up_again() -> None:
    run = Run()
    run.process(batch_of([(0, START, START - SECOND)]))
    run.commit()
    (record,) = (unpack(value) for key, value in run.state.items() if key.startswith(b"w"))
    assert record == dict.fromkeys(NAMES, b"") | {"truths": b"0,1"}
    run.load()
    assert run.engine.discarded == 0
    run.process(batch_of([(1, START + SECOND, None)]))
    run.commit(final=True)
    assert run.labels() == 1
    assert [reading.n for reading in run.readings if reading.metric is TOKENS_PER_WORD] == [1]
    assert run.counters()["traffic"].keys() == {REQUESTS}


def test_labels_do_not_move_when_a_series_was_seen_but_keep_its_place() -> None:
    run = Run()
    run.process(batch_of([(0, START + 50 * SECOND, START)]))
    assert run.engine.seen()[REQUESTS] == SeriesSeen(START + 50 * SECOND, START + 50 * SECOND, 0, 1)
    run.process(batch_of([(1, START + 60 * SECOND, None), (2, START + 70 * SECOND, START + SECOND)]))
    expected = SeriesSeen(START + 60 * SECOND, START + 60 * SECOND, 1, 2)
    assert run.engine.seen()[REQUESTS] == expected
    run.commit()
    run.load()
    assert run.engine.seen()[REQUESTS] == expected
    expiry = SeriesConfig().expiry_seconds
    run.process(batch_of([(3, START + expiry * SECOND, START)]))
    run.commit()
    run.process(batch_of([(3, START + (expiry + 300) * SECOND, START)]))
    run.commit()
    assert run.engine.seen()[REQUESTS].events == 1


def test_labels_in_the_partition_of_another_sidecar_are_a_split_series() -> None:
    mine, theirs = Run(), Run()
    mine.process(batch_of([(0, START, None)]))
    theirs.engine._owner = "them"
    theirs.process(batch_of([(0, START, START - SECOND)]))
    theirs.commit()
    assert mine.engine.split_series({"q": theirs.state[META_KEY]}) == [REQUESTS]


def test_every_engine_reads_what_tells_label_events() -> None:
    assert "request_time" in Engine(EngineConfig(), [], "me").fields
