"""Updating the sums of features and predictions, in µs of CPU an event, beside decoding and searchsorted.

    python benchmarks/features.py [--events 200000] [--batch 8192] [--profile]

20 numeric features (normal, log-normal, integer, zero-inflated, heavy-tailed), 5 categorical ones; labels,
confidence, entropy and the 5 best labels with their scores. The baseline's parameters are learned from events
of the same kind. CPU time of the whole process, best of several rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mlmon.events.batch import EventBatch
from mlmon.monitors.features import FeaturesConfig, FeaturesMonitor
from mlmon.monitors.predictions import PredictionsConfig, PredictionsMonitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlmon.baseline.model import Parameters, ScopeKey
    from mlmon.monitors.drift_monitor import FieldMonitor

ROUNDS = 5
START = 1_780_000_000_000_000
NUMERIC, CATEGORICAL, LABELS = 20, 5, 64


def numeric(rng: np.random.Generator, kind: int, count: int) -> np.ndarray:
    """One feature's values."""
    makers: tuple[Callable[[], np.ndarray], ...] = (
        lambda: rng.normal(size=count),
        lambda: rng.lognormal(0, 1.5, count),
        lambda: rng.poisson(20, count).astype(np.float64),
        lambda: np.where(rng.random(count) < 0.4, 0.0, rng.exponential(size=count)),
        lambda: rng.standard_t(3, count),
    )
    return makers[kind % len(makers)]()


def make_batch(rng: np.random.Generator, count: int, variant: str) -> EventBatch:
    """Events of one series. Variants: plain, common weight, mixed weights, 2 % errors, 10 % null, float32."""
    kind = np.float32 if variant == "float32" else np.float64
    numbers = [numeric(rng, i, count).astype(kind) for i in range(NUMERIC)]
    null = rng.random(count) < 0.1 if variant == "null" else None
    words = np.array([f"value-{i}" for i in range(40)])
    texts = [words[np.minimum(rng.geometric(0.15, count), 40) - 1] for _ in range(CATEGORICAL)]
    labels = np.array([f"intent_{i}" for i in range(LABELS)])
    top = np.argsort(rng.random((count, LABELS)), axis=1)[:, :5]
    scores = np.sort(rng.dirichlet(np.ones(5), count), axis=1)[:, ::-1].astype(np.float32)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * 5)
    columns = {
        "event_id": pa.array([f"{x:016x}" for x in rng.integers(0, 2**62, count).tolist()]),
        "event_time": pa.array(START + np.arange(count), pa.timestamp("us", tz="UTC")),
        "service": pa.array(["s"] * count),
        "model_name": pa.array(["m"] * count),
        "model_version": pa.array(["1"] * count),
        "numeric_features": pa.StructArray.from_arrays(
            [pa.array(x, mask=null) for x in numbers], names=[f"n{i}" for i in range(NUMERIC)]
        ),
        "categorical_features": pa.StructArray.from_arrays(
            [pa.array(x) for x in texts], names=[f"c{i}" for i in range(CATEGORICAL)]
        ),
        "prediction": pa.array(labels[top[:, 0]]),
        "confidence": pa.array(scores[:, 0].astype(np.float64)),
        "entropy": pa.array(rng.gamma(2.0, 0.3, count)),
        "top_labels": pa.ListArray.from_arrays(offsets, pa.array(labels[top].reshape(-1))),
        "top_scores": pa.ListArray.from_arrays(offsets, pa.array(scores.reshape(-1))),
    }
    if variant == "common weight":
        columns["sampling_weight"] = pa.array(np.full(count, 20.0))
    if variant == "mixed weights":
        columns["sampling_weight"] = pa.array(rng.choice([1.0, 20.0], count))
    if variant == "errors":
        columns["status"] = pa.array(np.where(rng.random(count) < 0.02, "error", "ok"))
    return EventBatch(pa.record_batch(columns))


def learned(build: Callable[..., FieldMonitor], batches: list[EventBatch]) -> tuple[FieldMonitor, float]:
    """The monitor with a baseline of these events, and the seconds that learning took."""
    started = time.process_time()
    learner = build().learner()
    for index, batch in enumerate(batches):
        learner.update(batch, index % 2)
    parameters = learner.finish((0, 1))
    seconds = time.process_time() - started

    def find(_monitor: str, _scope: ScopeKey) -> Parameters | None:
        return parameters

    return build(find), seconds


def fresh(batch: EventBatch) -> EventBatch:
    """The same events with nothing computed yet."""
    return EventBatch(batch.records)


def cpu_us(work: Callable[[list[EventBatch]], None], batches: list[EventBatch]) -> float:
    """CPU time of the best round, µs an event."""
    best = float("inf")
    for _ in range(ROUNDS):
        new = [fresh(batch) for batch in batches]
        started = time.process_time()
        work(new)
        best = min(best, time.process_time() - started)
    return best / sum(map(len, batches)) * 1e6


def update_all(monitor: FieldMonitor, batches: list[EventBatch]) -> None:
    summary = monitor.summary()
    for batch in batches:
        summary.update(batch)


def searched(batches: list[EventBatch]) -> None:
    """The bar: every number looked up by bisection, every string dictionary-encoded, and counted."""
    edges = np.linspace(-3, 3, 63)
    for batch in batches:
        struct = batch.column("numeric_features")
        for index in range(NUMERIC):
            values = struct.field(index).to_numpy(zero_copy_only=False)
            np.bincount(np.searchsorted(edges, values, side="right"), minlength=64)
        struct = batch.column("categorical_features")
        for index in range(CATEGORICAL):
            encoded = struct.field(index).dictionary_encode()
            np.bincount(encoded.indices.to_numpy(zero_copy_only=False))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=8192, help="events to a batch")
    parser.add_argument("--profile", action="store_true", help="where the time of the plain events goes")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    builds = (
        ("features", lambda *found: FeaturesMonitor(FeaturesConfig(), *found)),
        ("predictions", lambda *found: PredictionsMonitor(PredictionsConfig(), *found)),
    )
    reference = [make_batch(rng, 8192, "plain") for _ in range(6)]
    made = {name: learned(build, reference) for name, build in builds}
    for name, (_, seconds) in made.items():
        total = sum(map(len, reference))
        print(f"learning {name:12s} {seconds / total * 1e6:8.2f} µs an event ({total} events)")
    print(f"{'µs of CPU an event':24s} " + " ".join(f"{name:>12s}" for name in (*made, "searchsorted")))
    for variant in ("plain", "common weight", "mixed weights", "errors", "null", "float32"):
        count = max(1, options.events // options.batch)
        batches = [make_batch(rng, options.batch, variant) for _ in range(count)]
        row = [cpu_us(lambda new, m=m: update_all(m, new), batches) for m, _ in made.values()]
        row.append(cpu_us(searched, batches))
        print(f"{variant:24s} " + " ".join(f"{value:12.3f}" for value in row))
        if options.profile and variant == "plain":
            for monitor, _ in made.values():
                profile = cProfile.Profile()
                profile.runcall(update_all, monitor, [fresh(batch) for batch in batches])
                pstats.Stats(profile).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    main()
