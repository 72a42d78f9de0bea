"""The traffic that is drawn from: what every event of a baseline's sample adds to every field.

Field sums are linear in the events, so a window of any size is a vector of counts times one matrix: a month
of windows costs the same whether they hold a hundred events or a million, and the sums are those that the
sidecar would have made of the same events.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np

from mlmon.engine.series import series_codes
from mlmon.events.batch import EventBatch
from mlmon.monitors.base import Monitor
from mlmon.monitors.drift import DriftMonitor
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from mlmon.drift.judge import FieldTable
    from mlmon.monitors.base import SeriesKey

__all__ = ["Population", "added", "population"]


class _Column(NamedTuple):
    """Where a field stands in the matrix."""

    monitor: str
    field: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Events and what each adds.

    Memory: 8·(D + F) bytes an event, for D cells and directions of F fields.

    Attributes:
        series: the series there are.
        codes: series of each event, shape (n,).
        values: what each event adds to the totals, shape (n, D).
        carries: whether it carries a field, shape (n, F).
        columns: the fields, in the order of `carries`.
    """

    series: Sequence[SeriesKey]
    codes: NDArray[np.intp]
    values: NDArray[np.float64]
    carries: NDArray[np.float64]
    columns: Sequence[_Column]

    def __len__(self) -> int:
        return len(self.codes)

    def window(self, counts: NDArray[np.float64]) -> dict[SeriesKey, FieldTable]:
        """Field sums of a window that holds event i `counts[i]` times, by series."""
        tables: dict[SeriesKey, FieldTable] = {}
        for code, key in enumerate(self.series):
            rows = np.flatnonzero((self.codes == code) & (counts > 0))
            if len(rows):
                drawn = counts[rows]
                tables[key] = self._table(drawn @ self.values[rows], drawn @ self.carries[rows])
        return tables

    def _table(self, totals: NDArray[np.float64], sizes: NDArray[np.float64]) -> FieldTable:
        table: defaultdict[str, dict[str, FieldSums]] = defaultdict(dict)
        for index, column in enumerate(self.columns):
            sums = FieldSums(0)
            sums.total = totals[column.start : column.stop]
            sums.size = np.full(3, sizes[index])
            table[column.monitor][column.field] = sums
        return table


def added(
    first: dict[SeriesKey, FieldTable], second: Mapping[SeriesKey, FieldTable]
) -> dict[SeriesKey, FieldTable]:
    """The sums of both; those of `first` are changed."""
    for key, table in second.items():
        if key not in first:
            first[key] = table
            continue
        for monitor, fields in table.items():
            for name, sums in fields.items():
                held = first[key].get(monitor, {}).get(name)
                if held is not None:
                    held.merge(sums)
    return first


def population(
    monitors: Sequence[Monitor],
    events: pa.Table,
    segment_by: tuple[str, ...] = (),
    advance: Callable[[], object] = lambda: None,
) -> Population:
    """Take every event of a sample through the monitors, one at a time.

    Args:
        monitors: built with the baseline's parameters.
        events: a sample with contract columns, as `Scope.sample`. Sampling weights count as 1: the sample is
            already a uniform one of all traffic.
        segment_by: keys that series are told apart by.
        advance: called once for each event, for a progress bar.
    """
    drifting = [cast("_Drifting", m) for m in monitors if hasattr(m, "drift")]
    rows = events.drop_columns(["sampling_weight"]) if "sampling_weight" in events.column_names else events
    batch = EventBatch(rows.combine_chunks().to_batches()[0])
    codes, series = series_codes(batch, segment_by)
    tables = []
    for index in range(len(batch)):
        tables.append(_fields(drifting, batch.slice(index, 1)))
        advance()
    widths: dict[tuple[str, str], int] = {}
    for table in tables:
        widths.update({name: len(sums.total) for name, sums in table.items()})
    columns, start = [], 0
    for (monitor, field), width in sorted(widths.items()):
        columns.append(_Column(monitor, field, start, start + width))
        start += width
    values, carries = np.zeros((len(batch), start)), np.zeros((len(batch), len(columns)))
    for row, table in enumerate(tables):
        for index, column in enumerate(columns):
            sums = table.get((column.monitor, column.field))
            if sums is not None:
                values[row, column.start : column.stop] = sums.total
                carries[row, index] = sums.size[1]
    return Population(series, codes, values, carries, columns)


class _Drifting(Monitor, DriftMonitor, Protocol):
    """A monitor that makes fields."""


def _fields(monitors: Sequence[_Drifting], event: EventBatch) -> Mapping[tuple[str, str], FieldSums]:
    found: dict[tuple[str, str], FieldSums] = {}
    for monitor in monitors:
        summary = monitor.summary()
        summary.update(event)
        for name, sums in monitor.drift(summary).items():
            if sums.n:
                found[monitor.name, name] = sums
    return found
