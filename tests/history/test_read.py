"""Selections of rows, and what readers make of sketches and samples of many windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from history_kit import DAY_US, MINUTE_US, SERIES, history_in, key_of, parcel, window_at
from monitor_kit import batch_of

from mlmon.errors import HistoryError
from mlmon.history import files as files_module
from mlmon.history import read as read_module
from mlmon.history.outbox import encode_window
from mlmon.history.read import Selection, lowest_ranks, merged_sketch, read
from mlmon.history.tables import TABLES
from mlmon.monitors.samples import SamplesConfig, SamplesMonitor

if TYPE_CHECKING:
    from pathlib import Path

WINDOWS = (0, 1, 2, 1439, 1440, 2900)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("history")
    history = history_in(place, compact_files=3)
    for number in reversed(WINDOWS):
        history.write(key_of(number), parcel(number))
    while history.maintain():
        pass
    return place


def numbers(table: pa.Table) -> list[int]:
    return [(value.value - DAY_US) // MINUTE_US for value in table.column("window_start")]


@pytest.mark.parametrize("table", ["readings", "latency", "events"])
def test_everything_comes_in_order_of_time(directory: Path, table: str) -> None:
    found = read(directory, table)
    assert found.schema == TABLES[table]
    assert numbers(found) == sorted(numbers(found))
    assert set(numbers(found)) == set(WINDOWS)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (1, 1440, [1, 2, 1439]),
        (1440, None, [1440, 2900]),
        (None, 1, [0]),
        (2, 2, []),
        (1439.5, 1440.5, [1440]),
    ],
)
def test_a_stretch_of_time_is_from_its_start_to_before_its_end(
    directory: Path, start: float | None, end: float | None, expected: list[int]
) -> None:
    at = [None if x is None else DAY_US + int(x * MINUTE_US) for x in (start, end)]
    assert numbers(read(directory, "latency", Selection(at[0], at[1]))) == expected


def test_rows_are_chosen_by_metric_and_by_column(directory: Path) -> None:
    effects = read(directory, "readings", Selection(metrics=("mlmon_drift_effect",)))
    assert effects.column("value").to_pylist() == list(WINDOWS)
    both = Selection(metrics=("mlmon_drift_effect", "mlmon_pager_alarm"), where={"version": ["1", "2"]})
    assert set(read(directory, "readings", both).column("metric").to_pylist()) == {"mlmon_drift_effect"}
    assert read(directory, "readings", Selection(where={"service": "other"})).num_rows == 0
    few = read(directory, "readings", Selection(columns=["value", "field"], where={"field": "amount"}))
    assert few.column_names == ["value", "field"]
    assert few.num_rows == 2 * len(WINDOWS)


def test_what_is_not_there_is_told(directory: Path) -> None:
    with pytest.raises(HistoryError, match=r"'reading'.*readings"):
        read(directory, "reading")
    for selection in (Selection(columns=["valu"]), Selection(where={"valu": "1"})):
        with pytest.raises(HistoryError, match="has no column valu: expected"):
            read(directory, "readings", selection)
    with pytest.raises(HistoryError, match="has no column metric"):
        read(directory, "latency", Selection(metrics=("x",)))


def test_files_of_dates_outside_are_not_opened(directory: Path) -> None:
    folder = directory / "latency" / "date=2026-01-03"
    (folder / "w-9-0123456789abcdef01234567.parquet").write_bytes(b"broken")
    try:
        assert numbers(read(directory, "latency", Selection(None, DAY_US + 1440 * MINUTE_US))) == [
            0,
            1,
            2,
            1439,
        ]
        with pytest.warns(UserWarning, match="left out"):
            read(directory, "latency")
    finally:
        (folder / "w-9-0123456789abcdef01234567.parquet").unlink()


def test_a_file_of_another_version_is_left_out_and_left_alone(tmp_path: Path) -> None:
    history = history_in(tmp_path, compact_files=2)
    history.write("a", parcel(0))
    other = tmp_path / "readings" / "date=2026-01-01" / f"c-{DAY_US}-0123456789abcdef01234567.parquet"
    newer = read(tmp_path, "readings").append_column("novel", pa.array([1, 2, 3]))
    pq.write_table(newer.replace_schema_metadata({b"mlmon.history.version": b"2"}), other)
    with pytest.warns(UserWarning, match="has version 2 of the history"):
        assert read(tmp_path, "readings").num_rows == 3
    for number in range(1, 4):
        history.write(key_of(number), parcel(number))
    while history.maintain():
        pass
    assert other.exists()


def test_latency_of_many_windows_is_that_of_all_their_events(directory: Path) -> None:
    latency = read(directory, "latency")
    values = np.tile(np.arange(1, 13) / 16, len(WINDOWS))
    sketch = merged_sketch(latency)
    assert sketch.weight == 2 * len(values)
    for share in (0.1, 0.5, 0.9):
        exact = np.quantile(np.repeat(values, 2), share, method="lower")
        assert sketch.quantiles([share])[0] == pytest.approx(exact, rel=0.011)


def test_samples_of_windows_make_the_sample_of_all_of_them(tmp_path: Path) -> None:
    history = history_in(tmp_path)
    monitor = SamplesMonitor(SamplesConfig(rows=8))
    whole = monitor.summary()
    for number in range(5):
        start = window_at(number).start_us
        batch = batch_of([{"event_id": f"{number}-{i}", "event_time": start + i} for i in range(200)])
        part = monitor.summary()
        part.update(batch)
        whole.update(batch)
        history.write(key_of(number), encode_window(window_at(number), [], {"samples": {SERIES: part}}))
    found = lowest_ranks(read(tmp_path, "events"), 8)
    assert found.column("rank").to_pylist() == [rank for rank, _ in whole.rows()]


def joining_during(
    monkeypatch: pytest.MonkeyPatch, place: Path, module: object, name: str, *, half_seen: bool
) -> None:
    """The first call of a function meets a join: files vanish after it, or (half seen) while it looks."""
    original = getattr(module, name)
    calls = 0

    def meeting(*args: object) -> object:
        nonlocal calls
        calls += 1
        found = original(*args)
        if calls == 1:
            history = history_in(place, compact_files=2)
            while history.maintain():
                pass
            if half_seen:
                return [file for file in found if file.path.exists()]
        return found

    monkeypatch.setattr(module, name, meeting)


@pytest.mark.parametrize(
    ("module", "name", "half_seen"), [(read_module, "parcel_files", False), (files_module, "_scan", True)]
)
def test_files_joined_while_they_are_read_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str, half_seen: bool
) -> None:
    history = history_in(tmp_path)
    for number in range(6):
        history.write(key_of(number), parcel(number))
    joining_during(monkeypatch, tmp_path, module, name, half_seen=half_seen)
    assert numbers(read(tmp_path, "latency")) == list(range(6))
    assert len(list(tmp_path.glob("latency/*/c-*"))) == 3
