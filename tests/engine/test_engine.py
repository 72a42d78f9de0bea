"""The engine against a plain-Python oracle: any batching, any crash, same windows, same totals."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.catalog.base import SERIES_LABELS, Metric
from mlmon.engine import Engine, EngineConfig, Intake, SeriesConfig
from mlmon.engine.state import META_KEY, PartitionMeta
from mlmon.errors import IncompatibleStateError
from mlmon.events.batch import EventBatch
from mlmon.monitors.base import Reading, SeriesKey
from mlmon.windows import WindowConfig

SECOND = 1_000_000
ACTIONS = st.sampled_from(["go", "commit", "crash"])
START = 1_700_000_000 * SECOND - (1_700_000_000 * SECOND) % (10 * SECOND)
COUNT = Metric("test_count", "gauge", "", SERIES_LABELS, "Events of a window.")


class Count:
    """Sums events and the `tokens` column, and keeps both in its bytes."""

    def __init__(self, n: int = 0, total: int = 0) -> None:
        self.n, self.total = n, total

    def update(self, batch: EventBatch) -> None:
        tokens = batch.floats("tokens")
        assert tokens is not None
        self.n += len(batch)
        self.total += int(tokens.sum())

    def merge(self, other: Count) -> None:
        self.n += other.n
        self.total += other.total

    def copy(self) -> Count:
        return Count(self.n, self.total)

    def to_bytes(self) -> bytes:
        return f"{self.n},{self.total}".encode()


class CountMonitor:
    name = "count"
    fields = frozenset({"tokens"})

    def summary(self) -> Count:
        return Count()

    def load(self, data: bytes) -> Count:
        if data == b"foreign":
            raise IncompatibleStateError("other parameters")
        return Count(*map(int, data.decode().split(",")))

    def collect(self, series: SeriesKey, summary: Any) -> list[Any]:
        return []

    def read(self, window: Any, summaries: Any, first_seen: Any) -> list[Reading]:
        assert set(summaries) <= set(first_seen)
        return [
            Reading(COUNT, tuple(key), float(s.total), window, s.n, float(s.n))
            for key, s in summaries.items()
        ]


@dataclass
class Store:
    """A checkpoint held in a dict; what survives a crash."""

    state: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    positions: dict[str, int] = field(default_factory=dict)

    def write(self, changes: Any) -> None:
        for name, next_offset, puts, deletes in changes:
            for key in deletes:
                self.state[name].pop(key, None)
            self.state[name].update(puts)
            self.positions[name] = next_offset

    def meta(self, name: str) -> PartitionMeta:
        return PartitionMeta.from_bytes(self.state[name][META_KEY])


def batch(
    times: list[int], services: list[str] | None = None, segments: list[str] | None = None
) -> EventBatch:
    n = len(times)
    columns = {
        "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
        "service": pa.array(services or ["s"] * n),
        "model_name": pa.array(["m"] * n),
        "tokens": pa.array([t // SECOND % 97 for t in times], pa.int32()),
    }
    if segments:
        columns["segments"] = pa.array([[("lang", s)] for s in segments], pa.map_(pa.string(), pa.string()))
    return EventBatch(pa.record_batch(columns))


def engine(size: int = 10, lateness: int = 5, **series: Any) -> Engine:
    windows = WindowConfig(size_seconds=size, allowed_lateness_seconds=lateness, idle_timeout_seconds=30)
    return Engine(EngineConfig(windows, SeriesConfig(**series)), [CountMonitor()], "me")


def oracle(times: list[int], size: int = 10, lateness: int = 5) -> tuple[Counter[int], int]:
    """Events by window start and late events, one event at a time."""
    windows: Counter[int] = Counter()
    late, newest = 0, None
    for t in times:
        start = t - t % (size * SECOND)
        if newest is not None and start + size * SECOND <= newest - lateness * SECOND:
            late += 1
        else:
            windows[start] += 1
        newest = t if newest is None else max(newest, t)
    return windows, late


times_strategy = st.lists(st.integers(0, 90), min_size=1, max_size=60).map(
    lambda steps: [START + (i // 2 + s) * SECOND for i, s in enumerate(steps)]
)


@settings(max_examples=200, deadline=None)
@given(
    logs=st.lists(times_strategy, min_size=1, max_size=3),
    cuts=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 25), st.sampled_from(["go", "commit", "crash"]))
    ),
)
def test_any_batching_and_any_crash_give_the_oracles_windows(
    logs: list[list[int]], cuts: list[tuple[int, int, str]]
) -> None:
    """Crash after any step: what was not committed is read again, nothing is lost or counted twice."""
    store, readings = Store(), []
    current = engine()
    names = [f"p{i}" for i in range(len(logs))]

    def load() -> None:
        for name in names:
            current.assign(name, store.positions.get(name, 0), store.state[name], 0.0)

    def commit(*, final: bool = False) -> None:
        lag = {n: len(log) - current.partitions[n].next_offset for n, log in zip(names, logs, strict=True)}
        store.write(current.changes(START, 0.0, lag, final=final))
        readings.extend(current.committed().readings)

    def take(index: int, count: int) -> None:
        at = current.partitions[names[index]].next_offset
        part = logs[index][at : at + count]
        if part:
            current.process(names[index], Intake(at + len(part), batch(part), len(part)), 0.0)

    load()
    for index, count, action in cuts:
        take(index % len(logs), count)
        if action == "commit":
            commit()
        elif action == "crash":
            current = engine()
            load()
    for index, log in enumerate(logs):
        take(index, len(log))
    commit()
    commit(final=True)

    assert_as_the_oracle_says(store, readings, dict(zip(names, logs, strict=True)))


def assert_as_the_oracle_says(store: Store, readings: list[Reading], logs: dict[str, list[int]]) -> None:
    expected: Counter[int] = Counter()
    for name, log in logs.items():
        windows, late = oracle(log)
        meta = store.meta(name)
        assert (meta.events, meta.late, meta.records) == (len(log), late, len(log))
        assert meta.windows == windows
        expected += windows
        assert [key for key in store.state[name] if key != META_KEY] == []
    got: Counter[int] = Counter()
    for reading in readings:
        got[reading.window.start_us] += reading.n
    assert got == expected
    assert len({r.window for r in readings}) == len(readings), "a window was published twice"


def test_counters_hold_committed_events_only_and_are_not_changed_after() -> None:
    e = engine()
    e.assign("p", 0, {}, 0.0)
    e.process("p", Intake(2, batch([START, START + SECOND]), 2), 0.0)
    e.changes(START, 0.0, {})
    first = e.committed().counters["count"]
    (key,) = first
    e.process("p", Intake(3, batch([START + 2 * SECOND]), 1), 0.0)
    e.revoke("p")
    e.assign("p", 2, {}, 0.0)
    e.process("p", Intake(3, batch([START + 2 * SECOND]), 1), 0.0)
    e.process("p", Intake(4, batch([START + 3 * SECOND]), 1), 0.0)
    e.changes(START, 0.0, {})
    second = e.committed()
    assert (first[key].n, second.counters["count"][key].n) == (2, 4)
    assert second.tallies["p"]["events", ""] == 2


def test_the_slowest_busy_partition_holds_windows_open_and_an_idle_one_does_not() -> None:
    e = engine()
    for name in ("fast", "slow"):
        e.assign(name, 0, {}, 0.0)
    e.process("slow", Intake(1, batch([START])), 0.0)
    e.process("fast", Intake(1, batch([START, START + 100 * SECOND])), 0.0)
    e.changes(START, 29.0, {})
    assert e.committed().readings == []
    e.process("fast", Intake(2, batch([START + 101 * SECOND])), 31.0)
    e.changes(START, 31.0, {"slow": 7})
    assert e.committed().readings == [], "records are waiting: not idle"
    e.changes(START, 31.0, {"slow": 0})
    assert [r.n for r in e.committed().readings] == [2]


def test_a_quiet_service_is_read_by_the_clock() -> None:
    e = engine()
    e.assign("p", 0, {}, 0.0)
    e.process("p", Intake(1, batch([START])), 0.0)
    e.changes(START + 20 * SECOND, 20.0, {})
    assert e.committed().readings == []
    e.changes(START + 46 * SECOND, 46.0, {})
    assert [r.n for r in e.committed().readings] == [1]


def test_events_for_a_window_closed_by_the_clock_are_late_also_after_a_crash() -> None:
    e, store = engine(), Store()
    e.assign("p", 0, {}, 0.0)
    e.process("p", Intake(1, batch([START])), 0.0)
    store.write(e.changes(START + 46 * SECOND, 46.0, {}))
    e.committed()
    again = engine()
    again.assign("p", store.positions["p"], store.state["p"], 0.0)
    again.process("p", Intake(2, batch([START + SECOND])), 0.0)
    store.write(again.changes(START, 0.0, {}))
    assert store.meta("p").late == 1
    assert again.committed().readings == []


def test_segments_over_the_cap_are_counted_under_other() -> None:
    e = engine(segment_by=("lang",), max_segments=3)
    e.assign("p", 0, {}, 0.0)
    e.process("p", Intake(100, batch([START] * 100, segments=[f"x{i}" for i in range(100)])), 0.0)
    e.changes(START, 0.0, {})
    published = e.committed()
    by_segment = {key.segment: s.n for key, s in published.counters["count"].items()}
    assert by_segment == {"lang=x0": 1, "lang=x1": 1, "lang=x2": 1, "other": 97}
    assert published.tallies["p"]["overflow", "segment"] == 97


def test_series_over_the_cap_are_counted_under_other_and_expiry_makes_room() -> None:
    e = engine(max_series=4, expiry_seconds=60)
    e.assign("p", 0, {}, 0.0)
    e.process("p", Intake(50, batch([START] * 50, [f"s{i:02}" for i in range(50)])), 0.0)
    e.changes(START, 0.0, {})
    published = e.committed()
    assert {key.service for key in published.counters["count"]} == {"s00", "s01", "s02", "s03", "other"}
    assert published.tallies["p"]["overflow", "series"] == 46
    for minute in (5, 7):
        e.process("p", Intake(51, batch([START + minute * 60 * SECOND], ["late-comer"])), 0.0)
        e.changes(START, 0.0, {})
        services = {key.service for key in e.committed().counters["count"]}
    assert services == {"late-comer"}


def test_open_windows_are_bounded() -> None:
    windows = WindowConfig(size_seconds=1, allowed_lateness_seconds=86_400, max_open=10)
    e = Engine(EngineConfig(windows), [CountMonitor()], "me")
    e.assign("p", 0, {}, 0.0)
    e.process("p", Intake(1, batch([START + i * SECOND for i in range(50)])), 0.0)
    e.changes(START, 0.0, {"p": 1})
    assert e.open_windows == 10
    assert len(e.committed().readings) == 40
    assert e.forced_windows == 40


def test_state_of_a_changed_monitor_is_left_out_and_counted() -> None:
    e, store = engine(), Store()
    e.assign("p", 0, {}, 0.0)
    e.process("p", Intake(1, batch([START])), 0.0)
    store.write(e.changes(START, 0.0, {}))
    from mlmon.stats.pack import pack

    records = {k: v if k == META_KEY else pack({"count": b"foreign"}) for k, v in store.state["p"].items()}
    again = engine()
    again.assign("p", 1, records, 0.0)
    assert (again.discarded, again.partitions["p"].meta.events) == (1, 1)


def test_state_of_a_newer_mlmon_is_refused() -> None:
    newer = PartitionMeta(version=99).to_bytes()
    with pytest.raises(IncompatibleStateError, match="version 99"):
        engine().assign("p", 0, {META_KEY: newer}, 0.0)


def test_a_series_held_by_two_sidecars_is_named() -> None:
    mine, theirs, store = engine(), engine(), Store()
    theirs._owner = "them"
    for who, services in ((mine, ["a", "b"]), (theirs, ["b", "c"])):
        who.assign("p", 0, {}, 0.0)
        who.process("p", Intake(2, batch([START, START], services)), 0.0)
    store.write(theirs.changes(START, 0.0, {}))
    assert mine.split_series({"p9": store.state["p"][META_KEY]}) == [SeriesKey("b", "m", "", "stable", "")]
    mine._owner = "them"
    assert mine.split_series({"p9": store.state["p"][META_KEY]}) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", ""])), min_size=1, max_size=30))
def test_series_are_told_apart_like_python_does(rows: list[tuple[str, str]]) -> None:
    e = engine(segment_by=("lang",))
    e.assign("p", 0, {}, 0.0)
    e.process("p", Intake(1, batch([START] * len(rows), [r[0] for r in rows], [r[1] for r in rows])), 0.0)
    e.changes(START, 0.0, {})
    got = {(k.service, k.segment): s.n for k, s in e.committed().counters["count"].items()}
    assert got == Counter((a, f"lang={b}") for a, b in rows)


def test_late_mask_does_not_depend_on_batching() -> None:
    rng = np.random.default_rng(1)
    times = (START + rng.integers(0, 300, 400) * SECOND).tolist()
    whole, parts = Store(), Store()
    for store, step in ((whole, 400), (parts, 7)):
        e = engine()
        e.assign("p", 0, {}, 0.0)
        for at in range(0, 400, step):
            e.process("p", Intake(at, batch(times[at : at + step])), 0.0)
        store.write(e.changes(START, 0.0, {"p": 1}))
    assert whole.meta("p").late == parts.meta("p").late == oracle(times)[1] > 0
