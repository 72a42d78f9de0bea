"""Golden probes: apart from traffic, blind to numerical noise, quick to see another number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from field_kit import PAGE, Reference, event_batch, learned, sums_of, vector_batch

from mlmon.attach.build import checked_fields
from mlmon.monitors.embeddings import EmbeddingsConfig, EmbeddingsMonitor
from mlmon.monitors.tokenizer import TokenizerConfig, TokenizerMonitor

if TYPE_CHECKING:
    from mlmon.events import EventBatch

MONITOR = EmbeddingsMonitor(EmbeddingsConfig())
WIDTH, PROBES = 64, 6


def unit(count: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(count, WIDTH)) + 0.3
    return made / np.linalg.norm(made, axis=1, keepdims=True)


TEXTS = unit(PROBES, 77)


def off_by(distance: float, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vectors moved by this length in random directions."""
    step = rng.normal(size=vectors.shape)
    return vectors + distance * step / np.linalg.norm(step, axis=1, keepdims=True)


def rounds(count: int, seed: int, noise: float = 1e-6, traffic: int = 20) -> EventBatch:
    """Rounds of every probe, each between some events of traffic; `noise` moves the probes."""
    rng = np.random.default_rng(seed)
    vectors, names = [], []
    for _ in range(count):
        vectors += [unit(traffic, rng.integers(2**31)), off_by(noise, TEXTS, rng)]
        names += [None] * traffic + [f"p{i}" for i in range(PROBES)]
    return vector_batch(np.concatenate(vectors), probe_id=pa.array(names, pa.string()))


def reference_of(noise: float, *, traffic: int = 30) -> Reference:
    blocks = [rounds(1, seed, noise, traffic) for seed in range(120)]
    return Reference(MONITOR, blocks[::2], blocks[1::2])


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(1e-6)


def test_each_probe_and_all_together_are_fields(reference: Reference) -> None:
    names = {"shift", "typicality", "norm", "invalid", "probes", "probe_distance"}
    assert set(reference.fields) == names | {f"probe:p{i}" for i in range(PROBES)}


def test_numerical_noise_is_no_drift(reference: Reference) -> None:
    for seed in range(20):
        verdicts = reference.judge(rounds(10, 1000 + seed))
        assert max(v.log_e for name, v in verdicts.items() if name.startswith("probe")) <= 0.0


def test_another_number_format_is_seen_within_three_rounds(reference: Reference) -> None:
    # 0.0065 is what a cast of the weights to bfloat16 does to all-MiniLM-L6-v2
    verdicts = reference.judge(rounds(3, 5, noise=0.0065))
    assert verdicts["probes"].log_e > PAGE
    assert verdicts["probes"].effect == 1.0
    assert all(verdicts[f"probe:p{i}"].effect == 1.0 for i in range(PROBES))
    for name in ("shift", "typicality", "norm"):
        assert verdicts[name].log_e < PAGE, "the same change of the probes says nothing of the traffic"


def test_the_distance_of_probes_tells_how_far_they_moved(reference: Reference) -> None:
    sums = sums_of(reference.extractor, rounds(20, 5, noise=0.05))
    assert sums["probe_distance"].mean == pytest.approx([50.0], rel=0.02)
    assert reference.judge(rounds(20, 5, noise=0.05))["probe_distance"].log_e > PAGE
    assert reference.judge(rounds(20, 6))["probe_distance"].log_e <= 0.0


def test_one_probe_that_moves_is_told_from_the_others(reference: Reference) -> None:
    vectors = np.tile(TEXTS, (5, 1))
    vectors[2::PROBES] = off_by(0.3, vectors[2::PROBES], np.random.default_rng(0))
    names = pa.array([f"p{i % PROBES}" for i in range(5 * PROBES)])
    verdicts = reference.judge(vector_batch(vectors, probe_id=names))
    effects = [verdicts[f"probe:p{i}"].effect for i in range(PROBES)]
    assert effects == [0, 0, 1, 0, 0, 0]
    assert verdicts["probe:p2"].log_e > verdicts["probe:p1"].log_e + 3


def test_a_noisy_deployment_has_its_own_limit() -> None:
    noisy = reference_of(0.004)
    for seed in range(10):
        verdicts = noisy.judge(rounds(10, 500 + seed, noise=0.004))
        assert max(v.log_e for name, v in verdicts.items() if name.startswith("probe")) <= 0.0
    # three times the noise is the limit of a repeat; the mean distance sees what a cast adds to the noise
    assert noisy.judge(rounds(20, 1, noise=0.0076))["probe_distance"].log_e > PAGE
    assert noisy.judge(rounds(3, 1, noise=0.02))["probes"].log_e > PAGE


def test_probes_are_in_no_other_field() -> None:
    mixed = rounds(8, 3)
    is_traffic = mixed.column("probe_id").is_null().to_numpy(zero_copy_only=False)
    alone = mixed.take(np.flatnonzero(is_traffic))
    made, without = learned(MONITOR, [mixed]), learned(MONITOR, [alone])
    for name in ("shift", "typicality", "norm"):
        assert np.array_equal(made.fields[name].whiten, without.fields[name].whiten)
    extractor = MONITOR.extractor(made)
    both, one = sums_of(extractor, mixed), sums_of(extractor, alone)
    for name in ("shift", "typicality", "norm", "invalid"):
        assert np.array_equal(both[name].size, one[name].size)
        assert both[name].total == pytest.approx(one[name].total, rel=1e-6)
    assert both["probes"].n == 8 * PROBES
    assert one["probes"].n == 0


def test_probes_are_no_drift_of_tokens() -> None:
    tokenizer = TokenizerMonitor(TokenizerConfig())
    counts = {"tokens": [5, 9, 400], "words": [4, 8, 1], "unknown_tokens": [0, 1, 300]}
    columns = {name: pa.array(values, pa.int32()) for name, values in counts.items()}
    ids = pa.array([[1, 2], [3], [9] * 50], pa.list_(pa.int32()))
    probed = event_batch(3, probe_id=pa.array([None, None, "p"], pa.string()), token_ids=ids, **columns)
    plain = event_batch(3, token_ids=ids, **columns).slice(0, 2)
    made, without = learned(tokenizer, [probed]), learned(tokenizer, [plain])
    assert made.digest == without.digest
    extractor = tokenizer.extractor(made)
    for name, sums in sums_of(extractor, probed).items():
        assert np.array_equal(sums.total, sums_of(extractor, plain)[name].total), name


def test_failed_and_unknown_probes_are_left_out(reference: Reference) -> None:
    vectors = np.tile(TEXTS[:1] * 3, (3, 1))
    failed = vector_batch(
        vectors,
        probe_id=pa.array(["p0", "p99", None], pa.string()),
        status=pa.array(["error", "ok", "timeout"]),
    )
    assert all(sums.n == 0 for sums in sums_of(reference.extractor, failed).values())


def test_a_probe_that_cannot_be_measured_has_moved(reference: Reference) -> None:
    rows = [TEXTS[0][:-1].tolist(), [float("nan")] * WIDTH, (-TEXTS[0]).tolist(), (9 * TEXTS[0]).tolist()]
    sums = sums_of(reference.extractor, vector_batch(rows, probe_id=pa.array(["p0"] * 4)))
    assert sums["probe:p0"].mean.tolist() == [1.0]
    assert sums["probe_distance"].mean == pytest.approx([2.0 / 0.001], rel=1e-3)
    assert sums["invalid"].n == 0


def test_a_cast_of_the_answers_is_told_from_rounding() -> None:
    # float16 is how embeddings travel, so it is in the reference; bfloat16 answers are not
    exact = off_by(0.0, TEXTS, np.random.default_rng(0)).astype(np.float32)
    coarse = (exact.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    names = pa.array([f"p{i}" for i in range(PROBES)])
    blocks = [
        vector_batch(
            np.concatenate([exact, unit(30, i)]),
            probe_id=pa.concat_arrays([names, pa.nulls(30, pa.string())]),
        )
        for i in range(80)
    ]
    reference = Reference(MONITOR, blocks[::2], blocks[1::2])
    assert reference.judge(vector_batch(exact, probe_id=names))["probes"].effect == 0.0
    assert reference.judge(vector_batch(coarse, probe_id=names))["probes"].effect == 1.0


def test_the_number_of_probes_is_bounded_and_the_rest_is_told_of() -> None:
    monitor = EmbeddingsMonitor(EmbeddingsConfig(max_probes=3))
    learner = monitor.learner()
    names = pa.array([f"p{i % PROBES}" for i in range(4 * PROBES)])
    learner.update(vector_batch(np.tile(TEXTS, (4, 1)), probe_id=names), 0)
    learner.update(vector_batch(unit(100, 1)), 0)
    made = learner.finish((0,))
    assert made is not None
    assert made.values["probes"] == ["p0", "p1", "p2"]
    assert [name for name in made.fields if name.startswith("probe:")] == ["probe:p0", "probe:p1", "probe:p2"]
    assert "12 events of golden probes beyond the first 3" in "\n".join(learner.warnings())
    none = EmbeddingsMonitor(EmbeddingsConfig(max_probes=0))
    assert not any(name.startswith("probe") for name in learned(none, [rounds(3, 1)]).fields)


def test_unusable_probes_of_a_reference_are_told_of() -> None:
    learner = MONITOR.learner()
    learner.update(vector_batch(unit(100, 1)), 0)
    rows = [[0.0] * WIDTH, [1.0], [float("inf")] * WIDTH]
    learner.update(vector_batch(rows, probe_id=pa.array(["zero", "short", "endless"])), 0)
    made = learner.finish((0,))
    assert made is not None
    assert made.values["probes"] == []
    assert "2 events of golden probes hold no usable embedding" in "\n".join(learner.warnings())


def test_an_extractor_of_the_tap_can_name_a_probe() -> None:
    assert checked_fields({"probe_id": "greeting"}) == ({"probe_id": "greeting"}, None)
    assert checked_fields({"probe_id": 3})[1] is not None
