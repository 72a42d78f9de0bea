"""The spool under fire: twenty kills while 200,000 events are written, and every total exact."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig
from tests.fire.load import LATENESS_SECONDS, SIZE_SECONDS, Load, Writing
from tests.fire.sidecars import Sidecars, differences

if TYPE_CHECKING:
    from pathlib import Path

PARTITIONS, EVENTS, KILLS = 8, 200_000, 20

CONFIG = f"""
[source.spool]
directory = "{{folder}}/spool"
[checkpoint.sqlite]
path = "{{folder}}/checkpoint.sqlite"
[dead_letters]
directory = "{{folder}}/letters"
[loop]
checkpoint_interval_seconds = 0.05
gather_records = 200
[windows]
size_seconds = {SIZE_SECONDS}
allowed_lateness_seconds = {LATENESS_SECONDS}
idle_timeout_seconds = 3600
[history]
directory = "{{folder}}/history"
[http]
port = 0
"""


@pytest.mark.fire
@pytest.mark.timeout(600)
def test_totals_and_windows_are_exact_after_twenty_kills(tmp_path: Path) -> None:
    config = tmp_path / "mlmon.toml"
    config.write_text(CONFIG.format(folder=tmp_path))
    rng = np.random.default_rng(7)
    load = Load(PARTITIONS, seed=7)
    writers = [SpoolWriter(SpoolWriterConfig(directory=str(tmp_path / "spool"))) for _ in range(PARTITIONS)]
    writing = Writing(load, EVENTS, 28.0, lambda i, value, headers: writers[i].append(value, headers))
    sidecars = Sidecars([config], tmp_path)
    sidecars.start_all()
    writing.start()
    try:
        while writing.is_alive() or sidecars.kills < KILLS:
            sidecars.wait_started(0)
            time.sleep(float(rng.uniform(0.0, 0.8)))  # a random moment, not a wait for something
            sidecars.kill(0)
        expected = {f"slot-{index}": want for index, want in writing.finish().items()}
        status = sidecars.wait_for(expected, 120)
    finally:
        sidecars.close()
        for writer in writers:
            writer.close()
    assert differences(status, expected) == []
    assert sum(want.events for want in load.expected) == EVENTS
    assert all(want.late > 0 and want.rejects > 0 for want in load.expected), "the load was too tame"
    letters = [line for path in (tmp_path / "letters").iterdir() for line in path.read_text().splitlines()]
    assert len(letters) == sum(want.rejects for want in load.expected), "dead letters exactly once"
