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
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mlmon.catalog import METRICS
from mlmon.errors import HistoryError, MissingExtraError
from mlmon.history.files import digests_in, list_dates
from mlmon.history.read import parcel_files
from mlmon.history.tables import NAMED_LABELS, TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    import duckdb
    import pandas as pd

__all__ = ["POINTS", "Bounds", "HistorySource"]

#: Most points of one line on a chart; more are thinned to the extremes of each stretch.
POINTS = 600
#: What tells lines apart, their other labels as text, and what a reading has beside its value.
_SERIES = "metric, service, model, version, deployment, segment, monitor, field"
_LABELS = "case when cardinality(labels) = 0 then '' else cast(labels as varchar) end"
_CARRIED = ("threshold", "lower", "upper", "n")
#: How old the newest reading of a line may be, µs.
_NEWEST_US = 86_400_000_000
#: Columns that a sidebar chooses by.
_CHOSEN = ("service", "model", "version", "deployment", "segment")
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
        threads = str(min(8, os.cpu_count() or 1))
        self._held = [
            duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false", "threads": threads})
        ]
        # Streamlit's cache keeps a source to the process's end, and so may a thread: let DuckDB go before the
        # interpreter's own end, which is too late for it
        weakref.finalize(self, self._held.clear)
        self._lock = threading.Lock()
        self._sound: dict[tuple[Path, int], bool] = {}
        self._folders: dict[Path, tuple[frozenset[tuple[str, int]], list[Path]]] = {}
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

    def choices(self, bounds: Bounds) -> pd.DataFrame:
        """Every service, model, version, deployment and segment there are; at most ten thousand.

        Of the tables that have a row a series and window (outcomes, latency) and of the readings of the last
        hour; only where the former are empty, of all readings, which are many.
        """
        names = ", ".join(f"coalesce({name}, '') as {name}" for name in _CHOSEN)
        found = self._small(bounds, f"select distinct {names} from rows limit 10000")  # noqa: S608
        return found.drop_duplicates(ignore_index=True)

    def services(self, bounds: Bounds) -> pd.DataFrame:
        """Every service and model: end of the newest window and length of the longest; of the same tables."""
        text = (
            "select service, model, max(window_end) as newest, max(window_end - window_start) as long "
            "from rows where service is not null and model is not null group by service, model"
        )
        grouped = self._small(bounds, text).groupby(["service", "model"], as_index=False)
        found: pd.DataFrame = grouped.agg({"newest": "max", "long": "max"})
        return found

    def busiest(self, bounds: Bounds, where: Mapping[str, str]) -> tuple[str, str]:
        """The service and model with most readings among those asked for; ("", "") where there is none."""
        found = self.services(bounds)
        for name, value in where.items():
            found = found[found[name] == value]
        if len(found) > 1:
            condition, values = _condition(where)
            text = (
                "select service, model, count(*) as n from rows "  # noqa: S608 - names of columns of ours
                f"where service is not null and model is not null{condition} group by all "
                "order by n desc, service, model limit 1"
            )
            found = self.query("readings", text, bounds, values)
        return (str(found["service"].iloc[0]), str(found["model"].iloc[0])) if len(found) else ("", "")

    def _small(self, bounds: Bounds, text: str) -> pd.DataFrame:
        """Rows of a query over the tables with few rows, one table's below the other's."""
        import pandas as pd

        hour = Bounds(max(bounds.start_us, bounds.end_us - 3_600 * _SECOND), bounds.end_us)
        parts = [self.query(table, text, bounds) for table in ("outcomes", "latency")]
        some = any(len(part) for part in parts)
        parts.append(self.query("readings", text, hour if some else bounds))
        return pd.concat([part for part in parts if len(part)] or parts[-1:], ignore_index=True)

    def distinct(self, column: str, bounds: Bounds, where: Mapping[str, str] | None = None) -> list[str]:
        """Values of one column of `choices`, sorted, empty ones left out."""
        frame = self.choices(bounds)
        for name in (column, *(where or {})):
            if name not in _CHOSEN:
                raise HistoryError(f"there is no column {name!r} to choose by: expected one of {_CHOSEN}")
        for name, value in (where or {}).items():
            frame = frame[frame[name] == value]
        return sorted({str(value) for value in frame[column] if value})

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
        step = max(1, (bounds.end_us - bounds.start_us) // max(1, points // 2))
        marks = ", ".join("?" for _ in metrics)
        low, high = (
            ", ".join(f"{side}({name}, value) as {prefix}_{name}" for name in ("window_end", *_CARRIED))
            for side, prefix in (("arg_min_null", "low"), ("arg_max_null", "high"))
        )
        carried = ", ".join(_CARRIED)
        text = f"""
            with chosen as (
                select {_SERIES}, {_labels_of(metrics)} as label_text, window_end, value, {carried},
                       (epoch_us(window_end) - {bounds.start_us}) // {step} as stretch
                from rows where metric in ({marks}){condition}
            ), ends as materialized (
                select {_SERIES}, label_text, stretch, min(value) as low_value, max(value) as high_value,
                       {low}, {high}
                from chosen group by all
            ), points as (
                select {_SERIES}, label_text, low_window_end as time, low_value as value,
                       {", ".join(f"low_{name} as {name}" for name in _CARRIED)} from ends
                union all
                select {_SERIES}, label_text, high_window_end, high_value,
                       {", ".join(f"high_{name}" for name in _CARRIED)} from ends
                where high_window_end <> low_window_end
            )
            select time, {_SERIES}, label_text as labels, value, {carried}
            from points order by {_SERIES}, labels, time limit {_MOST_ROWS}
        """  # noqa: S608 - numbers and names of columns of ours
        return self.query("readings", text, bounds, [*metrics, *values])

    def latest(
        self, metrics: Sequence[str], bounds: Bounds, where: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """The newest reading of each line, with the columns of `readings`.

        Lines that said nothing for a day are left out, unless their whole service did.
        """
        last = Bounds(max(bounds.start_us, bounds.end_us - _NEWEST_US), bounds.end_us)
        found = self._latest(metrics, last, where or {})
        if len(found) or last == bounds:
            return found
        lives = self.services(last)
        for name in ("service", "model"):
            lives = lives[lives[name] == where[name]] if where and name in where else lives
        return found if len(lives) else self._latest(metrics, bounds, where or {})

    def _latest(self, metrics: Sequence[str], bounds: Bounds, where: Mapping[str, str]) -> pd.DataFrame:
        condition, values = _condition(where)
        marks = ", ".join("?" for _ in metrics)
        newest = ", ".join(f"arg_max_null({name}, window_end) as {name}" for name in ("value", *_CARRIED))
        text = f"""
            select max(window_end) as time, {_SERIES}, {_labels_of(metrics)} as labels, {newest}
            from rows where metric in ({marks}){condition}
            group by {_SERIES}, labels order by all limit {_MOST_ROWS}
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
            cursor: duckdb.DuckDBPyConnection = self._held[0].cursor()
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

    def _of_day(self, table: str, day: date) -> list[Path]:
        """Files of a date; looked into again only when the folder's listing has changed."""
        folder = self.directory / table / f"date={day.isoformat()}"
        try:
            listing = frozenset((entry.name, entry.stat().st_size) for entry in os.scandir(folder))
        except FileNotFoundError:
            return self._listed(table, day)  # files come and go: no listing to remember
        with self._lock:
            held = self._folders.get(folder)
        if held is None or held[0] != listing:
            held = listing, self._listed(table, day)
            with self._lock:
                if len(self._folders) > 10_000:
                    self._folders.clear()
                self._folders[folder] = held
        return held[1]

    def _listed(self, table: str, day: date) -> list[Path]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(20):
                try:
                    files = parcel_files(self.directory, table, day)
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
                    self._folders.pop(path.parent, None)
                changed = True
        return changed


def _day(day: object) -> Bounds:
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    first = int(start.timestamp()) * _SECOND
    return Bounds(first, first + 86_400 * _SECOND)


def _condition(where: Mapping[str, str]) -> tuple[str, list[str]]:
    """`and column = ?` for each; names of columns are ours, values are bound."""
    for name in where:
        if not name.isidentifier():
            raise HistoryError(f"{name!r} is no column of the history")
    return "".join(f" and {name} = ?" for name in where), list(where.values())


def _labels_of(metrics: Sequence[str]) -> str:
    """Other labels as text; a third of a long scan is spent on their map, so not of metrics without any."""
    kinds = [METRICS.get(name) for name in metrics]
    bare = all(kind is not None and {*kind.labels} <= {*NAMED_LABELS} for kind in kinds)
    return "''" if bare else _LABELS


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
