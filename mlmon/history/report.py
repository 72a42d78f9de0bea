"""What the history holds, by date and table: from names and footers, no row is read."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mlmon.history.files import list_dates
from mlmon.history.read import parcel_files
from mlmon.history.tables import TABLES

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

__all__ = ["DateReport", "HistoryReport", "report"]

_ATTEMPTS = 50


class DateReport(msgspec.Struct, frozen=True):
    """One table on one date.

    Attributes:
        date: UTC, as YYYY-MM-DD.
        table: its name.
        windows: parcels in it; a window that closed in two partitions counts twice.
        rows: how many.
        files: that hold them.
        bytes: size of those.
        first_us: start of the first window, µs.
        last_us: start of the last, µs.
    """

    date: str
    table: str
    windows: int
    rows: int
    files: int
    bytes: int
    first_us: int
    last_us: int


class HistoryReport(msgspec.Struct, frozen=True):
    """The whole history.

    Attributes:
        windows: the most that any table has, summed over dates.
        files: over all tables.
        bytes: over all tables.
        dates: oldest first.
    """

    windows: int
    files: int
    bytes: int
    dates: tuple[DateReport, ...]


def report(directory: Path) -> HistoryReport:
    """Look at a history; one that does not exist is empty.

    Warns:
        UserWarning: a file cannot be read and is left out.
    """
    found = [
        entry
        for table in TABLES
        for day in list_dates(directory, table)
        if (entry := _entry(directory, table, day)) is not None
    ]
    found.sort(key=lambda entry: (entry.date, list(TABLES).index(entry.table)))
    most: dict[str, int] = {}
    for entry in found:
        most[entry.date] = max(most.get(entry.date, 0), entry.windows)
    return HistoryReport(
        sum(most.values()),
        sum(entry.files for entry in found),
        sum(entry.bytes for entry in found),
        tuple(found),
    )


def _entry(directory: Path, table: str, day: date) -> DateReport | None:
    for _ in range(_ATTEMPTS):
        try:
            return _entry_once(directory, table, day)
        except FileNotFoundError:
            continue
    return None


def _entry_once(directory: Path, table: str, day: date) -> DateReport | None:
    windows = rows = size = files = 0
    starts: list[int] = []
    for file, digests in parcel_files(directory, table, day).items():
        try:
            footer = pq.read_metadata(file.path)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            warnings.warn(f"{file.path} is left out: {error}", stacklevel=4)
            continue
        windows, rows, size, files = (
            windows + len(digests),
            rows + footer.num_rows,
            size + file.size,
            files + 1,
        )
        starts.extend(_bounds(footer))
    if not files:
        return None
    return DateReport(day.isoformat(), table, windows, rows, files, size, min(starts), max(starts))


def _bounds(footer: pq.FileMetaData) -> list[int]:
    """Lowest and highest start of a window by row group, µs, from the statistics of the first column."""
    statistics = [footer.row_group(index).column(0).statistics for index in range(footer.num_row_groups)]
    return [round(time.timestamp() * 1e6) for part in statistics for time in (part.min, part.max)]
