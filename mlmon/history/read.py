"""Reading the history: a table for a stretch of time, each window in it once. Needs no running sidecar.

    readings = read("mlmon-data/history", "readings", Selection(metrics=("mlmon_drift_effect",)))

The files are plain Parquet, so DuckDB and pandas read them too (`docs/history.md`). This module adds three
things: windows are counted once even in the moment when files are joined (and after a crash in it), files
that cannot be read are left out with a warning, and nothing outside the stretch of time is opened.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlmon.errors import HistoryError
from mlmon.history.files import list_dates, list_folder, read_digests, superseded
from mlmon.history.tables import TABLES
from mlmon.stats.sketch import QuantileSketch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from mlmon.history.files import HistoryFile

__all__ = ["Selection", "lowest_ranks", "merged_sketch", "parcel_files", "read"]

#: Files may be joined while they are read; then reading begins again, so often at most.
_ATTEMPTS = 50
#: For smaller files waking the thread pool takes longer than reading them.
_LARGE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a table to read.

    Attributes:
        start_us: windows that start here or later, µs since 1970 UTC; None for all from the first.
        end_us: windows that start before this; None for all to the last.
        metrics: these metrics only (table readings); empty for all.
        where: column to the value or values it must have, such as `{"service": "search"}`.
        columns: the columns to read; None for all.
    """

    start_us: int | None = None
    end_us: int | None = None
    metrics: Sequence[str] = ()
    where: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    columns: Sequence[str] | None = None

    def expression(self) -> pc.Expression | None:
        """The condition on rows."""
        conditions = [pc.field(name).isin(_values(value)) for name, value in self.where.items()]
        if self.metrics:
            conditions.append(pc.field("metric").isin(list(self.metrics)))
        starts = pc.field("window_start")
        if self.start_us is not None:
            conditions.append(starts >= _time(self.start_us))
        if self.end_us is not None:
            conditions.append(starts < _time(self.end_us))
        whole: pc.Expression | None = None
        for condition in conditions:
            whole = condition if whole is None else whole & condition
        return whole

    def covers(self, day: date) -> bool:
        """Whether windows of a date can be among them."""
        after = self.start_us is None or day >= _date(self.start_us)
        return after and (self.end_us is None or day <= _date(self.end_us))


def _values(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _time(time_us: int) -> pa.Scalar:
    return pa.scalar(time_us, pa.timestamp("us", tz="UTC"))


def _date(time_us: int) -> date:
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).date()


def read(directory: str | Path, table: str, selection: Selection | None = None) -> pa.Table:
    """Read rows of a table, windows in order of time. Memory: the rows selected, and one file.

    Args:
        directory: of the history. One that does not exist is an empty history.
        table: `readings`, `distributions`, `latency`, `outcomes` or `events`.
        selection: which rows; all of them without one.

    Raises:
        HistoryError: there is no such table or column, or the files never stand still.

    Warns:
        UserWarning: a file cannot be read; its windows are missing.
    """
    selection = Selection() if selection is None else selection
    schema = _schema(table, selection)
    for _ in range(_ATTEMPTS):
        try:
            parts = _read_once(Path(directory), table, selection, schema)
        except FileNotFoundError:
            continue
        whole = pa.concat_tables([schema.empty_table(), *parts])
        return whole.sort_by("window_start") if "window_start" in schema.names else whole
    raise HistoryError(f"{directory} changed {_ATTEMPTS} times while it was read: try again")


def _schema(table: str, selection: Selection) -> pa.Schema:
    if table not in TABLES:
        raise HistoryError(f"no table {table!r} in the history: expected one of {list(TABLES)}")
    schema = TABLES[table]
    asked = [*(selection.columns or ()), *selection.where, *(["metric"] if selection.metrics else ())]
    unknown = sorted(set(asked) - set(schema.names))
    if unknown:
        raise HistoryError(f"table {table} has no column {', '.join(unknown)}: expected {schema.names}")
    return schema if selection.columns is None else pa.schema([schema.field(n) for n in selection.columns])


def _read_once(directory: Path, table: str, selection: Selection, schema: pa.Schema) -> list[pa.Table]:
    parts = []
    for day in list_dates(directory, table):
        if not selection.covers(day):
            continue
        for file in parcel_files(directory, table, day):
            try:
                part = pq.read_table(
                    file.path,
                    columns=schema.names,
                    filters=selection.expression(),
                    partitioning=None,
                    use_threads=file.size >= _LARGE_BYTES,
                )
                parts.append(part.cast(schema))
            except FileNotFoundError:
                raise
            except (OSError, ValueError, pa.ArrowException) as error:
                warnings.warn(f"{file.path} is left out: {error}", stacklevel=4)
    return parts


def parcel_files(directory: Path, table: str, day: date) -> dict[HistoryFile, frozenset[str]]:
    """The files of a table and date that together hold every parcel once, and the digests of each.

    Raises:
        FileNotFoundError: files were joined meanwhile; ask again.
    """
    files = list_folder(directory / table / f"date={day.isoformat()}")
    digests: dict[Path, frozenset[str]] = {}
    readable = []
    for file in files:
        if file.joined:
            try:
                digests[file.path] = read_digests(file.path)
            except HistoryError as error:
                warnings.warn(f"{file.path} is left out: {error}", stacklevel=5)
                continue
        readable.append(file)
    gone = set(superseded(readable, digests))
    return {file: digests.get(file.path, frozenset([file.digest])) for file in readable if file not in gone}


def merged_sketch(latency: pa.Table) -> QuantileSketch:
    """The latency of all rows of the table `latency` together.

    Raises:
        IncompatibleStateError: a sketch was made with another accuracy.
    """
    whole = QuantileSketch()
    for data in latency.column("sketch").to_pylist():
        whole.merge(QuantileSketch.from_bytes(data))
    return whole


def lowest_ranks(events: pa.Table, rows: int) -> pa.Table:
    """A sample of `rows` of the events of all these windows together: the rows of lowest rank.

    Each window keeps its own lowest, so the answer is exact for `rows` up to what each window keeps.
    """
    ranks = events.column("rank").to_numpy()
    return events.take(pa.array(np.argsort(ranks, kind="stable")[:rows]))
