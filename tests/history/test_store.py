"""Files of the history, read back with three readers: exactly once, within bounds of age, size and number."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from history_kit import DAY_US, MINUTE_US, figures, history_in, key_of, parcel

import mlmon.history.upkeep as upkeep_module
from mlmon.errors import HistoryError
from mlmon.history.files import list_folder
from mlmon.history.read import Selection, read
from mlmon.history.tables import TABLES
from mlmon.testing import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.history.store import History

DAY_SECONDS = 86_400


def windows_by_ours(directory: Path, table: str = "readings") -> list[int]:
    """Numbers of the windows, each as often as the reader sees it."""
    found = read(directory, table, Selection(columns=["window_start"])).column(0)
    starts = [(value.value - DAY_US) // MINUTE_US for value in found]
    per_window = {"readings": 3, "latency": 1, "events": 4}[table]
    assert all(starts.count(start) % per_window == 0 for start in set(starts))
    return sorted(starts)[::per_window]


def windows_by_duckdb(directory: Path) -> list[int]:
    rows = duckdb.sql(
        f"select epoch_us(window_start) from read_parquet('{directory}/readings/*/*.parquet') "  # noqa: S608
        "where metric = 'mlmon_pager_alarm' order by 1"
    ).fetchall()
    return [(start - DAY_US) // MINUTE_US for (start,) in rows]


def filled(history: History, numbers: range) -> None:
    for number in numbers:
        history.write(key_of(number), parcel(number))


def upkeep(history: History, most: int = 200) -> None:
    for _ in range(most):
        if not history.maintain():
            return
    raise AssertionError("upkeep never ends")


def names(directory: Path, table: str = "readings") -> list[str]:
    return sorted(path.name for path in (directory / table).glob("*/*"))


def settle(directory: Path, clock: ManualClock, seconds_ago: float = 7_200) -> None:
    """Make every file look written some time ago by the clock."""
    when = clock.now_us() / 1e6 - seconds_ago
    for path in directory.glob("*/*/*.parquet"):
        os.utime(path, (when, when))


def test_duckdb_and_pandas_read_what_was_written(tmp_path: Path) -> None:
    filled(history_in(tmp_path), range(3))
    assert windows_by_duckdb(tmp_path) == [0, 1, 2]
    ((day, p50, n),) = duckdb.sql(
        f"select any_value(date)::varchar, avg(p50), sum(n) from '{tmp_path}/latency/*/*.parquet'"  # noqa: S608
    ).fetchall()
    assert (day, n) == ("2026-01-01", 36)
    assert p50 == pytest.approx(0.375, rel=0.02)
    ((embedding, segments),) = duckdb.sql(
        f"select embedding, segments from '{tmp_path}/events/*/*.parquet' limit 1"  # noqa: S608
    ).fetchall()
    assert embedding[:2] == [0.5, -1.5]
    assert segments == {"language": "en"}
    frame = pd.read_parquet(tmp_path / "readings")
    effects = frame[frame.metric == "mlmon_drift_effect"].sort_values("window_start")
    assert effects.value.tolist() == [0.0, 1.0, 2.0]
    assert set(frame.service) == {"search"}
    assert set(frame.date.astype(str)) == {"2026-01-01"}


def test_the_same_key_is_one_window_however_often_it_is_written(tmp_path: Path) -> None:
    history = history_in(tmp_path, compact_files=2)
    filled(history, range(2))
    before = names(tmp_path)
    filled(history, range(2))
    assert names(tmp_path) == before
    upkeep(history)
    assert [name[0] for name in names(tmp_path)] == ["c"]
    filled(history, range(2))
    filled(history_in(tmp_path), range(2))
    assert windows_by_ours(tmp_path) == windows_by_duckdb(tmp_path) == [0, 1]
    assert figures(history)["windows"] == 2
    history.write("another closing of the same window", parcel(1))
    assert windows_by_ours(tmp_path) == [0, 1, 1]


def test_joining_keeps_every_row_and_leaves_few_files(tmp_path: Path) -> None:
    clock = ManualClock(DAY_US)
    history = history_in(tmp_path, clock, compact_files=10)
    for number in range(32):
        history.write(key_of(number), parcel(number))
        history.maintain()
    upkeep(history)
    before = {table: sorted(map(repr, read(tmp_path, table).to_pylist())) for table in TABLES}
    assert [name[0] for name in names(tmp_path)] == ["c"] * 3 + ["w"] * 2
    settle(tmp_path, clock)
    clock.advance(DAY_SECONDS)
    upkeep(history)
    assert [name[0] for name in names(tmp_path)] == ["c"], "a date that is over is one file"
    after = {table: sorted(map(repr, read(tmp_path, table).to_pylist())) for table in TABLES}
    assert after == before
    assert windows_by_duckdb(tmp_path) == list(range(32))
    filled(history, range(31, 34))
    assert windows_by_ours(tmp_path, "latency") == list(range(34))


def test_rows_of_a_joined_file_are_ordered_for_who_asks_for_one_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(upkeep_module._ROW_GROUP_ROWS, "readings", 16)
    history = history_in(tmp_path, compact_files=16)
    for number in range(16):
        history.write(key_of(number), parcel(number))
    upkeep(history)
    (path,) = (tmp_path / "readings").rglob("c*.parquet")
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(index) for index in range(file.num_row_groups)]
        assert {len(group) for group in groups[:-1]} == {16}
        rows = [row["metric"] for group in groups for row in group.to_pylist()]
        statistics = [file.metadata.row_group(index).column(2).statistics for index in range(len(groups))]
    assert rows == sorted(rows)
    assert len(set(rows)) > 1
    assert 0 < sum(part.min <= "mlmon_pager_alarm" <= part.max for part in statistics) < len(groups) / 2


def test_a_date_in_use_is_left_alone(tmp_path: Path) -> None:
    clock = ManualClock(DAY_US)
    history = history_in(tmp_path, clock)
    filled(history, range(3))
    settle(tmp_path, clock)
    upkeep(history)
    clock.advance(DAY_SECONDS)
    settle(tmp_path, clock, seconds_ago=60)
    upkeep(history)
    assert [name[0] for name in names(tmp_path)] == ["w"] * 3


def test_files_are_joined_up_to_a_size(tmp_path: Path) -> None:
    clock = ManualClock(DAY_US)
    history = history_in(tmp_path, clock, compact_bytes=64 * 1024, compact_files=1000)
    filled(history, range(24))
    settle(tmp_path, clock)
    clock.advance(DAY_SECONDS)
    upkeep(history)
    sizes = [file.size for file in list_folder(tmp_path / "readings" / "date=2026-01-01")]
    assert len(sizes) > 1
    assert max(sizes) <= 64 * 1024
    assert windows_by_ours(tmp_path) == list(range(24))


def test_dates_beyond_the_age_are_deleted_and_their_windows_counted(tmp_path: Path) -> None:
    clock = ManualClock(DAY_US)
    history = history_in(tmp_path, clock, max_days=2, compact_files=3)
    for day in range(4):
        filled(history, range(day * 1440, day * 1440 + 5))
        upkeep(history)
        clock.advance(DAY_SECONDS)
    clock.set_now_us(DAY_US + 3 * DAY_SECONDS * 1_000_000)
    upkeep(history)
    assert {number // 1440 for number in windows_by_ours(tmp_path)} == {2, 3}
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == [
        "date=2026-01-03",
        "date=2026-01-04",
    ]
    assert figures(history)["expired_windows"] == 10


def test_old_events_that_are_read_again_are_kept(tmp_path: Path) -> None:
    clock = ManualClock(DAY_US)
    history = history_in(tmp_path, clock, max_days=2)
    clock.advance(400 * DAY_SECONDS)
    filled(history, range(5))
    upkeep(history)
    assert windows_by_ours(tmp_path) == list(range(5))


def test_the_size_is_bounded_oldest_first(tmp_path: Path) -> None:
    clock = ManualClock(DAY_US)
    size = 1024 * 1024
    history = history_in(tmp_path, clock, max_bytes=size)
    for day in range(2):
        filled(history, range(day * 1440, day * 1440 + 30))
        upkeep(history)
    kept = windows_by_ours(tmp_path)
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*/*/*.parquet"))
    assert on_disk <= size
    assert figures(history)["size_bytes"] == on_disk
    assert {number // 1440 for number in kept} == {1}, "whole dates go, the newest stays"
    assert len(kept) == 30


def test_the_only_date_loses_its_oldest_windows(tmp_path: Path) -> None:
    history = history_in(tmp_path, max_bytes=1024 * 1024)
    filled(history, range(60))
    upkeep(history)
    kept = windows_by_ours(tmp_path)
    assert kept == list(range(60 - len(kept), 60))
    assert 0 < len(kept) < 60
    assert figures(history)["expired_windows"] == 60 - len(kept)


def test_a_broken_file_is_left_out_with_a_warning_and_set_aside_by_upkeep(tmp_path: Path) -> None:
    clock = ManualClock(DAY_US)
    history = history_in(tmp_path, clock, compact_files=3)
    filled(history, range(4))
    folder = tmp_path / "readings" / "date=2026-01-01"
    broken = list_folder(folder)[1].path
    whole = broken.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"no parquet at all"):
        broken.write_bytes(damage)
        with pytest.warns(UserWarning, match="left out"):
            assert windows_by_ours(tmp_path) == [0, 2, 3]
    upkeep(history)
    assert figures(history)["failures"] == 1
    assert [path.name for path in folder.glob("*.broken")] == [f"{broken.name}.broken"]
    assert windows_by_ours(tmp_path) == windows_by_duckdb(tmp_path) == [0, 2, 3]


def test_damage_inside_a_column_is_found_before_files_are_joined(tmp_path: Path) -> None:
    history = history_in(tmp_path, compact_files=3)
    filled(history, range(3))
    file = list_folder(tmp_path / "latency" / "date=2026-01-01")[1]
    data = bytearray(file.path.read_bytes())
    data[8:200] = bytes(192)
    file.path.write_bytes(data)
    upkeep(history)
    assert len(list(file.path.parent.glob("*.broken"))) == 1
    assert windows_by_ours(tmp_path, "latency") == [0, 2]


def test_a_parcel_that_cannot_be_read_is_given_up_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = history_in(tmp_path)
    history.write("k", [b"not a chunk"])
    assert "k is given up" in caplog.text
    assert figures(history)["failures"] == 1
    assert read(tmp_path, "readings").num_rows == 0


def test_a_disk_that_cannot_be_written_is_an_error_that_passes(tmp_path: Path) -> None:
    place = tmp_path / "history"
    place.write_text("a file where the directory should be")
    history = history_in(place)
    for _ in range(2):
        with pytest.raises(HistoryError, match="parcel events-0/0 cannot be written"):
            history.write(key_of(0), parcel(0))
    with pytest.raises(HistoryError, match="upkeep"):
        history.maintain()
    assert figures(history) == {
        "windows": 0,
        "expired_windows": 0,
        "size_bytes": 0,
        "failures": 3,
        "pending_windows": 3,
    }
    place.unlink()
    history.write(key_of(0), parcel(0))
    assert windows_by_ours(place) == [0]


def test_upkeep_is_left_to_whoever_holds_the_lock(tmp_path: Path) -> None:
    history = history_in(tmp_path, compact_files=2)
    filled(history, range(4))
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not history.maintain()
        assert len(names(tmp_path)) == 4
    upkeep(history)
    assert len(names(tmp_path)) == 2


def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    history = history_in(tmp_path / "absent")
    assert not history.maintain()
    assert not (tmp_path / "absent").exists()
