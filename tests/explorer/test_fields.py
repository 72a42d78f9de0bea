"""Fields ranked and beside their baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlmon.baseline.store import BaselineStore
from mlmon.explorer import fields

if TYPE_CHECKING:
    import explorer_kit

    from mlmon.explorer.source import Bounds, HistorySource


@pytest.fixture(scope="module")
def store(explored: explorer_kit.Explored) -> BaselineStore:
    return BaselineStore.load([str(explored.baseline)])


def test_the_most_evidence_comes_first(source: HistorySource, bounds: Bounds) -> None:
    table = fields.ranking(source, bounds, {"version": "1"})
    assert table["evidence"].is_monotonic_decreasing
    assert tuple(table.loc[0, ["monitor", "field"]]) == ("tokenizer", "unknown")
    assert (table["times"] == table["effect"] / table["tolerance"]).all()
    assert set(table["version"]) == {"1"}


def test_a_ranking_of_some_monitors(source: HistorySource, bounds: Bounds) -> None:
    table = fields.ranking(source, bounds, {}, ["features"])
    assert set(table["monitor"]) == {"features"}


def test_a_distribution_is_of_all_windows_and_segments(
    source: HistorySource, bounds: Bounds, store: BaselineStore
) -> None:
    found = fields.distribution(source, bounds, {}, "predictions", "class")
    assert found is not None
    total, events, key = found
    assert key == ("shop", "intent", "1")
    assert total.sum() == pytest.approx(events, rel=0.01)
    one = fields.distribution(source, bounds, {"segment": "language=de"}, "predictions", "class")
    assert one is not None
    assert 0 < one[1] < events
    shown = fields.beside(total, events, fields.reference_of(store, key, "", "predictions", "class"))
    shares = dict(zip(shown.names, zip(shown.shares, shown.reference, strict=True), strict=True))
    now, before = shares["refund"]
    assert now > before + 0.1
    assert before == pytest.approx(0.4, abs=0.03)
    assert sum(shown.shares) == pytest.approx(1.0)


def test_a_mean_has_no_distribution(source: HistorySource, bounds: Bounds) -> None:
    assert fields.distribution(source, bounds, {}, "embeddings", "shift") is None
    assert fields.distribution(source, bounds, {}, "features", "no such field") is None


def test_rare_cells_are_pooled() -> None:
    total = np.arange(1.0, 101.0)
    shown = fields.beside(total, 5050, None)
    assert len(shown.names) == 40
    assert shown.names[-1] == "61 others"
    assert sum(shown.shares) == pytest.approx(1.0)
    assert shown.shares[-1] == pytest.approx(sum(range(1, 62)) / 5050)
    assert len(fields.beside(total, 5050, None, most=None).names) == 100


def test_who_carries_a_field(source: HistorySource, bounds: Bounds) -> None:
    table = fields.segments(
        source, bounds, {"version": "1", "segment": "language=de"}, "tokenizer", "unknown"
    )
    assert set(table["version"]) == {"0", "1"}
    assert set(table["field"]) == {"unknown"}


def test_sides_of_other_cells_are_not_compared() -> None:
    shown = fields.side_by_side((np.ones(3), 3), (np.ones(4), 4), None)
    assert shown.reference == ()
