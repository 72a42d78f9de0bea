"""What watching embeddings costs: vectors per CPU-second on one core, beside the bare product it rests on.

    python benchmarks/embeddings.py [--rounds 15] [--learn 20000] [--json]

`monitor` is the whole update of the monitor: select, widen from float16, lengths, mean, typicality, sums.
`product` is what typicality costs when done plainly: one float32 GEMM with the whitening. `triangle` is the
triangular product that the monitor does instead. `learn` is the first pass over a reference. Batches are as
the sidecar cuts them: Arrow records of one series, one in fifty events without an embedding. BLAS has one
thread. Rounds are interleaved; the best of each is shown, in CPU time of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa

from mlmon.events.batch import EventBatch
from mlmon.monitors.embedding_fields import triangular, whitened_squares
from mlmon.monitors.embeddings import EmbeddingsConfig, EmbeddingsMonitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlmon.baseline.model import Parameters

START_US = 1_767_225_600_000_000
SIZES = (256, 4096)
DIMENSIONS = (384, 768)


def make_batch(rng: np.random.Generator, count: int, dimension: int) -> EventBatch:
    """Events with unit vectors, dimensions correlated; every fiftieth has none."""
    vectors = rng.normal(size=(count, dimension)) * np.linspace(3, 0.3, dimension)
    vectors += vectors[:, ::-1] * 0.3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    has = np.arange(count) % 50 != 0
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(has * dimension, out=offsets[1:])
    lists = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(vectors[has].astype(np.float16).reshape(-1)), mask=pa.array(~has)
    )
    same = {"service": "search", "model_name": "encoder", "model_version": "1", "status": "ok"}
    columns = {name: pa.array([value] * count) for name, value in same.items()}
    columns["event_id"] = pa.array([rng.bytes(16).hex() for _ in range(count)])
    columns["event_time"] = pa.array(np.arange(count) + START_US, pa.timestamp("us", tz="UTC"))
    return EventBatch(pa.record_batch({**columns, "embedding": lists}))


def learned(batches: list[EventBatch]) -> Parameters:
    learner = EmbeddingsMonitor(EmbeddingsConfig()).learner()
    for place, batch in enumerate(batches):
        learner.update(batch, place % 2)
    made = learner.finish((0, 1))
    assert made is not None
    return made


def ways(
    rng: np.random.Generator, size: int, dimension: int, learn: int
) -> tuple[dict[str, Callable[[], int]], dict[str, float]]:
    """What is measured for one batch size and dimension: calls that return how many events they did."""
    reference = [make_batch(rng, 2048, dimension) for _ in range(max(1, learn // 2048))]
    start = time.process_time()
    parameters = learned(reference)
    done = {"learn": 2048 * len(reference) / (time.process_time() - start)}
    monitor = EmbeddingsMonitor(EmbeddingsConfig(), lambda _monitor, _scope: parameters)
    batch = make_batch(rng, size, dimension)
    summary = monitor.summary()
    whiten = parameters.fields["shift"].whiten
    assert whiten is not None
    values = rng.normal(size=(size, dimension)).astype(np.float32)
    factor, out = triangular(whiten), np.empty((size, whiten.shape[1]), np.float32)
    repeats = max(1, 8192 // size)

    def watch() -> int:
        for _ in range(repeats):
            summary.update(EventBatch(batch.records))
        return repeats * size

    def product() -> int:
        for _ in range(repeats):
            np.matmul(values, whiten, out=out)
        return repeats * size

    def triangle() -> int:
        scratch: NDArray[np.float32] = values.copy()
        for _ in range(repeats):
            np.copyto(scratch, values)
            whitened_squares(scratch, factor)
        return repeats * size

    return {"monitor": watch, "product": product, "triangle": triangle}, done


def measure(found: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Events per CPU-second, best of interleaved rounds; the first round is not counted."""
    best = dict.fromkeys(found, 0.0)
    for round_ in range(rounds + 1):
        for name, run in found.items():
            start = time.process_time()
            count = run()
            if round_:
                best[name] = max(best[name], count / (time.process_time() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--learn", type=int, default=20_000, help="events of the reference")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    rng = np.random.default_rng(5)
    report: dict[str, dict[str, float]] = {}
    for dimension in DIMENSIONS:
        for size in SIZES:
            found, done = ways(rng, size, dimension, options.learn)
            report[f"{dimension}-d, {size} events"] = measure(found, options.rounds) | done
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{'batch':<22} {'way':<10} {'vectors/CPU-s':>14} {'µs/vector':>10} {'x product':>10}")
    for label, rates in report.items():
        for name, rate in rates.items():
            print(
                f"{label:<22} {name:<10} {rate:>14,.0f} {1e6 / rate:>10.2f} {rate / rates['product']:>10.2f}"
            )


if __name__ == "__main__":
    main()
