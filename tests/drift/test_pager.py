"""The pager: its budget under the null, its delay under drift, its causes, its memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.drift.pager import Detector, Evidence, Pager, cause_of
from mlmon.stats.pack import pack, unpack

K = 40
DETECTORS = [Detector("1", "stable", "", f"features/f{i}") for i in range(K)]
END = 60_000_000


def run(pager: Pager, log_e: np.ndarray, threshold: float, detectors=DETECTORS) -> list[int]:
    """Feed windows of log e-values, shape (windows, K); the windows at which pages were opened."""
    opened = []
    for index, row in enumerate(log_e.tolist()):
        before = pager.pages
        evidence = {d: Evidence(e, 1 / len(detectors)) for d, e in zip(detectors, row, strict=True)}
        pager.update(evidence, threshold, (index + 1) * END, wrong_version=False)
        if pager.pages > before:
            opened.append(index)
    return opened


def normal_log_e(rng: np.random.Generator, windows: int, shift: float, k: int = K) -> np.ndarray:
    """Log e-values exp(λu - λ²/2) of u ~ N(shift, 1) with λ = 1: exact e-values when shift is 0."""
    return rng.normal(shift, 1.0, (windows, k)) - 0.5


@pytest.mark.parametrize("common", [False, True], ids=["independent", "all the same"])
def test_pages_on_average_after_the_declared_number_of_windows_or_more(common: bool) -> None:
    rng = np.random.default_rng(7)
    threshold, months = 200.0, 60
    log_e = normal_log_e(rng, int(threshold) * months, 0.0, 1 if common else K)
    pages = len(run(Pager(), np.broadcast_to(log_e, (len(log_e), K)), threshold))
    # at most one page in `threshold` windows on average; Poisson noise of 60 is 7.7
    assert pages <= months + 2 * math.sqrt(months)
    assert pages > 0  # exact e-values of a martingale do reach it at times: the budget is spent, not hoarded


def test_windows_without_evidence_never_page() -> None:
    pager = Pager()
    assert run(pager, np.zeros((5_000, K)), 100.0) == []
    assert pager.total() == 0.0


def test_a_drift_of_one_detector_is_paged_within_a_few_windows() -> None:
    rng = np.random.default_rng(3)
    log_e = normal_log_e(rng, 60, 0.0)
    log_e[20:, 5] = 2.0 * rng.normal(3.0, 1.0, 40) - 2.0
    opened = run(Pager(), log_e, 43_200.0)
    assert len(opened) == 1
    assert 20 <= opened[0] <= 28


def test_many_detectors_cost_only_the_logarithm_of_their_number() -> None:
    delays = []
    for k in (10, 1_000):
        detectors = [Detector("1", "stable", "", f"features/f{i}") for i in range(k)]
        log_e = np.full((100, k), -0.5)
        log_e[:, 0] = 1.0
        delays.append(run(Pager(), log_e, 720.0, detectors)[0])
    assert delays[1] - delays[0] == pytest.approx(math.log(100), abs=1.1)


def alarmed(fields: dict[str, float], *, wrong_version: bool = False) -> Pager:
    pager = Pager()
    evidence = {
        Detector("1", "stable", "", name): Evidence(log_e, 1 / len(fields)) for name, log_e in fields.items()
    }
    pager.update(evidence, 100.0, END, wrong_version=wrong_version)
    return pager


def test_the_cause_follows_precedence_among_what_is_significant() -> None:
    symptoms = {"embeddings/shift": 40.0, "features/amount": 30.0, "tokenizer/unknown": 8.0}
    assert alarmed(symptoms).alarm.cause == "tokenizer"
    assert alarmed(symptoms).alarm.field == "tokenizer/unknown"
    assert alarmed(symptoms, wrong_version=True).alarm.cause == "version"
    assert alarmed({**symptoms, "tokenizer/unknown": 2.0}).alarm.cause == "embeddings"
    assert alarmed({"tokenizer/token_ids": 40.0, "embeddings/shift": 8.0}).alarm.cause == "embeddings"
    assert cause_of("predictions/class") == "predictions"


def test_a_page_stays_open_until_its_detectors_are_quiet_and_is_not_repeated() -> None:
    pager = Pager()
    drift = np.full((30, K), -1.0)
    drift[:, 3] = 6.0
    assert run(pager, drift, 1_000.0) == [1]
    assert pager.pages == 1
    assert pager.alarm is not None
    assert run(pager, np.full((5, K), -1.0), 1_000.0) == []
    assert pager.alarm is not None
    run(pager, np.full((1, K), -1.0), 1_000.0)
    assert pager.alarm is None
    assert run(pager, drift, 1_000.0) == [1]
    assert pager.pages == 2


def test_single_fields_that_are_a_little_loud_do_not_keep_a_page_open() -> None:
    pager = Pager()
    run(pager, np.full((1, K), 12.0), 1_000.0)
    assert len(pager.alarm.culprits) == K
    healthy = np.full((6, K), -1.0)
    healthy[np.arange(6), np.arange(6)] = 0.5
    run(pager, healthy, 1_000.0)
    assert pager.alarm is None


def test_another_cause_is_another_page() -> None:
    detectors = [Detector("1", "stable", "", name) for name in ("features/a", "tokenizer/unknown")]
    pager = Pager()
    run(pager, np.array([[20.0, -1.0]]), 1_000.0, detectors)
    run(pager, np.array([[20.0, 20.0]]), 1_000.0, detectors)
    assert pager.alarm.cause == "tokenizer"
    assert pager.pages == 2


def test_windows_that_do_not_hear_the_culprits_do_not_count_as_quiet() -> None:
    pager = alarmed({"features/a": 20.0, "features/b": -1.0})
    other = [Detector("1", "stable", "", "features/b")]
    run(pager, np.full((50, 1), -1.0), 1_000.0, other)
    assert pager.alarm is not None


def test_a_series_that_is_gone_no_longer_counts() -> None:
    pager = Pager()
    pager.update({DETECTORS[0]: Evidence(5.0, 0.5)}, 1e6, END, wrong_version=False)
    assert pager.total() == pytest.approx(0.5 * math.exp(5.0))
    pager.forget("2", "stable", "")
    assert pager.total() > 0
    pager.forget("1", "stable", "")
    assert pager.total() == 0.0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), max_size=30),
    st.integers(0, 30),
)
def test_stopping_and_going_on_from_the_state_is_the_same_as_not_stopping(rows, cut) -> None:
    detectors = DETECTORS[:3]
    log_e = np.array(rows).reshape(-1, 3)
    whole, first = Pager(), Pager()
    run(whole, log_e, 50.0, detectors)
    run(first, log_e[:cut], 50.0, detectors)
    second = Pager.restored(unpack(pack(first.state())))
    for index, row in enumerate(log_e[cut:].tolist(), len(log_e[:cut])):
        evidence = {d: Evidence(e, 1 / 3) for d, e in zip(detectors, row, strict=True)}
        second.update(evidence, 50.0, (index + 1) * END, wrong_version=False)
    assert second.state() == whole.state()


def test_evidence_beyond_measure_stays_finite() -> None:
    pager = Pager()
    for _ in range(100):
        pager.update({DETECTORS[0]: Evidence(1e6, 1.0)}, math.inf, END, wrong_version=False)
    assert math.isfinite(pager.total())
