"""Drift of 20 numeric and 5 categorical features against a prepared baseline, beside Evidently's preset.

    python benchmarks/drift.py [--sizes 5000 50000 500000] [--profile]

Both get the same events, each in a process of its own, warmed up on 1000 of them so that no import is timed.
Ours reads them as an Arrow stream of 8192-event batches, extracts with the features monitor and judges every
field (distribution, missing, unseen, out of range) against the baseline file; reading is timed. Evidently
gets two pandas DataFrames that are in memory already and runs `DataDriftPreset` with its defaults; it has no
prepared baseline, so it needs as many reference rows as there are events. Peak memory is that of the whole
process.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NUMERIC, CATEGORICAL = 20, 5
BATCH, REFERENCE, WARM_UP = 8_192, 100_000, 1_000
START_US = 1_780_000_000_000_000
GOALS = {"cpu_s": 100, "rss_mb": 5}


def make_batch(rng: np.random.Generator, start: int, count: int, *, moved: bool) -> pa.RecordBatch:
    """Events of one series; moved: the first of each kind of feature shifts by a quarter of its spread."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: rng.normal(size=count),
        lambda: rng.lognormal(0, 1.0, count),
        lambda: rng.poisson(20, count).astype(np.float64),
        lambda: rng.gamma(2, size=count),
        lambda: rng.standard_t(4, count),
    )
    numbers = [makers[i % len(makers)]() for i in range(NUMERIC)]
    words = [np.array([f"value-{k}" for k in range(4 * (i + 1))]) for i in range(CATEGORICAL)]
    drawn = [np.minimum(rng.geometric(0.3, count), len(one)) - 1 for one in words]
    if moved:
        numbers[0] += 0.25
        drawn[0] = np.where(rng.random(count) < 0.1, 0, drawn[0])
    times = START_US + (start + np.arange(count)) * 10_000
    fixed = {"service": "bench", "model_name": "model", "model_version": "1"}
    return pa.record_batch(
        {
            "event_id": pa.array([f"{start + i:x}" for i in range(count)]),
            "event_time": pa.array(times, pa.timestamp("us", "UTC")),
            **{name: pa.repeat(value, count) for name, value in fixed.items()},
            "numeric_features": pa.StructArray.from_arrays(
                [pa.array(one) for one in numbers], [f"n{i}" for i in range(NUMERIC)]
            ),
            "categorical_features": pa.StructArray.from_arrays(
                [pa.array(w[d].tolist()) for w, d in zip(words, drawn, strict=True)],
                [f"c{i}" for i in range(CATEGORICAL)],
            ),
        }
    )


def batches(seed: int, count: int, *, moved: bool) -> Iterator[pa.RecordBatch]:
    """Events in batches."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, BATCH):
        yield make_batch(rng, start, min(BATCH, count - start), moved=moved)


def prepare(folder: Path, sizes: list[int]) -> None:
    """Write the baseline, and both sides for every size."""
    from mlmon.baseline.file import save_baseline
    from mlmon.calibration import CalibrationOptions, Origin, build
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.features import FeaturesConfig, FeaturesMonitor

    reference = (EventBatch(one) for one in batches(1, REFERENCE, moved=False))
    monitors = [FeaturesMonitor(FeaturesConfig())]
    made = build(reference, monitors, CalibrationOptions(sample_rows=0), Origin("bench", START_US))
    save_baseline(made, str(folder / "bench.baseline.safetensors"))
    for size in (WARM_UP, *sizes):
        for name, seed, moved in (("reference", 2, False), ("window", 3, True)):
            with (folder / f"{name}-{size}.arrows").open("wb") as sink:
                stream = None
                for records in batches(seed, size, moved=moved):
                    stream = stream or pa.ipc.new_stream(sink, records.schema)
                    stream.write_batch(records)
                if stream is not None:
                    stream.close()


def ours(folder: Path) -> Callable[[int], Callable[[], list[str]]]:
    """How a window of a size becomes the names of drifted fields."""
    from mlmon.baseline.model import ScopeKey
    from mlmon.baseline.store import BaselineStore
    from mlmon.drift.fields import judge_fields
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.features import FeaturesConfig, FeaturesMonitor
    from mlmon.stats.sums import FieldSums

    store = BaselineStore.load([str(folder / "bench.baseline.safetensors")])
    scope = ScopeKey("bench", "model", "1")
    parameters = store.parameters("features", scope)
    segment = store.segment(scope, "", "features")
    assert parameters is not None
    assert segment is not None
    extractor = FeaturesMonitor(FeaturesConfig()).extractor(parameters)

    def load(size: int) -> Callable[[], list[str]]:
        def run() -> list[str]:
            sums = {name: FieldSums(spec.width) for name, spec in extractor.fields.items()}
            with (folder / f"window-{size}.arrows").open("rb") as file, pa.ipc.open_stream(file) as stream:
                for records in stream:
                    extractor.extract(EventBatch(records), sums)
            pairs = [(segment.fields[f"features/{name}"], one) for name, one in sums.items()]
            verdicts = judge_fields(pairs)
            bar = np.log(len(pairs) / 0.05)
            return [name for name, verdict in zip(sums, verdicts, strict=True) if verdict.log_e > bar]

        return run

    return load


def evidently(folder: Path) -> Callable[[int], Callable[[], list[str]]]:
    """The same with Evidently."""
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(
        numerical_columns=[f"n{i}" for i in range(NUMERIC)],
        categorical_columns=[f"c{i}" for i in range(CATEGORICAL)],
    )

    def frame(name: str, size: int) -> Any:
        table = pa.ipc.open_stream(folder / f"{name}-{size}.arrows").read_all()
        return (
            table.select(["numeric_features", "categorical_features"])
            .flatten()
            .rename_columns([*definition.numerical_columns, *definition.categorical_columns])
            .to_pandas()
        )

    def load(size: int) -> Callable[[], list[str]]:
        window, reference = frame("window", size), frame("reference", size)

        def run() -> list[str]:
            sides = [Dataset.from_pandas(one, data_definition=definition) for one in (window, reference)]
            said = Report([DataDriftPreset()], include_tests=True).run(*sides).dict()
            tested = [(t["metric_config"]["params"].get("column"), t["status"]) for t in said["tests"]]
            return [column for column, status in tested if column and status != "SUCCESS"]

        return run

    return load


def peak_mb() -> float:
    """Most memory this process had so far. (What `getrusage` says begins with that of the parent.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(who: str, folder: Path, size: int, *, profile: bool) -> None:
    """Run in a process of its own, print a line of JSON."""
    load = {"ours": ours, "evidently": evidently}[who](folder)
    load(WARM_UP)()
    run = load(size)
    before_mb = peak_mb()
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(15)
    said = {"wall_s": wall, "cpu_s": cpu, "rss_mb": peak_mb(), "before_mb": before_mb, "found": found}
    print(json.dumps(said))


def measured(who: str, folder: Path, size: int, *, profile: bool) -> dict[str, Any]:
    """A measurement in a subprocess."""
    command = [sys.executable, __file__, "--measure", who, "--folder", str(folder), "--sizes", str(size)]
    done = subprocess.run(
        [*command, *(["--profile"] if profile else [])], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(folder: Path, sizes: list[int], *, profile: bool) -> None:
    """Print every size of both, and their ratio."""
    heads = zip(("wall s", "CPU s", "µs/event", "peak MB", "before it"), (9, 9, 10, 9, 11), strict=True)
    print(f"{'events':>9}  {'who':<10}" + "".join(f"{head:>{width}}" for head, width in heads) + "  drifted")
    for size in sizes:
        rows = {
            "mlmon": measured("ours", folder, size, profile=profile),
            "Evidently": measured("evidently", folder, size, profile=False),
        }
        for who, row in rows.items():
            print(
                f"{size:>9,}  {who:<10}{row['wall_s']:>9.3f}{row['cpu_s']:>9.3f}"
                f"{1e6 * row['cpu_s'] / size:>10.2f}{row['rss_mb']:>9.0f}{row['before_mb']:>11.0f}  "
                + ", ".join(row["found"])
            )
        ratios = {key: rows["Evidently"][key] / rows["mlmon"][key] for key in ("wall_s", "cpu_s", "rss_mb")}
        print(
            f"{'':>9}  {'ratio':<10}{ratios['wall_s']:>8.0f}x{ratios['cpu_s']:>8.0f}x{'':>10}"
            f"{ratios['rss_mb']:>8.1f}x"
        )
    missed = [f"{key}: {ratios[key]:.1f}x of {goal}x" for key, goal in GOALS.items() if ratios[key] < goal]
    print(f"goals at {sizes[-1]:,} events: {'missed, ' + '; '.join(missed) if missed else 'reached'}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--profile", action="store_true", help="profile ours")
    parser.add_argument("--measure", choices=["ours", "evidently"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.folder, options.sizes[0], profile=options.profile)
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.sizes)
        table(Path(name), options.sizes, profile=options.profile)


if __name__ == "__main__":
    main()
