"""Building a baseline: time and memory for events with embeddings, tokens, features and predictions.

    python benchmarks/baseline.py [--events 1000000] [--dimension 384] [--segments 0]

Each size is built in a process of its own by all monitors there are, from events that are made chunk by chunk
(bursts of 5 of one of 40 topics, over two days); making them is not counted. Printed: seconds to stage and to
calibrate, CPU seconds of both and of making the events, the peak of the resident set, what of it was there
before the build, the temporary files, and the file that results. The peak must not grow with the events. The
mathematics libraries have one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.events.batch import EventBatch

START_US, DAY_US = 1_760_000_000_000_000, 86_400_000_000
CHUNK, TOPICS, BURST = 8_192, 40, 5


def make_chunk(index: int, total: int, dimension: int, segments: int) -> EventBatch:
    """Events `index·CHUNK` and on."""
    from mlmon.events.batch import EventBatch

    count = min(CHUNK, total - index * CHUNK)
    rng = np.random.default_rng((7, index))
    centres = np.random.default_rng(7).normal(scale=0.7, size=(TOPICS, dimension)).astype(np.float32)
    topic = np.repeat(rng.integers(0, TOPICS, -(-count // BURST)), BURST)[:count]
    vectors = centres[topic] + rng.standard_normal((count, dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * dimension)
    place = index * CHUNK + np.arange(count, dtype=np.int64)
    words = rng.poisson(12 + topic % 7) + 1
    columns = {
        "event_id": pa.array([f"{one:016x}" for one in place.tolist()]),
        "event_time": pa.array(START_US + place * (2 * DAY_US // total), pa.timestamp("us", tz="UTC")),
        "service": pa.array(["bench"] * count),
        "model_name": pa.array(["encoder"] * count),
        "model_version": pa.array(["1"] * count),
        "tokens": pa.array(words + rng.binomial(words, 0.3), pa.int32()),
        "words": pa.array(words, pa.int32()),
        "characters": pa.array(words * 6, pa.int32()),
        "unknown_tokens": pa.array(rng.binomial(1, 0.01, count), pa.int32()),
        "prediction": pa.array([f"class-{one}" for one in topic.tolist()]),
        "confidence": pa.array(rng.beta(9, 2, count)),
        "embedding": pa.ListArray.from_arrays(offsets, pa.array(vectors.astype(np.float16).ravel())),
        "numeric_features": pa.StructArray.from_arrays(
            [pa.array(rng.normal(topic % 3, size=count)) for _ in range(8)], [f"f{i}" for i in range(8)]
        ),
    }
    if segments:
        names = rng.integers(0, segments, count).tolist()
        columns["segments"] = pa.array(
            [[("tenant", f"t{one}")] for one in names], pa.map_(pa.string(), pa.string())
        )
    return EventBatch(pa.record_batch(columns))


def build_one(total: int, dimension: int, segments: int) -> dict[str, float]:
    """Build in this process; figures."""
    from mlmon.baseline.file import save_baseline
    from mlmon.calibration import CalibrationOptions, Origin, build
    from mlmon.monitors import MONITORS, build_monitors

    monitors = build_monitors({name: entry.config() for name, entry in MONITORS.items()})
    making = staged = 0.0
    disk = 0

    def events() -> Iterator[EventBatch]:
        nonlocal making
        for index in range(-(-total // CHUNK)):
            before = time.perf_counter()
            chunk = make_chunk(index, total, dimension, segments)
            making += time.perf_counter() - before
            yield chunk

    with tempfile.TemporaryDirectory() as folder:

        def progress(what: str, _done: int, _total: int | None) -> None:
            nonlocal staged, disk
            if what == "calibrating" and not staged:
                staged = time.perf_counter()
                disk = sum(path.stat().st_size for path in Path(folder).rglob("*.arrow"))

        options = CalibrationOptions(("tenant",) if segments else (), directory=folder)
        make_chunk(0, CHUNK, dimension, segments)
        before = _peak()
        start, cpu_start = time.perf_counter(), time.process_time()
        made = build(events(), monitors, options, Origin("made up", 0), progress)
        end, cpu = time.perf_counter(), time.process_time() - cpu_start
        path = Path(folder) / "b.baseline.safetensors"
        save_baseline(made, str(path))
        whole = next(iter(made.scopes.values())).segments[""]
        return {
            "events": total,
            "stage_s": staged - start - making,
            "calibrate_s": end - staged,
            "cpu_s": cpu,
            "peak_mib": _peak(),
            "before_mib": before,
            "disk_mib": disk / 2**20,
            "file_mib": path.stat().st_size / 2**20,
            "fields": len(whole.fields),
            "judged": len(whole.fields) - len(whole.problems),
        }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--segments", type=int, default=0)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(build_one(given.events[0], given.dimension, given.segments)))
        return
    names: list[str] = []
    for events in given.events:
        words = ["--one", "--events", str(events), "--dimension", str(given.dimension)]
        words += ["--segments", str(given.segments)]
        done = subprocess.run(
            [sys.executable, __file__, *words],
            env=os.environ | dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = json.loads(done.stdout)
        if not names:
            names = list(found)
            print(" ".join(f"{name:>12}" for name in names))
        print(" ".join(f"{found[name]:>12,.{0 if found[name] >= 10 else 1}f}" for name in names), flush=True)


if __name__ == "__main__":
    main()
