"""The whole sidecar with every monitor against a baseline, in events per CPU-second, and its memory.

    python benchmarks/sidecar.py [--events 400000] [--segments 1] [--embedding 0 384]

Arrow records of 256 events with token counts, prediction, 20 numeric and 5 categorical features, with and
without an embedding. Decode, windows, all monitors, state changes at every lot, drift judged, the history's
parcels encoded when a window closes: all but the disk and the broker. CPU time of the whole process, all
threads; making the records is not counted. `--events 10000000 --segments 50` shows that memory is flat.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import pyarrow as pa

from mlmon.drift.config import AlertsConfig, DriftConfig
from mlmon.drift.judge import Judge
from mlmon.engine import Engine, EngineConfig, Intake, SeriesConfig
from mlmon.events.batch import EventBatch
from mlmon.events.codecs import DecodeConfig, Decoder
from mlmon.events.encode import ARROW_CONTENT_TYPE, encode_batch
from mlmon.events.record import LogRecord
from mlmon.history.outbox import drift_fields, encode_window
from mlmon.monitors import MONITORS, Surroundings, build_monitors
from mlmon.simulate.reference import drawn_reference

if TYPE_CHECKING:
    from mlmon.baseline.store import BaselineStore

PER_RECORD, RECORDS = 256, 32
#: Events between two commits: two seconds of the goal with embeddings.
COMMIT_EVENTS = 160_000
START = 1_780_000_000_000_000
STEP_US = 2_000
CONFIGS = {name: entry.config() for name, entry in MONITORS.items()}


def make_events(n: int, dimensions: int, segments: int) -> pa.Table:
    """Events of one service; all columns that the monitors read."""
    rng = np.random.default_rng(1)
    words = rng.poisson(20, n) + 1
    pieces = rng.binomial(words, 0.2)
    columns = {
        "service": pa.array(["checkout"] * n),
        "model_name": pa.array(["intent-bert"] * n),
        "model_version": pa.array(["2026-11-01"] * n),
        "status": pa.array(["ok"] * n),
        "latency_seconds": pa.array(rng.lognormal(-3.5, 0.6, n)),
        "words": pa.array(words.astype(np.int32)),
        "tokens": pa.array((words + pieces).astype(np.int32)),
        "continuation_tokens": pa.array(pieces.astype(np.int32)),
        "unknown_tokens": pa.array((rng.random(n) < 0.01).astype(np.int32)),
        "truncated_tokens": pa.array(np.zeros(n, np.int32)),
        "characters": pa.array((5 * words).astype(np.int32)),
        "prediction": pa.array([f"intent_{i}" for i in rng.integers(0, 60, n)]),
        "confidence": pa.array(rng.beta(8, 2, n)),
        "entropy": pa.array(rng.gamma(2, 0.3, n)),
        "numeric_features": pa.StructArray.from_arrays(
            [pa.array(rng.lognormal(size=n)) for _ in range(20)], [f"x{i}" for i in range(20)]
        ),
        "categorical_features": pa.StructArray.from_arrays(
            [pa.array([f"v{v}" for v in rng.integers(0, 8, n)]) for _ in range(5)],
            [f"k{i}" for i in range(5)],
        ),
        "sampling_weight": pa.array(np.full(n, 20.0)),
    }
    if dimensions:
        values = pa.array(rng.normal(size=n * dimensions).astype(np.float16))
        offsets = np.arange(0, n * dimensions + 1, dimensions, dtype=np.int32)
        columns["embedding"] = pa.ListArray.from_arrays(offsets, values)
    if segments > 1:
        keys = pa.array(["tenant"] * n)
        names = pa.array([f"t{i}" for i in rng.integers(0, segments, n)])
        columns["segments"] = pa.MapArray.from_arrays(np.arange(n + 1, dtype=np.int32), keys, names)
    return pa.table(columns)


def lots(events: pa.Table, count: int) -> list[LogRecord]:
    """The records of lot number `count`, later in event time than those before."""
    size = PER_RECORD * RECORDS
    times = START + (count * size + np.arange(size)) * STEP_US
    rows = events.slice((count * size) % (len(events) - size + 1), size)
    rows = rows.append_column("event_time", pa.array(times).cast(pa.timestamp("us", tz="UTC")))
    rows = rows.append_column("event_id", pa.array([f"{count}-{i}" for i in range(size)])).combine_chunks()
    headers = [("content-type", ARROW_CONTENT_TYPE.encode())]
    return [
        LogRecord(
            count * RECORDS + i,
            START // 1000,
            None,
            encode_batch(EventBatch(rows.slice(i * PER_RECORD, PER_RECORD).combine_chunks().to_batches()[0])),
            headers,
        )
        for i in range(RECORDS)
    ]


def resident_mib() -> float:
    """The resident set of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def make_engine(store: BaselineStore, segments: int) -> Engine:
    """An engine as the sidecar has it."""
    monitors = build_monitors(CONFIGS, Surroundings(parameters=store.parameters))
    config = EngineConfig(series=SeriesConfig(segment_by=("tenant",) if segments > 1 else ()))
    judge = Judge(store, AlertsConfig(), DriftConfig(), config.windows.size_seconds)
    encode = partial(encode_window, fields=drift_fields(monitors, store.parameters))
    return Engine(config, monitors, "bench", judge, encode)


def run(events: int, dimensions: int, segments: int, *, watch: bool) -> float:
    """Events per CPU-second."""
    table = make_events(32_768, dimensions, segments)
    order = np.random.default_rng(2).integers(0, len(table), 30_000)
    store = drawn_reference(table.drop_columns(["sampling_weight"]), order, CONFIGS)
    engine = make_engine(store, segments)
    decoder = Decoder(DecodeConfig(), engine.fields)
    engine.assign("p", 0, {}, 0.0)
    size, spent, closed = PER_RECORD * RECORDS, 0.0, 0
    # as the loop does: more events to a pass with many series, a commit every two seconds
    together = min(8, max(1, segments // 6))
    steps = max(1, events // size // together) * together
    for step in range(0, steps, together):
        records = [record for part in range(step, step + together) for record in lots(table, part)]
        started = time.process_time()
        decoded = decoder.decode(records, START + 10**13)
        engine.process("p", Intake(records[-1].offset + 1, decoded.batch, len(records)), 0.0)
        if (step + together) * size % COMMIT_EVENTS < together * size:
            engine.changes(START, 0.0, {"p": 1})
            closed += engine.committed().windows
            for name, _ in engine.outbox.due():
                engine.delivered(name)
        spent += time.process_time() - started
        done = step + together
        if watch and done % (max(1, steps // 10 // together) * together) == 0:
            print(f"  {done * size:>12,} events  {resident_mib():7.1f} MiB  {engine.series_count} series")
    assert engine.partitions["p"].meta.events == steps * size
    assert closed > 0
    return steps * size / spent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--segments", type=int, default=1)
    parser.add_argument("--embedding", type=int, nargs="*", default=[0, 384])
    parser.add_argument("--memory", action="store_true", help="print the resident set after every tenth")
    options = parser.parse_args()
    goals = {0: 250_000, 384: 80_000}
    for dimensions in options.embedding:
        rate = run(options.events, dimensions, options.segments, watch=options.memory)
        goal = goals.get(dimensions)
        print(
            f"{options.events:,} events, {options.segments} segments, embedding {dimensions}: "
            f"{rate:,.0f} events/CPU-s" + (f" (goal {goal:,})" if goal else "")
        )


if __name__ == "__main__":
    main()
