"""Field sums of one series: bound to one scope, mergeable, stored, and refused under another baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor_kit import batch_of

from mlmon.baseline.model import ScopeKey
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.drift import extractors
from mlmon.monitors.features import FeaturesConfig, FeaturesMonitor
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from mlmon.baseline.model import Parameters
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.drift import DriftSummary


def traffic(numbers: list[float], version: str = "1", weight: float = 1.0) -> EventBatch:
    rows: list[dict[str, Any]] = [
        {"numeric_features": {"x": x}, "model_version": version, "sampling_weight": weight} for x in numbers
    ]
    return batch_of(rows)


def learned(shift: float) -> Parameters:
    learner = FeaturesMonitor(FeaturesConfig()).learner()
    learner.update(traffic([shift + i % 10 for i in range(100)]), 0)
    parameters = learner.finish((0,))
    assert parameters is not None
    return parameters


FIRST, SECOND = learned(0), learned(5)


def monitor(**scopes: Parameters) -> FeaturesMonitor:
    """A monitor with a baseline of these versions."""
    by_version = {name.removeprefix("v"): found for name, found in scopes.items()}
    return FeaturesMonitor(FeaturesConfig(), lambda _, scope: by_version.get(scope.version))


WATCHING = monitor(v1=FIRST)


def summed(watching: FeaturesMonitor, *batches: EventBatch) -> DriftSummary:
    summary = watching.summary()
    for batch in batches:
        summary.update(batch)
    return summary


def test_fields_come_with_the_first_events_of_a_scope_that_is_covered() -> None:
    empty = WATCHING.summary()
    assert empty.fields == {}
    empty.update(traffic([]))
    empty.update(traffic([1.0], version="2"))
    assert empty.fields == {}
    summary = summed(WATCHING, traffic([1.0, 2.0, 30.0], weight=4.5))
    assert {name: sums.total.sum() for name, sums in summary.fields.items()} == {
        "x": 13.5,
        "x:missing": 0.0,
        "x:range": 4.5,
    }
    assert WATCHING.drift(summary) is summary.fields


def test_an_extractor_is_made_once_for_each_baseline_part() -> None:
    calls: list[str] = []

    class Counting(FeaturesMonitor):
        def extractor(self, parameters: Parameters) -> Any:
            calls.append(parameters.digest)
            return super().extractor(parameters)

    watching = Counting(FeaturesConfig(), lambda _, scope: SECOND if scope.version == "2" else FIRST)
    find = extractors(watching, lambda _, scope: SECOND if scope.version == "2" else FIRST)
    found = [find(ScopeKey("search", "intent", version)) for version in ("1", "2", "1", "3")]
    assert calls == [FIRST.digest, SECOND.digest]
    assert found[0] is found[2] is found[3] is not found[1]


numbers = st.lists(st.integers(-3, 14).map(float), max_size=8)
weighted = st.tuples(numbers, st.sampled_from([1.0, 4.5, 20.0]))


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(st.tuples(numbers, st.sampled_from([1.0, 4.5, 20.0])), min_size=1, max_size=5),
    data=st.data(),
)
def test_any_split_order_and_grouping_gives_the_same_bytes(
    parts: list[tuple[list[float], float]], data: st.DataObject
) -> None:
    batches = [traffic(values, weight=weight) for values, weight in parts]
    whole = summed(WATCHING, *batches).to_bytes()
    order = data.draw(st.permutations(batches))
    cut = data.draw(st.integers(0, len(order)))
    left, right = summed(WATCHING, *order[:cut]), summed(WATCHING, *order[cut:])
    before = right.to_bytes()
    left.merge(right)
    assert left.to_bytes() == whole
    assert right.to_bytes() == before
    assert WATCHING.load(whole).to_bytes() == whole
    loaded = WATCHING.load(before)
    loaded.merge(summed(WATCHING, *order[:cut]))
    assert loaded.to_bytes() == whole


def test_a_copy_shares_nothing() -> None:
    original = summed(WATCHING, traffic([1.0]))
    before = original.to_bytes()
    twin = original.copy()
    twin.update(traffic([2.0]))
    assert original.to_bytes() == before != twin.to_bytes()


def test_a_batch_that_mixes_scopes_and_a_second_scope_are_left_out() -> None:
    watching = monitor(v1=FIRST, v2=SECOND)
    summary = summed(watching, traffic([1.0]))
    before = summary.to_bytes()
    mixed = batch_of([{"model_version": version, "numeric_features": {"x": 1.0}} for version in ("1", "2")])
    summary.update(mixed)
    summary.update(traffic([1.0], version="2"))
    summary.merge(summed(watching, traffic([1.0], version="2")))
    assert summary.to_bytes() == before


def test_sums_of_another_baseline_are_refused_and_both_are_named() -> None:
    mine, theirs = summed(WATCHING, traffic([1.0])), summed(monitor(v1=SECOND), traffic([1.0]))
    before = mine.to_bytes()
    for refused in (lambda: mine.merge(theirs), lambda: WATCHING.load(theirs.to_bytes())):
        with pytest.raises(IncompatibleStateError, match=rf"{SECOND.digest}.*{FIRST.digest}"):
            refused()
    assert mine.to_bytes() == before
    with pytest.raises(IncompatibleStateError, match="now it is none"):
        monitor().load(mine.to_bytes())


def test_stored_sums_of_another_form_or_width_are_refused() -> None:
    form, scope, digest, fields = unpack(summed(WATCHING, traffic([1.0])).to_bytes())
    with pytest.raises(IncompatibleStateError, match=r"form 7, expected 1"):
        WATCHING.load(pack([7, scope, digest, fields]))
    fields["x"][1] = fields["x"][1][:-1]
    with pytest.raises(IncompatibleStateError, match=r"9 cells, expected 10"):
        WATCHING.load(pack([form, scope, digest, fields]))


def test_state_does_not_grow_with_events() -> None:
    summary = summed(WATCHING, traffic([float(i % 12) for i in range(1000)]))
    size = len(summary.to_bytes())
    for _ in range(5):
        summary.update(traffic([float(i % 17) for i in range(1000)]))
    assert len(summary.to_bytes()) == size < 1000
