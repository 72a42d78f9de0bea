"""Budgets under fire: whatever is killed, every outcome is in the ledger once."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "support"))

from burn_kit import HOUR, MINUTE, START, Event, batch_of

from mlmon.app.build import build, open_for_reading
from mlmon.burn.part import PREFIX, read_address
from mlmon.config import load_config
from mlmon.events.encode import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, encode_batch
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig
from mlmon.stats.pack import unpack
from tests.fire.sidecars import Sidecars

if TYPE_CHECKING:
    from mlmon.config import Config

RECORDS, PER_RECORD, KILLS, WRITING_SECONDS = 240, 40, 4, 6.0
HEADERS = ((CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE.encode()),)

CONFIG = """
[source.spool]
directory = "{folder}/spool"
[checkpoint.sqlite]
path = "{folder}/checkpoint.sqlite"
[dead_letters]
directory = "{folder}/letters"
[history]
enabled = false
[monitors]
enabled = ["traffic", "slo"]
[loop]
checkpoint_interval_seconds = 0.05
gather_records = 20
[windows]
size_seconds = 60
allowed_lateness_seconds = 10
idle_timeout_seconds = 3600
[http]
port = 0
"""


def records() -> list[bytes]:
    """Ten hours of two services: a tenth fails, half is labelled, some hours or a day late."""
    rng = np.random.default_rng(11)
    values = []
    for number in range(RECORDS):
        lot = []
        for place in range(PER_RECORD):
            time_us = START + (number * PER_RECORD + place) * 10 * HOUR // (RECORDS * PER_RECORD)
            service = ("shop", "desk")[int(rng.integers(2))]
            weight = float(rng.choice([1.0, 4.0]))
            if rng.random() < 0.5:
                asked = time_us - int(rng.choice([MINUTE, HOUR, 20 * HOUR, 40 * HOUR]) * rng.random())
                label = "ab"[int(rng.random() < 0.2)]
                lot.append(Event(time_us, None, None, label, "a", asked, weight, service))
            else:
                status = "error" if rng.random() < 0.1 else "ok"
                lot.append(Event(time_us, status, float(rng.random()), service=service, weight=weight))
        values.append(encode_batch(batch_of(lot)))
    return values


def configured(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "mlmon.toml"
    path.write_text(CONFIG.format(folder=folder))
    return path


def stored(config: Config) -> tuple[int, dict[Any, Any]]:
    """Records read, and the ledger by address, as the checkpoint has them."""
    checkpoint = open_for_reading(config)
    try:
        partitions = list(checkpoint.scan())
    finally:
        checkpoint.close()
    ledger = {
        read_address(key): unpack(value)
        for _, held in partitions
        for key, value in held.records.items()
        if key.startswith(PREFIX)
    }
    return sum(held.next_offset for _, held in partitions), ledger


@pytest.mark.fire
@pytest.mark.timeout(300)
def test_every_outcome_is_in_the_ledger_once(tmp_path: Path) -> None:
    killed, quiet = (configured(tmp_path / name) for name in ("killed", "quiet"))
    writers = [
        SpoolWriter(SpoolWriterConfig(directory=str(path.parent / "spool"))) for path in (killed, quiet)
    ]
    values = records()

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
    sidecars.wait_started(0)
    writing.start()
    try:
        while writing.is_alive() or sidecars.kills < KILLS:
            sidecars.wait_started(0)
            time.sleep(float(rng.uniform(0.1, 0.6)))  # a random moment
            sidecars.kill(0)
        writing.join()
        deadline = time.monotonic() + 120
        while stored(load_config(killed))[0] < RECORDS and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        sidecars.close()
        for writer in writers:
            writer.close()
    without = load_config(quiet)
    running = build(without)
    while stored(without)[0] < RECORDS:
        running.sidecar.step()
        running.sidecar.commit()
    running.close()
    (read, got), (_, want) = stored(load_config(killed)), stored(without)
    assert read == RECORDS
    assert len(want) > 100
    assert got.keys() == want.keys()
    for address, (_, _, _, rows, sums) in want.items():
        _, _, _, found, kept = got[address]
        assert found.tolist() == rows.tolist(), address
        assert np.allclose(kept, sums, rtol=1e-12), address
    labelled = {address.kind for address in want if address.objective == "task-accuracy"}
    assert labelled == {0, 1}
