"""The history through DuckDB: each window once, no peak lost by thinning, nothing let in by a filter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rows_kit import MINUTE_US, SERIES, START_US, reading, write_window, writer

from mlmon.errors import HistoryError
from mlmon.explorer.source import Bounds, HistorySource

if TYPE_CHECKING:
    from pathlib import Path

METRIC = "mlmon_drift_effect"
ALL = Bounds(START_US, START_US + 1000 * MINUTE_US)


def filled(directory: Path, values: list[float], compact_files: int = 1000) -> None:
    history = writer(directory, compact_files)
    for number, value in enumerate(values):
        write_window(history, number, readings=[reading(METRIC, value, monitor="features", field="amount")])


def test_each_window_is_there_once_while_files_are_joined(tmp_path: Path) -> None:
    filled(tmp_path, [float(number) for number in range(6)], compact_files=6)
    folder = next((tmp_path / "readings").iterdir())
    single = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(single) == 6
    history = writer(tmp_path, compact_files=6)
    while history.maintain():
        pass
    assert [path.name[0] for path in folder.glob("*.parquet")] == ["c"]
    for name, data in single.items():  # as in the moment before they are deleted
        (folder / name).write_bytes(data)
    found = HistorySource(tmp_path).readings([METRIC], Bounds(START_US, START_US + 6 * MINUTE_US))
    assert found["value"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_thinning_keeps_the_extremes_at_their_own_times(tmp_path: Path) -> None:
    values = [1.0 + (number % 7) / 100 for number in range(300)]
    values[123], values[211] = 9.0, -4.0
    rows = [
        reading(
            METRIC, value, window_start=START_US + at * MINUTE_US, window_end=START_US + (at + 1) * MINUTE_US
        )
        for at, value in enumerate(values)
    ]
    write_window(writer(tmp_path), 0, readings=rows)
    bounds = Bounds(START_US, START_US + 300 * MINUTE_US)
    found = HistorySource(tmp_path).readings([METRIC], bounds, points=20)
    assert len(found) <= 24
    minutes = [(time.value // 1000 - START_US) // MINUTE_US - 1 for time in found["time"]]  # windows' ends
    by_minute = dict(zip(minutes, found["value"], strict=True))
    assert (by_minute[123], by_minute[211]) == (9.0, -4.0)
    assert found["time"].is_monotonic_increasing


def test_the_newest_of_each_line(tmp_path: Path) -> None:
    history = writer(tmp_path)
    for number in range(3):
        rows = [reading(METRIC, number + 0.5, monitor="features", field=name) for name in ("amount", "items")]
        write_window(history, number, readings=rows if number < 2 else rows[:1])
    found = HistorySource(tmp_path).latest([METRIC], ALL)
    assert dict(zip(found["field"], found["value"], strict=True)) == {"amount": 2.5, "items": 1.5}


def test_bounds_are_of_starts_of_windows(tmp_path: Path) -> None:
    filled(tmp_path, [0.0, 1.0, 2.0, 3.0])
    bounds = Bounds(START_US + MINUTE_US, START_US + 3 * MINUTE_US)
    assert HistorySource(tmp_path).readings([METRIC], bounds)["value"].tolist() == [1.0, 2.0]


def test_values_of_filters_are_values(tmp_path: Path) -> None:
    filled(tmp_path, [1.0])
    source = HistorySource(tmp_path)
    assert len(source.readings([METRIC], ALL, {"service": "shop"})) == 1
    for value in ("shop' or '1' = '1", "x'; drop table rows; --", '" or ""="'):
        assert source.readings([METRIC], ALL, {"service": value}).empty
        assert source.latest([value], ALL).empty
        assert source.rows("readings", ALL, {"segment": value}).empty
        assert source.distinct("version", ALL, {"service": value}) == []


@pytest.mark.parametrize("name", ["service = 'x' or 1", "service; --", "1", ""])
def test_names_of_columns_are_names(tmp_path: Path, name: str) -> None:
    filled(tmp_path, [1.0])
    source = HistorySource(tmp_path)
    with pytest.raises(HistoryError, match="no column"):
        source.readings([METRIC], ALL, {name: "shop"})
    with pytest.raises(HistoryError, match="no column"):
        source.distinct(name, ALL)


def test_the_version_changes_when_files_do(tmp_path: Path) -> None:
    source = HistorySource(tmp_path)
    empty = source.version()
    filled(tmp_path, [1.0, 2.0], compact_files=3)
    two = source.version()
    assert two != empty
    assert source.version() == two
    write_window(writer(tmp_path), 2, readings=[reading(METRIC, 3.0)])
    three = source.version()
    assert three != two
    history = writer(tmp_path, compact_files=3)
    while history.maintain():
        pass
    assert source.version() != three


def test_nothing_is_an_empty_history(tmp_path: Path) -> None:
    source = HistorySource(tmp_path / "none")
    assert source.newest_us() is None
    assert source.readings([METRIC], ALL).empty
    assert list(source.readings([METRIC], ALL).columns)[:3] == ["time", "metric", "service"]
    assert source.complaints() == ()


def test_the_newest_window(tmp_path: Path) -> None:
    filled(tmp_path, [1.0, 2.0, 3.0])
    assert HistorySource(tmp_path).newest_us() == START_US + 3 * MINUTE_US


def test_what_cannot_be_read_is_left_out_and_told(tmp_path: Path) -> None:
    filled(tmp_path, [1.0, 2.0, 3.0])
    folder = next((tmp_path / "readings").iterdir())
    first, second, _ = sorted(folder.iterdir())
    first.write_bytes(b"no parquet")
    second.write_bytes(second.read_bytes()[:200])
    source = HistorySource(tmp_path)
    assert source.readings([METRIC], ALL)["value"].tolist() == [3.0]
    told = "\n".join(source.complaints())
    assert first.name in told
    assert second.name in told


def test_damage_within_a_sound_frame_is_left_out_and_told(tmp_path: Path) -> None:
    """The footer is whole, the rows are not: found when they are read."""
    history = writer(tmp_path)
    for number in range(2):
        rows = [reading(METRIC, number + index / 7, field=str(index)) for index in range(500)]
        write_window(history, number, readings=rows)
    first = min(next((tmp_path / "readings").iterdir()).iterdir())
    data = bytearray(first.read_bytes())
    data[8 : len(data) // 3] = bytes(len(data) // 3 - 8)
    first.write_bytes(bytes(data))
    source = HistorySource(tmp_path)
    assert len(source.latest([METRIC], ALL)) == 500
    assert any(first.name in text for text in source.complaints())


def test_a_table_that_vanished_is_empty(tmp_path: Path) -> None:
    filled(tmp_path, [1.0])
    source = HistorySource(tmp_path)
    assert len(source.readings([METRIC], ALL)) == 1
    shutil.rmtree(tmp_path / "readings")
    assert source.readings([METRIC], ALL).empty


def test_series_are_told_apart(tmp_path: Path) -> None:
    history = writer(tmp_path)
    rows = [reading(METRIC, 1.0, version=version) for version in ("1", "2")]
    write_window(history, 0, readings=rows)
    found = HistorySource(tmp_path).latest([METRIC], ALL, {"version": "2"})
    assert found[["service", "version"]].to_numpy().tolist() == [[SERIES["service"], "2"]]


#: A source that a thread without end holds on to when the process ends.
HELD = """
import sys, threading
from mlmon.explorer.source import HistorySource
asked = threading.Event()
def hold():
    source = HistorySource(sys.argv[1])
    print(source.newest_us())
    asked.set()
    threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
asked.wait()
"""


def test_nothing_of_duckdb_outlives_the_process_end(tmp_path: Path) -> None:
    filled(tmp_path, [1.0])
    done = subprocess.run(
        [sys.executable, "-c", HELD, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == str(START_US + MINUTE_US)
    assert "leaked" not in done.stderr
