"""Versions: exact counts within the cap, differences from the registry, readings of a window."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from monitor_kit import SERIES, START_US, batch_of, rows_strategy

from mlmon.catalog import requests as catalog
from mlmon.monitors.version_state import Identity
from mlmon.monitors.versions import Expected, VersionsConfig, VersionsMonitor
from mlmon.windows import Window

if TYPE_CHECKING:
    from monitor_kit import Row

    from mlmon.catalog.base import Metric
    from mlmon.monitors.version_state import VersionsSummary

WINDOW = Window(START_US, START_US + 60_000_000)
PARTS = ("model_version", "model_digest", "tokenizer_version", "tokenizer_digest")


class Wants:
    def __init__(self, **expected: Expected) -> None:
        self.by_deployment = expected

    def expected(self, service: str, model: str, deployment: str) -> Expected | None:
        return self.by_deployment.get(deployment) if (service, model) == ("search", "intent") else None


WANTS = Wants(stable=Expected("1", "aa", "7", "dd"), canary=Expected(tokenizer_digest="ee"))


def summed(rows: list[Row], limit: int = 32, wants: Wants = WANTS) -> VersionsSummary:
    summary = VersionsMonitor(VersionsConfig(max_versions=limit), wants).summary()
    summary.update(batch_of(rows))
    return summary


def collected(summary: VersionsSummary) -> dict[tuple[str, ...], Any]:
    return {
        (s.metric.name, *s.labels[5:]): s.value
        for s in VersionsMonitor(VersionsConfig()).collect(SERIES, summary)
    }


def read(
    summaries: dict[Any, VersionsSummary], limit: int = 32
) -> dict[Metric, dict[tuple[str, ...], float]]:
    monitor = VersionsMonitor(VersionsConfig(max_versions=limit), WANTS)
    found: dict[Metric, dict[tuple[str, ...], float]] = defaultdict(dict)
    for reading in monitor.read(WINDOW, summaries, dict.fromkeys(summaries, START_US)):
        found[reading.metric][reading.labels] = reading.value
    return found


@settings(max_examples=80, deadline=None)
@given(rows=rows_strategy())
def test_tallies_match_a_count_event_by_event(rows: list[Row]) -> None:
    summary = summed(rows)
    expected: dict[Identity, list[Row]] = defaultdict(list)
    for row in rows:
        identity = Identity(*(row.get(part, "") for part in PARTS), row.get("deployment", "stable"))
        expected[identity].append(row)
    assert summary.other is None
    assert summary.tallies.keys() == expected.keys()
    for identity, members in expected.items():
        w = np.array([row.get("sampling_weight", 1.0) for row in members])
        times = [row["event_time"] for row in members]
        tally = summary.tallies[identity]
        assert tally.state() == [len(w), w.sum(), (w**2).sum(), min(times), max(times)]


@settings(max_examples=80, deadline=None)
@given(rows=rows_strategy())
def test_mismatches_match_a_check_event_by_event(rows: list[Row]) -> None:
    counted: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        expected = WANTS.expected("search", "intent", row.get("deployment", "stable"))
        if expected is None:
            continue
        w = row.get("sampling_weight", 1.0)
        pairs = [
            (kind, want, row.get(kind)) for kind, want in zip(PARTS, expected.parts(), strict=True) if want
        ]
        wrong = [kind for kind, want, got in pairs if got is not None and got != want]
        for kind in wrong:
            counted[kind].append(w)
        counted["checked"].append(w)
        counted["any"] += [w] * bool(wrong)
        counted["unreported"] += [w] * any(got is None for _, _, got in pairs)
    values = collected(summed(rows))
    if not counted["checked"]:
        assert ("mlmon_version_checked_requests",) not in values
        return
    names = {kind: ("mlmon_version_mismatches", kind) for kind in (*PARTS, "unreported")}
    names |= {"checked": ("mlmon_version_checked_requests",), "any": ("mlmon_version_mismatched_requests",)}
    for kind, (name, *labels) in names.items():
        w = np.array(counted[kind])
        assert values[name.replace("mlmon_", "mlmon_sampled_"), *labels] == len(w)
        assert values[name, *labels] == w.sum()
        assert values[name + "_weight_squared", *labels] == (w**2).sum()


def test_an_event_that_does_not_say_is_unreported_and_no_mismatch() -> None:
    values = collected(summed([{"model_version": "1"}]))
    assert values["mlmon_version_mismatches", "unreported"] == 1
    assert values["mlmon_version_mismatched_requests",] == 0


def test_the_cap_keeps_exact_counts_and_the_rest_is_other() -> None:
    rows = [
        {"model_digest": f"{number % 100:02}", "sampling_weight": 2.0, "event_time": START_US + number}
        for number in range(1000)
    ]
    summary = summed(rows, limit=8)
    assert len(summary.tallies) == 8
    assert summary.other is not None
    assert summary.other.state()[:3] == [920, 1840, 3680]
    for identity, tally in summary.tallies.items():
        first = START_US + int(identity.model_digest)
        assert tally.state() == [10, 20, 40, first, first + 900]
    values = collected(summary)
    assert values["mlmon_version_requests", "other", "other", "other", "other"] == 1840
    overflow = [
        s for s in VersionsMonitor(VersionsConfig()).collect(SERIES, summary) if s.labels == ("version",)
    ]
    assert [sample.value for sample in overflow] == [920]


def test_long_names_are_cut() -> None:
    summary = summed([{"model_digest": "f" * 100_000}])
    (identity,) = summary.tallies
    assert identity.model_digest == "f" * 160
    assert len(summary.to_bytes()) < 1000


def test_a_window_is_read_over_all_series_of_a_model() -> None:
    english, german = SERIES, SERIES._replace(segment="language=de")
    canary = SERIES._replace(version="2", deployment="canary")
    other_model = SERIES._replace(model="ranker")
    full = {"model_version": "1", "model_digest": "aa", "tokenizer_version": "7", "tokenizer_digest": "dd"}
    summaries = {
        english: summed([full] * 5),
        german: summed([full, {**full, "model_digest": "bb", "sampling_weight": 2.0}]),
        canary: summed([{"model_version": "2", "deployment": "canary", "tokenizer_digest": "dd"}] * 2),
        other_model: summed([{"model_name": "ranker", "model_version": "9"}]),
    }
    found = read(summaries)
    assert found[catalog.VERSIONS_SERVING] == {
        ("search", "intent", "model_version"): 2,
        ("search", "intent", "model_digest"): 2,
        ("search", "intent", "tokenizer_version"): 1,
        ("search", "intent", "tokenizer_digest"): 1,
        ("search", "ranker", "model_version"): 1,
    }
    assert found[catalog.VERSION_TRAFFIC] == {
        ("search", "intent", "stable", "1", "aa", "7", "dd"): 0.6,
        ("search", "intent", "stable", "1", "bb", "7", "dd"): 0.2,
        ("search", "intent", "canary", "2", "", "", "dd"): 0.2,
        ("search", "ranker", "stable", "9", "", "", ""): 1.0,
    }
    assert found[catalog.VERSION_MISMATCH_RATIO] == {
        ("search", "intent", "stable"): 0.25,
        ("search", "intent", "canary"): 1.0,
    }
    assert found[catalog.EXPECTED_VERSION] == {
        ("search", "intent", "stable", "1", "aa", "7", "dd"): 1.0,
        ("search", "intent", "canary", "", "", "", "ee"): 1.0,
    }
    assert found[catalog.VERSION_SINCE][("search", "intent", "stable", "1")] == START_US / 1e6


def test_shares_are_of_the_largest_versions_and_add_up_to_one() -> None:
    summaries = {
        SERIES._replace(version=str(number)): summed([{"model_version": str(number)}] * number)
        for number in range(1, 11)
    }
    shares = read(summaries, limit=3)[catalog.VERSION_TRAFFIC]
    assert {labels[3]: value for labels, value in shares.items()} == {
        "10": pytest.approx(10 / 55),
        "9": pytest.approx(9 / 55),
        "8": pytest.approx(8 / 55),
        "other": pytest.approx(28 / 55),
    }
    assert read(summaries, limit=3)[catalog.VERSIONS_SERVING][("search", "intent", "model_version")] == 10


def test_the_overflow_series_is_checked_by_each_events_own_service() -> None:
    rows = [
        {"model_version": "3", "model_digest": "aa", "tokenizer_version": "7", "tokenizer_digest": "dd"},
        {"service": "elsewhere", "model_version": "3"},
    ]
    values = collected(summed(rows))
    assert values["mlmon_version_checked_requests",] == 1
    assert values["mlmon_version_mismatches", "model_version"] == 1


def test_a_reload_of_the_registry_takes_effect_at_the_next_update() -> None:
    wants = Wants(stable=Expected(model_version="1"))
    monitor = VersionsMonitor(VersionsConfig(), wants)
    summary = monitor.summary()
    summary.update(batch_of([{"model_version": "2"}]))
    wants.by_deployment = {"stable": Expected(model_version="2")}
    summary.copy().update(batch_of([{"model_version": "2"}]))
    summary.update(batch_of([{"model_version": "2"}]))
    values = collected(summary)
    assert values["mlmon_version_mismatches", "model_version"] == 1
    assert values["mlmon_version_checked_requests",] == 2
