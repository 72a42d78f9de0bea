"""The sample: bounded, uniform over traffic whatever the weights, the same for any order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from report_kit import batches, events

from mlmon.events.batch import EventBatch
from mlmon.reports.rows import RowSample


def sample_of(ids: list[str], weights: np.ndarray, size: int, step: int = 500) -> pa.Table:
    sample = RowSample(size)
    kept = pa.array((weights > 1).astype(np.int32))
    table = pa.table({"event_id": ids, "tokens": kept})
    start = 0
    for records in table.to_batches(max_chunksize=step):
        batch = EventBatch(records)
        sample.add(batch, weights[start : start + len(batch)])
        start += len(batch)
    return sample.table()


def heavy_share(count: int, size: int, seed: int) -> float:
    """Share of heavy events in a sample: one in 11 events weighs 10, so they stand for half the traffic."""
    ids = [f"{seed}-{i}" for i in range(count)]
    weights = np.where(np.arange(count) % 11 == 0, 10.0, 1.0)
    taken = sample_of(ids, weights, size).column("tokens").to_numpy()
    return float(taken.mean())


def test_traffic_is_represented_alike_when_there_is_more_than_wanted() -> None:
    shares = [heavy_share(11_000, 500, seed) for seed in range(20)]
    assert abs(np.mean(shares) - 0.5) < 4 * 0.5 / np.sqrt(20 * 500)


def test_traffic_is_represented_alike_when_there_is_less_than_wanted() -> None:
    """All events at hand would show a share of one in eleven: light ones must give way."""
    shares = [heavy_share(1100, 10_000, seed) for seed in range(20)]
    assert abs(np.mean(shares) - 0.5) < 4 * 0.5 / np.sqrt(20 * 200)


def test_equal_weights_and_few_events_are_all_kept() -> None:
    sample = RowSample(1000)
    for batch in batches(events(700, 3)):
        sample.add(batch, batch.weights())
    assert sample.table().num_rows == sample.events == 700
    assert sample.weight == 14_000.0


def test_any_order_gives_the_same_rows_and_the_size_is_kept() -> None:
    ids = [f"e{i}" for i in range(5000)]
    weights = np.random.default_rng(1).choice([1.0, 2.0, 4.0], 5000)
    forward = sample_of(ids, weights, 300)
    order = np.random.default_rng(2).permutation(5000)
    shuffled = sample_of([ids[i] for i in order], weights[order], 300, step=77)
    assert forward.num_rows == 300
    assert forward.equals(shuffled)


def test_memory_is_bounded_by_twice_the_size() -> None:
    sample = RowSample(100)
    for batch in batches(events(5000, 4)):
        sample.add(batch, batch.weights())
        assert sum(len(ranks) for ranks, _ in sample._parts) <= 200


def test_nothing_is_an_empty_table() -> None:
    assert RowSample(10).table().num_rows == 0
