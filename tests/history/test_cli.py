"""`mlmon history`: show, export, compact, on a real history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from click.testing import CliRunner
from history_kit import DAY_US, history_in, key_of, parcel

from mlmon.cli import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

WINDOWS = (0, 1, 2, 1440)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "history"
    history = history_in(place)
    for number in WINDOWS:
        history.write(key_of(number), parcel(number))
    config = f'[history]\ndirectory = "{place}"\nmax_days = 3650\ncompact_files = 2\n'
    (tmp_path / "mlmon.toml").write_text(config)
    return place


def run(directory: Path, *arguments: str) -> Result:
    config = directory.parent / "mlmon.toml"
    return CliRunner().invoke(cli, ["history", arguments[0], "-c", str(config), *arguments[1:]])


def test_show_counts_windows_files_and_bytes(directory: Path) -> None:
    shown = run(directory, "show")
    assert shown.exit_code == 0, shown.output
    assert "4 windows" in shown.output
    found = json.loads(run(directory, "show", "--json").output)
    assert (found["windows"], found["files"]) == (4, 12)
    assert found["bytes"] == sum(path.stat().st_size for path in directory.glob("*/*/*.parquet"))
    first = found["dates"][0]
    assert [first[name] for name in ("date", "table", "windows", "rows", "files")] == [
        *("2026-01-01", "readings", 3, 9, 3)
    ]
    assert (first["first_us"], first["last_us"]) == (DAY_US, DAY_US + 120_000_000)


def test_show_of_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "mlmon.toml").write_text("")
    shown = run(tmp_path / "x", "show", "--directory", str(tmp_path / "absent"))
    assert "holds no windows yet" in shown.output


def test_a_broken_file_is_told_in_one_line(directory: Path) -> None:
    broken = next((directory / "latency").glob("*/*.parquet"))
    broken.write_bytes(b"broken")
    shown = run(directory, "show")
    assert f"warning: {broken} is left out" in shown.output
    assert shown.exit_code == 0


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_writes_the_rows_selected(directory: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out.{suffix}"
    options = ["--metric", "mlmon_drift_effect", "--only", "service=search", "--to", "2026-01-02"]
    done = run(directory, "export", *options, "--from", "2026-01-01T00:01Z", "-o", str(output))
    assert done.output == f"wrote 2 rows of readings to {output}\n"
    frame = pd.read_csv(output) if suffix == "csv" else pd.read_parquet(output)
    assert frame.value.tolist() == [1.0, 2.0]
    expected = '{"bin 3": "0.25"}' if suffix == "csv" else [("bin 3", "0.25")]
    assert frame.attributes[0] == expected


@pytest.mark.parametrize("table", ["latency", "events"])
def test_every_table_fits_csv(directory: Path, tmp_path: Path, table: str) -> None:
    output = tmp_path / "out.csv"
    done = run(directory, "export", "--table", table, "-o", str(output))
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(output)
    assert len(frame) == len(WINDOWS) * {"latency": 1, "events": 4}[table]
    if table == "events":
        assert json.loads(frame.embedding[0])[:2] == [0.5, -1.5]
        assert json.loads(frame.segments[0]) == {"language": "en"}
    else:
        assert len(bytes.fromhex(frame.sketch[0])) > 100


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-o", "x.txt"], ".csv or .parquet"),
        (["-o", "x.csv", "--only", "service"], "expected COLUMN=VALUE"),
        (["-o", "x.csv", "--from", "yesterday"], "expected a date or time"),
    ],
)
def test_wrong_options_are_told(directory: Path, options: list[str], told: str) -> None:
    done = run(directory, "export", *options)
    assert done.exit_code == 2
    assert told in done.output


def test_compact_joins_files_and_keeps_windows(directory: Path) -> None:
    done = run(directory, "compact")
    assert done.exit_code == 0, done.output
    assert "12 files" in done.output
    assert "4 windows now" in done.output
    # of each table two windows of the first date are one file; the third and the second date's are single
    assert json.loads(run(directory, "show", "--json").output)["files"] == 9
