"""How two baselines differ."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from baseline_kit import KEY, make_scope, sums_of
from scipy import stats

from mlmon.baseline import FieldReference, FieldSpec
from mlmon.baseline.diff import diff_baselines, diff_fields
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from mlmon.baseline import Baseline


def reference(spec: FieldSpec, total: list[float], n: float = 100.0) -> FieldReference:
    return FieldReference(spec, sums_of(total, n), 1.0, 1.0, 0.0, 64)


def test_a_baseline_does_not_differ_from_itself(baseline: Baseline) -> None:
    (scope,) = diff_baselines(baseline, baseline)
    assert scope.key == KEY
    assert (scope.change, scope.segments_added, scope.segments_removed) == ("", (), ())
    assert scope.parameters == (("embeddings", "same"), ("features", "same"))
    assert scope.events == (30, 30)
    assert all(field.distance == 0.0 and not field.change for field in scope.fields)


def test_scopes_segments_and_monitors_that_only_one_has(baseline: Baseline) -> None:
    other = dataclasses.replace(
        make_scope(monitors=("features", "predictions")),
        segments={"": make_scope().segments[""], "language=fr": make_scope().segments[""]},
    )
    new = dataclasses.replace(baseline, scopes={KEY: other, KEY._replace(version="2"): other})
    both, added = diff_baselines(baseline, new)
    assert added.change == "added"
    assert diff_baselines(new, baseline)[1].change == "removed"
    assert both.segments_added == ("language=fr",)
    assert both.segments_removed == ("language=de",)
    assert dict(both.parameters) == {"embeddings": "removed", "features": "same", "predictions": "added"}


def test_equal_cells_are_compared_by_their_shares() -> None:
    spec = FieldSpec("cells", 3, ("a", "b", "c"))
    found = diff_fields("f", reference(spec, [50.0, 30.0, 20.0]), reference(spec, [20.0, 60.0, 20.0]))
    middle = np.array([0.35, 0.45, 0.2])
    expected = (stats.entropy([0.5, 0.3, 0.2], middle, 2) + stats.entropy([0.2, 0.6, 0.2], middle, 2)) / 2
    assert (found.measure, found.distance) == ("js", pytest.approx(expected))
    assert [(cell.name, cell.old, cell.new) for cell in found.moved[:2]] == [
        ("a", 0.5, 0.2),
        ("b", pytest.approx(0.3), 0.6),
    ]


def test_categories_are_matched_by_name() -> None:
    old, new = FieldSpec("cells", 2, ("a", "b")), FieldSpec("cells", 3, ("c", "b", "a"))
    same = diff_fields("f", reference(old, [60.0, 40.0]), reference(new, [0.0, 40.0, 60.0]))
    assert same.distance == pytest.approx(0.0, abs=1e-12)
    apart = diff_fields("f", reference(old, [100.0, 0.0]), reference(new, [100.0, 0.0, 0.0]))
    assert apart.distance == pytest.approx(1.0)


def test_bins_that_differ_are_compared_by_their_distribution() -> None:
    """Quantile bins of a normal against those of one shifted by half a deviation: KS is 2Φ(1/4) - 1."""
    rng = np.random.default_rng(0)
    parts = []
    for shift in (0.0, 0.5):
        values = rng.normal(shift, size=50_000)
        edges = np.quantile(values, np.linspace(0, 1, 65)[1:-1])
        counts = np.bincount(np.searchsorted(edges, values, "right"), minlength=64).astype(float)
        parts.append(reference(FieldSpec("cells", 64, edges=edges), counts.tolist()))
    found = diff_fields("f", *parts)
    assert (found.measure, found.change) == ("ks", "the bins differ")
    assert found.distance == pytest.approx(2 * stats.norm.cdf(0.25) - 1, abs=0.02)
    assert diff_fields("f", parts[0], parts[0]).distance == 0.0


def test_bins_without_overlap_are_as_far_apart_as_can_be() -> None:
    low = reference(FieldSpec("cells", 2, edges=np.array([0.0])), [50.0, 50.0])
    high = reference(FieldSpec("cells", 2, edges=np.array([9.0])), [50.0, 50.0])
    assert diff_fields("f", low, high).distance == 1.0


def test_means_are_in_the_old_ones_metric() -> None:
    spec = FieldSpec("vector", 1, whiten=np.array([[0.5]], np.float32))
    found = diff_fields("f", reference(spec, [200.0]), reference(spec, [400.0]))
    assert (found.old, found.new, found.measure, found.distance) == (1.0, 2.0, "sigma", 0.5)
    wide = FieldSpec("vector", 2, whiten=np.array([[3.0], [4.0]], np.float32))
    away = diff_fields("f", reference(wide, [0.0, 0.0]), reference(wide, [200.0, 200.0]))
    assert (away.old, away.distance) == (None, 7.0)


def test_rates_and_what_cannot_be_compared() -> None:
    rate, cells = FieldSpec("rate", 1), FieldSpec("cells", 2)
    found = diff_fields("f", reference(rate, [2.0]), reference(rate, [12.0]))
    assert (found.old, found.new, found.measure) == (0.01, 0.06, "difference")
    assert found.distance == pytest.approx(0.05)
    assert (
        diff_fields("f", reference(rate, [2.0]), reference(cells, [1.0, 1.0])).change == "was rate, is cells"
    )
    wide = reference(FieldSpec("vector", 3), [1.0] * 3)
    assert (
        diff_fields("f", wide, reference(FieldSpec("vector", 2), [1.0] * 2)).change
        == "had 3 dimensions, has 2"
    )
    assert diff_fields("f", wide, None).change == "removed"
    assert diff_fields("f", None, wide).change == "added"
    empty = FieldReference(rate, FieldSums(1), 1.0, 1.0, 0.0, 0)
    assert diff_fields("f", reference(rate, [2.0]), empty).change == "carried by 100 events, now by 0"
