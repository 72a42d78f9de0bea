"""The ledger in the checkpoint: kills, moves, other objectives, bounds."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from burn_kit import DAY, HOUR, MINUTE, SECOND, START, Event, Run, at, batch_of, objective, oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.burn.ledger import Ledger
from mlmon.burn.part import read_address
from mlmon.catalog import slo as catalog
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.base import SeriesKey
from mlmon.monitors.slo_judge import COLUMNS, Cells, _keys
from mlmon.monitors.slo_objectives import JudgedVersion, Judging, read_objectives
from mlmon.monitors.slo_summary import SloSummary
from mlmon.stats.pack import pack, unpack
from mlmon.windows import NEVER, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.monitors.slo_objectives import JudgedObjective

#: Budgets of powers of two, so that sums are the same in any order.
OBJECTIVES = (
    objective("up", JudgedVersion(0.75, "availability")),
    objective("right", JudgedVersion(0.75, "accuracy"), label_delay_seconds=3600),
)
JUDGING = Judging(OBJECTIVES)


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[str, list[Event], str]]:
    """Lots of events of two services in two partitions, each followed by one of what can happen."""
    time, lots = START, []
    for _ in range(draw(st.integers(1, 7))):
        lot = []
        for _ in range(draw(st.integers(1, 12))):
            time += draw(st.sampled_from([0, 7, 55, 300, 2400])) * SECOND
            service = draw(st.sampled_from(["shop", "desk"]))
            weight = draw(st.sampled_from([1.0, 4.0]))
            if draw(st.booleans()):
                lot.append(
                    Event(time, draw(st.sampled_from(["ok", "error"])), service=service, weight=weight)
                )
            else:
                asked = time - draw(st.sampled_from([0, 600, 3600, 90_000, 15 * 86_400])) * SECOND
                label = draw(st.sampled_from(["a", "b"]))
                lot.append(Event(time, None, None, label, "a", asked, weight, service))
        fate = draw(st.sampled_from(["go", "commit", "kill", "kill in the commit", "move"]))
        lots.append((draw(st.sampled_from(["p", "q"])), lot, fate))
    return lots


def send(run: Run, log: Sequence[tuple[str, list[Event], str]]) -> None:
    """Send what the store has not yet, as a source does after a restart."""
    for partition in ("p", "q"):
        lots = [lot for name, lot, _ in log if name == partition]
        for lot in lots[run.engine.partitions[partition].next_offset :]:
            run.process(lot, partition)


def disturb(run: Run, fate: str, log: Sequence[tuple[str, list[Event], str]]) -> None:
    """Kill a sidecar, or let its commit fail; what is not in the store is sent again."""
    if fate == "kill":
        run.load()
    elif fate == "kill in the commit":
        run.prepare()
        run.engine.reset()
        for name in run.partitions:
            run.assign(name)
    send(run, log)
    run.commit()
    if fate == "move":
        run.engine.revoke("p")
        run.assign("p")
        run.load()


@settings(max_examples=40, deadline=None)
@given(log=logs())
def test_whatever_is_killed_when_the_burns_are_those_of_an_undisturbed_run(
    log: list[tuple[str, list[Event], str]],
) -> None:
    quiet, killed = (Run(JUDGING, ("p", "q")) for _ in range(2))
    for place, (_, _, fate) in enumerate(log):
        for run in (quiet, killed):
            send(run, log[: place + 1])
        if fate != "go":
            quiet.commit()
            disturb(killed, fate, log[: place + 1])
    for run in (quiet, killed):
        run.commit(final=True)
    for service in ("shop", "desk"):
        assert killed.shown(service) == quiet.shown(service)
    assert killed.published.counters.keys() == quiet.published.counters.keys()
    for name in quiet.partitions:
        assert contents(killed.burns(name)) == contents(quiet.burns(name))


def contents(records: dict[bytes, bytes]) -> dict[Any, Any]:
    """Records by address: buckets and sums."""
    return {
        read_address(key): [part.tolist() if isinstance(part, np.ndarray) else part for part in unpack(value)]
        for key, value in records.items()
    }


def lot_of(start_us: int, bad: int, good: int, **changes: Any) -> list[Event]:
    return [Event(start_us + n * SECOND, "error" if n < bad else "ok", **changes) for n in range(bad + good)]


def test_a_service_in_two_partitions_has_one_burn_and_each_takes_its_share_along() -> None:
    """What both brought in one window is written down once, where it was found first."""
    run = Run(JUDGING, ("p", "q"))
    run.process([*lot_of(START, 6, 4), Event(START + 3 * MINUTE)], "p")
    run.process([*lot_of(START, 2, 28), *lot_of(START + MINUTE, 7, 3), Event(START + 3 * MINUTE)], "q")
    run.commit()
    bad, events = (catalog.BURN.name, "up", "5m"), (catalog.EFFECTIVE_EVENTS.name, "up", "5m")
    assert (run.shown()[bad], run.shown()[events]) == (15 / 50 / 0.25, 50.0)
    run.engine.revoke("q")
    assert (run.shown()[bad], run.shown()[events]) == (8 / 40 / 0.25, 40.0)
    run.assign("q")
    assert run.shown()[events] == 50.0
    run.engine.revoke("p")
    assert (run.shown()[bad], run.shown()[events]) == (7 / 10 / 0.25, 10.0)
    other = Run(JUDGING, ("p",), state=run.state, offsets=run.offsets)
    other.process([Event(START + 3 * MINUTE + SECOND)], "p")
    other.commit()
    assert other.shown()[events] == 40.0


def test_a_commit_writes_the_chunks_that_changed_and_each_is_small() -> None:
    run = Run(JUDGING)
    start = START // (3 * DAY) * 3 * DAY  # the begin of a chunk of every length
    for minute in range(130):
        run.process(lot_of(start + minute * MINUTE, 1, 2))
    run.process([Event(start + 131 * MINUTE)])
    written = {key: value for key, value in run.commit()["p"].items() if key.startswith(b"b")}
    assert len(written) == 2 * (3 + 1 + 1), "of outcomes, and of requests beside the labels that may come"
    run.process([*lot_of(start + 132 * MINUTE, 1, 2), Event(start + 134 * MINUTE)])
    again = {read_address(key) for key in run.commit()["p"] if key.startswith(b"b")}
    assert {(a.objective, a.kind, a.length) for a in again} == {
        (name, kind, length) for name, kind in (("up", 0), ("right", 1)) for length in (1, 5, 60)
    }
    assert len(again) == 6
    run.process([Event(start + 134 * MINUTE + SECOND)])
    assert not [key for key in run.commit()["p"] if key.startswith(b"b")], "nothing was closed"


def crowded(judging: Judging, days: int) -> Ledger:
    """A ledger with something in every bucket of every objective of one group."""
    ledger = Ledger(judging, 10)
    place = len(judging.objectives)
    end = START // MINUTE + days * 1440
    for first in range(START // MINUTE, end, 1440):
        units = np.arange(first, first + 1440)
        keys = np.concatenate([_keys(index, 0, units) for index in range(place + 1)])
        summary = SloSummary(judging)
        summary.cells = Cells(keys, np.ones((len(keys), len(COLUMNS))))
        series = SeriesKey("shop", "intent", "1", "stable", "")
        window = Window(first * MINUTE, (first + 1440) * MINUTE)
        ledger.close(window, {series: summary}, {series: "p"})
        ledger.changes("p")
    return ledger


def test_a_group_takes_less_than_a_megabyte_and_its_records_are_small() -> None:
    """All objectives that ship, with every bucket of 40 days filled."""
    judging = read_objectives()
    tracemalloc.start()
    ledger = crowded(judging, 40)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 200_000 < size < 1_000_000
    (part,) = ledger._parts["p"].values()
    for plan, history in zip(ledger._plans, part.outcomes, strict=True):
        assert history is not None
        for table, reach in zip(history.tables, plan.tiers.reach, strict=True):
            held = len(table.chunks) * table.size * table.length
            assert reach <= held <= reach + 2 * table.size * table.length
            table._changed = set(table.chunks)
    for history in part.requests:
        for table in () if history is None else history.tables:
            table._changed = set(table.chunks)
    puts, _ = ledger.changes("p")
    assert max(map(len, puts.values())) < 10_000
    assert sum(map(len, puts.values())) < 1_000_000
    twin = Ledger(judging, 10)
    twin.load("p", puts)
    assert len(ledger.samples(NEVER)) > 60
    assert twin.samples(START // MINUTE * MINUTE + 40 * DAY) == ledger.samples(NEVER)


def test_a_group_that_is_gone_leaves_nothing_behind() -> None:
    run = Run(JUDGING)
    run.process([*lot_of(START, 5, 5), *lot_of(START + MINUTE, 5, 5, service="desk")])
    run.process([Event(START + 2 * MINUTE, request_us=START, label="a", prediction="b")])
    for day in range(1, 16):
        run.process([Event(START + day * DAY, service="desk")])
        run.commit()
    groups = {read_address(key).service for key in run.burns("p")}
    assert groups == {"desk"}
    assert len(run.burns("p")) < 40
    names = {s.metric.name: s.value for s in run.engine.standing() if not s.labels}
    assert names[catalog.GROUPS.name] == 1.0


def test_services_beyond_the_bound_are_counted_and_those_known_go_on() -> None:
    run = Run(JUDGING, max_groups=3)

    def told() -> tuple[float, float]:
        values = {s.metric.name: float(s.value) for s in run.engine.standing() if not s.labels}  # type: ignore[arg-type]
        return values[catalog.GROUPS.name], values[catalog.GROUPS_LEFT_OUT.name]

    run.process([Event(START + n * SECOND, "error", service=f"s{n}") for n in range(2)])
    run.process([Event(START + MINUTE)])
    run.commit()
    assert told() == (2.0, 0.0)
    flood = [Event(START + 2 * MINUTE + n * SECOND, "error", service=f"s{n}") for n in range(50)]
    run.process([*flood, Event(START + 3 * MINUTE)])
    run.commit()
    assert told() == (3.0, 48.0)
    assert run.shown("s1")[catalog.EFFECTIVE_EVENTS.name, "up", "5m"] == 2.0
    assert run.shown("s9") == {}
    assert len({read_address(key).service for key in run.burns("p")}) == 3


def test_a_sidecar_with_less_room_leaves_the_rest_of_the_state_as_it_is() -> None:
    run = Run(JUDGING)
    run.process([Event(START + n * SECOND, "error", service=f"s{n}") for n in range(4)])
    run.process([Event(START + MINUTE, service="s0")])
    run.commit()
    before = run.burns("p")
    run.max_groups = 2
    run.load()
    run.process([Event(START + MINUTE + n * SECOND, "error", service=f"s{n}") for n in range(4)])
    run.process([Event(START + 2 * MINUTE, service="s0")])
    run.commit()
    after = run.burns("p")
    assert after.keys() == before.keys()
    changed = {read_address(key).service for key in after if after[key] != before[key]}
    assert len(changed) == 2
    run.max_groups = 4
    run.load()
    run.process([Event(START + 2 * MINUTE + SECOND, service="s0")])
    run.commit()
    counts = [run.shown(f"s{n}")[catalog.EFFECTIVE_EVENTS.name, "up", "5m"] for n in range(4)]
    assert sorted(counts) == [1.0, 1.0, 2.0, 3.0]


def test_room_that_gets_free_is_not_for_those_whose_state_was_left_in_the_checkpoint() -> None:
    """Beginning anew would write over what is there."""
    run = Run(JUDGING)
    run.process([Event(START + n * SECOND, "error", service=f"s{n}") for n in range(2)])
    run.process([Event(START + MINUTE, service="s0")])
    run.commit()
    ledger = Ledger(JUDGING, 1)
    ledger.load("p", run.burns("p"))
    (held,) = ledger._groups()
    series = {name: SeriesKey(name, "intent", "1", "stable", "") for name in ("s0", "s1", "new")}
    other = "s1" if held.service == "s0" else "s0"

    def brought(name: str, day: int) -> set[str]:
        """Services written after one of them had an event on a day."""
        summary = SloSummary(JUDGING)
        start = START + day * DAY
        summary.update(batch_of([Event(start, "error", service=name)]))
        ledger.close(Window(start, start + MINUTE), {series[name]: summary}, {series[name]: "p"})
        return {read_address(key).service for key in ledger.changes("p")[0]}

    assert brought(other, 1) == set()
    assert brought(other, 20) == set(), "the one that was held is gone by now"
    assert len(ledger) == 0
    assert brought(other, 21) == set()
    assert brought("new", 21) == {"new"}


# --- other objectives than those that the state was kept with


def restated(*objectives: JudgedObjective, scale: float = 1.0) -> tuple[Run, list[Event]]:
    """A run whose sidecar is started again with other objectives, two hours later.

    The window that was open then is not judged: its outcomes are of other objectives.
    """
    run = Run(Judging((OBJECTIVES[0],)))
    events = [*lot_of(START, 10, 30), Event(START + 2 * MINUTE)]
    run.process(events)
    run.commit()
    run.judging = Judging(objectives, scale)
    run.load()
    assert run.engine.discarded == 1
    more = [*lot_of(START + 2 * HOUR, 3, 37), Event(START + 2 * HOUR + 2 * MINUTE)]
    run.process(more)
    run.commit()
    return run, [*events[:-1], *more[:-1]]


def burn(run: Run, window: str = "6h", name: str = "up") -> float | None:
    return run.shown().get((catalog.BURN.name, name, window))


def test_a_version_that_is_added_judges_what_comes_after_it_and_the_past_as_it_was_promised() -> None:
    newer = objective(
        "up", OBJECTIVES[0].versions[0], JudgedVersion(0.875, "availability", None, at(START + HOUR))
    )
    run, events = restated(newer)
    wanted = oracle((newer,), events, run.engine.watermark_us)
    assert run.shown() == pytest.approx(wanted)
    assert burn(run) == pytest.approx((10 / 0.25 + 3 / 0.125) / 80)
    # once more, with a target that is not in force yet
    versions = (*newer.versions, JudgedVersion(0.5, "availability", None, at(START + 9 * HOUR)))
    run.judging = Judging((msgspec.structs.replace(newer, versions=versions),))
    run.load()
    run.process([Event(START + 2 * HOUR + 3 * MINUTE)])
    run.commit()
    assert burn(run) == pytest.approx((10 / 0.25 + 3 / 0.125) / 80)


def test_a_target_that_is_rewritten_judges_the_past_too() -> None:
    run, _ = restated(objective("up", JudgedVersion(0.875, "availability")))
    assert burn(run) == pytest.approx(13 / 80 / 0.125)


def test_longer_windows_and_delays_keep_what_is_held() -> None:
    changed = msgspec.structs.replace(OBJECTIVES[0], window_seconds=30 * 86_400, label_delay_seconds=600)
    run, _ = restated(changed)
    assert burn(run) == pytest.approx(10 / 40 / 0.25), "the last ten minutes wait"


def test_another_clock_or_another_name_begins_anew_and_leaves_nothing_behind() -> None:
    run, _ = restated(OBJECTIVES[0], scale=60)
    assert burn(run, "3d") == pytest.approx(3 / 40 / 0.25)
    assert {unpack(value)[1] for value in run.burns("p").values()} == {SECOND}
    run, _ = restated(msgspec.structs.replace(OBJECTIVES[0], name="there"))
    assert burn(run, "3d", "there") == pytest.approx(3 / 40 / 0.25)
    assert {read_address(key).objective for key in run.burns("p")} == {"there"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"b\xc1", pack([1])),
        (b"b" + pack([1, 2]), pack([1])),
        (b"b" + pack(["shop", "intent", "up", 0, 1, 5]), b"\xc1"),
        (
            b"b" + pack(["shop", "intent", "up", 0, 1, 5]),
            pack([2, MINUTE, [], np.zeros(1, np.uint16), np.zeros((1, 5))]),
        ),
        (
            b"b" + pack(["shop", "intent", "up", 0, 1, 5]),
            pack([1, MINUTE, [], np.zeros(1, np.uint16), np.zeros((1, 3))]),
        ),
        (
            b"b" + pack(["shop", "intent", "up", 0, 1, 5]),
            pack([1, MINUTE, [], np.full(1, 60, np.uint16), np.zeros((1, 5))]),
        ),
    ],
)
def test_a_damaged_record_is_refused(key: bytes, value: bytes) -> None:
    with pytest.raises(IncompatibleStateError, match="stored"):
        Ledger(JUDGING, 10).load("p", {key: value})
