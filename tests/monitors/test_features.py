"""Features against NumPy and pandas: sums of fields, names, bounds, and judgement from events to verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.baseline.model import ScopeKey
from mlmon.calibration.build import CalibrationOptions, Origin, build
from mlmon.drift.fields import FieldState, judge_fields
from mlmon.events.batch import EventBatch
from mlmon.monitors.feature_learner import field_name
from mlmon.monitors.features import FeaturesConfig, FeaturesMonitor
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.baseline.model import Parameters

START_US = 1_700_000_000_000_000
SCOPE = ScopeKey("shop", "intent", "1")
Columns = dict[str, Any]


def events(
    count: int, numbers: Columns | None = None, texts: Columns | None = None, seed: int = 0, **columns: Any
) -> EventBatch:
    """Events of one scope, one every second, with these features and other columns."""
    made: Columns = {
        "event_id": pa.array([f"{seed}-{i:07d}" for i in range(count)]),
        "event_time": pa.array(START_US + np.arange(count) * 1_000_000, pa.timestamp("us", tz="UTC")),
        "service": pa.array(["shop"] * count),
        "model_name": pa.array(["intent"] * count),
        "model_version": pa.array(["1"] * count),
    }
    for name, features in (("numeric_features", numbers), ("categorical_features", texts)):
        if features:
            arrays = [x if isinstance(x, pa.Array) else pa.array(x) for x in features.values()]
            made[name] = pa.StructArray.from_arrays(arrays, names=list(features))
    made |= {name: pa.array(values) for name, values in columns.items()}
    return EventBatch(pa.record_batch(made))


def learn(*batches: EventBatch, config: FeaturesConfig | None = None) -> tuple[FeaturesMonitor, Parameters]:
    """A monitor that has learned from these."""
    monitor = FeaturesMonitor(config or FeaturesConfig())
    learner = monitor.learner()
    for number, batch in enumerate(batches):
        learner.update(batch, number % 2)
    parameters = learner.finish((0, 1))
    assert parameters is not None
    return monitor, parameters


def sums(parameters: Parameters, *batches: EventBatch) -> Mapping[str, FieldSums]:
    extractor = FeaturesMonitor(FeaturesConfig()).extractor(parameters)
    into = {name: FieldSums(spec.width) for name, spec in parameters.fields.items()}
    for batch in batches:
        extractor.extract(batch, into)
    return into


def traffic(count: int, seed: int, **columns: Any) -> EventBatch:
    """Features of several shapes: some null, some frequent, some skewed."""
    rng = np.random.default_rng(seed)
    price = np.where(rng.random(count) < 0.3, 0.0, rng.lognormal(0, 1, count))
    holes = rng.random(count) < 0.1
    country = rng.choice(["de", "fr", "it", "xx"], count, p=[0.5, 0.3, 0.19, 0.01])
    return events(
        count,
        {
            "age": rng.normal(40, 10, count),
            "price": pa.array(price, mask=holes),
            "items": rng.poisson(3, count),
            "fast": rng.normal(size=count).astype(np.float32),
        },
        {"country": pa.array(country, mask=rng.random(count) < 0.05), "plan": rng.choice(["a", "b"], count)},
        seed,
        **columns,
    )


def frame(batch: EventBatch, name: str) -> pd.Series:
    for column in ("numeric_features", "categorical_features"):
        found = batch.column(column)
        if found is not None and found.type.get_field_index(name) >= 0:
            return found.field(name).to_pandas()
    raise AssertionError(name)


@pytest.mark.parametrize("weighing", ["absent", "common", "mixed"])
def test_sums_are_those_of_numpy_and_pandas(weighing: str) -> None:
    _, parameters = learn(traffic(4000, 1), traffic(4000, 2))
    rng = np.random.default_rng(3)
    weights = {"absent": np.ones(3000), "common": np.full(3000, 20.0)}.get(weighing)
    weights = rng.choice([1.0, 20.0], 3000) if weights is None else weights
    status = rng.choice(["ok", "error"], 3000, p=[0.9, 0.1])
    extra = {} if weighing == "absent" else {"sampling_weight": weights}
    batch = traffic(3000, 4, status=status, **extra)
    found = sums(parameters, batch)
    good = status == "ok"
    size = [good.sum(), weights[good].sum(), (weights[good] ** 2).sum()]
    for name in ("age", "price", "items", "fast"):
        values = frame(batch, name).to_numpy(float)
        here = good & np.isfinite(values)
        spec = parameters.fields[name]
        oracle, _ = np.histogram(values[here], [-np.inf, *spec.edges, np.inf], weights=weights[here])
        assert found[name].total.tolist() == oracle.tolist()
        assert found[name].size.tolist() == [here.sum(), weights[here].sum(), (weights[here] ** 2).sum()]
        low, high = state_of(parameters, name)
        outside = here & ((values < low) | (values > high))
        assert found[f"{name}:range"].total[0] == weights[outside].sum()
        assert found[f"{name}:missing"].total[0] == weights[good & ~np.isfinite(values)].sum()
        assert found[f"{name}:missing"].size.tolist() == size
    known = {"country": ["de", "fr", "it", "xx"], "plan": ["a", "b"]}
    for name in ("country", "plan"):
        values = frame(batch, name)
        here = good & values.notna().to_numpy()
        by_value = pd.Series(weights[here]).groupby(values[here].to_numpy()).sum()
        names = parameters.fields[name].names
        assert dict(zip(names, found[name].total.tolist(), strict=True)) == {
            **{n: by_value.get(n, 0.0) for n in known[name]},
            "(other)": 0.0,
            "(unseen)": 0.0,
        }
        assert found[f"{name}:missing"].total[0] == weights[good & ~here].sum()


def test_what_stands_under_a_null_struct_is_missing() -> None:
    hidden = pa.StructArray.from_arrays([pa.array([40.0, 41.0])], names=["age"], mask=pa.array([False, True]))
    batch = events(2)
    found = sums(LEARNED, EventBatch(batch.records.append_column("numeric_features", hidden)))
    assert found["age"].n == 1
    assert found["age:missing"].total[0] == 1


def state_of(parameters: Parameters, name: str) -> tuple[float, float]:
    state = next(state for key, state in parameters.values["numeric"] if key == name)
    return state[2], state[3]


def test_range_and_unseen_count_what_the_baseline_never_had() -> None:
    _, parameters = learn(traffic(4000, 1))
    batch = events(
        4,
        {"age": [1e6, -1e6, 40.0, None], "items": [3.0, 2.0, -1.0, 500.0]},
        {"country": ["de", "tlh", "tlh", None]},
    )
    found = sums(parameters, batch)
    assert found["age:range"].total[0] == 2
    assert found["age:range"].n == 3
    assert found["items:range"].total[0] == 2
    assert found["country:unseen"].total[0] == 2
    assert found["country:unseen"].n == 3
    assert found["price:missing"].total[0] == found["plan:missing"].total[0] == 4
    assert found["price"].n == found["plan"].n == 0
    # what is out of range is in the outermost bins
    assert found["age"].total[[0, -1]].tolist() == [1, 1]
    assert found["age"].total.sum() == 3


def test_only_answers_to_traffic_count() -> None:
    _, parameters = learn(traffic(2000, 1))
    left_out = events(
        4,
        {"age": [1.0] * 4},
        None,
        0,
        status=["error", "ok", "timeout", "ok"],
        probe_id=["p", "p", None, None],
    )
    assert sums(parameters, left_out)["age"].n == 1
    nothing = events(2, {"age": [1.0] * 2}, None, 0, status=["error", "timeout"])
    assert sums(parameters, nothing)["age:missing"].n == 0
    learner = FeaturesMonitor(FeaturesConfig()).learner()
    learner.update(nothing, 0)
    assert learner.finish((0,)) is None


_CELLS = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-5, 5).map(float)
_WORDS = st.none() | st.sampled_from(["de", "fr", "tlh", ""])


@st.composite
def odd_batches(draw: st.DrawFn) -> EventBatch:
    """Features of any names and any of the types a batch may hold, with nulls at every level."""
    count = draw(st.integers(0, 12))
    rows = st.lists(_CELLS, min_size=count, max_size=count)
    numbers: Columns = {}
    for name in draw(st.lists(st.sampled_from(["age", "items", "fast", "a:b", "", "新"]), unique=True)):
        kind = draw(
            st.sampled_from([pa.float64(), pa.float32(), pa.int64(), pa.bool_(), pa.string(), pa.null()])
        )
        values = draw(rows)
        if kind in (pa.int64(), pa.bool_()):
            values = [None if v is None or not abs(v) < 9 else int(v) for v in values]
        if kind == pa.string():
            values = [None if v is None else str(v) for v in values]
        numbers[name] = (
            pa.nulls(count)
            if kind == pa.null()
            else pa.array(values, pa.int64()).cast(kind)
            if kind == pa.bool_()
            else pa.array(values, kind)
        )
    texts: Columns = {}
    for name in draw(st.lists(st.sampled_from(["country", "plan", "age"]), unique=True)):
        column = pa.array(draw(st.lists(_WORDS, min_size=count, max_size=count)), pa.string())
        form = draw(st.sampled_from(["plain", "dictionary", "number"]))
        texts[name] = {
            "plain": column,
            "dictionary": column.dictionary_encode(),
            "number": pa.array([1.0] * count),
        }[form]
    weights = draw(st.none() | st.lists(st.sampled_from([1.0, 4.5, 20.0]), min_size=count, max_size=count))
    batch = events(count, numbers, texts, 0, **({} if weights is None else {"sampling_weight": weights}))
    nulls = draw(st.none() | st.lists(st.booleans(), min_size=count, max_size=count))
    if nulls is None or not numbers:
        return batch
    struct = batch.records.column("numeric_features")
    masked = pa.StructArray.from_arrays(
        [struct.field(i) for i in range(struct.type.num_fields)],
        names=list(numbers),
        mask=pa.array(nulls, pa.bool_()),
    )
    place = batch.records.schema.get_field_index("numeric_features")
    return EventBatch(batch.records.set_column(place, "numeric_features", masked))


LEARNED = learn(traffic(3000, 1))[1]


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(odd_batches(), max_size=3))
def test_any_features_are_summed_without_an_error_and_to_the_same_total(batches: list[EventBatch]) -> None:
    found = sums(LEARNED, *batches)
    weight = sum(batch.weights().sum() for batch in batches)
    for name in ("age", "items", "country"):
        missing = found[f"{name}:missing"]
        assert missing.weight == weight
        assert found[name].weight + missing.total[0] == weight
        assert found[name].total.sum() == found[name].weight
        assert np.isfinite(found[name].total).all()
    learner = FeaturesMonitor(FeaturesConfig()).learner()
    for batch in batches:
        learner.update(batch, 0)
    made = learner.finish((0,))
    if made is not None:
        sums(made, *batches)


@pytest.mark.parametrize("whole", [0.5, 3.0])
def test_any_split_and_order_gives_the_same_sums(whole: float) -> None:
    rng = np.random.default_rng(6)
    batch = traffic(5000, 7, sampling_weight=rng.integers(1, 30, 5000) * whole)
    pieces = [EventBatch(batch.records.slice(start, 700)) for start in range(0, 5000, 700)]
    one, other = sums(LEARNED, batch), sums(LEARNED, *pieces[::-1])
    for name, mine in one.items():
        assert mine.total.tolist() == other[name].total.tolist()
        assert mine.size.tolist() == other[name].size.tolist()


def test_learning_does_not_depend_on_batches_order_or_how_many_events_there_are() -> None:
    batch = traffic(9000, 8)
    config = FeaturesConfig(sample_events=1000)
    _, whole = learn(batch, config=config)
    order = np.random.default_rng(1).permutation(9000)
    shuffled = batch.take(order)
    pieces = [EventBatch(shuffled.records.slice(start, 500)) for start in range(0, 9000, 500)]
    learner = FeaturesMonitor(config).learner()
    for piece in pieces:
        learner.update(piece, 0)
    parts = learner.finish((0,))
    assert parts is not None
    assert parts.digest == whole.digest
    # of 9000 events 1000 are held: quantiles are still those of all, within sampling error
    age = frame(batch, "age").to_numpy()
    reached = np.array([(age < edge).mean() for edge in whole.fields["age"].edges])
    wanted = np.linspace(0, 1, len(reached) + 2)[1:-1]
    assert np.abs(reached - wanted).max() < 0.06


def test_two_parts_of_different_size_make_one_even_sample() -> None:
    config = FeaturesConfig(sample_events=1000)
    learner = FeaturesMonitor(config).learner()
    learner.update(events(8000, {"x": np.zeros(8000) + np.linspace(0, 1, 8000)}, seed=1), 0)
    learner.update(events(2000, {"x": np.linspace(10, 11, 2000)}, seed=2), 1)
    both = learner.finish((0, 1))
    assert both is not None
    upper = (both.fields["x"].edges > 5).mean()
    assert upper == pytest.approx(0.2, abs=0.06)
    first, second = learner.finish((0,)), learner.finish((1,))
    assert first is not None
    assert second is not None
    assert first.fields["x"].edges.max() < 2 < second.fields["x"].edges.min()


def test_features_beyond_the_bound_are_left_out_and_told() -> None:
    config = FeaturesConfig(max_features=3)
    learner = FeaturesMonitor(config).learner()
    numbers = {f"x{i}": np.arange(200.0) for i in range(5)}
    learner.update(events(200, numbers, {"c": ["a", "b"] * 100}), 0)
    made = learner.finish((0,))
    assert made is not None
    assert [name for name in made.fields if ":" not in name] == ["x0", "x1", "x2"]
    assert learner.warnings() == [
        "features: 3 features are not watched, since max_features = 3: raise it, or send fewer"
    ]


def test_the_sample_is_bounded() -> None:
    learner = FeaturesMonitor(FeaturesConfig(sample_events=1000)).learner()
    for seed in range(20):
        learner.update(events(1500, {"x": np.arange(1500.0)}, seed=seed), seed % 2)
    assert all(sample.held <= 2000 for sample in learner._samples)


def test_names_that_could_be_mistaken_are_escaped() -> None:
    long = "y" * 300
    numbers = {
        "a:missing": np.arange(100.0),
        "a": np.arange(100.0),
        long: np.arange(100.0),
        "b\n": np.arange(100.0),
    }
    _, made = learn(events(100, numbers, {"a": ["u", "v"] * 50}))
    shown = {name for name in made.fields if ":" not in name}
    assert shown == {"a%3Amissing", "a", field_name(long), "b%0A"}
    assert {"a:text", "a:text:unseen", "a:text:missing", "a:missing"} <= set(made.fields)
    assert all(len(name) <= 140 for name in made.fields)
    assert field_name(long) != field_name("y" * 301)


def test_constants_and_ids_are_watched_for_what_can_be_seen() -> None:
    learner = FeaturesMonitor(FeaturesConfig()).learner()
    learner.update(events(200, {"one": np.ones(200)}, {"id": [f"u{i}" for i in range(200)]}), 0)
    made = learner.finish((0,))
    assert made is not None
    assert set(made.fields) == {"one:missing", "one:range", "id:missing"}
    assert learner.warnings() == [
        "features: constant, watched for missing and range only: one",
        "features: values hardly repeat (ids?), watched for missing only: id",
    ]
    found = sums(made, events(3, {"one": [1.0, 2.0, None]}, {"id": ["x", "y", None]}))
    assert [found[name].total[0] for name in made.fields] == [1, 1, 1]


def drifted(batch: EventBatch, kind: str) -> EventBatch:
    """The batch with one change."""
    table = {
        name: batch.records.column(column).field(name)
        for column in ("numeric_features", "categorical_features")
        for name in (f.name for f in batch.records.column(column).type)
    }
    count, rng = len(batch), np.random.default_rng(9)
    age, country = table["age"].to_numpy(), np.array(table["country"].to_pylist(), object)
    changes: dict[str, Any] = {
        "mean": {"age": age + 4.0},
        "spread": {"age": 40 + (age - 40) * 1.5},
        "missing": {"age": pa.array(age, mask=rng.random(count) < 0.05)},
        "range": {"age": np.where(rng.random(count) < 0.05, 1e4, age)},
        "mix": {"country": pa.array(np.where((country == "de") & (rng.random(count) < 0.4), "fr", country))},
        "unseen": {"country": pa.array(np.where(rng.random(count) < 0.05, "tlh", country))},
    }
    table |= changes[kind]
    texts = {name: table[name] for name in ("country", "plan")}
    return events(count, {name: table[name] for name in table if name not in texts}, texts, 77)


@pytest.fixture(scope="module")
def judged() -> tuple[FeaturesMonitor, Any]:
    """A real baseline of 20,000 events."""
    monitor = FeaturesMonitor(FeaturesConfig())
    reference = [traffic(20_000, 100)]
    made = build(reference, [monitor], CalibrationOptions(), Origin("test", 0))
    return monitor, made.scopes[SCOPE]


def verdicts(judged: tuple[FeaturesMonitor, Any], batch: EventBatch) -> dict[str, Any]:
    _, scope = judged
    found = sums(scope.parameters["features"], batch)
    references = scope.segments[""].fields
    pairs = {name: (references[f"features/{name}"], found[name]) for name in found}
    return dict(zip(pairs, judge_fields(list(pairs.values())), strict=True))


def test_a_field_of_the_same_traffic_hardly_ever_has_evidence(judged: tuple[FeaturesMonitor, Any]) -> None:
    evidence = []
    for seed in range(200, 240):
        for name, verdict in verdicts(judged, traffic(2000, seed)).items():
            assert verdict.state is FieldState.OK, name
            evidence.append(verdict.log_e)
    # an e-value has mean 1 at most, so e >= 100 comes once in 100 fields and windows at most
    assert len(evidence) == 40 * 18
    assert np.exp(np.minimum(evidence, 50)).mean() < 1.0
    assert (np.array(evidence) > np.log(100)).mean() <= 0.002


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("mean", "age"),
        ("spread", "age"),
        ("missing", "age:missing"),
        ("range", "age:range"),
        ("mix", "country"),
        ("unseen", "country:unseen"),
    ],
)
def test_a_change_of_each_kind_has_evidence_in_its_own_field(
    judged: tuple[FeaturesMonitor, Any], kind: str, field: str
) -> None:
    found = verdicts(judged, drifted(traffic(4000, 300), kind))
    assert found[field].log_e > np.log(1000)
    assert found[field].log_e >= 0.8 * max(verdict.log_e for verdict in found.values())
    untouched = [name for name in found if name.split(":")[0] != field.split(":")[0]]
    assert max(found[name].log_e for name in untouched) < np.log(100)
