"""Our part of a report: names what moved, seldom what did not; distances against plain formulas."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from report_kit import KEY, START_US, batches, events
from scipy import stats

from mlmon.baseline.model import FieldReference, FieldSpec
from mlmon.drift.distances import distances
from mlmon.reports import Chosen, WindowEvents, find_reference, report_extractors
from mlmon.reports.model import ColumnVerdict, Peer
from mlmon.reports.ours import FALSE_REPORT_RATE, judge
from mlmon.reports.pairing import columns_of, paired, unpaired
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from mlmon.baseline.store import BaselineStore
    from mlmon.reports.model import Ours

CHOSEN = Chosen(KEY)


def judged(
    store: BaselineStore, seed: int, count: int = 1500, *, moved: bool = False, tolerant: bool = True
) -> Ours:
    """A report's part of ours; without tolerances any shift beyond the baseline's own error counts."""
    window = WindowEvents(CHOSEN, report_extractors(store, KEY), 100)
    for batch in batches(events(count, seed, moved=moved)):
        window.add(batch)
    found = window.gathered()
    assert found is not None
    references = dict(find_reference(store, CHOSEN).fields)
    if not tolerant:
        for name, one in references.items():
            spec = dataclasses.replace(one.spec, tolerance=0.0)
            references[name] = dataclasses.replace(one, spec=spec, wander=0.0)
    return judge(references, found.sums)


def test_reports_without_drift_name_no_field_more_often_than_declared(store: BaselineStore) -> None:
    """60 reports at 5 %: more than 8 has a probability of 0.4 %, were every report at its limit."""
    reports = [judged(store, 100 + i, tolerant=False) for i in range(60)]
    named = [any(row.state == "drifted" for row in report.fields) for report in reports]
    assert sum(named) <= stats.binom.ppf(0.996, len(named), FALSE_REPORT_RATE)
    # it is the threshold that keeps them quiet: many have a field with some evidence
    assert sum(any(row.log_e > 0 for row in report.fields) for report in reports) > 12


def test_what_moved_is_named_and_what_carries_it(store: BaselineStore) -> None:
    ours = judged(store, 2, moved=True)
    named = {row.field: row for row in ours.fields if row.state == "drifted"}
    assert named.keys() >= {"features/amount", "predictions/class", "embeddings/shift"}
    assert not named.keys() & {"features/age", "features/channel", "features/amount:missing"}
    # the label that gained, and the two that lost
    assert {one.name for one in named["predictions/class"].carriers[:3]} >= {"transfer"}
    assert named["predictions/class"].effect > named["predictions/class"].tolerance  # type: ignore[operator]
    evidence = [row.log_e for row in ours.fields[: len(named)]]
    assert evidence == sorted(evidence, reverse=True)
    assert all(row.state != "drifted" for row in ours.fields[len(named) :])


def test_the_threshold_shares_the_chance_among_all_judged(store: BaselineStore) -> None:
    ours = judged(store, 3)
    assert ours.judged == sum(row.p_value is not None for row in ours.fields)
    assert ours.threshold == ours.judged / 0.05
    for row in judged(store, 2, moved=True).fields:
        if row.p_value is not None:
            assert (row.state == "drifted") == (row.log_e >= math.log(ours.threshold))


def test_too_few_events_and_no_reference_are_states(store: BaselineStore) -> None:
    ours = judged(store, 4, count=12)
    states = {row.field: row.state for row in ours.fields}
    assert states["embeddings/shift"] == states["features/amount"] == "insufficient_data"
    reference = find_reference(store, CHOSEN)
    small = {
        name: dataclasses.replace(one, blocks=0) for name, one in reference.fields.items() if "age" in name
    }
    sums = {"features/age": reference.fields["features/age"].sums.copy(), "features/new": FieldSums(2)}
    rows = {row.field: row for row in judge(small, sums).fields}
    assert rows["features/age"].state == rows["features/new"].state == "insufficient_reference"
    assert rows["features/new"].effect is None


def field(counts: list[float], edges: list[float] | None, trace: float = 1.0) -> FieldReference:
    spec = FieldSpec("cells", len(counts), edges=None if edges is None else np.array(edges), tolerance=0.1)
    return FieldReference(spec, sums_of(counts), trace, trace, 0.0, 100)


def sums_of(counts: list[float]) -> FieldSums:
    sums = FieldSums(len(counts))
    sums.total += counts
    sums.size += [sum(counts)] * 3
    return sums


def test_distances_are_those_of_the_textbook() -> None:
    before, now = [400.0, 300.0, 200.0, 100.0], [50.0, 60.0, 50.0, 40.0]
    p, q = np.array(now) / 200, np.array(before) / 1000
    found = distances(field(before, [1.0, 2.0, 4.0]), sums_of(now))
    middle = (p + q) / 2
    js = (stats.entropy(p, middle, base=2) + stats.entropy(q, middle, base=2)) / 2
    assert found["js"] == pytest.approx(js)
    assert found["ks"] == pytest.approx(np.abs(np.cumsum(p - q)).max())
    places = np.array([1.0, 1.5, 3.0, 4.0])
    spread = math.sqrt(float(q @ places**2) - float(q @ places) ** 2)
    moved = stats.wasserstein_distance(places, places, p, q)
    assert found["wasserstein"] == pytest.approx(moved / spread)
    plain = float(((p - q) * np.log(p / q)).sum())
    assert found["psi"] == pytest.approx(plain - 3 * (1 / 200 + 1 / 1000), abs=0.003)


def test_bursts_take_more_noise_off_psi_and_unordered_cells_have_two_distances() -> None:
    before, now = [400.0, 300.0, 300.0], [40.0, 30.0, 30.0]
    assert distances(field(before, None), sums_of(now)).keys() == {"psi", "js"}
    bursty = distances(field(before, None, trace=5.0), sums_of(now))["psi"]
    assert bursty == pytest.approx(5 * distances(field(before, None), sums_of(now))["psi"], rel=0.1)
    assert distances(field(before, None), FieldSums(3)) == {}


AVAILABLE = [
    "tokens",
    "tokens_per_word",
    "prediction",
    "confidence",
    "embedding",
    "embedding.norm",
    "numeric_features.a b:c",
    "categorical_features.plan",
    "categorical_features.size",
    "numeric_features.size",
]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("features/a b%3Ac", ["numeric_features.a b:c"]),
        ("features/plan", ["categorical_features.plan"]),
        ("features/size", ["numeric_features.size"]),
        ("features/size:text", ["categorical_features.size"]),
        ("features/size:missing", []),
        ("features/gone", []),
        ("predictions/class", ["prediction"]),
        ("predictions/confidence", ["confidence"]),
        ("predictions/top_labels", []),
        ("tokenizer/length", ["tokens"]),
        ("tokenizer/tokens_per_word", ["tokens_per_word"]),
        ("embeddings/shift", ["embedding"]),
        ("embeddings/norm", ["embedding.norm"]),
        ("embeddings/probe:greeting", []),
    ],
)
def test_fields_find_the_column_that_looks_at_the_same(name: str, columns: list[str]) -> None:
    assert columns_of(name, AVAILABLE) == columns


def test_every_field_that_has_a_column_of_its_own_finds_it(store: BaselineStore) -> None:
    """New fields of the monitors must not go without their column unnoticed."""
    available = {
        "tokens",
        "tokens_per_word",
        "unknown_token_ratio",
        "prediction",
        "confidence",
        "embedding",
        "embedding.norm",
        "numeric_features.amount",
        "numeric_features.age",
        "categorical_features.channel",
    }
    alone = {name for name in find_reference(store, CHOSEN).fields if not columns_of(name, available)}
    assert {name for name in alone if ":" not in name} <= {"embeddings/typicality", "embeddings/invalid"}


def peer(*columns: tuple[str, str, float | None, bool]) -> Peer:
    verdicts = [
        ColumnVerdict(name, "numeric", "", method, 0.2, threshold, drifted, 1000, 1000)
        for name, method, threshold, drifted in columns
    ]
    return Peer("0", "0", 0.5, False, verdicts, {}, {})


def test_where_verdicts_differ_the_reading_says_why(store: BaselineStore) -> None:
    ours = judged(store, 2, moved=True)
    wasserstein = "Wasserstein distance (normed)"
    theirs = peer(
        ("numeric_features.amount", wasserstein, 0.1, False),
        ("numeric_features.age", wasserstein, 0.1, True),
        ("prediction", wasserstein, 0.1, True),
        ("confidence", "K-S p_value", 0.05, True),
        ("words", wasserstein, 0.1, True),
    )
    rows = {row.field: row for row in paired(ours, theirs).fields}
    assert rows["features/amount"].reading.startswith("Evidently's threshold of 0.1 is the same for any")
    assert "A shift within our tolerance; Evidently's threshold is the same" in rows["features/age"].reading
    assert rows["predictions/class"].reading == "Both see drift."
    assert "A p-value asks for any shift" in rows["predictions/confidence"].reading
    assert rows["features/age:missing"].reading == "Evidently drops missing values before it compares."
    assert [column.column for column in unpaired(paired(ours, theirs), theirs)] == ["words"]


def test_a_reference_of_the_segment_is_used(store: BaselineStore) -> None:
    german = find_reference(store, CHOSEN._replace(segment="language=de"))
    whole = find_reference(store, CHOSEN)
    assert german.events < whole.events == 8000
    assert german.fields["features/amount"].sums.n == german.events
    assert german.scope.first_us == START_US
