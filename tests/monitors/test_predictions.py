"""Predictions against NumPy: labels, scores, the best labels, and judgement from events to verdict."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.baseline.model import ScopeKey
from mlmon.calibration.build import CalibrationOptions, Origin, build
from mlmon.drift.fields import FieldState, judge_fields
from mlmon.events.batch import EventBatch
from mlmon.monitors.prediction_learner import margins
from mlmon.monitors.predictions import PredictionsConfig, PredictionsMonitor
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.baseline.model import Parameters

START_US = 1_700_000_000_000_000
SCOPE = ScopeKey("shop", "intent", "1")
LABELS = [f"intent {i}" for i in range(12)]
CARRIED = ("class", "confidence", "entropy", "margin", "top_labels")


def events(count: int, seed: int = 0, **columns: Any) -> EventBatch:
    """Events of one scope, one every second, with these columns."""
    made: dict[str, Any] = {
        "event_id": pa.array([f"{seed}-{i:07d}" for i in range(count)]),
        "event_time": pa.array(START_US + np.arange(count) * 1_000_000, pa.timestamp("us", tz="UTC")),
        "service": pa.array(["shop"] * count),
        "model_name": pa.array(["intent"] * count),
        "model_version": pa.array(["1"] * count),
    }
    types = {
        "top_scores": pa.list_(pa.float32()),
        "top_labels": pa.list_(pa.string()),
        "prediction": pa.string(),
    }
    made |= {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    return EventBatch(pa.record_batch(made))


def answers(count: int, seed: int, *, heat: float = 1.0, tilt: float = 0.0, **columns: Any) -> EventBatch:
    """Answers of a classifier of 12 labels: softmax of noise; heat flattens, tilt favours the first label."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 12)) * 2 / heat - np.arange(12) / 4
    logits[:, 0] += tilt
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    best = np.argsort(-share, axis=1)[:, :3]
    names = np.array(LABELS, object)
    scores = np.take_along_axis(share, best, 1)
    given_columns = {
        "prediction": names[best[:, 0]],
        "confidence": scores[:, 0],
        "entropy": -(share * np.log(share)).sum(1),
        "top_labels": [list(row) for row in names[best]],
        "top_scores": [list(row) for row in scores.astype(np.float32)],
    }
    return events(count, seed, **(given_columns | columns))


def learn(batch: EventBatch, config: PredictionsConfig | None = None) -> Parameters:
    learner = PredictionsMonitor(config or PredictionsConfig()).learner()
    learner.update(batch, 0)
    parameters = learner.finish((0,))
    assert parameters is not None
    return parameters


def sums(parameters: Parameters, *batches: EventBatch) -> Mapping[str, FieldSums]:
    extractor = PredictionsMonitor(PredictionsConfig()).extractor(parameters)
    into = {name: FieldSums(spec.width) for name, spec in parameters.fields.items()}
    for batch in batches:
        extractor.extract(batch, into)
    return into


LEARNED = learn(answers(5000, 1))


def test_fields_are_those_that_the_baseline_carries() -> None:
    assert set(LEARNED.fields) == {*CARRIED, *(f"{name}:missing" for name in CARRIED), "class:unseen"}
    only = learn(events(500, prediction=["yes", "no"] * 250))
    assert set(only.fields) == {"class", "class:missing", "class:unseen"}
    learner = PredictionsMonitor(PredictionsConfig()).learner()
    learner.update(events(500, embedding=[[1.0]] * 500), 0)
    assert learner.finish((0,)) is None


@pytest.mark.parametrize("weighing", ["absent", "common", "mixed"])
def test_sums_are_those_of_numpy(weighing: str) -> None:
    rng = np.random.default_rng(2)
    count = 2000
    weights = {"absent": np.ones(count), "common": np.full(count, 20.0)}.get(weighing)
    weights = rng.choice([1.0, 4.5, 20.0], count) if weights is None else weights
    status = rng.choice(["ok", "error"], count, p=[0.95, 0.05])
    extra = {"status": status} | ({} if weighing == "absent" else {"sampling_weight": weights})
    full = answers(count, 3)
    top = full.records.column("top_labels").to_pylist()
    top = [
        None if i % 17 == 0 else [] if i % 13 == 0 else [*row, "never seen"] if i % 7 == 0 else row
        for i, row in enumerate(top)
    ]
    label = [
        None if i % 11 == 0 else "never seen" if i % 19 == 0 else x
        for i, x in enumerate(full.records.column("prediction").to_pylist())
    ]
    confidence = np.where(rng.random(count) < 0.1, np.nan, full.floats("confidence"))
    batch = answers(count, 3, top_labels=top, prediction=label, confidence=confidence, **extra)
    found = sums(LEARNED, batch)
    good = status == "ok"

    classes: Counter[str] = Counter()
    best: Counter[str] = Counter()
    for i in np.flatnonzero(good):
        classes[label[i] or "missing"] += weights[i]
        for name in top[i] or []:
            best[name] += weights[i]
    for field, counted in (("class", classes), ("top_labels", best)):
        expected = {name: counted.get(name, 0.0) for name in LABELS} | {
            "(unseen)": counted["never seen"],
            "(other)": 0.0,
        }
        names = LEARNED.fields[field].names
        assert dict(zip(names, found[field].total.tolist(), strict=True)) == expected
    assert found["class:missing"].total[0] == classes["missing"]
    assert found["class:unseen"].total[0] == classes["never seen"]
    carried = good & np.array([bool(row) for row in top])
    assert found["top_labels"].size.tolist() == [
        carried.sum(),
        weights[carried].sum(),
        (weights[carried] ** 2).sum(),
    ]
    assert found["top_labels:missing"].total[0] == weights[good & ~carried].sum()
    scores = np.array(full.records.column("top_scores").to_pylist())
    for field, values in (
        ("confidence", confidence),
        ("entropy", full.floats("entropy")),
        ("margin", scores[:, 0] - scores[:, 1]),
    ):
        here = good & np.isfinite(values)
        edges = LEARNED.fields[field].edges
        oracle, _ = np.histogram(values[here], [-np.inf, *edges, np.inf], weights=weights[here])
        assert found[field].total.tolist() == oracle.tolist()
        assert found[f"{field}:missing"].total[0] == weights[good & ~here].sum()
        assert found[f"{field}:missing"].weight == weights[good].sum()


def test_a_column_that_is_no_longer_sent_is_missing() -> None:
    found = sums(LEARNED, events(5))
    assert [found[f"{name}:missing"].total[0] for name in CARRIED] == [5] * 5
    assert [found[name].n for name in CARRIED] == [0] * 5


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64())])
def test_margins_read_lists_of_any_length(kind: pa.DataType) -> None:
    column = pa.array([[9.0, 9.0], [0.75, 0.25, 0.0], None, [1.0], [], [0.5, None], [0.5, 0.5]], kind).slice(
        1
    )
    assert margins(column) == pytest.approx([0.5, np.nan, np.nan, np.nan, np.nan, 0.0], nan_ok=True)
    assert margins(pa.array(["x"])) is None
    assert margins(pa.array([["x"]])) is None


def test_what_stands_under_a_null_list_is_not_read() -> None:
    values = pa.array(["intent 0", "intent 1", "intent 2"])
    column = pa.ListArray.from_arrays(pa.array([0, 1, 3]), values, mask=pa.array([False, True]))
    batch = events(2, sampling_weight=[2.0, 3.0])
    found = sums(LEARNED, EventBatch(batch.records.append_column("top_labels", column)))
    assert found["top_labels"].total.sum() == 2
    assert found["top_labels"].weight == 2
    assert found["top_labels:missing"].total[0] == 3


_LABEL = st.none() | st.sampled_from([*LABELS[:3], "never seen", ""])
_SCORE = st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32)
_ROW = st.fixed_dictionaries(
    {},
    optional={
        "prediction": _LABEL,
        "confidence": _SCORE,
        "entropy": _SCORE,
        "top_labels": st.none() | st.lists(_LABEL, max_size=4),
        "top_scores": st.none() | st.lists(_SCORE, max_size=4),
        "status": st.sampled_from([None, "ok", "error"]),
        "probe_id": st.sampled_from([None, "p"]),
        "sampling_weight": st.sampled_from([1.0, 4.5, 20.0]),
    },
)


def batch_of(rows: list[dict[str, Any]]) -> EventBatch:
    names = sorted({name for row in rows for name in row})
    return events(len(rows), **{name: [row.get(name) for row in rows] for name in names})


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(_ROW, max_size=24), data=st.data())
def test_any_split_and_order_gives_the_same_sums(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    whole = sums(LEARNED, batch_of(rows))
    parts = sums(LEARNED, batch_of(shuffled[:cut]), batch_of(shuffled[cut:]))
    for name, mine in whole.items():
        assert mine.total.tolist() == parts[name].total.tolist(), name
        assert mine.size.tolist() == parts[name].size.tolist(), name
    for name in CARRIED:
        missing = whole[f"{name}:missing"]
        assert whole[name].weight + missing.total[0] == missing.weight
        assert np.isfinite(whole[name].total).all()


def test_types_of_other_producers_are_missing_and_raise_nothing() -> None:
    odd = events(
        2,
        prediction=["intent 0", None],
        confidence=["high", "low"],
        entropy=[1, 2],
        top_labels=[["a"], None],
    )
    replaced = odd.records.set_column(
        odd.records.schema.get_field_index("top_labels"), "top_labels", pa.array([1, 2])
    )
    found = sums(LEARNED, EventBatch(replaced))
    assert found["confidence:missing"].total[0] == 2
    assert found["entropy"].n == 2
    assert found["top_labels:missing"].total[0] == 2
    learner = PredictionsMonitor(PredictionsConfig()).learner()
    learner.update(EventBatch(replaced), 0)
    assert learner.finish((0,)) is not None


def vocabulary(count: int, seed: int) -> EventBatch:
    """Answers of a fill-mask model: tokens by Zipf's law over 30,000."""
    share = 1 / np.arange(1, 30_001)
    draws = np.random.default_rng(seed).choice(30_000, count, p=share / share.sum())
    return events(count, seed, prediction=[f"token {i}" for i in draws])


def test_a_vocabulary_of_labels_stays_bounded() -> None:
    parameters = learn(vocabulary(30_000, 1), PredictionsConfig(labels=100))
    assert parameters.fields["class"].width == 102
    (state,) = parameters.values["class"]
    assert len(state[1]) == 100
    assert len(state[2]) < 16_384
    found = sums(parameters, vocabulary(2000, 2))
    assert found["class"].total.sum() == 2000


def judged_by(reference: EventBatch) -> Any:
    monitor = PredictionsMonitor(PredictionsConfig())
    return build([reference], [monitor], CalibrationOptions(), Origin("test", 0)).scopes[SCOPE]


def verdicts(scope: Any, batch: EventBatch) -> dict[str, Any]:
    found = sums(scope.parameters["predictions"], batch)
    references = scope.segments[""].fields
    pairs = {name: (references[f"predictions/{name}"], found[name]) for name in found}
    return dict(zip(pairs, judge_fields(list(pairs.values())), strict=True))


@pytest.fixture(scope="module")
def classifier() -> Any:
    return judged_by(answers(20_000, 100))


@pytest.fixture(scope="module")
def fill_mask() -> Any:
    return judged_by(vocabulary(20_000, 100))


def test_the_same_classifier_hardly_ever_has_evidence(classifier: Any) -> None:
    evidence = []
    for seed in range(200, 230):
        for name, verdict in verdicts(classifier, answers(2000, seed)).items():
            assert verdict.state is FieldState.OK, name
            evidence.append(verdict.log_e)
    assert np.exp(np.minimum(evidence, 50)).mean() < 1.0
    assert max(evidence) < np.log(100)


def test_the_same_vocabulary_hardly_ever_has_evidence(fill_mask: Any) -> None:
    # rare tokens turn up all the time: more of them are unseen than there were in the reference
    evidence = [
        v.log_e for seed in range(200, 230) for v in verdicts(fill_mask, vocabulary(2000, seed)).values()
    ]
    assert np.exp(np.minimum(evidence, 50)).mean() < 1.0
    assert max(evidence) < np.log(100)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tilt": 1.0}, "class"),
        ({"tilt": 1.5}, "top_labels"),
        ({"heat": 1.3}, "confidence"),
        ({"heat": 1.3}, "entropy"),
        ({"heat": 1.3}, "margin"),
    ],
)
def test_a_change_of_answers_has_evidence(classifier: Any, changed: dict[str, float], field: str) -> None:
    assert verdicts(classifier, answers(4000, 300, **changed))[field].log_e > np.log(1000)


def test_labels_that_are_new_or_gone_have_evidence(classifier: Any, fill_mask: Any) -> None:
    batch = answers(4000, 300)
    label = batch.records.column("prediction").to_pylist()
    new = ["never seen" if i % 25 == 0 else x for i, x in enumerate(label)]
    gone = [None if i % 25 == 0 else x for i, x in enumerate(label)]
    assert verdicts(classifier, answers(4000, 300, prediction=new))["class:unseen"].log_e > np.log(1000)
    assert verdicts(classifier, answers(4000, 300, prediction=gone))["class:missing"].log_e > np.log(1000)
    tokens = vocabulary(4000, 300).records.column("prediction").to_pylist()
    other = events(4000, 300, prediction=[f"##{x}" if i % 3 == 0 else x for i, x in enumerate(tokens)])
    assert verdicts(fill_mask, other)["class:unseen"].log_e > np.log(1000)
