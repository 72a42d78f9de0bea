"""Good and bad by the objectives, held against a judge of one event at a time in plain Python."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor_kit import SERIES, START_US, batch_of

from mlmon.catalog import slo as catalog
from mlmon.errors import ConfigError, IncompatibleStateError
from mlmon.monitors.slo import SloConfig, SloMonitor
from mlmon.monitors.slo_judge import split_key
from mlmon.monitors.slo_objectives import JudgedObjective, JudgedVersion, Judging, read_objectives
from mlmon.monitors.slo_summary import SloSummary

if TYPE_CHECKING:
    from pathlib import Path

    from monitor_kit import Row

MINUTE, DAY = 60_000_000, 86_400_000_000
WINDOWS = (300, 3600, 21_600, 86_400)


def objective(name: str, *versions: JudgedVersion, delay: int = 0) -> JudgedObjective:
    return JudgedObjective(name, versions, 10 * 86_400, WINDOWS, 3600, delay)


def at(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


#: When the second version of each objective begins; budgets of powers of two keep sums exact.
CHANGE_US = START_US - 40 * MINUTE
OBJECTIVES = (
    objective(
        "up", JudgedVersion(0.75, "availability"), JudgedVersion(0.875, "availability", None, at(CHANGE_US))
    ),
    objective(
        "fast",
        JudgedVersion(0.75, "latency", 1.0, at(START_US - 5 * DAY)),
        JudgedVersion(0.5, "latency", 0.5, at(CHANGE_US)),
    ),
    objective(
        "right",
        JudgedVersion(0.75, "accuracy"),
        JudgedVersion(0.875, "accuracy", None, at(CHANGE_US)),
        delay=7200,
    ),
    objective("masks", JudgedVersion(0.5, "masked-accuracy"), delay=3600),
)
JUDGING = Judging(OBJECTIVES)
PLACES = {one.name: place for place, one in enumerate(OBJECTIVES)}

_LABEL = {
    "label": st.sampled_from([None, "yes", "no"]),
    "prediction": st.sampled_from([None, "yes", "no", "maybe"]),
    "labelled_masked_tokens": st.sampled_from([None, 0, 1, 4]),
    "right_masked_tokens": st.sampled_from([None, 0, 1]),
    "sampling_weight": st.sampled_from([1.0, 2.0, 4.5, 20.0]),
}
_REQUEST = _LABEL | {
    "status": st.sampled_from(["ok", "client_error", "error", "timeout", "new"]),
    "latency_seconds": st.sampled_from([None, 0.25, 0.5, 0.75, 1.0, 2.0, float("nan"), float("inf"), -1.0]),
}
_TIMES = st.integers(-60, 7).map(lambda minute: START_US + minute * MINUTE)
_AGES = st.one_of(
    st.integers(0, 12 * 3600), st.integers(0, 20 * 86_400), st.sampled_from([7199, 7200, 7201])
).map(lambda seconds: seconds * 1_000_000)


@st.composite
def _rows(draw: st.DrawFn, max_size: int = 24) -> list[Row]:
    rows = []
    for _ in range(draw(st.integers(0, max_size))):
        time = draw(_TIMES)
        if draw(st.booleans()):
            rows.append({"event_time": time, **draw(st.fixed_dictionaries(_REQUEST))})
        else:
            rows.append(
                {
                    "event_time": time,
                    "request_time": time - draw(_AGES),
                    **draw(st.fixed_dictionaries(_LABEL)),
                }
            )
    return rows


def plain(one: JudgedObjective, row: Row) -> tuple[float, float] | None:
    """How many events a row is, and how many of them are bad; None where it is none of the objective's."""
    request = row.get("request_time") is None
    time = row["event_time"] if request else row["request_time"]
    version = None
    for candidate in one.versions:
        if candidate.effective_from is None or candidate.effective_from <= at(time):
            version = candidate
    if version is None:
        return None
    if one.judge == "availability":
        return (1, float(row.get("status") in ("error", "timeout"))) if request else None
    if one.judge == "latency":
        value = row.get("latency_seconds")
        if not request or value is None or not 0 <= value < float("inf"):
            return None
        return 1, float(value > (version.limit_seconds or 0))
    if one.judge == "accuracy":
        told = row.get("label"), row.get("prediction")
        return None if None in told else (1, float(told[0] != told[1]))
    count, right = row.get("labelled_masked_tokens"), row.get("right_masked_tokens")
    return None if not count or right is None else (count, max(count - right, 0))


def expected(rows: list[Row]) -> tuple[dict[Any, list[float]], dict[Any, list[float]], dict[str, list[int]]]:
    """Cells by objective, tier and bucket; totals by objective and outcome; late and lost labels."""
    cells: dict[Any, list[float]] = defaultdict(lambda: [0.0] * 6)
    totals: dict[Any, list[float]] = defaultdict(lambda: [0.0] * 3)
    late: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        request = row.get("request_time") is None
        time = row["event_time"] if request else row["request_time"]
        weight = row.get("sampling_weight") or 1.0
        if request:
            cell = cells[len(OBJECTIVES), 0, time // MINUTE]
            cell[0] += 1
            cell[1] += weight
        for place, one in enumerate(OBJECTIVES):
            told = plain(one, row)
            if told is None:
                continue
            count, bad = told
            for outcome, many in ((0, count - bad), (1, bad)):
                for power in range(3):
                    totals[place, outcome][power] += many * weight**power
            age = 0 if request else row["event_time"] - time
            late[one.name][0] += one.labelled and age > one.label_delay_seconds * 1_000_000
            tiers = JUDGING.tiers[place]
            tier = sum(age > reach * MINUTE for reach in tiers.reach)
            if tier == 3:
                late[one.name][1] += 1
                continue
            scale = one.budget / next(
                v.budget
                for v in reversed(one.versions)
                if v.effective_from is None or v.effective_from <= at(time)
            )
            cell = cells[place, tier, time // MINUTE // tiers.lengths[tier]]
            for index, value in enumerate(
                (count, weight * count, weight**2 * count, weight * bad * scale, weight**2 * bad * scale**2)
            ):
                cell[index] += value
            cell[5] += weight if one.labelled else 0.0
    return cells, totals, late


def summed(*parts: list[Row]) -> SloSummary:
    summary = SloSummary(JUDGING)
    for rows in parts:
        summary.update(batch_of(rows))
    return summary


@settings(max_examples=100, deadline=None)
@given(rows=_rows())
def test_every_event_is_judged_as_one_at_a_time_would_be(rows: list[Row]) -> None:
    summary = summed(rows)
    cells, totals, late = expected(rows)
    keys = zip(*(part.tolist() for part in split_key(summary.cells.keys)), strict=True)
    assert dict(zip(keys, summary.cells.sums.tolist(), strict=True)) == cells
    for place, one in enumerate(OBJECTIVES):
        for outcome in range(2):
            assert summary.totals[place, outcome].tolist() == totals[place, outcome]
        assert summary.late[place].tolist() == late[one.name]


@settings(max_examples=50, deadline=None)
@given(rows=_rows(), data=st.data())
def test_any_split_and_order_gives_the_same_bytes_with_labels_too(
    rows: list[Row], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))
    cut, second = sorted(data.draw(st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows)))))
    parts = [shuffled[:cut], shuffled[cut:second], shuffled[second:]]
    whole = summed(rows).to_bytes()
    assert summed(*parts).to_bytes() == whole
    first, *others = (summed(part) for part in parts)
    for other in others:
        before = other.to_bytes()
        first.merge(other)
        assert other.to_bytes() == before
    assert first.to_bytes() == whole
    assert SloSummary.restored(whole, JUDGING).to_bytes() == whole


def test_the_version_at_the_time_of_the_request_judges_though_the_label_comes_later() -> None:
    """Before the change a second is fast enough, and a bad event costs a quarter of what it costs after."""
    rows = [
        {"event_time": CHANGE_US - 1, "latency_seconds": 0.75},
        {"event_time": CHANGE_US, "latency_seconds": 0.75},
    ]
    assert summed(rows[:1]).totals[PLACES["fast"], 1, 0] == 0
    assert summed(rows[1:]).totals[PLACES["fast"], 1, 0] == 1
    failed = [{"event_time": time, "status": "error"} for time in (CHANGE_US - 1, CHANGE_US)]
    bad = [summed([row]).cells.sums[0, 3] for row in failed]
    assert bad == [0.5, 1.0], "a budget of 1/4 in the currency of a budget of 1/8"
    told = {"event_time": START_US, "label": "yes", "prediction": "no"}
    asked = [{**told, "request_time": time} for time in (CHANGE_US - 1, CHANGE_US)]
    assert [summed([row]).cells.sums[0, 3] for row in asked] == [0.5, 1.0]
    never = {"event_time": START_US - 6 * DAY, "latency_seconds": 0.75}
    assert summed([never]).totals[PLACES["fast"]].sum() == 0


def test_counters_begin_with_the_first_event_and_are_those_of_its_objectives() -> None:
    monitor = SloMonitor(SloConfig())
    summary = monitor.summary()
    assert list(monitor.collect(SERIES, summary)) == []
    summary.update(batch_of([{"status": "ok", "sampling_weight": 4.0}]))
    found = {(s.metric, s.labels[5:]): s.value for s in monitor.collect(SERIES, summary)}
    assert found == {
        (metric, ("availability", outcome)): value if outcome == "good" else 0.0
        for outcome in ("good", "bad")
        for metric, value in zip(
            (catalog.EVENTS.sampled, catalog.EVENTS.estimated, catalog.EVENTS.weight_squared),
            (1.0, 4.0, 16.0),
            strict=True,
        )
    }
    late = [{"event_time": START_US, "request_time": START_US - days * DAY} for days in (0.5, 1.5, 40)]
    summary.update(batch_of([{**row, "label": "yes", "prediction": "no"} for row in late]))
    told = {
        s.labels[5:]: s.value for s in monitor.collect(SERIES, summary) if s.metric is catalog.LATE_LABELS
    }
    assert told == {("task-accuracy", "late"): 1.0, ("task-accuracy", "lost"): 1.0}


def test_what_counters_keep_has_no_buckets() -> None:
    summary = summed([{"event_time": START_US + minute * MINUTE, "status": "error"} for minute in range(60)])
    assert len(summary.cells.keys) == 120
    kept = summary.counted()
    assert len(kept.cells.keys) == 0
    assert kept.totals.tolist() == summary.totals.tolist()
    kept.merge(summary.counted())
    assert kept.totals.tolist() == (2 * summary.totals).tolist()
    assert len(summary.cells.keys) == 120


def test_labels_of_any_age_take_at_most_the_buckets_that_are_held() -> None:
    """A backlog of a year of labels in one window: what is older than the period takes no room."""
    rng = np.random.default_rng(1)
    monitor = SloMonitor(SloConfig())
    summary = monitor.summary()
    tiers = monitor.judging.tiers[0]
    bound = sum(reach // length + 2 for reach, length in zip(tiers.reach, tiers.lengths, strict=True))
    for _ in range(4):
        ages = rng.integers(0, 365 * 86_400, 20_000) * 1_000_000
        ages[::2] //= 150
        rows = [
            {"event_time": START_US, "request_time": START_US - age, "label": "a", "prediction": "b"}
            for age in ages.tolist()
        ]
        summary.update(batch_of(rows))
    assert bound / 2 < len(summary.cells.keys) <= bound
    assert len(summary.to_bytes()) < 60 * bound
    assert summary.late[0, 1] > 30_000


# --- the objectives


def written(directory: Path, change: dict[str, Any] | None = None, **top: Any) -> str:
    version = {"target": 0.9, "judge": "accuracy"}
    one = {
        "name": "right",
        "versions": [version],
        "window_seconds": 2_592_000,
        "burn_windows_seconds": [300, 3600],
        "coverage_window_seconds": 3600,
        **(change or {}),
    }
    path = directory / "objectives.json"
    path.write_text(json.dumps({"version": 1, "objectives": [one], **top}))
    return str(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"versions": [{"target": 1.0, "judge": "accuracy"}]},
            r"float` < 1.0 - at `\$.objectives\[0\].versions",
        ),
        ({"versions": [{"target": 0.9, "judge": "taste"}]}, r"Invalid enum value 'taste'"),
        ({"versions": [{"target": 0.9, "judge": "latency"}]}, "limit_seconds goes with the judge latency"),
        (
            {"versions": [{"target": 0.9, "judge": "accuracy", "limit_seconds": 1.0}]},
            "limit_seconds goes with the judge latency",
        ),
        ({"versions": []}, "length >= 1"),
        (
            {"versions": [{"target": 0.9, "judge": "accuracy"}, {"target": 0.8, "judge": "accuracy"}]},
            "effective_from must rise",
        ),
        (
            {
                "versions": [
                    {"target": 0.9, "judge": "accuracy"},
                    {"target": 0.9, "judge": "availability", "effective_from": "2026-08-01T00:00:00Z"},
                ]
            },
            "versions must have one judge",
        ),
        ({"burn_windows_seconds": [3600, 300]}, "burn_windows_seconds must rise"),
        ({"burn_windows_seconds": [30, 3600]}, "int` >= 60"),
        ({"coverage_window_seconds": 7200}, "coverage_window_seconds must be one of"),
        ({"label_delay_seconds": 31 * 86_400}, "int` <= 2592000"),
        ({"labels_delay": 1}, "unknown field `labels_delay`"),
    ],
)
def test_a_mistake_in_the_objectives_is_told_by_place_and_what_to_do(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = written(tmp_path, change)
    with pytest.raises(ConfigError, match=told) as caught:
        SloMonitor(SloConfig(objectives_file=path))
    assert "monitors.slo.objectives_file: " in str(caught.value)
    assert "objectives.json" in str(caught.value)
    assert "Render it again" in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected the file that `mlmon render` writes.*No such file"):
        read_objectives(str(tmp_path / "nothing.json"))
    (tmp_path / "objectives.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        read_objectives(str(tmp_path / "objectives.json"))
    with pytest.raises(ConfigError, match="version"):
        read_objectives(written(tmp_path, version=2))
    twice = json.loads((tmp_path / "objectives.json").read_text())
    path = written(tmp_path, objectives=twice["objectives"] * 2)
    with pytest.raises(ConfigError, match="twice: right"):
        read_objectives(path)
    with pytest.raises(ConfigError, match="length <= 32"):
        read_objectives(
            written(tmp_path, objectives=[{**twice["objectives"][0], "name": f"{n}"} for n in range(33)])
        )


def test_other_objectives_are_other_parameters(tmp_path: Path) -> None:
    one = SloMonitor(SloConfig(objectives_file=written(tmp_path)))
    other = SloMonitor(SloConfig(objectives_file=written(tmp_path, {"confidence": 0.99})))
    assert one.judging.digest != other.judging.digest
    with pytest.raises(IncompatibleStateError, match=f"{one.judging.digest}.*{other.judging.digest}"):
        other.load(one.summary().to_bytes())
    with pytest.raises(IncompatibleStateError, match="form 7"):
        one.load(msgspec.msgpack.encode([7]))


def test_windows_are_cut_finely_as_far_back_as_labels_come() -> None:
    """Never more than some 9,300 buckets of a length, and every window starts within what is held."""
    for delay in (0, 86_400, 7 * 86_400, 30 * 86_400):
        for period in (86_400, 30 * 86_400, 366 * 86_400):
            one = objective("right", JudgedVersion(0.9, "accuracy"), delay=delay)
            one = msgspec.structs.replace(one, window_seconds=period)
            (tiers,) = Judging((one,)).tiers
            short, middle, long = tiers.lengths
            assert middle % short == long % middle == 0
            assert all(
                reach <= 9_500 * length for reach, length in zip(tiers.reach, tiers.lengths, strict=True)
            )
            for seconds, tier in ((21_600, 0), (86_400, 1), (period, 2)):
                assert tiers.reach[tier] * 60 >= delay + seconds
            assert short == 1 or delay > 6 * 86_400
