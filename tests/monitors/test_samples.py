"""The sample of events: uniform over traffic, the same for any split, small, and true to what was sent."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from monitor_kit import START_US, batch_of
from scipy.stats import chi2, kstest

from mlmon.errors import IncompatibleStateError
from mlmon.events.batch import EventBatch
from mlmon.monitors.sample_rows import unpack_row
from mlmon.monitors.samples import SamplesConfig, SamplesMonitor, event_ranks

if TYPE_CHECKING:
    from monitor_kit import Row

    from mlmon.monitors.samples import SamplesSummary

MONITOR = SamplesMonitor(SamplesConfig(rows=8))


def rows_of(count: int, prefix: str = "event", **common: Any) -> list[Row]:
    return [
        {
            "event_id": f"{prefix}-{index}",
            "event_time": START_US + index,
            "tokens": index,
            "latency_seconds": index / 64,
            "embedding": [index / 4, -0.5],
            **common,
        }
        for index in range(count)
    ]


def summed(*parts: list[Row], monitor: SamplesMonitor = MONITOR) -> SamplesSummary:
    summary = monitor.summary()
    for rows in parts:
        summary.update(batch_of(rows))
    return summary


def tokens(summary: SamplesSummary) -> list[int]:
    return [int(unpack_row(packed).plain["tokens"]) for _, packed in summary.rows()]


def test_the_sample_is_the_rows_of_lowest_rank() -> None:
    rows = rows_of(500)
    ranks = event_ranks(batch_of(rows))
    expected = np.argsort(ranks)[:8]
    summary = summed(rows[:10], rows[10:300], rows[300:])
    assert tokens(summary) == expected.tolist()
    assert [rank for rank, _ in summary.rows()] == ranks[expected].tolist()
    assert summary.size.tolist() == [500.0, 500.0, 500.0]


def test_ranks_are_exponential_with_the_weight_as_rate() -> None:
    for weight in (1.0, 20.0):
        ranks = event_ranks(batch_of(rows_of(20_000, sampling_weight=weight)))
        assert kstest(ranks * weight, "expon").pvalue > 1e-3


def test_every_event_is_as_likely_to_be_kept_as_any_other() -> None:
    kept = np.zeros(60)
    for trial in range(1_500):
        kept[tokens(summed(rows_of(60, f"trial {trial}")))] += 1
    assert kept.sum() == 8 * 1_500
    # without replacement the counts vary less than a multinomial's, by the share that is not kept
    statistic = ((kept - 200) ** 2 / 200).sum() / (1 - 8 / 60) * 59 / 60
    assert chi2.sf(statistic, 59) > 1e-3


def test_rows_stand_for_traffic_when_weights_undo_sampling() -> None:
    """A third of the events weighs 10: it is 10/12 of the traffic, and of the first row of each sample."""
    heavy = 0
    one = SamplesMonitor(SamplesConfig(rows=1))
    for trial in range(1_500):
        rows = rows_of(60, f"trial {trial}")
        for row in rows[:20]:
            row["sampling_weight"] = 10.0
        heavy += tokens(summed(rows, monitor=one))[0] < 20
    expected = 1_500 * 10 / 12
    assert abs(heavy - expected) < 4 * np.sqrt(1_500 * 10 / 12 * 2 / 12)


def test_any_split_order_and_merge_gives_the_same_bytes() -> None:
    make = np.random.default_rng(2)
    # the same ids again and again, so that ranks tie; columns that some batches lack
    rows = [
        {"event_id": f"{index % 5}", "event_time": START_US + index % 3, "prediction": f"p{index % 11}"}
        | ({"confidence": 0.5} if index % 4 else {})
        | ({"embedding": [float(index % 7)]} if index % 3 else {})
        for index in range(200)
    ]
    whole = summed(rows).to_bytes()
    for _ in range(12):
        order = make.permutation(200)
        cuts = np.sort(make.integers(0, 200, 4))
        parts = [summed([rows[index] for index in part]) for part in np.split(order, cuts)]
        for part in parts:
            if make.random() < 0.5:
                part.to_bytes()
        merged = parts[0].copy()
        for part in parts[1:]:
            merged.merge(MONITOR.load(part.to_bytes()) if make.random() < 0.5 else part)
        assert merged.to_bytes() == whole


def _part(numbers: range) -> bytes:
    rows = rows_of(400)
    return summed([rows[number] for number in numbers]).to_bytes()


def test_parts_made_in_other_processes_merge_to_the_whole() -> None:
    parts = [range(130), range(130, 131), range(131, 400)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        states = pool.map(_part, parts)
    merged = MONITOR.summary()
    for state in states[::-1]:
        merged.merge(MONITOR.load(state))
    assert merged.to_bytes() == _part(range(400))


def test_a_row_keeps_what_the_event_said() -> None:
    columns = {
        "event_id": pa.array(["a"]),
        "event_time": pa.array([START_US + 5], pa.timestamp("us", tz="UTC")),
        "prediction": pa.array(["card_arrival"]),
        "confidence": pa.array([0.75]),
        "entropy": pa.array([float("nan")]),
        "status": pa.array([None], pa.string()),
        "tokens": pa.array([12], pa.int32()),
        "input_hash": pa.array(["00ff"]),
        "segments": pa.array([[("tenant", "b"), ("language", "en")]], pa.map_(pa.string(), pa.string())),
        "numeric_features": pa.array([{"z": 1.5, "a": None, "n": float("nan")}]),
        "categorical_features": pa.array([{"plan": "gold", "none": None}]),
        "embedding": pa.array([np.array([0.5, -2.0], np.float16)], pa.list_(pa.float16())),
        "token_ids": pa.array([[1, 2]], pa.list_(pa.int32())),
        "sampling_weight": pa.array([4.0]),
    }
    summary = MONITOR.summary()
    summary.update(EventBatch(pa.record_batch(columns)))
    ((_, packed),) = summary.rows()
    row = unpack_row(packed)
    assert row.time_us == START_US + 5
    assert row.plain == {
        "prediction": "card_arrival",
        "confidence": 0.75,
        "tokens": 12,
        "input_hash": "00ff",
        "sampling_weight": 4.0,
    }
    assert list(row.segments.items()) == [("language", "en"), ("tenant", "b")]
    assert (row.numeric, row.categorical) == ({"z": 1.5}, {"plan": "gold"})
    vector = row.vector()
    assert vector is not None
    assert vector.tolist() == [0.5, -2.0]


def test_golden_probes_are_no_traffic() -> None:
    rows = [*rows_of(5), *rows_of(50, "probe", probe_id="greeting")]
    summary = summed(rows)
    assert sorted(tokens(summary)) == [0, 1, 2, 3, 4]
    assert summary.size[0] == 5
    only = summed(rows_of(3, "probe", probe_id="greeting"))
    assert (only.rows(), only.size.tolist()) == ([], [0.0, 0.0, 0.0])


@pytest.mark.parametrize(("rows", "embeddings"), [(0, True), (8, False)])
def test_what_is_switched_off_is_neither_read_nor_kept(rows: int, embeddings: bool) -> None:
    monitor = SamplesMonitor(SamplesConfig(rows=rows, embeddings=embeddings))
    summary = summed(rows_of(20), rows_of(20, "more"), monitor=monitor)
    assert len(summary.rows()) == rows
    assert all(unpack_row(packed).embedding is None for _, packed in summary.rows())
    assert "embedding" not in monitor.fields
    assert bool(monitor.fields) == bool(rows)
    other = summed(rows_of(3))
    with pytest.raises(IncompatibleStateError, match="samples: expected a summary of 8 rows with embeddings"):
        other.merge(summary)


def test_the_state_is_bounded_whatever_an_event_carries() -> None:
    wide = {f"feature {index:04d}": index + 0.5 for index in range(600)}
    text = "\N{GREEK SMALL LETTER ALPHA}" * 5_000
    count = 40
    columns = {
        "event_id": pa.array([f"{index}" for index in range(count)]),
        "event_time": pa.array(np.arange(count) + START_US, pa.timestamp("us", tz="UTC")),
        "prediction": pa.array([text] * count),
        "segments": pa.array(
            [[(f"{i}", text) for i in range(40)]] * count, pa.map_(pa.string(), pa.string())
        ),
        "numeric_features": pa.array([wide] * count),
        "categorical_features": pa.array([dict.fromkeys(wide, text)] * count),
        "embedding": pa.array([[1.0] * size for size in range(4_077, 4_117)], pa.list_(pa.float16())),
    }
    summary = MONITOR.summary()
    summary.update(EventBatch(pa.record_batch(columns)))
    rows = [packed for _, packed in summary.rows()]
    assert len(rows) == 8
    assert max(map(len, rows)) < 100_000
    found = [unpack_row(packed) for packed in rows]
    assert {len(row.numeric) for row in found} == {len(row.categorical) for row in found} == {128}
    assert {len(str(row.plain["prediction"])) for row in found} == {256}
    assert max(len(row.embedding or b"") for row in found) <= 2 * 4_096


def test_rows_between_commits_are_bounded() -> None:
    """Events in falling order of rank: each batch brings rows lower than all before."""
    rows = rows_of(4_000)
    order = np.argsort(-event_ranks(batch_of(rows)))
    summary = MONITOR.summary()
    held = []
    for start in range(0, 4_000, 20):
        summary.update(batch_of([rows[index] for index in order[start : start + 20]]))
        held.append(len(summary._rows) + sum(len(part.ranks) for part in summary._fresh))
    assert max(held) <= 4 * 8 + 8
    assert tokens(summary) == order[::-1][:8].tolist()
