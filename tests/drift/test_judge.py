"""Windows judged: what pages, what only waits, what is shown, and what survives a restart."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

import drift_kit
import numpy as np
import pytest

from mlmon.baseline.model import ScopeKey
from mlmon.catalog import drift as catalog
from mlmon.catalog import requests
from mlmon.drift.config import MONTH_SECONDS, AlertsConfig, DriftConfig
from mlmon.drift.group import Group, GroupKey
from mlmon.drift.judge import Judge
from mlmon.monitors.base import Reading, SeriesKey
from mlmon.simulate.population import population
from mlmon.simulate.reference import monitors_for
from mlmon.stats.sums import FieldSums
from mlmon.windows import Window

if TYPE_CHECKING:
    from mlmon.simulate.population import Population

SECOND = 1_000_000
GROUP = GroupKey("shop", "intent")
SERIES = SeriesKey("shop", "intent", "1", "stable", "")
#: For field sums of the events as they are, and of those of one class only.
HEALTHY, SHIFTED = "healthy", "shifted"


@cache
def drawn() -> Population:
    return population(monitors_for(drift_kit.CONFIGS, drift_kit.reference()), drift_kit.events())


def judge(**drift: int) -> Judge:
    return Judge(drift_kit.reference(), AlertsConfig(), DriftConfig(**drift), 60)


def table(rng: np.random.Generator, kind: str = HEALTHY, events: int = 400):
    size = len(drawn())
    rows = np.arange(size)
    if kind == SHIFTED:
        rows = np.flatnonzero(drift_kit.events()["prediction"].to_numpy(zero_copy_only=False) == "refund")
    counts = np.bincount(rng.choice(rows, events), minlength=size).astype(float)
    return next(iter(drawn().window(counts).values()))


def close(judging: Judge, index: int, tables, readings=()) -> list[Reading]:
    return judging.close(Window(index * 60 * SECOND, (index + 1) * 60 * SECOND), tables, readings)


def values(said: list[Reading], metric) -> dict[tuple[str, ...], float]:
    return {reading.labels: reading.value for reading in said if reading.metric is metric}


def pages(judging: Judge) -> int:
    return judging.groups[GROUP].pager.pages


def test_healthy_windows_do_not_page_and_every_field_is_ok() -> None:
    rng, judging = np.random.default_rng(1), judge()
    for index in range(60):
        said = close(judging, index, {SERIES: table(rng)})
    assert pages(judging) == 0
    states = Counter()
    for labels, count in values(said, catalog.FIELDS).items():
        states[labels[6]] += count
    assert states["alarm"] == states["insufficient_reference"] == 0
    assert states["ok"] >= 20


def test_a_shift_pages_once_with_its_cause_and_fields_and_ends() -> None:
    rng, judging = np.random.default_rng(2), judge()
    for index in range(10):
        close(judging, index, {SERIES: table(rng)})
    for index in range(10, 16):
        said = close(judging, index, {SERIES: table(rng, SHIFTED)})
    assert pages(judging) == 1
    alarm = judging.groups[GROUP].pager.alarm
    assert alarm.cause == "embeddings"
    samples = {(s.metric.name, s.labels): s.value for s in judging.samples()}
    assert samples["mlmon_pager_alarm", GROUP] == 1.0
    assert samples["mlmon_pager_pages", GROUP] == 1.0
    assert samples["mlmon_pager_cause", (*GROUP, "1", "", "embeddings", alarm.field)] == 1.0
    alarmed = {labels[5:] for labels, value in values(said, catalog.ALARM).items() if value}
    assert {("embeddings", "shift"), ("predictions", "class")} <= alarmed
    effects = values(said, catalog.EFFECT)
    tolerances = values(said, catalog.TOLERANCE)
    moved = (*SERIES, "predictions", "class")
    assert effects[moved] > 5 * tolerances[moved]
    told = values(said, catalog.DISTANCE)
    assert told[*moved, "psi"] > 0.2
    assert 0 < told[*moved, "js"] <= 1
    assert (*moved, "ks") not in told, "classes have no order"
    for index in range(16, 40):
        close(judging, index, {SERIES: table(rng)})
    assert judging.groups[GROUP].pager.alarm is None
    assert pages(judging) == 1


def test_what_carries_the_shift_is_named() -> None:
    judging = judge()
    said = close(judging, 0, {SERIES: table(np.random.default_rng(3), SHIFTED)})
    reading = next(r for r in said if r.metric is catalog.EFFECT and r.labels[5:] == ("predictions", "class"))
    assert any("refund" in text for text in reading.attributes.values())


def test_a_wrong_version_in_the_same_window_is_the_cause() -> None:
    rng, judging = np.random.default_rng(4), judge()
    for index in range(3):
        window = Window(index * 60 * SECOND, (index + 1) * 60 * SECOND)
        wrong = Reading(requests.VERSION_MISMATCH_RATIO, (*GROUP, "stable"), 0.4, window, 10, 10.0)
        close(judging, index, {SERIES: table(rng, SHIFTED)}, [wrong])
    assert judging.groups[GROUP].pager.alarm.cause == "version"


def test_windows_with_few_events_are_judged_together_and_say_the_same() -> None:
    rng = np.random.default_rng(5)
    parts = [table(rng, SHIFTED, 50) for _ in range(4)]
    waiting = judge(min_events=200)
    said = [close(waiting, index, {SERIES: part}) for index, part in enumerate(parts)]
    assert [bool(values(one, catalog.EFFECT)) for one in said] == [False, False, False, True]
    whole = {m: {f: sums.copy() for f, sums in fields.items()} for m, fields in parts[0].items()}
    for part in parts[1:]:
        for monitor, fields in part.items():
            for name, sums in fields.items():
                whole[monitor][name].merge(sums)
    at_once = values(close(judge(min_events=200), 3, {SERIES: whole}), catalog.EFFECT)
    together = values(said[3], catalog.EFFECT)
    assert together.keys() == at_once.keys()
    assert list(together.values()) == pytest.approx(list(at_once.values()))
    spans = {(r.window.start_us, r.window.end_us) for r in said[3] if r.metric is catalog.EFFECT}
    assert spans == {(0, 240 * SECOND)}


def test_a_series_that_stays_too_small_is_judged_at_last_and_says_it_is_too_small() -> None:
    rng, judging = np.random.default_rng(6), judge(min_events=200, max_wait_seconds=120)
    close(judging, 0, {SERIES: table(rng, HEALTHY, 3)})
    said = close(judging, 1, {SERIES: table(rng, HEALTHY, 3)})
    states = Counter()
    for labels, count in values(said, catalog.FIELDS).items():
        states[labels[6]] += count
    assert states["insufficient_data"] >= 10
    judged = {f"{labels[5]}/{labels[6]}" for labels in values(said, catalog.EFFECT)}
    fields = drift_kit.reference().scopes[ScopeKey(*SERIES[:3])].segments[""].fields
    assert {fields[name].spec.kind for name in judged} == {"rate"}, "only a share can be judged by six events"


def test_segments_are_judged_together_as_if_there_were_none() -> None:
    rng = np.random.default_rng(7)
    first, second = table(rng, HEALTHY, 300), table(rng, SHIFTED, 300)
    both = {m: {f: sums.copy() for f, sums in fields.items()} for m, fields in first.items()}
    for monitor, fields in second.items():
        for name, sums in fields.items():
            both[monitor][name].merge(sums)
    split = {SERIES._replace(segment="language=de"): first, SERIES._replace(segment="language=en"): second}
    before = [sums.total.copy() for fields in first.values() for sums in fields.values()]
    said = values(close(judge(), 0, split), catalog.EFFECT)
    alone = values(close(judge(), 0, {SERIES: both}), catalog.EFFECT)
    assert {labels: said[labels] for labels in alone} == pytest.approx(alone)
    after = [sums.total for fields in first.values() for sums in fields.values()]
    assert all(map(np.array_equal, before, after)), "the summaries of a window are not the judge's to change"


def test_a_segment_without_a_reference_of_its_own_says_so_and_does_not_page() -> None:
    rng, judging = np.random.default_rng(8), judge()
    series = SERIES._replace(segment="language=de")
    said = close(judging, 0, {series: table(rng)})
    counts = values(said, catalog.FIELDS)
    assert counts[*series, "features", "insufficient_reference"] > 0
    assert counts[*SERIES, "features", "insufficient_reference"] == 0


def test_only_stable_traffic_pages() -> None:
    rng, judging = np.random.default_rng(9), judge()
    canary = SERIES._replace(deployment="canary")
    for index in range(20):
        said = close(judging, index, {SERIES: table(rng), canary: table(rng, SHIFTED)})
    assert pages(judging) == 0
    assert any(labels[3] == "canary" for labels in values(said, catalog.EFFECT))


def test_a_version_without_a_baseline_is_judged_by_its_input_and_says_what_it_lacks() -> None:
    rng, judging = np.random.default_rng(10), judge()
    said = close(judging, 0, {SERIES._replace(version="2"): table(rng)})
    judged = {labels[5] for labels in values(said, catalog.EFFECT)}
    assert judged == {"features", "tokenizer"}
    lacking = {
        labels[5] for labels, n in values(said, catalog.FIELDS).items() if "reference" in labels[6] and n
    }
    assert {"embeddings", "predictions"} <= lacking


def test_services_without_a_baseline_cost_nothing() -> None:
    judging = judge()
    assert close(judging, 0, {SERIES._replace(service="other"): table(np.random.default_rng(1))}) == []
    assert judging.groups == {}


def test_readings_are_bounded_by_the_fields_shown_whatever_moves() -> None:
    rng = np.random.default_rng(11)
    for top in (1, 3):
        judging = judge(top_fields=top)
        for index in range(4):
            said = close(judging, index, {SERIES: table(rng, SHIFTED)})
            fields = Counter(labels[5] for labels in values(said, catalog.EFFECT))
            assert set(fields) == {"embeddings", "features", "predictions", "tokenizer"}
            assert max(fields.values()) <= top


def test_the_budget_of_a_service_is_shared_by_its_models() -> None:
    store = drift_kit.reference()
    scope = store.scopes[ScopeKey("shop", "intent", "1")]

    class Two:
        def __init__(self) -> None:
            self.scopes = {ScopeKey("shop", "intent", "1"): scope, ScopeKey("shop", "ner", "1"): scope}

        def find(self, key: ScopeKey, monitor: str):
            return (key, self.scopes[key]) if key in self.scopes else None

    windows = MONTH_SECONDS / 60
    assert judge().threshold(GROUP) == windows
    assert Judge(Two(), AlertsConfig(), DriftConfig(), 60).threshold(GROUP) == 2 * windows
    strict = Judge(store, AlertsConfig(false_pages_per_month=0.1), DriftConfig(), 60)
    assert strict.threshold(GROUP) == 10 * windows


def test_the_weights_of_all_detectors_add_up_to_the_budget() -> None:
    judging = judge()
    close(judging, 0, {SERIES: table(np.random.default_rng(12), SHIFTED)})
    group = judging.groups[GROUP]
    every = judging._weights(GROUP, group)[0] * judging._detectors(GROUP)
    assert every == pytest.approx(1.0)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_going_on_from_the_state_is_the_same_as_not_stopping(stop: int) -> None:
    def windows():
        rng = np.random.default_rng(13)
        return [table(rng, HEALTHY if i < 2 else SHIFTED, 120) for i in range(7)]

    whole = judge()
    for index, part in enumerate(windows()):
        close(whole, index, {SERIES: part})
    first = judge()
    for index, part in enumerate(windows()[:stop]):
        close(first, index, {SERIES: part})
    second = judge()
    second.load(GROUP, first.groups[GROUP].to_bytes())
    for index, part in enumerate(windows()[stop:], stop):
        close(second, index, {SERIES: part})
    assert second.groups[GROUP].to_bytes() == whole.groups[GROUP].to_bytes()
    assert pages(whole) == 1


def test_of_two_records_of_a_group_the_newer_counts_in_either_order() -> None:
    old, new = Group(judged_us=1), Group(judged_us=2)
    new.pager.pages = 7
    for records in ((old, new), (new, old)):
        judging = judge()
        for record in records:
            judging.load(GROUP, record.to_bytes())
        assert pages(judging) == 7


def test_sums_made_under_another_baseline_are_not_mixed_in() -> None:
    rng, judging = np.random.default_rng(14), judge(min_events=500)
    close(judging, 0, {SERIES: table(rng, SHIFTED, 300)})
    pool = next(iter(judging.groups[GROUP].pools.values()))
    pool.digests = dict.fromkeys(pool.digests, "of an older baseline")
    pool.fields = {name: FieldSums(3) if "/" in name else sums for name, sums in pool.fields.items()}
    healthy = table(rng, HEALTHY, 600)
    said = values(close(judging, 1, {SERIES: healthy}), catalog.EFFECT)
    alone = values(close(judge(min_events=500), 1, {SERIES: healthy}), catalog.EFFECT)
    assert said == pytest.approx(alone)


def test_a_series_that_is_gone_for_a_day_is_forgotten() -> None:
    rng, judging = np.random.default_rng(15), judge()
    old = SERIES._replace(version="2")
    close(judging, 0, {SERIES: table(rng), old: table(rng, HEALTHY, 50)})
    assert len(judging.groups[GROUP].pools) == 1
    close(judging, 24 * 60 + 2, {SERIES: table(rng)})
    assert {unit.version for unit in judging.groups[GROUP].seen} == {"1"}
    assert judging.groups[GROUP].pools == {}
