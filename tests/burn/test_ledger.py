"""Burns, coverage and budgets in event time, held against an oracle over lists of events."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from burn_kit import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    START,
    Event,
    Run,
    at,
    batch_of,
    objective,
    oracle,
)

from mlmon.burn.ledger import Ledger
from mlmon.catalog import METRICS
from mlmon.catalog import slo as catalog
from mlmon.history.config import HistoryConfig
from mlmon.history.outbox import encode_window
from mlmon.history.read import Selection, read
from mlmon.history.store import History
from mlmon.monitors.base import SeriesKey
from mlmon.monitors.slo import SloConfig, SloMonitor
from mlmon.monitors.slo_objectives import JudgedVersion, Judging
from mlmon.testing import ManualClock
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OBJECTIVES = (
    objective(
        "up",
        JudgedVersion(0.99, "availability"),
        JudgedVersion(0.999, "availability", None, at(START + 2 * DAY + 17 * MINUTE)),
    ),
    objective(
        "fast",
        JudgedVersion(0.9, "latency", 0.5),
        windows=(250, 1800, 7200),
        coverage_window_seconds=7200,
    ),
    objective("right", JudgedVersion(0.9, "accuracy"), label_delay_seconds=86_400),
    objective("soon", JudgedVersion(0.8, "accuracy"), windows=(300, 86_400), coverage_window_seconds=86_400),
)
JUDGING = Judging(OBJECTIVES)


def traffic(seed: int, days: float = 3.5, count: int = 800, scale: int = 1) -> list[Event]:
    """Requests in bursts and silences; labels of a third, at once, in time, late, and much too late."""
    rng = np.random.default_rng(seed)
    times = START + np.sort(rng.beta(2, 1.5, count) * days * DAY / scale).astype(int)
    events = []
    for time in times.tolist():
        weight = float(rng.choice([1.0, 1.0, 8.0]))
        kept = Event(
            time,
            str(rng.choice(["ok", "ok", "ok", "client_error", "error", "timeout"])),
            None if rng.random() < 0.1 else float(rng.random()),
            deployment=str(rng.choice(["stable", "canary", "shadow"], p=[0.8, 0.1, 0.1])),
            weight=1.0 if rng.random() < 0.1 else weight,
        )
        truth: dict[str, Any] = {"label": str(rng.choice(["a", "b"])), "prediction": "a"}
        fate = rng.random()
        if fate < 0.1:
            kept = kept._replace(**truth)
        elif fate < 0.4:
            wait = rng.choice([rng.random() * DAY, DAY - 1, rng.random() * 3 * DAY, rng.random() * 20 * DAY])
            events.append(
                Event(
                    time + int(wait / scale),
                    request_us=time,
                    deployment=kept.deployment,
                    weight=weight,
                    **truth,
                )
            )
        events.append(kept)
    return sorted(events)


def follow(
    run: Run, events: Sequence[Event], until_us: int
) -> list[tuple[int, dict[tuple[str, ...], float]]]:
    """Send events in order, in lots, and note what is shown after each commit."""
    noted = []
    rng = np.random.default_rng(5)
    events = [event for event in events if event.time_us < until_us]
    cuts = [0, *np.sort(rng.integers(0, len(events), 9)).tolist(), len(events)]
    for start, end in itertools.pairwise(cuts):
        run.process(events[start:end])
        run.commit()
        noted.append((run.engine.watermark_us, run.shown()))
    return noted


@pytest.mark.parametrize(("seed", "window", "scale"), [(1, 60, 1), (2, 300, 1), (3, 7, 1), (4, 1, 60)])
def test_every_gauge_is_what_the_events_say(seed: int, window: int, scale: int) -> None:
    """Delays, shadows, late labels, weights, versions; windows of events that fit the buckets, and not."""
    judging = Judging(OBJECTIVES, scale)
    run = Run(judging, window_seconds=window)
    events = traffic(seed, scale=scale)
    noted = follow(run, events, START + int(4.2 * DAY / scale))
    assert len(noted) == 10
    compared = 0
    for watermark, shown in noted:
        came = [event for event in events if event.time_us < watermark]
        wanted = oracle(OBJECTIVES, came, watermark, judging.base_us)
        assert shown == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        compared += len(wanted)
    assert compared > 250
    names = {name for _, shown in noted for name, *_ in shown}
    assert names == {name for name in METRICS if name.startswith("mlmon_slo_")} - {
        catalog.EVENTS.sampled.name,
        catalog.EVENTS.estimated.name,
        catalog.EVENTS.weight_squared.name,
        catalog.LATE_LABELS.name,
        catalog.GROUPS.name,
        catalog.GROUPS_LEFT_OUT.name,
    }


def test_readings_of_the_history_are_the_gauges_with_their_sample_sizes() -> None:
    run = Run(JUDGING)
    events = [
        Event(START + second * 20 * SECOND, "error" if second % 9 == 0 else "ok", weight=2.0)
        for second in range(90)
    ]
    run.process(events)
    run.commit()
    shown = run.shown()
    assert shown
    assert {(r.metric.name, *r.labels[2:]): r.value for r in run.readings} == shown
    (reading,) = [r for r in run.readings if r.metric is catalog.BURN and r.labels[2:] == ("up", "5m")]
    assert (reading.n, reading.n_eff, reading.labels[:2]) == (15, 15.0, ("shop", "intent"))
    assert reading.window.end_us == run.engine.watermark_us
    assert all(
        r.metric.name not in {x.name for x in METRICS.values() if x.name.startswith("mlmon_slo_")}
        for r in run.published.readings
    )


def test_budgets_are_read_from_the_history_of_a_window(tmp_path: Path) -> None:
    """The parcel that the engine makes with the commit, delivered and read back."""
    history = History(HistoryConfig(directory=str(tmp_path)), ManualClock(START + HOUR))
    ledger = Ledger(JUDGING, 10)
    monitor: Any = SloMonitor(SloConfig())
    monitor.judging = JUDGING
    window, series = Window(START, START + MINUTE), SeriesKey("shop", "intent", "1", "stable", "")
    summary = monitor.summary()
    summary.update(batch_of([Event(START + n * SECOND, "error" if n < 3 else "ok") for n in range(60)]))
    ledger.close(window, {series: summary}, {series: "p"})
    history.write("w", encode_window(window, ledger.readings(window), {"slo": {series: summary}}))
    table = read(str(tmp_path), "readings", Selection(metrics=("mlmon_slo_budget_remaining_ratio",)))
    (row,) = table.to_pylist()
    assert (row["service"], row["model"], dict(row["labels"])) == ("shop", "intent", {"slo": "up"})
    assert (row["value"], row["n"]) == (pytest.approx(1 - 3 / 60 / 0.01), 60)
    burns = read(str(tmp_path), "readings", Selection(metrics=("mlmon_slo_burn_rate",))).to_pylist()
    assert {dict(row["labels"])["window"] for row in burns} == {"5m", "1h", "6h", "1d", "3d"}


def test_nothing_is_said_where_nothing_came() -> None:
    """An idle hour has no burn, neither 0 nor NaN. Where labels never came nothing is said of them."""
    run = Run(JUDGING)
    assert run.shown() == {}
    run.process([Event(START, "error")])
    run.process([Event(START + 30 * MINUTE, "ok", deployment="shadow")])
    run.commit()
    shown = run.shown()
    assert ("mlmon_slo_burn_rate", "up", "5m") not in shown
    assert shown["mlmon_slo_burn_rate", "up", "1h"] == pytest.approx(100.0)
    assert {name for _, name, *_ in shown} == {"up"}
    assert all(np.isfinite(list(shown.values())))


def test_coverage_is_zero_only_where_labels_are_known_to_come() -> None:
    run = Run(JUDGING)
    run.process([Event(START + second * SECOND) for second in range(0, 600, 10)])
    run.process([Event(START + 11 * MINUTE, request_us=START + 40 * SECOND, label="a", prediction="a")])
    run.process([Event(START + 2 * DAY + second * SECOND) for second in range(0, 600, 10)])
    run.commit()
    assert run.shown()["mlmon_slo_label_coverage_ratio", "soon"] == 0.0
    assert ("mlmon_slo_burn_rate", "soon", "5m") not in run.shown()
    assert ("mlmon_slo_label_coverage_ratio", "right") not in run.shown(), "no request in its six hours"


def test_gauges_go_on_with_the_watermark_while_no_window_closes() -> None:
    """Another partition carries the watermark on: the failed minute leaves the short windows one by one."""
    run = Run(JUDGING, ("p", "q"))
    run.process([Event(START + second * SECOND, "error") for second in range(60)])
    run.process([Event(START + 2 * MINUTE, service="other")], "q")
    run.process([Event(START + 2 * MINUTE)])
    run.commit()
    windows = {key[2] for key in run.shown() if key[0] == catalog.BURN.name}
    assert windows == {"5m", "1h", "6h", "1d", "3d"}
    run.engine.watermark_us += 10 * MINUTE
    windows = {key[2] for key in run.shown() if key[0] == catalog.BURN.name}
    assert windows == {"1h", "6h", "1d", "3d"}
    run.engine.watermark_us += 20 * DAY
    assert run.shown() == {}


def test_labels_beyond_the_delay_are_seen_by_the_windows_that_still_hold_their_hours() -> None:
    run = Run(JUDGING)
    day = START + DAY
    run.process([Event(START + minute * MINUTE) for minute in range(0, 24 * 60, 10)])
    run.process([Event(day, request_us=START, label="a", prediction="a")])
    late = [Event(day + 9 * HOUR, request_us=START + HOUR + n, label="a", prediction="b") for n in range(50)]
    run.process([*late, Event(day + 9 * HOUR + MINUTE)])
    run.commit()
    shown = run.shown()
    assert ("mlmon_slo_burn_rate", "right", "6h") not in shown
    assert shown["mlmon_slo_burn_rate", "right", "1d"] == pytest.approx(50 / 51 / 0.1)
    assert shown["mlmon_slo_burn_rate", "right", "3d"] == pytest.approx(50 / 51 / 0.1)
    assert shown["mlmon_slo_period_burn_rate", "right"] == pytest.approx(50 / 51 / 0.1)
