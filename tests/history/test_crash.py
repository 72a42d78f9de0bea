"""Killed at any moment, the history holds every window exactly once, as soon as its parcel comes again."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import msgspec
import pytest
from history_kit import (
    DAY_US,
    MINUTE_US,
    history_in,
    key_of,
    parcel,
    readings_of,
    summaries_of,
    window_at,
)

from mlmon.history.outbox import encode_window
from mlmon.history.read import Selection, read
from mlmon.history.tables import TABLES

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("crash_worker.py")
PER_WINDOW = {"readings": 3, "latency": 1, "events": 4}


def stored(directory: Path, parcels: list[tuple[str, list[bytes]]]) -> Path:
    path = directory / "parcels.msgpack"
    path.write_bytes(msgspec.msgpack.encode(parcels))
    return path


def seen(directory: Path, table: str) -> dict[int, int]:
    """How many rows our reader sees of each window."""
    counts: dict[int, int] = {}
    for start in read(directory, table, Selection(columns=["window_start"])).column(0):
        number = (start.value - DAY_US) // MINUTE_US
        counts[number] = counts.get(number, 0) + 1
    return counts


def test_a_crash_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    numbers = range(3)
    # two tables suffice, and no sample of events: each further step costs a process
    parcels = [(key_of(n), encode_window(window_at(n), readings_of(window_at(n), n), {})) for n in numbers]
    latency = {"traffic": summaries_of(2)["traffic"]}
    parcels[2] = (key_of(2), encode_window(window_at(2), readings_of(window_at(2), 2), latency))
    source = stored(tmp_path, parcels)
    done = subprocess.run(
        [sys.executable, str(WORKER), "points", str(source), str(tmp_path)],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    last = int(done.stdout)
    assert last > 20, "writing and joining take that many steps"
    for point in range(last + 1):
        directory = tmp_path / f"{point:03d}"
        noted = tmp_path / f"{point:03d}.acknowledged"
        written = noted.read_text().splitlines() if noted.exists() else []
        found = seen(directory, "readings")
        assert set(found.values()) <= {PER_WINDOW["readings"]}, f"step {point}: a window is doubled or half"
        assert {key_of(number) for number in found} >= set(written), f"step {point}: a window is lost"
        # the parcels that are still in the checkpoint come again: all of them, at worst
        history = history_in(directory, compact_files=2)
        for key, chunks in parcels:
            history.write(key, chunks)
        while history.maintain():
            pass
        rows = duckdb.sql(f"select count(*) from '{directory}/readings/*/*.parquet'").fetchall()  # noqa: S608
        assert rows == [(len(numbers) * PER_WINDOW["readings"],)], f"step {point}"
        assert seen(directory, "readings") == dict.fromkeys(numbers, PER_WINDOW["readings"])
        assert seen(directory, "latency") == {2: 1}


def test_readers_beside_a_writer_that_is_killed_again_and_again(tmp_path: Path) -> None:
    numbers = range(60)
    source = stored(tmp_path, [(key_of(number), parcel(number)) for number in numbers])
    directory = tmp_path / "history"
    acknowledged = -1
    rounds = 0
    while acknowledged < numbers[-1]:
        rounds += 1
        process = subprocess.Popen(
            [sys.executable, str(WORKER), "endless", str(source), str(directory)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        # later rounds are let live longer: the first keys come again and take no time
        goal = min(numbers[-1], rounds * 18)
        killer = threading.Timer(60, process.kill)
        killer.start()
        try:
            for line in process.stdout:
                acknowledged = max(acknowledged, int(line.rpartition("/")[2]))
                if acknowledged % 8 == 0:
                    check_view(directory, acknowledged)
                if acknowledged >= goal:
                    break
        finally:
            killer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        check_view(directory, acknowledged)
    assert rounds >= 4
    assert seen(directory, "readings") == dict.fromkeys(numbers, PER_WINDOW["readings"])


def check_view(directory: Path, acknowledged: int) -> None:
    """What was durable before the look is there, and nothing is there twice."""
    for table in ("readings", "latency"):
        found = seen(directory, table)
        assert set(found.values()) <= {PER_WINDOW[table]}
        assert set(found) >= set(range(acknowledged + 1))
        assert set(found) == set(range(len(found)))


@pytest.mark.parametrize("table", sorted(TABLES))
def test_a_directory_that_does_not_exist_is_an_empty_history(tmp_path: Path, table: str) -> None:
    assert read(tmp_path / "absent", table).num_rows == 0
