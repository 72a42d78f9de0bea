"""What the explorer's pages cost over a month of history.

    python benchmarks/explorer.py                      30 days x 50 fields x 10 segments, windows of 5 minutes
    python benchmarks/explorer.py --keep /tmp/month    keep the history, and use it again

The history is made of tables as a sidecar writes them, in files as its upkeep joins them (rows in order,
small row groups, zstd), with random values. Readings of all 50 fields are there, not only of the top ten.

Each page is opened in a process of its own, by Streamlit's own runner without a browser: imports, then the
first paint, then the same page again (what a rerun costs), then an interaction: another choice on the page.
Times are wall and processor seconds, medians over `--repeats` processes. Beside it, what pandas needs to load
all readings of that time, which is what a page would do without DuckDB.

Goals: first paint under 2 s, interactions under 0.5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
import numpy as np
import pyarrow as pa

from mlmon.catalog import drift, requests, slo
from mlmon.history.files import digest_of, file_metadata, joined_name, replace_file
from mlmon.history.tables import QUANTILES, TABLES
from mlmon.history.upkeep import in_order
from mlmon.stats.sketch import QuantileSketch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

APP = Path(__file__).parents[1] / "mlmon" / "explorer" / "app.py"
START = 1_762_905_600  # midnight
DAY = 86_400
#: Windows to a row group of readings: some 64 MiB.
LOT = 96
KEPT, DIMENSIONS = 32, 384
CELLS = 12
PAGES = ("overview", "incident", "fields", "tokenizer", "embeddings", "compare", "simulate")
FIELD_METRICS = (
    drift.EFFECT,
    drift.EVIDENCE,
    drift.TOLERANCE,
    drift.FIELD_THRESHOLD,
    drift.ALARM,
    drift.SAMPLE_SIZE,
)
RATIOS = (
    requests.UNKNOWN_TOKEN_RATIO,
    requests.TOKENS_PER_WORD,
    requests.CHARACTERS_PER_TOKEN,
    requests.CONTINUATION_RATIO,
    requests.TRUNCATION_RATIO,
)
MONITORS = ("features", "predictions", "tokenizer", "embeddings")
STATES = ("ok", "alarm", "insufficient_data", "insufficient_reference")


def fields_of(count: int) -> list[tuple[str, str]]:
    own = [("embeddings", "shift"), ("embeddings", "typicality"), ("predictions", "class")]
    return [*own, *(("features", f"feature-{number}") for number in range(count - len(own)))]


def segments_of(count: int) -> list[str]:
    return ["", *(f"tenant=t{number}" for number in range(1, count))]


def reading_rows(fields: int, segments: int) -> list[dict[str, Any]]:
    """The readings of one window, without their values."""
    series = {"service": "shop", "model": "intent", "version": "1", "deployment": "stable"}
    rows = [
        {"metric": metric.name, **series, "segment": segment, "monitor": monitor, "field": field}
        for segment in segments_of(segments)
        for monitor, field in fields_of(fields)
        for metric in FIELD_METRICS
    ]
    for segment in segments_of(segments):
        rows += [{"metric": metric.name, **series, "segment": segment} for metric in RATIOS]
        rows += [
            {
                "metric": drift.FIELDS.name,
                **series,
                "segment": segment,
                "monitor": monitor,
                "labels": [("state", state)],
            }
            for monitor in MONITORS
            for state in STATES
        ]
    group = {"service": "shop", "model": "intent"}
    rows += [{"metric": m.name, **group} for m in (drift.PAGER_EVIDENCE, drift.PAGER_ALARM)]
    for name in ("availability", "latency-p95"):
        for metric in (slo.BURN, slo.BURN_LOWER):
            labels = [("slo", name), ("window", "1h")]
            rows.append({"metric": metric.name, **group, "labels": labels})
        rows.append({"metric": slo.BUDGET_REMAINING.name, **group, "labels": [("slo", name)]})
    return rows


class Month:
    """Writes the tables of some days."""

    def __init__(self, directory: Path, size: argparse.Namespace) -> None:
        self.directory, self.size = directory, size
        self.rng = np.random.default_rng(1)
        self.rows = reading_rows(size.fields, size.segments)
        template = [
            {**dict.fromkeys(TABLES["readings"].names), "labels": [], "attributes": [], **row}
            for row in self.rows
        ]
        self.template = pa.Table.from_pylist(
            [{**row, "window_start": 0, "window_end": 0} for row in template], TABLES["readings"]
        )
        sketch = QuantileSketch()
        sketch.add(self.rng.lognormal(-3.5, 0.4, 500), np.ones(500))
        self.sketch = sketch.to_bytes()

    def write(self) -> None:
        per_day = DAY // self.size.window
        for day in range(self.size.days):
            first = START + day * DAY
            starts = first + self.size.window * np.arange(per_day)
            lots = [starts[at : at + LOT] for at in range(0, per_day, LOT)]
            self._file("readings", first, (self.readings(lot) for lot in lots))
            self._file("distributions", first, (self.distributions(lot) for lot in lots))
            self._file("latency", first, [self.latency(starts)])
            self._file("outcomes", first, [self.outcomes(starts)])
            self._file("events", first, [self.events(starts)])

    def _file(self, table: str, first: int, parts: Iterator[pa.Table] | list[pa.Table]) -> None:
        digests = [digest_of([f"{table}{first}{number}"]) for number in range(2)]
        schema = TABLES[table].with_metadata(file_metadata(digests))
        day = time.strftime("%Y-%m-%d", time.gmtime(first))
        name = joined_name(first * 1_000_000, digests)
        groups = (group for rows in parts for group in in_order(rows, table))
        replace_file(self.directory / table / f"date={day}" / name, groups, schema)

    def _times(self, starts: NDArray[np.int64], each: int) -> dict[str, pa.Array]:
        stamps = np.repeat(starts, each) * 1_000_000
        kind = pa.timestamp("us", "UTC")
        ends = stamps + self.size.window * 1_000_000
        return {"window_start": pa.array(stamps).cast(kind), "window_end": pa.array(ends).cast(kind)}

    def readings(self, starts: NDArray[np.int64]) -> pa.Table:
        count = len(self.rows)
        table = pa.concat_tables([self.template] * len(starts)).combine_chunks()
        metrics = [row["metric"] for row in self.rows]
        values = self.rng.gamma(2.0, 0.05, (len(starts), count))
        day = (starts[:, None] - START) / DAY
        values[:, [metric == drift.EVIDENCE.name for metric in metrics]] **= 2
        zero = [metric in (drift.PAGER_ALARM.name, drift.ALARM.name) for metric in metrics]
        values[:, zero] = ((day % 7) > 6.9) * 1.0
        limits = np.full(count, np.nan)
        for row, metric in enumerate(metrics):
            limits[row] = {
                drift.EVIDENCE.name: 1e6,
                drift.EFFECT.name: 0.3,
                drift.PAGER_EVIDENCE.name: 1e3,
            }.get(metric, np.nan)
        made = {
            **self._times(starts, count),
            "value": pa.array(values.ravel()),
            "n": pa.array(self.rng.integers(200, 400, values.size)),
            "threshold": pa.array(np.tile(limits, len(starts)), from_pandas=True),
        }
        for name, column in made.items():
            table = table.set_column(
                table.schema.get_field_index(name), TABLES["readings"].field(name), column
            )
        return table

    def distributions(self, starts: NDArray[np.int64]) -> pa.Table:
        pairs = [(s, m, f) for s in segments_of(self.size.segments) for m, f in fields_of(self.size.fields)]
        each, total = len(pairs), len(pairs) * len(starts)
        cells = pa.array(self.rng.poisson(25.0, total * CELLS).astype(np.float64))
        offsets = pa.array(np.arange(total + 1, dtype=np.int32) * CELLS)
        kinds = ["vector" if monitor == "embeddings" else "cells" for _, monitor, _ in pairs]
        columns = {
            **self._times(starts, each),
            **self._series(total),
            "segment": self._tiled([s for s, _, _ in pairs], len(starts)),
            "monitor": self._tiled([m for _, m, _ in pairs], len(starts)),
            "field": self._tiled([f for _, _, f in pairs], len(starts)),
            "kind": self._tiled(kinds, len(starts)),
            "cells": pa.ListArray.from_arrays(offsets, cells),
            "n": pa.array(np.full(total, 300)),
            "weight": pa.array(np.full(total, 300.0)),
            "n_eff": pa.array(np.full(total, 300.0)),
        }
        return pa.table([columns[name] for name in TABLES["distributions"].names], TABLES["distributions"])

    def latency(self, starts: NDArray[np.int64]) -> pa.Table:
        segments = segments_of(self.size.segments)[1:]
        total = len(segments) * len(starts)
        columns = {
            **self._times(starts, len(segments)),
            **self._series(total),
            "segment": self._tiled(segments, len(starts)),
            "part": pa.array(["total"] * total),
            "sketch": pa.array([self.sketch] * total, pa.binary()),
            "n": pa.array(np.full(total, 500)),
            "weight": pa.array(np.full(total, 500.0)),
            "n_eff": pa.array(np.full(total, 500.0)),
            **{name: pa.array(np.full(total, 0.03)) for name in QUANTILES},
        }
        return pa.table([columns[name] for name in TABLES["latency"].names], TABLES["latency"])

    def outcomes(self, starts: NDArray[np.int64]) -> pa.Table:
        segments = segments_of(self.size.segments)[1:]
        keys = [(s, o, r) for s in segments for o in ("availability", "latency-p95") for r in ("good", "bad")]
        total = len(keys) * len(starts)
        counts = np.where(
            self._tiled([r for _, _, r in keys], len(starts)).to_numpy(zero_copy_only=False) == "good", 495, 5
        )
        columns = {
            **self._times(starts, len(keys)),
            **self._series(total),
            "segment": self._tiled([s for s, _, _ in keys], len(starts)),
            "slo": self._tiled([o for _, o, _ in keys], len(starts)),
            "outcome": self._tiled([r for _, _, r in keys], len(starts)),
            "n": pa.array(counts),
            "weight": pa.array(counts.astype(np.float64)),
            "weight_squared": pa.array(counts.astype(np.float64)),
        }
        return pa.table([columns[name] for name in TABLES["outcomes"].names], TABLES["outcomes"])

    def events(self, starts: NDArray[np.int64]) -> pa.Table:
        total = KEPT * len(starts)
        rng = self.rng
        halves = pa.array(rng.normal(0, 0.05, total * DIMENSIONS).astype(np.float16))
        offsets = pa.array(np.arange(total + 1, dtype=np.int32) * DIMENSIONS)
        times = self._times(starts, KEPT)
        segments = [[("tenant", f"t{number}")] for number in rng.integers(1, 10, total).tolist()]
        columns = {
            **times,
            **self._series(total),
            "rank": pa.array(rng.exponential(0.01, total)),
            "window_events": pa.array(np.full(total, 3000)),
            "window_weight": pa.array(np.full(total, 3000.0)),
            "event_time": times["window_start"],
            "prediction": pa.array(rng.choice(["order", "refund", "help"], total).tolist()),
            "confidence": pa.array(rng.beta(8, 2, total)),
            "input_hash": pa.array([f"{number:016x}" for number in rng.integers(0, 2**60, total).tolist()]),
            "segments": pa.array(segments, pa.map_(pa.string(), pa.string())),
            "embedding": pa.ListArray.from_arrays(offsets, halves),
        }
        schema = TABLES["events"]
        return pa.table([columns.get(f.name, pa.nulls(total, f.type)) for f in schema], schema)

    def _series(self, total: int) -> dict[str, pa.Array]:
        held = {"service": "shop", "model": "intent", "version": "1", "deployment": "stable"}
        return {name: pa.repeat(pa.scalar(value), total) for name, value in held.items()}

    def _tiled(self, values: list[str], times: int) -> pa.Array:
        return pa.array(np.tile(np.array(values, object), times), pa.string())


PROBE = """
import json, os, sys, time
name, span, app = sys.argv[1:4]
from streamlit.testing.v1 import AppTest
import streamlit, plotly.graph_objects, duckdb, pandas, numpy, scipy.stats, pyarrow.parquet
import mlmon.config, mlmon.explorer.shell
def timed(run):
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return [time.perf_counter() - wall, time.process_time() - cpu]
page = AppTest.from_file(app, default_timeout=600)
page.switch_page(f"screens/{name}.py")
if span != "24h":
    page.query_params["span"] = span
first = timed(page.run)
again = timed(page.run)
def choose():
    if name in ("fields", "compare"):
        box = next(one for one in page.selectbox if one.label == "field")
        page_field = ("features", "feature-7")
        box.set_value(page_field).run()
    elif name == "embeddings":
        next(one for one in page.selectbox if one.label == "colour").set_value("prediction").run()
    elif name == "simulate":
        next(iter(page.selectbox)).set_value(next(iter(page.selectbox)).options[0]).run()
    else:
        next(one for one in page.selectbox if one.label == "segment").set_value("tenant=t3").run()
other = timed(choose)
said = [str(one.value) for one in page.exception] + [str(one.value) for one in page.error]
print(json.dumps({"first": first, "again": again, "interaction": other, "said": said}))
"""


def probe(history: Path, name: str, span: str) -> dict[str, Any]:
    environment = {**os.environ, "MLMON_EXPLORE_HISTORY": str(history), "MLMON_EXPLORE_BASELINES": ""}
    command = [sys.executable, "-c", PROBE, name, span, str(APP)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["said"]:
        raise SystemExit(f"{name}: {found['said']}")
    return found


PANDAS = """
import sys, time, glob
import pandas as pd
wall, cpu = time.perf_counter(), time.process_time()
names = sorted(glob.glob(sys.argv[1] + "/readings/*/*.parquet"))[-int(sys.argv[2]):]
rows = sum(len(pd.read_parquet(name, partitioning=None)) for name in names)
print(rows, time.perf_counter() - wall, time.process_time() - cpu)
"""


def loaded(history: Path, days: int) -> tuple[int, float, float]:
    done = subprocess.run(
        [sys.executable, "-c", PANDAS, str(history), str(days)], capture_output=True, text=True, check=True
    )
    rows, wall, cpu = done.stdout.split()
    return int(rows), float(wall), float(cpu)


def measure(history: Path, arguments: argparse.Namespace) -> list[str]:
    lines = []
    for span in arguments.spans:
        rows, wall, cpu = loaded(history, 1 if span == "24h" else arguments.days)
        lines += [
            f"\nSpan {span}. pandas, all {rows:,} readings: {wall:.1f} s wall, {cpu:.1f} s processor.\n",
            "| page | first paint s (cpu) | again s (cpu) | interaction s (cpu) | pandas / first paint |",
            "|---|---|---|---|---|",
        ]
        print("\n".join(lines[-3:]), flush=True)
        for name in arguments.pages:
            found = [probe(history, name, span) for _ in range(arguments.repeats)]
            cells = []
            for what in ("first", "again", "interaction"):
                both = [statistics.median(one[what][index] for one in found) for index in range(2)]
                cells.append(f"{both[0]:.2f} ({both[1]:.2f})")
            first = statistics.median(one["first"][0] for one in found)
            lines.append(f"| {name} | {' | '.join(cells)} | {wall / first:.1f} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, preset in (("days", 30), ("fields", 50), ("segments", 10), ("window", 300), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=preset)
    parser.add_argument("--spans", nargs="+", default=["24h", "30d"])
    parser.add_argument("--pages", nargs="+", default=list(PAGES), choices=PAGES)
    parser.add_argument("--keep", type=Path, help="Where the history is made, and left.")
    parser.add_argument("--output", type=Path, help="Write the tables as Markdown, too.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        history = arguments.keep or Path(folder)
        if not (history / "readings").exists():
            begun = time.perf_counter()
            Month(history, arguments).write()
            print(f"made in {time.perf_counter() - begun:.0f} s")
        size = sum(path.stat().st_size for path in history.rglob("*.parquet"))
        head = (
            f"{arguments.days} days, {arguments.fields} fields, {arguments.segments} segments, windows of "
            f"{arguments.window} s: {size / 1e6:,.0f} MB of Parquet"
        )
        print(head, flush=True)
        lines = [head, *measure(history, arguments)]
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
