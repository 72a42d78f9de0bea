"""What keeps the history within its bounds: age, size, number of files. Called under the directory's lock."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlmon.errors import HistoryError
from mlmon.history.files import (
    HistoryFile,
    digests_in,
    file_metadata,
    joined_name,
    list_dates,
    list_folder,
    read_digests,
    replace_file,
    superseded,
    sync_folder,
)
from mlmon.history.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

    from mlmon.clock import Clock
    from mlmon.history.config import HistoryConfig

__all__ = ["Upkeep", "in_order"]

log = logging.getLogger(__name__)

#: A date's files are joined for good when it is over and nothing was written for so long, seconds.
_SETTLED_SECONDS = 3_600.0
#: Temporary files older than this were left by a crash, seconds.
_STALE_SECONDS = 3_600.0
#: Rows of a joined file that are put in order together, in bytes unpacked.
_LOT_BYTES = 64 * 1024 * 1024
#: Rows of a row group where there is an order: fewer read less, and more footers.
_ROW_GROUP_ROWS = {"readings": 16_384, "distributions": 4_096}
#: What rows of joined files are ordered by, so that who asks for few fields reads few row groups.
_ORDERS = {
    "readings": ("metric", "monitor", "field", "segment", "window_start"),
    "distributions": ("monitor", "field", "segment", "window_start"),
}

_Folders = dict[tuple["date", str], list[HistoryFile]]


class Upkeep:
    """Steps of upkeep of one directory, each bounded.

    Attributes:
        bytes: size of the history as of the last step.
        expired: windows deleted for age or size.
        broken: files set aside because they cannot be read.
    """

    def __init__(self, config: HistoryConfig, clock: Clock) -> None:
        self._config = config
        self._directory = Path(config.directory)
        self._clock = clock
        self._recovered: set[Path] = set()
        self._foreign: set[Path] = set()
        self.bytes = 0
        self.expired = 0
        self.broken = 0

    def step(self) -> bool:
        """Delete what is too old or too much; clean up after a crash; join one lot of files.

        Returns:
            Whether there is more to do at once.
        """
        folders = self._folders()
        self._expire(folders)
        self.bytes = sum(file.size for files in folders.values() for file in files)
        for (day, table), files in folders.items():
            folder = self._folder(table, day)
            if folder not in self._recovered:
                self._recover(folder, files)
                self._recovered.add(folder)
                return True
        self._recovered.intersection_update(self._folder(table, day) for day, table in folders)
        self._foreign.intersection_update(file.path for files in folders.values() for file in files)
        for (day, _), files in folders.items():
            lot = self._lot(day, [file for file in files if file.path not in self._foreign])
            if lot:
                self._join(lot)
                return True
        return False

    def _folders(self) -> _Folders:
        found = {
            (day, table): list_folder(self._folder(table, day))
            for table in TABLES
            for day in list_dates(self._directory, table)
        }
        return dict(sorted(found.items()))

    def _folder(self, table: str, day: date) -> Path:
        return self._directory / table / f"date={day.isoformat()}"

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC).date()

    # Age and size

    def _expire(self, folders: _Folders) -> None:
        """Delete dates that are too old, then the oldest until the rest is small enough.

        Age counts from the newest date there is (not one in the future), so that recorded events read again
        are not deleted as they come in.
        """
        dates = sorted({day for day, _ in folders})
        newest = min(self._today(), max(dates, default=self._today()))
        first = newest - timedelta(days=self._config.max_days - 1)
        for day in dates:
            if day < first:
                self._delete_date(folders, day)
        while True:
            total = sum(file.size for files in folders.values() for file in files)
            days = sorted({day for (day, _), files in folders.items() if files})
            if total <= self._config.max_bytes or not days:
                return
            if len(days) > 1:
                self._delete_date(folders, days[0])
            else:
                self._thin(folders, days[0], total - self._config.max_bytes)
                return

    def _delete_date(self, folders: _Folders, day: date) -> None:
        gone = {key: folders.pop(key) for key in list(folders) if key[0] == day}
        self._delete([file for files in gone.values() for file in files])
        for _, table in gone:
            folder = self._folder(table, day)
            for left in folder.iterdir():
                left.unlink(missing_ok=True)
            folder.rmdir()

    def _thin(self, folders: _Folders, day: date, excess: int) -> None:
        """Delete the oldest windows of the only date there is."""
        files = sorted(file for (at, _), held in folders.items() if at == day for file in held)
        gone: list[HistoryFile] = []
        # a window goes from all tables at once
        while files and (excess > 0 or files[0].start_us == gone[-1].start_us):
            excess -= files[0].size
            gone.append(files.pop(0))
        self._delete(gone)
        for key, held in folders.items():
            folders[key] = [file for file in held if file not in gone]

    def _delete(self, files: Sequence[HistoryFile]) -> None:
        digests: set[str] = set()
        for file in files:
            digests |= self._digests(file)
            file.path.unlink(missing_ok=True)
        self.expired += len(digests)

    def _digests(self, file: HistoryFile) -> frozenset[str]:
        if not file.joined:
            return frozenset([file.digest])
        try:
            return read_digests(file.path)
        except (HistoryError, FileNotFoundError):
            return frozenset()

    # Joining

    def _recover(self, folder: Path, files: list[HistoryFile]) -> None:
        """Finish what a crash left half done: files already joined, and temporary ones."""
        joined = {file.path: self._digests(file) for file in files if file.joined}
        for file in superseded(files, joined):
            file.path.unlink(missing_ok=True)
        for left in folder.glob(".*.tmp"):
            if left.stat().st_mtime < self._clock.now_us() / 1e6 - _STALE_SECONDS:
                left.unlink(missing_ok=True)

    def _lot(self, day: date, files: list[HistoryFile]) -> list[HistoryFile]:
        """Files of a folder to be joined now; none or at least two."""
        single = [file for file in files if not file.joined]
        if len(single) >= self._config.compact_files:
            lot = self._prefix(single[: self._config.compact_files])
            if lot:
                return lot
        newest = max((file.changed for file in files), default=0.0)
        if day >= self._today() or self._clock.now_us() / 1e6 - newest < _SETTLED_SECONDS:
            return []
        return self._prefix([f for f in files if not f.joined or f.size < self._config.compact_bytes // 2])

    def _prefix(self, files: Iterable[HistoryFile]) -> list[HistoryFile]:
        """The first run of at least two files that fit one."""
        lot: list[HistoryFile] = []
        size = 0
        for file in files:
            if lot and size + file.size > self._config.compact_bytes:
                if len(lot) > 1:
                    break
                lot, size = [], 0
            lot.append(file)
            size += file.size
        return lot if len(lot) > 1 else []

    def _join(self, lot: list[HistoryFile]) -> None:
        held: dict[Path, frozenset[str]] = {}
        for file in lot:
            try:
                # read as a whole: damage must be met before others are deleted
                with pq.ParquetFile(file.path) as source:
                    source.read(use_threads=False)
                    held[file.path] = digests_in(file.path, source.metadata)
            except (OSError, pa.ArrowException) as error:
                self._set_aside(file, error)
            except HistoryError as error:
                self._foreign.add(file.path)
                log.warning("%s is left as it is: %s", file.path, error)
        digests = frozenset().union(*held.values())
        if len(held) > 1:
            folder = lot[0].path.parent
            schema = TABLES[folder.parent.name].with_metadata(file_metadata(digests))
            path = folder / joined_name(lot[0].start_us, digests)
            table = folder.parent.name
            groups = (group for rows in _lots(list(held), schema) for group in in_order(rows, table))
            replace_file(path, groups, schema)
            for old in held:
                if old != path:
                    old.unlink(missing_ok=True)
            sync_folder(folder)

    def _set_aside(self, file: HistoryFile, error: Exception) -> None:
        """Take a broken file out of everybody's way, so that it is met once."""
        self.broken += 1
        log.warning("%s is broken and set aside as .broken: %s", file.path, error)
        file.path.replace(file.path.with_name(f"{file.path.name}.broken"))


def in_order(rows: pa.Table, table: str) -> Iterator[pa.Table]:
    """Rows of a table as row groups of a joined file: in the table's order, or as they are if it has none."""
    order = _ORDERS.get(table)
    if order is None:
        yield rows
        return
    whole = rows.combine_chunks()
    whole = whole.take(pc.sort_indices(whole, [(name, "ascending") for name in order]))
    rows_each = _ROW_GROUP_ROWS[table]
    for start in range(0, len(whole), rows_each):
        yield whole.slice(start, rows_each)


def _lots(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows of several files in lots of bounded size."""
    held: list[pa.Table] = []
    size = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                # small files: waking the thread pool takes longer than reading them
                held.append(file.read_row_group(index, use_threads=False).cast(schema))
                size += held[-1].nbytes
                if size >= _LOT_BYTES:
                    yield pa.concat_tables(held)
                    held, size = [], 0
    if held:
        yield pa.concat_tables(held)
