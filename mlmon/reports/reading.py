"""Where a window's events come from: recorded files, spools, or the sample of events that the history keeps.

All give batches with contract columns, in bounded memory. What is read is finite: files and spools up to
where they end at present, the history a day at a time.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlmon.catalog.drift import PAGER_CAUSE, PAGER_EVIDENCE
from mlmon.errors import ConfigError
from mlmon.events.batch import EventBatch, distinct_rows, encode_strings
from mlmon.events.codecs import DecodeConfig, Decoder
from mlmon.events.schema import FIELD_BY_NAME
from mlmon.history.files import list_dates
from mlmon.history.read import Selection, read
from mlmon.sources.replay import ReplayConfig, ReplaySource
from mlmon.sources.spool import SpoolConfig, SpoolSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mlmon.reports.window import Chosen
    from mlmon.sources.base import Source

__all__ = ["Events", "HistoryEvents", "LoggedEvents"]

#: Later than any event: recorded events are not refused for their time.
_NO_FUTURE_US = 2**60
#: Columns of the history that are called otherwise in an event.
_EVENT_NAMES = {"model": "model_name", "version": "model_version"}
#: Causes of pages named.
_CAUSES = 5


class Events(Protocol):
    """Events to be read, as often as wanted.

    Attributes:
        source: what they are, in words.
        refused: why records were no events, by reason, after `batches`.
    """

    source: str
    refused: Counter[str]

    def newest_us(self) -> int | None:
        """Event time of the newest event, None where there is none. Looks at all of them."""
        ...

    def notes(self, chosen: Chosen) -> list[str]:
        """What a reader should know of the source, one sentence each; after `batches`."""
        ...

    def batches(self, chosen: Chosen, advance: Callable[[float], None]) -> Iterator[EventBatch]:
        """Events, among them all that are chosen.

        Args:
            chosen: which are wanted; others may come, too.
            advance: told what share of all lies behind.

        Raises:
            SourceError, HistoryError: they cannot be read.
        """
        ...


class LoggedEvents:
    """Events of recorded files and of spools.

    Args:
        paths: files, patterns of files, directories of spools.

    Raises:
        SourceError: nothing matches, or cannot be read.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.source = ", ".join(paths)
        self.refused: Counter[str] = Counter()
        self._spools = [path for path in paths if Path(path).is_dir()]
        self._files = tuple(path for path in paths if path not in self._spools)

    def newest_us(self) -> int | None:
        """Event time of the newest event; only times are decoded."""
        newest = [int(batch.times().max()) for batch in self._decoded((), lambda _: None)]
        return max(newest, default=None)

    def notes(self, _chosen: Chosen) -> list[str]:
        """How many records were no events."""
        if not self.refused:
            return []
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.refused.most_common())
        return [f"{self.refused.total():,} records were no events and are left out ({reasons})."]

    def batches(self, _chosen: Chosen, advance: Callable[[float], None]) -> Iterator[EventBatch]:
        """All requests; label events are none."""
        return self._decoded(None, advance)

    def _decoded(
        self, fields: Iterable[str] | None, advance: Callable[[float], None]
    ) -> Iterator[EventBatch]:
        self.refused.clear()
        decoder = Decoder(DecodeConfig(), fields)
        sources: list[Source] = [
            SpoolSource(SpoolConfig(directory=directory, stop_at_end=True)) for directory in self._spools
        ]
        if self._files:
            sources.append(ReplaySource(ReplayConfig(paths=self._files)))
        for index, source in enumerate(sources):
            try:
                while not source.finished:
                    polled = source.poll(0.5)
                    for partition in polled.assigned:
                        source.seek(partition, None)
                    for chunk in polled.chunks:
                        decoded = decoder.decode(chunk.records, _NO_FUTURE_US)
                        self.refused.update(str(reject.reason) for reject in decoded.rejects)
                        requests = None if decoded.batch is None else decoded.batch.requests()
                        if requests is not None and len(requests):
                            yield requests
                    advance((index + _done(source)) / len(sources))
            finally:
                source.close()


def _done(source: Source) -> float:
    """The share of a source that lies behind, where it can tell."""
    if isinstance(source, ReplaySource):
        done, total = source.progress()
        return done / total if total else 1.0
    lags = source.lag().values()
    end = sum(lag.end_offset for lag in lags)
    return 1.0 - sum(lag.records for lag in lags) / end if end else 1.0


class HistoryEvents:
    """The sampled events of the history. Each window keeps so many, whatever its traffic.

    A row stands for its window's requests divided by the rows of its window, and that becomes its weight.

    Args:
        directory: of the history.

    Raises:
        ConfigError: there is none, or it keeps no events.
    """

    def __init__(self, directory: str) -> None:
        self.source = f"the history {directory}: its sample of each window's events"
        self.refused: Counter[str] = Counter()
        self._directory = Path(directory)
        if not self._directory.is_dir():
            raise ConfigError(f"the history {directory} does not exist: name the directory of [history]")
        if not list_dates(self._directory, "events"):
            raise ConfigError(
                f"the history {directory} has no events: its sidecar must run with [history] enabled and "
                "[monitors.samples] rows above 0"
            )

    def newest_us(self) -> int | None:
        """Event time of the newest event."""
        for day in sorted(list_dates(self._directory, "events"), reverse=True):
            found = read(self._directory, "events", Selection(*_day(day), columns=("event_time",)))
            if found.num_rows:
                return int(pc.max(found.column("event_time")).cast(pa.int64()).as_py())
        return None

    def notes(self, chosen: Chosen) -> list[str]:
        """What the verdicts rest on, and what the pager said at the time."""
        where = {"service": chosen.scope.service, "model": chosen.scope.model}
        metrics = (PAGER_EVIDENCE.name, PAGER_CAUSE.name)
        columns = ("window_end", "metric", "value", "threshold", "field", "labels")
        rows = read(
            self._directory,
            "readings",
            Selection(*_within_years(chosen), metrics=metrics, where=where, columns=columns),
        ).to_pylist()
        return [
            "The history keeps a sample of each window; our verdicts rest on it, those of the sidecar at the "
            "time rested on every event of its log.",
            *_pager_notes(rows),
        ]

    def batches(self, chosen: Chosen, advance: Callable[[float], None]) -> Iterator[EventBatch]:
        """The events of windows that begin on the days of the time chosen, day by day."""
        where = {"service": chosen.scope.service, "model": chosen.scope.model}
        days = [
            (start, end)
            for start, end in map(_day, sorted(list_dates(self._directory, "events")))
            if start < chosen.end_us and end > chosen.start_us
        ]
        for index, (start, end) in enumerate(days):
            table = read(self._directory, "events", Selection(start, end, where=where))
            for records in table.combine_chunks().to_batches():
                yield EventBatch(_contract(records))
            advance((index + 1) / len(days))


def _within_years(chosen: Chosen) -> tuple[int | None, int | None]:
    """The time chosen, None where it is open."""
    return (
        chosen.start_us if chosen.start_us > -_NO_FUTURE_US else None,
        chosen.end_us if chosen.end_us < _NO_FUTURE_US else None,
    )


def _pager_notes(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The highest evidence of the pager, and the causes of its pages."""
    causes: dict[str, datetime] = {}
    highest = (0.0, 0.0)
    for row in sorted(rows, key=lambda row: row["window_end"]):
        if row["metric"] == PAGER_EVIDENCE.name:
            highest = max(highest, (row["value"], row["threshold"] or 0.0))
        else:
            cause = f"{dict(row['labels']).get('cause', 'unknown')} ({row['field']})"
            causes.setdefault(cause, row["window_end"])
    if highest[1]:
        yield (
            f"The pager's evidence of this service and model reached {highest[0]:,.3g} in this time; a page "
            f"is due at {highest[1]:,.3g}."
        )
    for cause, since in list(causes.items())[:_CAUSES]:
        yield f"It had a page open at {since:%Y-%m-%d %H:%M} UTC; likely cause: {cause}."


def _day(day: object) -> tuple[int, int]:
    start = datetime.fromisoformat(str(day)).replace(tzinfo=UTC)
    first, last = (int(moment.timestamp()) * 1_000_000 for moment in (start, start + timedelta(days=1)))
    return first, last


def _contract(records: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of the history as the event contract has them, each with the weight of what it stands for."""
    columns = dict(zip(records.schema.names, records.columns, strict=True))
    weights = _row_weights(columns)
    made: dict[str, pa.Array] = {}
    for name, column in columns.items():
        event_name = _EVENT_NAMES.get(name, name)
        if event_name not in FIELD_BY_NAME:
            continue
        kind = FIELD_BY_NAME[event_name].type
        made[event_name] = _struct(column) if kind is None else column.cast(kind)
    made["sampling_weight"] = pa.array(weights)
    return pa.RecordBatch.from_arrays(list(made.values()), names=list(made))


def _row_weights(columns: Mapping[str, pa.Array]) -> NDArray[np.float64]:
    """The requests of each row's window, divided by the rows that the window's sample has, shape (n,).

    A window that was closed in several parts has a sample of each, told apart by their weight.
    """
    weight = columns["window_weight"].to_numpy(zero_copy_only=False)
    names = ("service", "model", "version", "deployment")
    codes = [encode_strings(columns[name], len(weight), "") for name in names]
    starts = columns["window_start"].cast(pa.int64()).to_numpy(zero_copy_only=False)
    for values in (starts, weight):
        distinct, places = np.unique(values, return_inverse=True)
        codes.append((places.astype(np.int32), [""] * len(distinct)))
    cells, _ = distinct_rows(codes, len(weight))
    rows = np.bincount(cells)[cells]
    return np.asarray(weight / rows)


def _struct(column: pa.MapArray) -> pa.StructArray:
    """A map column as a struct, a key of any row as a field; null where a row has it not."""
    names = pc.unique(column.keys).to_pylist()
    children = [pc.map_lookup(column, name, "first") for name in names]
    if not names:
        return pa.nulls(len(column), pa.struct([]))
    return pa.StructArray.from_arrays(children, names=names)
