"""The history through DuckDB: what a page asks for, and no more of it than a page can show.

Files are listed by the history's own reader, so each window is there once, also while files are joined; what
cannot be read is left out and told. Columns and rows are chosen in DuckDB, and series of readings are thinned
there, so a month of minutes is never in memory.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mlmon.errors import HistoryError, MissingExtraError
from mlmon.history.files import digests_in, list_dates
from mlmon.history.read import parcel_files
from mlmon.history.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb
    import pandas as pd

__all__ = ["POINTS", "Bounds", "HistorySource"]

#: Most points of one line on a chart; more are thinned to the extremes of each stretch.
POINTS = 600
#: Most rows that any query returns.
_MOST_ROWS = 200_000
_SECOND = 1_000_000


class Bounds(NamedTuple):
    """A stretch of time, µs since 1970 UTC: windows that start within [start, end)."""

    start_us: int
    end_us: int


class HistorySource:
    """Reads one history. Any thread may ask; each call has a cursor of its own.

    Args:
        directory: of the history; one that does not exist is an empty one.

    Raises:
        MissingExtraError: duckdb or pandas is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            import duckdb
            import pandas as pd  # noqa: F401 - what DuckDB's frames are
        except ModuleNotFoundError as error:
            raise MissingExtraError(str(error.name), "explorer") from None
        self.directory = Path(directory)
        self._connection = duckdb.connect(
            ":memory:", config={"autoinstall_known_extensions": "false", "threads": "2"}
        )
        self._lock = threading.Lock()
        self._sound: dict[tuple[Path, int], bool] = {}
        self._complaints: dict[Path, str] = {}

    # What there is

    def version(self) -> str:
        """Changes whenever files do: what caches are keyed by. Costs a listing of the newest dates."""
        state = hashlib.blake2b(digest_size=8)
        for table in TABLES:
            days = list_dates(self.directory, table)
            state.update(f"{table}{len(days)}".encode())
            for day in days[-2:]:
                folder = self.directory / table / f"date={day.isoformat()}"
                try:
                    names = sorted(entry.name for entry in os.scandir(folder))
                except FileNotFoundError:
                    names = []
                state.update("\n".join(names).encode())
        return state.hexdigest()

    def complaints(self) -> tuple[str, ...]:
        """Files that were left out, and why; as far as anything was asked of their dates."""
        with self._lock:
            return tuple(sorted(self._complaints.values()))

    def newest_us(self) -> int | None:
        """End of the newest window, µs; None where the history is empty."""
        for day in reversed(list_dates(self.directory, "readings")):
            found = self.query("readings", "select max(window_end) as newest from rows", _day(day))
            if len(found) and found["newest"].notna().all():
                return int(found["newest"].iloc[0].timestamp() * _SECOND)
        return None

    def distinct(self, column: str, bounds: Bounds, where: Mapping[str, str] | None = None) -> list[str]:
        """Values of a column of the readings, sorted; at most a thousand."""
        condition, values = _condition(where or {})
        name = _column(column)
        text = f"select distinct {name} as found from rows where {name} is not null{condition} "  # noqa: S608
        frame = self.query("readings", text + "order by 1 limit 1000", bounds, values)
        return [str(value) for value in frame["found"]]

    # Rows

    def readings(
        self,
        metrics: Sequence[str],
        bounds: Bounds,
        where: Mapping[str, str] | None = None,
        points: int = POINTS,
    ) -> pd.DataFrame:
        """Readings of some metrics as lines, thinned to about `points` a line.

        A stretch of windows is shown by its lowest and its highest reading, each with its own time, so no
        peak is lost. Columns: time, metric, service, model, version, deployment, segment, monitor, field,
        labels (as text), value, threshold, lower, upper, n.
        """
        condition, values = _condition(where or {})
        series = "metric, service, model, version, deployment, segment, monitor, field, label_text"
        step = max(1, (bounds.end_us - bounds.start_us) // max(1, points // 2))
        marks = ", ".join("?" for _ in metrics)
        text = f"""
            with chosen as (
                select *, cast(labels as varchar) as label_text,
                       (epoch_us(window_end) - {bounds.start_us}) // {step} as stretch
                from rows where metric in ({marks}){condition}
            ), ranked as (
                select *,
                       row_number() over (partition by {series}, stretch
                                          order by value, window_end) as low,
                       row_number() over (partition by {series}, stretch
                                          order by value desc, window_end desc) as high
                from chosen
            )
            select window_end as time, {series.replace("label_text", "label_text as labels")},
                   value, threshold, lower, upper, n
            from ranked where low = 1 or high = 1 order by {series}, time limit {_MOST_ROWS}
        """  # noqa: S608 - numbers and names of columns of ours
        return self.query("readings", text, bounds, [*metrics, *values])

    def latest(
        self, metrics: Sequence[str], bounds: Bounds, where: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """The newest reading of each line, with the columns of `readings`."""
        condition, values = _condition(where or {})
        marks = ", ".join("?" for _ in metrics)
        text = f"""
            select window_end as time, metric, service, model, version, deployment, segment, monitor, field,
                   cast(labels as varchar) as labels, value, threshold, lower, upper, n
            from rows where metric in ({marks}){condition}
            qualify row_number() over (partition by metric, service, model, version, deployment, segment,
                                       monitor, field, cast(labels as varchar)
                                       order by window_end desc) = 1
            order by all limit {_MOST_ROWS}
        """  # noqa: S608 - numbers and names of columns of ours
        return self.query("readings", text, bounds, [*metrics, *values])

    def rows(
        self,
        table: str,
        bounds: Bounds,
        where: Mapping[str, str] | None = None,
        columns: Sequence[str] = ("*",),
        limit: int = _MOST_ROWS,
    ) -> pd.DataFrame:
        """Rows of a table as they are, oldest first."""
        condition, values = _condition(where or {})
        text = (
            f"select {', '.join(columns)} from rows where true{condition} "  # noqa: S608
            f"order by window_start limit {int(limit)}"
        )
        return self.query(table, text, bounds, values)

    def query(self, table: str, text: str, bounds: Bounds, values: Sequence[str | None] = ()) -> pd.DataFrame:
        """A query over `rows`: the rows of a table whose windows start within the bounds.

        Raises:
            HistoryError: DuckDB does not understand it, or files vanish as fast as they are listed.
        """
        import duckdb

        for _ in range(20):
            files = self._files(table, bounds)
            source = _source(table, files, bounds)
            cursor: duckdb.DuckDBPyConnection = self._connection.cursor()
            try:
                found: pd.DataFrame = cursor.execute(f"with rows as ({source}) {_joined(text)}", values).df()
            except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
                raise HistoryError(f"{self.directory} cannot be asked: {error}") from error
            except duckdb.Error as error:
                if not self._forget(files):
                    raise HistoryError(f"{self.directory} cannot be read: {error}") from error
            else:
                return found
            finally:
                cursor.close()
        raise HistoryError(f"{self.directory} changes faster than it can be read: try again")

    # Files

    def _files(self, table: str, bounds: Bounds) -> list[Path]:
        first, last = (
            datetime.fromtimestamp(us / _SECOND, UTC).date() for us in (bounds.start_us, bounds.end_us)
        )
        found: list[Path] = []
        for day in list_dates(self.directory, table):
            if first <= day <= last:
                found.extend(self._of_day(table, day))
        return found

    def _of_day(self, table: str, day: object) -> list[Path]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(20):
                try:
                    files = parcel_files(self.directory, table, day)  # type: ignore[arg-type]
                    break
                except FileNotFoundError:
                    continue
            else:
                raise HistoryError(f"{self.directory} changes faster than it can be listed: try again")
        with self._lock:
            for warning in caught:
                message = str(warning.message)
                self._complaints[Path(message.split(" is left out")[0])] = message
            return [file.path for file in files if self._is_sound(file.path, file.size)]

    def _is_sound(self, path: Path, size: int) -> bool:
        """Whether a file is one of the history, by its footer; asked once of each."""
        known = self._sound.get((path, size))
        if known is not None:
            return known
        try:
            digests_in(path, pq.read_metadata(path))
            sound = True
        except FileNotFoundError:
            return False
        except (OSError, pa.ArrowException, HistoryError) as error:
            self._complaints[path] = f"{path} is left out: {error}"
            sound = False
        if len(self._sound) > 100_000:
            self._sound.clear()
        self._sound[path, size] = sound
        return sound

    def _forget(self, files: Sequence[Path]) -> bool:
        """Look at files again after a read failed. True where the next attempt has other files."""
        changed = False
        for path in files:
            try:
                for group in range((footer := pq.ParquetFile(path)).num_row_groups):
                    footer.read_row_group(group)
            except FileNotFoundError:
                changed = True
            except (OSError, ValueError, pa.ArrowException) as error:
                with self._lock:
                    self._sound[path, path.stat().st_size] = False
                    self._complaints[path] = f"{path} is left out: {error}"
                changed = True
        return changed


def _day(day: object) -> Bounds:
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    first = int(start.timestamp()) * _SECOND
    return Bounds(first, first + 86_400 * _SECOND)


def _column(name: str) -> str:
    if name not in TABLES["readings"].names:
        raise HistoryError(
            f"the readings have no column {name!r}: expected one of {TABLES['readings'].names}"
        )
    return name


def _condition(where: Mapping[str, str]) -> tuple[str, list[str]]:
    """`and column = ?` for each; names of columns are ours, values are bound."""
    for name in where:
        if not name.isidentifier():
            raise HistoryError(f"{name!r} is no column of the history")
    return "".join(f" and {name} = ?" for name in where), list(where.values())


def _joined(text: str) -> str:
    """A query that may begin with `with` after one that already did."""
    stripped = text.strip()
    return f", {stripped[5:]}" if stripped.startswith("with ") else stripped


def _source(table: str, files: Sequence[Path], bounds: Bounds) -> str:
    if not files:
        columns = ", ".join(f"null::{_sql_type(field.type)} as {field.name}" for field in TABLES[table])
        return f"select {columns} where false"
    names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    between = (
        f"window_start >= make_timestamptz({bounds.start_us}) "
        f"and window_start < make_timestamptz({bounds.end_us})"
    )
    return f"select * from read_parquet([{names}], hive_partitioning = false) where {between}"  # noqa: S608


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamptz"
    if pa.types.is_floating(kind):
        return "double"
    if pa.types.is_integer(kind):
        return "bigint"
    if pa.types.is_binary(kind):
        return "blob"
    if pa.types.is_map(kind):
        return f"map(varchar, {_sql_type(kind.item_type)})"
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    return "varchar"
