"""Evidence under fire: kills neither forget it nor page twice, and the history misses nothing."""

from __future__ import annotations

import math
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

sys.path.append(str(Path(__file__).parents[1] / "support"))

import drift_kit

from mlmon.app.build import build, open_for_reading
from mlmon.baseline.file import save_baseline
from mlmon.catalog.requests import TOKENS_PER_WORD
from mlmon.config import load_config
from mlmon.drift.group import Group
from mlmon.engine.closing import GROUP_PREFIX
from mlmon.events.batch import EventBatch
from mlmon.events.encode import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, encode_batch
from mlmon.history.read import Selection, read
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig
from tests.fire.sidecars import Sidecars

if TYPE_CHECKING:
    from mlmon.config import Config

WINDOW, WINDOWS, SHIFT_AT, PER_RECORD, RECORDS = 10, 60, 36, 25, 600
KILLS, WRITING_SECONDS = 8, 15.0
START = 1_760_000_000
HEADERS = ((CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE.encode()),)

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
files = ["{{baseline}}"]
[drift]
min_events = 400
[loop]
checkpoint_interval_seconds = 0.05
[windows]
size_seconds = {WINDOW}
allowed_lateness_seconds = 5
idle_timeout_seconds = 3600
[http]
port = 0
"""


def records(seed: int) -> list[bytes]:
    """60 windows of 250 events; from the 36th on half of the traffic is of one class."""
    rng = np.random.default_rng(seed)
    events = drift_kit.events()
    refunds = np.flatnonzero(events["prediction"].to_numpy(zero_copy_only=False) == "refund")
    values = []
    for number in range(RECORDS):
        times = START + WINDOW * WINDOWS * (number + np.arange(PER_RECORD) / PER_RECORD) / RECORDS
        rows = rng.integers(0, len(events), PER_RECORD)
        if times[0] >= START + WINDOW * SHIFT_AT:
            moved = rng.random(PER_RECORD) < 0.5
            rows[moved] = rng.choice(refunds, int(moved.sum()))
        part = events.take(pa.array(rows))
        stamps = pa.array((times * 1e6).astype(np.int64)).cast(pa.timestamp("us", tz="UTC"))
        ids = pa.array([f"{number}-{i}" for i in range(PER_RECORD)])
        part = part.append_column("event_id", ids).append_column("event_time", stamps)
        values.append(encode_batch(EventBatch(part.combine_chunks().to_batches()[0])))
    return values


def configured(folder: Path, baseline: Path) -> Path:
    folder.mkdir()
    path = folder / "mlmon.toml"
    path.write_text(CONFIG.format(folder=folder, baseline=baseline))
    return path


def stored(config: Config) -> tuple[int, Group | None]:
    """Records read, and the newest evidence, as the checkpoint has them."""
    checkpoint = open_for_reading(config)
    try:
        partitions = list(checkpoint.scan())
    finally:
        checkpoint.close()
    groups = [
        Group.from_bytes(value)
        for _, held in partitions
        for key, value in held.records.items()
        if key.startswith(GROUP_PREFIX)
    ]
    read_so_far = sum(held.next_offset for _, held in partitions)
    return read_so_far, max(groups, key=lambda group: group.judged_us, default=None)


def history(config: Config) -> dict[tuple[Any, ...], float]:
    """Log evidence of the pager and effects of fields by window; fails when a window is there twice."""
    found: dict[tuple[Any, ...], float] = {}
    metrics = ("mlmon_pager_evidence", "mlmon_pager_alarm", "mlmon_drift_effect", TOKENS_PER_WORD.name)
    table = read(config.history.directory, "readings", Selection(metrics=metrics))
    for row in table.to_pylist():
        key = (row["window_end"], row["metric"], row.get("monitor"), row.get("field"))
        assert key not in found, f"twice in the history: {key}"
        # Evidence is the exponential of a sum: what is off in the sum's last digits is off in all of its.
        evidence = row["metric"] == "mlmon_pager_evidence"
        found[key] = math.log1p(row["value"]) if evidence else row["value"]
    return found


@pytest.mark.fire
@pytest.mark.timeout(600)
def test_evidence_is_neither_forgotten_nor_counted_twice(tmp_path: Path) -> None:
    baseline = tmp_path / "shop.baseline.safetensors"
    save_baseline(drift_kit.reference().baselines[0], str(baseline))
    killed, quiet = (configured(tmp_path / name, baseline) for name in ("killed", "quiet"))
    values = records(3)
    writers = [
        SpoolWriter(SpoolWriterConfig(directory=str(path.parent / "spool"))) for path in (killed, quiet)
    ]

    def write() -> None:
        for number, value in enumerate(values):
            for writer in writers:
                writer.append(value, HEADERS)
                if number % 8 == 7:
                    writer.flush()
            time.sleep(WRITING_SECONDS / RECORDS)  # traffic, not a wait for something

    rng = np.random.default_rng(5)
    writing = threading.Thread(target=write)
    sidecars = Sidecars([killed], tmp_path)
    sidecars.start_all()
    writing.start()
    try:
        while writing.is_alive() or sidecars.kills < KILLS:
            sidecars.wait_started(0)
            time.sleep(float(rng.uniform(0.5, 1.5)))  # a random moment
            sidecars.kill(0)
        writing.join()
        for writer in writers:
            writer.flush()
        without = undisturbed(quiet)
        # what was in the last one's checkpoint is written to the history by the next one
        sidecars.wait_started(0)
        deadline = time.monotonic() + 120
        while not complete(load_config(killed), without) and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        sidecars.close()
        for writer in writers:
            writer.close()
    compare(load_config(killed), without)


def undisturbed(path: Path) -> Config:
    """Let a sidecar read everything without a kill; its configuration."""
    config = load_config(path)
    running = build(config)
    while stored(config)[0] < RECORDS:
        running.sidecar.step()
        running.sidecar.commit()
    running.close()
    return config


def complete(killed: Config, quiet: Config) -> bool:
    """Whether everything was read, and all windows are in the history."""
    return stored(killed)[0] == RECORDS and history(killed).keys() == history(quiet).keys()


def compare(killed: Config, quiet: Config) -> None:
    """The same evidence, alarm, pages and history as without any kill."""
    (_, got), (_, want) = stored(killed), stored(quiet)
    assert got is not None
    assert want is not None
    assert want.pager.pages == 1, "the load was too tame"
    assert got.pager.pages == want.pager.pages
    assert got.pager.alarm.state() == want.pager.alarm.state()
    assert got.judged_us == want.judged_us
    assert got.pager.log_m == pytest.approx(want.pager.log_m, rel=1e-6, abs=1e-6)
    assert {unit: pool.events for unit, pool in got.pools.items()} == {
        unit: pool.events for unit, pool in want.pools.items()
    }
    kept, expected = history(killed), history(quiet)
    assert len([key for key in expected if key[1] == TOKENS_PER_WORD.name]) >= WINDOWS - 2
    assert kept.keys() == expected.keys()
    assert kept == pytest.approx(expected, rel=1e-6, abs=1e-6)
