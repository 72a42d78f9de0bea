"""A history to explore, written by a real sidecar: an hour of a shop, of which the last part is bad.

At `SHIFT_AT` refunds become most of the traffic, unknown tokens rise in German text, some requests fail and a
tenth of the traffic is answered by a version that nobody declared.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import drift_kit
import numpy as np
import pyarrow as pa

from mlmon.app.build import build
from mlmon.baseline.file import save_baseline
from mlmon.config import load_config
from mlmon.events.batch import EventBatch
from mlmon.events.encode import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, encode_batch
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mlmon.baseline.model import Baseline

START = 1_760_000_040  # a whole minute
WINDOW, WINDOWS, SHIFT_AT, PER_WINDOW = 60, 60, 36, 300
HEADERS = ((CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE.encode()),)
END_US = (START + WINDOW * WINDOWS) * 1_000_000
SHIFT_US = (START + WINDOW * SHIFT_AT) * 1_000_000

CONFIG = f"""
[source.spool]
directory = "{{folder}}/spool"
[checkpoint.sqlite]
path = "{{folder}}/checkpoint.sqlite"
[dead_letters]
directory = "{{folder}}/letters"
[history]
directory = "{{folder}}/history"
[baseline]
files = ["{{folder}}/shop.baseline.safetensors"]
[registry]
versions_file = "{{folder}}/versions.toml"
[series]
segment_by = ["language"]
[windows]
size_seconds = {WINDOW}
allowed_lateness_seconds = 0
[http]
port = 0
"""


class Explored(NamedTuple):
    """What was written: the folder, the configuration in it, the history and the baseline."""

    folder: Path
    config: Path
    history: Path
    baseline: Path


def write_history(folder: Path) -> Explored:
    """Write events into a spool, run a sidecar over them to the end, and say where everything is."""
    found = Explored(folder, folder / "mlmon.toml", folder / "history", folder / "shop.baseline.safetensors")
    save_baseline(_baseline(), str(found.baseline))
    found.config.write_text(CONFIG.format(folder=folder))
    (folder / "versions.toml").write_text(
        'version = 1\n[[expected]]\nservice = "shop"\nmodel = "intent"\nmodel_version = "1"\n',
        encoding="utf-8",
    )
    _take_in(found, _records(range(WINDOWS + 2), seed=3), END_US - WINDOW * 1_000_000)
    return found


def copy_history(explored: Explored, folder: Path) -> Explored:
    """The same somewhere else, spool and checkpoint included, so that a sidecar can go on with it there."""
    shutil.copytree(explored.folder, folder, dirs_exist_ok=True)
    found = Explored(folder, *(folder / path.name for path in explored[1:]))
    found.config.write_text(CONFIG.format(folder=folder))
    return found


def prolong_history(explored: Explored, windows: int) -> None:
    """Let so many windows more happen, all of them as bad as the last ones, and a sidecar go on with them."""
    first = WINDOWS + 2
    until = END_US + windows * WINDOW * 1_000_000
    _take_in(explored, _records(range(first, first + windows), seed=4), until)


def _take_in(explored: Explored, records: Iterable[bytes], until_us: int) -> None:
    """Write records into the spool, and run a sidecar over them until its watermark is there."""
    writer = SpoolWriter(SpoolWriterConfig(directory=str(explored.folder / "spool")))
    for value in records:
        writer.append(value, HEADERS)
    writer.close()
    running = build(load_config(explored.config))
    while running.engine.watermark_us < until_us:
        running.sidecar.step()
        running.sidecar.commit()
    for _ in range(3):
        running.sidecar.step()
        running.sidecar.commit()
    running.close()


def _baseline() -> Baseline:
    """The reference of `drift_kit`, with all its events as the sample to draw from."""
    held = drift_kit.reference().baselines[0]
    events = drift_kit.events()
    # a minute apart, to the week before
    times = (START - 604_800 - 60 * np.arange(len(events))[::-1]) * 1_000_000
    events = events.append_column("event_time", pa.array(times).cast(pa.timestamp("us", tz="UTC")))
    scopes = {key: replace(scope, sample=events) for key, scope in held.scopes.items()}
    return replace(held, scopes=scopes)


def _records(numbers: range, seed: int) -> Iterator[bytes]:
    """A record for each window of those numbers."""
    rng = np.random.default_rng(seed)
    pool = drift_kit.events()
    refunds = np.flatnonzero(pool["prediction"].to_numpy(zero_copy_only=False) == "refund")
    return (_window(rng, pool, refunds, number) for number in numbers)


def _window(rng: np.random.Generator, pool: pa.Table, refunds: np.ndarray, number: int) -> bytes:  # type: ignore[type-arg]
    late = number >= SHIFT_AT
    rows = rng.integers(0, len(pool), PER_WINDOW)
    if late:
        moved = rng.random(PER_WINDOW) < 0.5
        rows[moved] = rng.choice(refunds, int(moved.sum()))
    part = pool.take(pa.array(rows))
    german = rng.random(PER_WINDOW) < 0.3
    times = START + WINDOW * (number + np.arange(PER_WINDOW) / PER_WINDOW)
    stamps = pa.array((times * 1e6).astype(np.int64)).cast(pa.timestamp("us", tz="UTC"))
    if late:
        unknown = part["unknown_tokens"].to_numpy() + (german & (rng.random(PER_WINDOW) < 0.5))
        part = _replaced(part, "unknown_tokens", pa.array(unknown.astype(np.int32)))
        old = rng.random(PER_WINDOW) < 0.1
        part = _replaced(part, "model_version", pa.array(np.where(old, "0", "1")))
    failing = rng.random(PER_WINDOW) < (0.05 if late else 0.0005)
    extra = {
        "event_id": pa.array([f"{number}-{i}" for i in range(PER_WINDOW)]),
        "event_time": stamps,
        "status": pa.array(np.where(failing, "error", "ok")),
        "latency_seconds": pa.array(rng.lognormal(-3.5, 0.4, PER_WINDOW)),
        "input_hash": pa.array([f"{number:04x}{i:04x}" for i in range(PER_WINDOW)]),
        "language": pa.array(np.where(german, "de", "en")),
        "segments": pa.array(
            [[("language", "de" if g else "en")] for g in german], pa.map_(pa.string(), pa.string())
        ),
    }
    for name, column in extra.items():
        part = part.append_column(name, column)
    return encode_batch(EventBatch(part.combine_chunks().to_batches()[0]))


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)
