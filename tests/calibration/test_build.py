"""Baselines built from events whose truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from calibration_kit import DAY_US, START_US, KitMonitor, cut, make_events, numbers

from mlmon.baseline import ScopeKey
from mlmon.baseline.file import baseline_digest
from mlmon.calibration import CalibrationOptions, Origin, build
from mlmon.calibration import stage as stage_module
from mlmon.errors import BaselineError
from mlmon.events.batch import EventBatch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlmon.baseline import Baseline, Scope

KEY = ScopeKey("shop", "intent", "1")
WHEN = Origin("a test", 7)


def built(batches: Iterable[EventBatch] | EventBatch, monitor: Any = None, **options: Any) -> Baseline:
    given = [batches] if isinstance(batches, EventBatch) else batches
    return build(given, [monitor or KitMonitor()], CalibrationOptions(**options), WHEN)


def scope_of(*args: Any, **options: Any) -> Scope:
    return built(*args, **options).scopes[KEY]


def segments_of(count: int, shares: tuple[float, ...], seed: int = 0) -> pa.Array:
    drawn = np.random.default_rng(seed).choice(len(shares), count, p=shares)
    return pa.array([[("tenant", f"t{i}")] for i in drawn], pa.map_(pa.string(), pa.string()))


# The null


@pytest.mark.parametrize("burst", [1, 4, 12])
def test_traces_are_those_of_the_process(burst: int) -> None:
    """Runs of k equal events: the mean of n varies like one of n/k, so every trace is k times larger."""
    scope = scope_of(make_events(60_000, seed=burst, burst=burst))
    assert scope.burst == pytest.approx(burst, rel=0.2)
    assert scope.block >= 20 * burst * 0.8
    fields = scope.segments[""].fields
    assert fields["features/tokens"].trace == pytest.approx(burst, rel=0.25)
    assert fields["features/unknown"].trace == pytest.approx(burst, rel=0.25)
    assert fields["features/mean"].trace == pytest.approx(2 * burst, rel=0.25)
    # equal eigenvalues: tr Σ² = (tr Σ)²/rank, and for cells both are over the rank
    assert fields["features/mean"].trace2 == pytest.approx(2 * burst**2, rel=0.5)
    assert fields["features/tokens"].trace2 == pytest.approx(burst**2, rel=0.5)
    assert all(one.blocks >= 30 for one in fields.values())
    assert scope.segments[""].problems == {}


def test_reference_sums_are_of_all_events() -> None:
    events = make_events(20_000)
    scope = scope_of(cut(events, [999] * 30))
    sums = scope.segments[""].fields["features/mean"].sums
    points = numbers(events, ["x0", "x1"])
    assert sums.n == 20_000
    np.testing.assert_allclose(sums.mean, points.mean(axis=0), rtol=0, atol=1e-12)
    assert (scope.first_us, scope.last_us) == (START_US, int(events.times()[-1]))
    cells = scope.segments[""].fields["features/tokens"].sums.total
    edges = np.quantile(events.floats("tokens"), [0.25, 0.5, 0.75])
    expected = np.bincount(np.searchsorted(edges, events.floats("tokens"), "right"))
    assert cells.tolist() == expected.tolist()


def test_the_null_is_cross_fitted() -> None:
    """A covariance of few events whitens its own events too well; new events it does not.

    With m events for d dimensions the trace over events that the inverse covariance was not learned from is
    d/(1 - d/m) (inverse Wishart), over its own it is d.
    """
    count, width = 1_700, 60
    traces = [
        scope_of(make_events(count, width=width, seed=seed), KitMonitor(width=width))
        .segments[""]
        .fields["features/mean"]
        .trace
        for seed in range(8)
    ]
    half = count / 2
    assert np.mean(traces) == pytest.approx(width * half / (half - width), rel=0.03)


def test_sampling_weights_count() -> None:
    rng = np.random.default_rng(1)
    weights = rng.choice([1.0, 9.0], 30_000)
    scope = scope_of(make_events(30_000, sampling_weight=pa.array(weights)))
    sums = scope.segments[""].fields["features/unknown"].sums
    assert sums.n == 30_000
    assert sums.weight == weights.sum()
    assert sums.n_eff == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    # in units of the effective size the traces stay those of independent events
    assert scope.segments[""].fields["features/tokens"].trace == pytest.approx(1.0, rel=0.15)
    assert scope.segments[""].fields["features/mean"].trace == pytest.approx(2.0, rel=0.15)


def test_what_varies_over_the_day_is_wander_and_no_noise() -> None:
    count = 40_000
    rng = np.random.default_rng(2)
    calm = rng.normal(size=count)
    daily = rng.normal(size=count) + 0.5 * np.sin(np.arange(count) / count * 2 * np.pi)
    events = make_events(
        count,
        numeric_features=pa.StructArray.from_arrays([pa.array(calm), pa.array(daily)], ["x0", "x1"]),
    )
    still = scope_of(make_events(count)).segments[""].fields["features/mean"].wander
    moved = scope_of(events).segments[""].fields["features/mean"].wander
    # the sine is 0.49 on the average of its highest tenth, over a deviation of sqrt(1 + 0.125); twice the
    # root mean square of finer slices is 0.67
    assert 0.45 < moved < 0.75
    assert still < 0.1


# Independence of order and cutting


def test_any_order_and_any_batches_give_the_same_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    events = make_events(6_000, burst=3, segments=segments_of(6_000, (0.6, 0.4)))
    first = built(events, segment_by=("tenant",))
    rng = np.random.default_rng(0)
    monkeypatch.setattr(stage_module, "_RUN_ROWS", 700)
    for _ in range(3):
        shuffled = events.take(rng.permutation(6_000))
        again = built(cut(shuffled, rng.integers(1, 900, 60).tolist()), segment_by=("tenant",))
        assert baseline_digest(again) == baseline_digest(first)


def test_the_sample_is_uniform_and_the_same_for_any_order() -> None:
    events = make_events(20_000)
    sample = scope_of(events, sample_rows=1_000).sample
    places = np.array([int(one.split("-")[1]) for one in sample["event_id"].to_pylist()])
    assert len(places) == 1_000
    assert np.all(np.diff(places) > 0)
    counts = np.bincount(places // 2_000, minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 21.7  # chi-square with 9 degrees at 1 %
    assert scope_of(make_events(700), sample_rows=1_000).sample.num_rows == 700
    assert scope_of(make_events(700), sample_rows=0).sample is None


# Segments


def test_segments_share_bins_and_add_up() -> None:
    scope = scope_of(
        make_events(30_000, segments=segments_of(30_000, (0.5, 0.3, 0.2))), segment_by=("tenant",)
    )
    assert sorted(scope.segments) == ["", "tenant=t0", "tenant=t1", "tenant=t2"]
    whole = scope.segments[""]
    parts = [segment for name, segment in scope.segments.items() if name]
    assert sum(part.events for part in parts) == whole.events == 30_000
    for name, reference in whole.fields.items():
        total = sum(part.fields[name].sums.total for part in parts)
        np.testing.assert_allclose(reference.sums.total, total)
        for part in parts:
            assert part.fields[name].spec is reference.spec
            assert part.fields[name].blocks >= 30
            assert part.fields[name].trace == pytest.approx(reference.trace, rel=0.35)


def test_segments_beyond_the_bound_are_other() -> None:
    shares = (0.4, 0.3, 0.2, 0.06, 0.04)
    made = built(
        make_events(20_000, segments=segments_of(20_000, shares)), segment_by=("tenant",), max_segments=3
    )
    segments = made.scopes[KEY].segments
    assert sorted(segments) == ["", "other", "tenant=t0", "tenant=t1", "tenant=t2"]
    assert segments["other"].events == 20_000 - sum(segments[f"tenant=t{i}"].events for i in range(3))
    assert any("2 smaller segments" in text for text in made.warnings)


def test_a_small_segment_has_problems_and_the_whole_has_not() -> None:
    events = make_events(20_000, segments=segments_of(20_000, (0.98, 0.02)))
    made = built(events, segment_by=("tenant",))
    segments = made.scopes[KEY].segments
    assert segments[""].problems == {}
    small = segments["tenant=t1"]
    assert set(small.problems) == set(small.fields)
    assert all(one.blocks == 0 for one in small.fields.values())
    assert "too few: 6" in small.problems["features/tokens"]
    assert small.fields["features/tokens"].sums.n == small.events
    assert any("1 segments have too few events" in text for text in made.warnings)
    assert any("unbalanced: 98%" in text for text in made.warnings)


def test_the_tables_of_many_segments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlmon.calibration import passes

    made: list[int] = []
    real = passes.BlockTable

    class Counted(real):  # type: ignore[valid-type,misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(sum(one.size for one in [*self.sizes.values(), *self.totals.values()]))

    monkeypatch.setattr(passes, "BlockTable", Counted)
    monkeypatch.setattr("mlmon.calibration.scope._TABLE_NUMBERS", 20_000)
    events = make_events(60_000, segments=segments_of(60_000, (0.1,) * 10))
    scope = scope_of(events, segment_by=("tenant",))
    whole = max(made)
    assert sum(made) - 2 * whole < 2 * 20_000
    assert all(f.blocks >= 30 for segment in scope.segments.values() for f in segment.fields.values())


# Probes


def test_golden_probes_are_for_the_embeddings_alone() -> None:
    probe = pa.array([f"p{i % 3}" if i % 10 == 0 else None for i in range(20_000)])
    with_probes = make_events(20_000, probe_id=probe)
    seen = [row for row in range(20_000) if row % 10]
    alone = scope_of(with_probes.take(np.array(seen))).segments[""]
    mixed = scope_of(with_probes).segments[""]
    assert mixed.events == alone.events == 18_000
    for name, reference in mixed.fields.items():
        assert reference.sums.n == 18_000
        assert reference.trace == pytest.approx(alone.fields[name].trace)
    embedded = scope_of(with_probes, KitMonitor("embeddings")).segments[""]
    assert embedded.fields["embeddings/tokens"].sums.n == 20_000
    assert embedded.events == 18_000


# Quality


def warned(made: Baseline, text: str) -> bool:
    return any(text in one for one in made.warnings)


def test_a_good_reference_gets_the_monitors_own_warnings_only() -> None:
    made = built(make_events(20_000))
    assert made.warnings == ("shop / intent / 1: features: a warning of the kit",)
    assert (made.source, made.created_us, made.digest) == ("a test", 7, "")


def test_a_short_span_and_few_events_are_told() -> None:
    hour = pa.array(
        START_US + np.arange(1_500, dtype=np.int64) * (DAY_US // 24 // 1_500), pa.timestamp("us", tz="UTC")
    )
    made = built(make_events(1_500, event_time=hour))
    assert warned(made, "short: the events span 1.0 hours")
    assert warned(made, "small: 1,500 events")


def test_gaps_in_labels_are_told() -> None:
    labels = np.where(np.arange(20_000) < 14_000, "a", None)
    made = built(make_events(20_000, prediction=pa.array(labels)))
    assert warned(made, "gaps: prediction is absent from 30% of the events")
    assert warned(made, "in stretches without any")
    whole = built(make_events(20_000, prediction=pa.array(["a"] * 20_000)))
    assert not warned(whole, "gaps")


def test_a_counter_among_the_features_does_not_spoil_the_rest() -> None:
    rng = np.random.default_rng(0)
    values = [pa.array(rng.normal(size=20_000)), pa.array(np.cumsum(rng.normal(size=20_000)))]
    events = make_events(
        20_000, numeric_features=pa.StructArray.from_arrays([*values, values[0]], ["x0", "walk", "x1"])
    )
    monitor = KitMonitor(width=1)
    made = built(events, monitor)
    assert made.scopes[KEY].burst < 1.5
    assert warned(made, "too slowly for a null of their own: walk")


def test_too_bursty_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        BaselineError, match=r"4,000 events in bursts of \d+\.\d are too few: [\d,]+ are needed"
    ):
        built(make_events(4_000, burst=20))


def test_too_small_is_refused() -> None:
    with pytest.raises(BaselineError, match=r"500 events in bursts of 1\.0 are too few: 600 are needed"):
        built(make_events(500))


def test_too_many_dimensions_are_an_insufficient_reference() -> None:
    made = built(make_events(2_000, width=100), KitMonitor(width=100))
    segment = made.scopes[KEY].segments[""]
    assert list(segment.problems) == ["features/mean"]
    assert "100 dimensions need 2,500 (25 each)" in segment.problems["features/mean"]
    assert segment.fields["features/mean"].blocks == 0
    assert segment.fields["features/tokens"].blocks >= 30
    assert warned(made, "1 of 3 fields cannot be judged: features/mean")


def test_a_field_that_few_events_carry() -> None:
    tokens = pa.array([i if i % 200 == 0 else None for i in range(20_000)], pa.int32())
    segment = scope_of(make_events(20_000, tokens=tokens)).segments[""]
    assert "100 events carry it" in segment.problems["features/tokens"]
    assert segment.fields["features/mean"].blocks >= 30


def test_a_scope_that_cannot_be_judged_is_left_out_and_named() -> None:
    versions = ["2" if i % 50 == 0 else "1" for i in range(10_000)]
    made = built(make_events(10_000, model_version=pa.array(versions)))
    assert list(made.scopes) == [KEY]
    assert warned(made, "shop / intent / 2 is left out: 200 events in bursts of 1.0 are too few")


def test_nothing_to_build_from() -> None:
    with pytest.raises(BaselineError, match="there are no events"):
        built([])
    with pytest.raises(BaselineError, match="there are no events"):
        built(make_events(700, probe_id=pa.array(["p"] * 700)))
    with pytest.raises(BaselineError, match="none of the monitors watches for drift"):
        build([make_events(10)], [object()], CalibrationOptions(), WHEN)


def test_events_without_what_a_monitor_reads() -> None:
    with pytest.raises(BaselineError, match="no field can be judged: no event carries"):
        built(make_events(2_000, tokens=None))


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int | None]] = []
    build(
        cut(make_events(9_000), [3_000] * 3),
        [KitMonitor()],
        CalibrationOptions(),
        WHEN,
        lambda *what: told.append(what),
    )
    assert [what for what in told if what[0] == "reading"] == [
        ("reading", n, None) for n in (3000, 6000, 9000)
    ]
    assert told[-1] == ("calibrating", 27_000, 27_000)
