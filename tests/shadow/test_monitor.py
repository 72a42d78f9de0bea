"""Evaluations as the sidecar counts them: readings and intervals, objectives and burns, what is refused."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
import pytest
from monitor_kit import SERIES, START_US, batch_of
from scipy.stats import binomtest, ttest_1samp

from mlmon.burn.bounds import burns
from mlmon.catalog import shadow as catalog
from mlmon.events.codecs.config import DecodeConfig
from mlmon.events.codecs.decoder import Decoder
from mlmon.events.encode import encode_arrow, encode_json
from mlmon.events.event import Event
from mlmon.events.record import LogRecord
from mlmon.monitors.shadow import ShadowConfig, ShadowMonitor, mean_interval
from mlmon.monitors.slo import SloConfig, SloMonitor
from mlmon.monitors.slo_objectives import JudgedObjective, JudgedVersion, Judging, ObjectivesFile
from mlmon.monitors.slo_summary import SloSummary
from mlmon.windows import Window

WINDOW = Window(START_US, START_US + 60_000_000)


def read(rows: list[dict[str, Any]]) -> dict[str, Any]:
    monitor = ShadowMonitor(ShadowConfig())
    summary = monitor.summary()
    summary.update(batch_of(rows))
    found = monitor.read(WINDOW, {SERIES: summary}, {SERIES: START_US})
    return {reading.metric.name: reading for reading in found}


def test_means_and_intervals_are_scipys_without_weights() -> None:
    rng = np.random.default_rng(1)
    divergences = rng.exponential(size=40)
    right = rng.uniform(size=40) < 0.8
    found = read(
        [
            {"agreement": int(agreed), "kl_divergence": float(value), "reference": "large"}
            for agreed, value in zip(right, divergences, strict=True)
        ]
    )
    kl = found["mlmon_shadow_kl_divergence_nats"]
    assert kl.value == pytest.approx(divergences.mean())
    assert kl.interval == pytest.approx(tuple(ttest_1samp(divergences, 0).confidence_interval()))
    agreement = found["mlmon_shadow_agreement_ratio"]
    expected = binomtest(int(right.sum()), 40).proportion_ci(method="wilson")
    assert agreement.interval == pytest.approx((expected.low, expected.high))
    assert (agreement.n, agreement.n_eff, agreement.attributes) == (40, 40.0, {"reference": "large"})
    assert set(found) == {kl.metric.name, agreement.metric.name}, "what nothing carried has no reading"


def test_intervals_hold_under_weights() -> None:
    """95 of 100 intervals hold the mean, although some events stand for ten."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        weights = rng.choice([1.0, 10.0], size=80)
        values = rng.normal(3.0, 1.0, size=80)
        row = np.array(
            [
                80,
                weights.sum(),
                (weights**2).sum(),
                weights @ values,
                weights**2 @ values,
                weights**2 @ values**2,
            ]
        )
        _, n_eff, interval = mean_interval(row, shares=False)
        assert interval is not None
        assert n_eff < 80
        held += interval[0] <= 3 <= interval[1]
    assert 0.92 <= held / 400 <= 0.98


def test_counters_never_fall_and_the_reference_is_the_newest() -> None:
    monitor = ShadowMonitor(ShadowConfig())
    summary = monitor.summary()
    sums = []
    for step, cosine in enumerate((-1.0, 0.5, 1.0)):
        row = {"embedding_cosine": cosine, "reference": f"v{3 - step}", "event_time": START_US + step}
        summary.update(batch_of([{**row, "sampling_weight": 2.0}]))
        samples = {(s.metric.name, s.labels[-1]): s.value for s in monitor.collect(SERIES, summary)}
        sums.append(samples[("mlmon_shadow_measure_sum", "embedding_distance")])
    assert sums == [4.0, 5.0, 5.0]
    assert samples[(catalog.REFERENCE.name, "v1")] == 1.0
    assert samples[("mlmon_sampled_shadow_evaluations", "embedding_distance")] == 3


def test_values_out_of_range_count_as_none() -> None:
    found = read([{"agreement": value, "kl_divergence": float("nan")} for value in (0, 1, 7)])
    assert found["mlmon_shadow_agreement_ratio"].n == 2
    assert len(found) == 1


# --- objectives


def judged(judge: Any, target: float, rows: list[dict[str, Any]]) -> tuple[SloSummary, float]:
    versions = (JudgedVersion(target, judge),)
    objective = JudgedObjective("x", versions, 30 * 86_400, (300, 3600), 3600, 600)
    judging = Judging((msgspec.convert(objective, JudgedObjective),))
    assert judge in judging.fields
    summary = SloSummary(judging)
    summary.update(batch_of(rows))
    good, bad = summary.totals[0]
    sums = np.array([*(good + bad), *bad[1:]])
    return summary, float(burns(sums, np.array(objective.budget), np.array(0.95)).lower)


@pytest.mark.parametrize(("judge", "target"), [("agreement", 0.9), ("echo", 0.999)])
def test_evaluations_are_judged_at_the_time_of_their_requests(judge: str, target: float) -> None:
    late = {"event_time": START_US + 900_000_000, "request_time": START_US, "reference": "r"}
    rows = [{**late, judge: int(number % 5 != 0), "sampling_weight": 3.0} for number in range(100)]
    requests = [{"status": "ok"} for _ in range(50)]  # say nothing of either
    summary, burn = judged(judge, target, rows + requests)
    assert summary.totals[0].tolist() == [[80, 240, 720], [20, 60, 180]]
    assert summary.late[0, 0] == 100, "later than the label delay"
    assert burn > (1.0 if judge == "agreement" else 14.4)


@pytest.mark.parametrize("judge", ["agreement", "echo"])
def test_good_evaluations_burn_nothing(judge: str) -> None:
    _, burn = judged(judge, 0.9, [{judge: 1, "request_time": START_US}] * 200)
    assert burn == 0


def test_chance_alone_pages_for_no_equal_model() -> None:
    """A model that disagrees as often as the target allows, over 300 hours of 100 replays each."""
    rng = np.random.default_rng(4)
    pages = tickets = 0
    for _ in range(300):
        rows = [{"agreement": int(value)} for value in rng.uniform(size=100) < 0.9]
        _, burn = judged("agreement", 0.9, rows)
        tickets += burn > 1
        pages += burn > 3
    assert pages == 0
    assert tickets <= 0.08 * 300  # 5 % by the bound's level, and the noise of 300 draws


def test_the_shipped_objectives_have_the_judges() -> None:
    judges = {one.name: one.judge for one in SloMonitor(SloConfig()).judging.objectives}
    assert judges["reference-agreement"] == "agreement"
    assert judges["answer-echo"] == "echo"
    assert ObjectivesFile.__struct_fields__ == ("version", "objectives")


# --- the contract


def evaluation(**more: Any) -> Event:
    said = {"event_id": "r", "event_time": START_US + 5, "request_time": START_US, "reference": "large"}
    return Event(service="s", model_name="m", **said | more)


@pytest.mark.parametrize("encode", [encode_json, lambda event: encode_arrow([event])], ids=["json", "arrow"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"agreement": 2}, "agreement: expected 0 or 1, got 2"),
        ({"echo": 5}, "echo: expected 0 or 1"),
        ({"topk_overlap": 1.5}, "topk_overlap"),
        ({"embedding_cosine": -1.5}, "embedding_cosine"),
        ({"kl_divergence": -1.0}, "kl_divergence"),
        ({"reference": None, "agreement": 1}, "a label event says label"),
    ],
)
def test_evaluations_that_cannot_be_are_dead_letters(encode: Any, values: dict[str, Any], said: str) -> None:
    record = LogRecord(0, 0, None, encode(evaluation(**values)), ())
    decoded = Decoder(DecodeConfig()).decode([record], time.time_ns() // 1000)
    assert decoded.events == 0
    assert said in str(decoded.rejects[0].detail)


def test_an_evaluation_is_no_request() -> None:
    event = evaluation(agreement=1, echo=0, embedding_cosine=-1.0, topk_overlap=0.2)
    record = LogRecord(0, 0, None, encode_arrow([event]), ())
    decoded = Decoder(DecodeConfig(), frozenset({"status"})).decode([record], time.time_ns() // 1000)
    assert decoded.batch is not None
    assert len(decoded.batch) == 1
    assert len(decoded.batch.requests()) == 0
