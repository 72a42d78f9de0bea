"""Fields of embeddings against NumPy; what a reference teaches; false alarms and power on real embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from field_kit import PAGE, Reference, evidence, learned, sums_of, vector_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.baseline.model import Parameters, ScopeKey
from mlmon.drift.fields import contributions
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.embedding_fields import EmbeddingExtractor, triangular, whitened_squares
from mlmon.monitors.embedding_learner import add_centred, principal
from mlmon.monitors.embeddings import EmbeddingsConfig, EmbeddingsMonitor
from mlmon.stats.whitening import ScatterSums, whitening

MONITOR = EmbeddingsMonitor(EmbeddingsConfig())
FIXTURE = Path(__file__).parents[1] / "fixtures" / "embeddings.npz"
WIDTH = 12


def correlated(count: int, seed: int, width: int = WIDTH) -> np.ndarray:
    """Vectors with correlated dimensions of unequal spread, dimension 5 constant."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(count, width)) @ np.random.default_rng(1).normal(size=(width, width)) * 0.1 + 0.2
    made *= np.linspace(0.5, 2, width)
    made[:, 5] = 0.25
    return made.astype(np.float16)


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return learned(MONITOR, [vector_batch(correlated(900, 2))], [vector_batch(correlated(700, 3))])


# -- Fields ----------------------------------------------------------------------------------------------


def test_the_triangle_measures_as_the_whitening_does() -> None:
    rng = np.random.default_rng(4)
    whiten = rng.normal(size=(9, 7)).astype(np.float32)
    whiten[[2, 6]] = 0
    values = rng.normal(size=(50, 9)).astype(np.float32)
    expected = ((values @ whiten) ** 2).sum(1)
    factor = triangular(whiten)
    assert np.array_equal(factor, np.tril(factor))
    assert np.allclose(whitened_squares(values, factor), expected, rtol=1e-5)


def mixed_rows() -> tuple[list[Any], dict[str, Any]]:
    """Events of every kind: good, null, short, broken, failed, probes; and their columns."""
    vectors_ = correlated(400, 5).astype(float).tolist()
    rng = np.random.default_rng(6)
    rows: list[Any] = [None if i % 9 == 0 else row for i, row in enumerate(vectors_)]
    rows[10] = rows[10][:-1]
    rows[11] = []
    rows[13] = [*rows[13][:-1], float("nan")]
    rows[14] = [*rows[14][:-1], float("inf")]
    status = [("ok", None, "error", "timeout")[i] for i in rng.integers(0, 4, 400)]
    for i in (10, 11, 13, 14):
        status[i] = "ok"
    probes = [("p" if i % 17 == 1 else None) for i in range(400)]
    weights = rng.choice([1.0, 2.5, 20.0], 400)
    columns = {
        "status": pa.array(status, pa.string()),
        "probe_id": pa.array(probes, pa.string()),
        "sampling_weight": pa.array(weights),
    }
    return rows, columns


def test_fields_are_what_numpy_says(parameters: Parameters) -> None:
    rows, columns = mixed_rows()
    extractor = MONITOR.extractor(parameters)
    found = sums_of(extractor, vector_batch(rows, **columns))
    weights = columns["sampling_weight"].to_numpy()
    ok = [
        s in ("ok", None) and p is None
        for s, p in zip(*(columns[c].to_pylist() for c in ("status", "probe_id")), strict=True)
    ]
    sent = [i for i, row in enumerate(rows) if ok[i] and row is not None]
    good = [i for i in sent if len(rows[i]) == WIDTH and np.isfinite(rows[i]).all()]
    bad = sorted(set(sent) - set(good))
    assert bad == [10, 11, 13, 14]
    x, w = np.array([rows[i] for i in good]), weights[good]
    spec = parameters.fields["typicality"]
    white = (x - parameters.values["mean"]) @ parameters.fields["shift"].whiten
    typical = np.clip((white**2).sum(1) / parameters.values["expected_typicality"], *spec.clip)
    assert (typical == spec.clip[1]).any()
    assert found["shift"].total == pytest.approx(w @ x, rel=1e-6)
    assert found["typicality"].total == pytest.approx([w @ typical], rel=1e-5)
    lengths = np.clip(np.linalg.norm(x, axis=1), *parameters.fields["norm"].clip)
    assert found["norm"].total == pytest.approx([w @ lengths], rel=1e-6)
    for name in ("shift", "typicality", "norm"):
        assert found[name].size.tolist() == [len(good), w.sum(), (w**2).sum()]
    assert found["invalid"].total.tolist() == [weights[bad].sum()]
    assert found["invalid"].size.tolist() == [len(sent), weights[sent].sum(), (weights[sent] ** 2).sum()]


def test_events_without_embeddings_make_nothing(parameters: Parameters) -> None:
    extractor = MONITOR.extractor(parameters)
    nothing = vector_batch([None, None])
    without = EmbeddingsMonitor.extractor(MONITOR, parameters)
    dropped = type(nothing)(nothing.records.drop_columns(["embedding"]))
    for sums in (sums_of(extractor, nothing), sums_of(without, dropped)):
        assert all(part.n == 0 and not part.total.any() for part in sums.values())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_split_and_order_gives_the_same_sums(
    parameters: Parameters, seed: int, data: st.DataObject
) -> None:
    rows, columns = mixed_rows()
    whole = vector_batch(rows, **columns)
    monitor = EmbeddingsMonitor(EmbeddingsConfig(), lambda _name, _scope: parameters)
    shuffled = whole.take(np.random.default_rng(seed).permutation(400))
    cuts = sorted(data.draw(st.lists(st.integers(0, 400), max_size=4)))
    merged = monitor.summary()
    for first, stop in zip([0, *cuts], [*cuts, 400], strict=True):
        part = monitor.summary()
        if stop > first:
            part.update(shuffled.slice(first, stop - first))
        merged.merge(monitor.load(part.to_bytes()))
    expected = sums_of(monitor.extractor(parameters), whole)
    for name, sums in monitor.drift(merged).items():
        assert sums.size.tolist() == pytest.approx(expected[name].size.tolist(), rel=1e-12)
        assert sums.n == expected[name].n
        assert sums.total == pytest.approx(expected[name].total, rel=1e-5, abs=1e-3)
    assert np.array_equal(merged.fields["invalid"].total, expected["invalid"].total)


def test_stored_sums_of_another_baseline_are_refused(parameters: Parameters) -> None:
    other = learned(MONITOR, [vector_batch(correlated(300, 8))], [])
    mine, theirs = (
        EmbeddingsMonitor(EmbeddingsConfig(), lambda _name, _scope, p=p: p) for p in (parameters, other)
    )
    summary = mine.summary()
    summary.update(vector_batch(correlated(20, 9)))
    with pytest.raises(IncompatibleStateError, match=parameters.digest):
        theirs.load(summary.to_bytes())
    with pytest.raises(IncompatibleStateError, match="form 99"):
        mine.load(bytes([0x92, 99, 0]))


def test_without_a_baseline_nothing_is_read() -> None:
    assert MONITOR.fields == frozenset()
    watching = EmbeddingsMonitor(EmbeddingsConfig(), lambda _name, _scope: None)
    assert watching.fields == {"embedding", "status", "probe_id", "sampling_weight", "model_version"}
    summary = watching.summary()
    summary.update(vector_batch(correlated(5, 1)))
    assert watching.drift(summary) == {}


def test_parameters_are_looked_up_by_scope(parameters: Parameters) -> None:
    asked: list[tuple[str, ScopeKey]] = []

    def find(name: str, scope: ScopeKey) -> Parameters:
        asked.append((name, scope))
        return parameters

    EmbeddingsMonitor(EmbeddingsConfig(), find).summary().update(vector_batch(correlated(5, 1)))
    assert asked == [("embeddings", ScopeKey("search", "encoder", "1"))]


# -- Learning --------------------------------------------------------------------------------------------


def test_what_is_learned_is_the_whitening_of_the_reference(parameters: Parameters) -> None:
    x = np.concatenate([correlated(900, 2), correlated(700, 3)]).astype(float)
    sums = ScatterSums(WIDTH, x[0])
    sums.add(x, np.ones(len(x)))
    exact = whitening(sums)
    whiten = parameters.fields["shift"].whiten
    assert whiten is not None
    assert whiten.shape == (WIDTH, WIDTH - 1)
    assert not whiten[5].any()
    metric = exact.matrix @ exact.matrix.T
    assert np.allclose(whiten @ whiten.T, metric, atol=1e-3 * np.abs(metric).max())
    assert parameters.values["mean"] == pytest.approx(x.mean(0), abs=1e-5)
    assert parameters.values["constant"].tolist() == [5]
    shares = 1 / (whiten.astype(float) ** 2).sum(0)
    assert (np.diff(shares) <= 1e-9).all(), "directions go from the most to the least variance"


def test_sums_in_single_precision_are_those_in_double() -> None:
    x = correlated(300, 3).astype(np.float32)
    weights = np.random.default_rng(0).choice([1.0, 3.5], 300)
    for w in (np.full(300, 2.0), weights):
        exact, fast = (ScatterSums(WIDTH, x[0].astype(float)) for _ in range(2))
        exact.add(x, w)
        add_centred(fast, x - x[0], w)
        for one, other in zip(exact.state(), fast.state(), strict=True):
            assert np.allclose(one, other, rtol=1e-5, atol=1e-4)


def test_principal_directions_keep_the_metric() -> None:
    rng = np.random.default_rng(0)
    whiten = np.zeros((6, 4), np.float32)
    whiten[[0, 2, 3, 5]] = rng.normal(size=(4, 4))
    turned = principal(whiten)
    assert np.allclose(turned @ turned.T, whiten @ whiten.T, atol=1e-5)
    gram = turned.T @ turned
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-5)


def test_learning_does_not_depend_on_how_events_come() -> None:
    x = correlated(600, 7)
    whole = vector_batch(x)
    order = np.random.default_rng(0).permutation(600)
    once = learned(MONITOR, [whole])
    often = learned(MONITOR, [whole.take(order[a : a + 77]) for a in range(0, 600, 77)])
    halves = learned(MONITOR, [whole.slice(0, 250)], [whole.slice(250, 350)])
    for other in (often, halves):
        for name in ("typicality", "norm"):
            assert other.fields[name].clip == pytest.approx(once.fields[name].clip, rel=1e-4)
            assert np.allclose(other.fields[name].whiten, once.fields[name].whiten, rtol=1e-3)
        metrics = [made.fields["shift"].whiten @ made.fields["shift"].whiten.T for made in (once, other)]
        assert np.allclose(*metrics, rtol=1e-3, atol=1e-3 * np.abs(metrics[0]).max())
        assert other.values["expected_typicality"] == pytest.approx(
            once.values["expected_typicality"], rel=1e-4
        )


def test_weights_count_as_so_many_events() -> None:
    x = correlated(300, 7)
    weights = np.tile([1.0, 3.0], 150)
    weighted = learned(MONITOR, [vector_batch(x, sampling_weight=pa.array(weights))])
    repeated = np.repeat(x, weights.astype(int), axis=0)
    assert weighted.values["mean"] == pytest.approx(repeated.astype(float).mean(0), abs=1e-5)


def test_typicality_is_one_for_events_that_were_not_learned_from() -> None:
    # 600 events for 60 dimensions: those learned from lie a tenth closer
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(60, 60)) * 0.1
    x = (rng.standard_t(8, size=(20_600, 60)) @ mixing).astype(np.float16)
    made = learned(MONITOR, [vector_batch(x[:600])])
    outside, inside = (
        sums_of(MONITOR.extractor(made), vector_batch(part))["typicality"].mean[0]
        for part in (x[600:], x[:600])
    )
    spread = 1 / float(made.fields["typicality"].whiten[0, 0])
    assert abs(outside - 1) < 0.1 * spread
    assert inside < 1 - 0.2 * spread


def test_odd_references_are_told_of() -> None:
    learner = MONITOR.learner()
    x = correlated(50, 1).astype(float).tolist()
    learner.update(vector_batch([*x, x[0][:3], [*x[0][:-1], float("nan")]]), 0)
    assert learner.finish((1,)) is None
    assert learner.finish((0,)) is not None
    told = "\n".join(learner.warnings())
    for part in (
        "1 dimensions are constant and left out: 5",
        "1 events have not the 12 dimensions",
        "1 events hold",
    ):
        assert part in told
    assert "50 effective events for 11 dimensions: at least 275" in told


def test_what_cannot_be_learned_is_refused_with_words() -> None:
    empty = MONITOR.learner()
    empty.update(vector_batch([None, []]), 0)
    assert empty.finish((0,)) is None
    same = MONITOR.learner()
    same.update(vector_batch(np.ones((30, 4))), 0)
    assert same.finish((0,)) is None
    assert "varies" in same.warnings()[0]
    large = MONITOR.learner()
    large.update(vector_batch(np.ones((2, 4097))), 0)
    assert large.finish((0,)) is None
    assert "2 events with up to 4097 dimensions are not watched: expected at most 4096" in large.warnings()[0]


def test_the_sample_of_a_reference_is_bounded() -> None:
    learner = MONITOR.learner()
    for seed in range(4):
        batch = vector_batch(np.random.default_rng(seed).normal(size=(9000, 4)))
        ids = pa.array([f"{seed}-{i}" for i in range(9000)])
        learner.update(type(batch)(batch.records.set_column(3, "event_id", ids)), 0)
    (part,) = learner._parts.values()
    assert len(part.sample.rows()[0]) == 8192


# -- Judged ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> dict[str, np.ndarray]:
    """Real embeddings turned to 48 fixed directions, so that the fixture has 25 events for each."""
    turn = np.linalg.qr(np.random.default_rng(48).normal(size=(384, 384)))[0][:, :48]
    with np.load(FIXTURE) as file:
        return {name: file[name].astype(float) @ turn for name in ("banking", "travel", "typos", "damaged")}


@pytest.fixture(scope="module")
def reference(real: dict[str, np.ndarray]) -> Reference:
    x = real["banking"][500:2300]
    cut = [vector_batch(x[a : a + 50]) for a in range(0, len(x), 50)]
    return Reference(MONITOR, cut[::2], cut[1::2])


def windows(reference: Reference, draw: Any, count: int = 12) -> dict[str, np.ndarray]:
    return evidence(
        [reference.judge(vector_batch(draw(np.random.default_rng(seed)))) for seed in range(count)]
    )


@pytest.mark.parametrize("size", [200, 1000])
def test_no_false_alarm_on_real_embeddings(
    real: dict[str, np.ndarray], reference: Reference, size: int
) -> None:
    rest = np.concatenate([real["banking"][:500], real["banking"][2300:]])
    found = windows(reference, lambda rng: rest[rng.choice(len(rest), size, replace=False)], 40)
    assert set(found) == {"shift", "typicality", "norm", "invalid"}
    for name, log_e in found.items():
        assert log_e.max() < PAGE, name
        assert np.exp(log_e).mean() <= 1.0, name


@pytest.mark.parametrize(
    ("what", "share", "size", "most"),
    [
        ("travel", 0.25, 200, 1),
        ("travel", 0.10, 1000, 1),
        ("damaged", 1.0, 1000, 2),
        ("typos", 0.5, 1000, 1),
    ],
)
def test_drift_of_real_embeddings_is_found_in_few_windows(
    real: dict[str, np.ndarray], reference: Reference, what: str, share: float, size: int, most: int
) -> None:
    rest = real["banking"][2300:]

    def draw(rng: np.random.Generator) -> np.ndarray:
        moved = round(size * share)
        stays = rest[rng.choice(len(rest), size - moved)]
        return np.concatenate([stays, real[what][rng.choice(len(real[what]), moved)]])

    assert most * np.median(windows(reference, draw)["shift"]) > PAGE


def test_spread_that_keeps_the_mean_is_seen_by_typicality_alone(
    real: dict[str, np.ndarray], reference: Reference
) -> None:
    rest = real["banking"][2300:]
    middle = rest.mean(0)
    found = windows(reference, lambda rng: middle + 0.75 * (rest[rng.choice(len(rest), 600)] - middle))
    assert np.median(found["typicality"]) > PAGE
    assert np.median(found["shift"]) < 0


def test_a_lost_normalisation_is_seen_by_the_norm(real: dict[str, np.ndarray]) -> None:
    unit = real["banking"] / np.linalg.norm(real["banking"], axis=1, keepdims=True)
    cut = [vector_batch(unit[a : a + 50]) for a in range(500, 2300, 50)]
    reference = Reference(MONITOR, cut[::2], cut[1::2])
    kept, lost = (reference.judge(vector_batch(unit[2300:2500] * scale)) for scale in (1, 1.02))
    assert kept["norm"].log_e < 0
    assert lost["norm"].log_e > PAGE


def test_broken_embeddings_are_a_rising_rate(real: dict[str, np.ndarray], reference: Reference) -> None:
    rows: list[Any] = real["banking"][2300:2500].tolist()
    rows[::20] = [[0.0] * 7] * 10
    assert reference.judge(vector_batch(rows))["invalid"].log_e > PAGE


def test_the_direction_of_a_shift_is_named(reference: Reference, real: dict[str, np.ndarray]) -> None:
    moved = real["banking"][2300:3200].copy()
    moved[:, 7] += 0.1
    sums = sums_of(reference.extractor, vector_batch(moved))
    first = contributions(reference.fields["shift"], sums["shift"], 3)[0]
    assert first.name == "dimension 7"
    assert first.share > 0.5


def test_an_extractor_without_a_whitening_says_so(parameters: Parameters) -> None:
    fields = {**parameters.fields, "shift": parameters.fields["invalid"]}
    with pytest.raises(ValueError, match="rebuild the baseline"):
        EmbeddingExtractor(Parameters("x", parameters.values, fields))
