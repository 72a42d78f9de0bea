"""Records of a log to one batch of events, and to rejects what is not an event.

Every event of the input ends in exactly one place: in the batch, in the order of the log, or in a reject
with its reason. Nothing that is in the bytes can raise out of `Decoder.decode`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events.batch import EventBatch
from mlmon.events.codecs.arrow import ArrowReader, surplus_values
from mlmon.events.codecs.checks import find_embedding_faults, find_faults, find_time_faults
from mlmon.events.codecs.formats import (
    CONTENT_TYPE_HEADER,
    DROPPED_HEADER,
    Format,
    format_of_bytes,
    format_of_content_type,
)
from mlmon.events.codecs.rejects import all_rows_reject, record_reject, row_reject
from mlmon.events.codecs.rows import FAST_ERRORS, RowDecoder, gather_rows
from mlmon.events.codecs.truth import find_truth_faults
from mlmon.events.record import CORRUPT_HEADER
from mlmon.events.schema import ALWAYS_READ, FIELD_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from mlmon.events.codecs.arrow import Gathered, SchemaPlan
    from mlmon.events.codecs.checks import Fault
    from mlmon.events.codecs.config import DecodeConfig
    from mlmon.events.record import Record, Reject

__all__ = ["Decoded", "Decoder"]

#: A count of drops beyond this is no count.
_MAX_DROPPED = 10**12
_BRACE = ord("{")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What records held.

    Attributes:
        batch: all good events in the order of the log; None where there are none.
        rejects: what was refused, in the order of the log.
        events: number of good events.
        dropped: events that emitters say they dropped.
        surplus_features: feature values left out because there were too many names.
    """

    batch: EventBatch | None
    rejects: list[Reject]
    events: int
    dropped: int
    surplus_features: int


class _Route(NamedTuple):
    """What the headers of a record say: its format, CloudEvents attributes, drops, and what is wrong."""

    form: Format | None
    corrupt: str | None
    attributes: dict[str, str] | None
    dropped: int
    error: tuple[DecodeReason, str] | None


@dataclass(slots=True)
class _Work:
    """What one call has found so far; indices are of `records`."""

    records: Sequence[Record]
    now_us: int
    rejects: list[tuple[int, int, Reject]] = field(default_factory=list)
    arrow: dict[SchemaPlan, list[tuple[int, pa.RecordBatch]]] = field(default_factory=dict)
    fast_rows: list[Any] = field(default_factory=list)
    fast_records: list[int] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    row_records: list[int] = field(default_factory=list)
    good: list[tuple[EventBatch, NDArray[np.intp]]] = field(default_factory=list)
    dropped: int = 0
    surplus: int = 0

    def refuse(self, index: int, error: DecodeError) -> None:
        """Refuse a whole record."""
        self.rejects.append((index, -1, record_reject(self.records[index], error)))


class Decoder:
    """Decodes the records of partitions. For one thread; keeps only schemas, bounded.

    Args:
        config: limits.
        fields: the fields that are wanted besides the required ones; None for all. What is not wanted is
            neither decoded nor checked, which saves its cost: embeddings and features are most of an event.
            `request_time` is always read, since it tells label events from requests.

    Raises:
        ValueError: a field is not in the contract.
    """

    def __init__(self, config: DecodeConfig, fields: Iterable[str] | None = None) -> None:
        wanted = frozenset(FIELD_BY_NAME if fields is None else fields) | ALWAYS_READ
        if unknown := wanted.difference(FIELD_BY_NAME):
            raise ValueError(f"expected fields of the event contract, got {', '.join(sorted(unknown))}")
        self._config = config
        self._wanted = wanted
        self._arrow = ArrowReader(config, wanted)
        self._rows = RowDecoder(config, wanted)

    def decode(self, records: Sequence[Record], now_us: int) -> Decoded:
        """Decode consecutive records of one partition.

        Args:
            records: in the order of the log; any bytes at all.
            now_us: this machine's wall clock, µs since 1970 UTC, against which the future is measured.

        Returns:
            The good events as one batch, and everything else as rejects. A record of many events loses only
            its bad rows, each a reject of its own; when every row is bad the record is one reject.
        """
        work = _Work(records, now_us)
        self._sort(work)
        for plan, entries in work.arrow.items():
            self._finish_arrow(work, plan, entries)
        for rows, indices in ((work.fast_rows, work.fast_records), (work.rows, work.row_records)):
            if rows:
                self._finish_rows(work, rows, indices)
        batch = self._join(work)
        work.rejects.sort(key=lambda found: found[:2])
        return Decoded(
            batch, [reject for _, _, reject in work.rejects], len(batch or ()), work.dropped, work.surplus
        )

    def _sort(self, work: _Work) -> None:
        """Sort every record to its format, and decode it as far as it can be alone."""
        headers: Any = ()
        route, fast, stated = None, None, False
        limit, fast_rows, fast_records = self._config.max_record_bytes, work.fast_rows, work.fast_records
        for index, record in enumerate(work.records):
            if route is None or record.headers != headers:
                headers = record.headers
                route = self._route(headers or ())
                fast, stated = self._fast(route), route.form is not None
            work.dropped += route.dropped
            value = record.value
            if fast is not None and value and len(value) <= limit and (stated or value[0] == _BRACE):
                try:
                    fast_rows.append(fast(value))
                except FAST_ERRORS:
                    pass
                else:
                    fast_records.append(index)
                    continue
            try:
                self._take(work, index, value, route)
            except DecodeError as error:
                work.refuse(index, error)

    def _take(self, work: _Work, index: int, value: bytes | None, route: _Route) -> None:
        """One record by the general way."""
        if route.corrupt is not None:
            raise DecodeError(DecodeReason.CORRUPT_FRAME, route.corrupt)
        if not value:
            raise DecodeError(DecodeReason.EMPTY, "the record has no value")
        if len(value) > self._config.max_record_bytes:
            limit = self._config.max_record_bytes
            raise DecodeError(DecodeReason.TOO_LARGE, f"{len(value)} bytes: expected at most {limit}")
        if value[0] == 0 and len(value) > 4:
            raise DecodeError(DecodeReason.SCHEMA_REGISTRY, _registry_detail(value))
        if route.error is not None:
            raise DecodeError(*route.error)
        form = route.form or format_of_bytes(value)
        if form is Format.ARROW:
            plan, batch = self._arrow.read(value)
            work.arrow.setdefault(plan, []).append((index, batch))
            return
        if route.attributes is not None:
            row = self._rows.decode_binary(form, value, route.attributes)
        else:
            row = self._rows.decode(form, value)
        work.rows.append(row)
        work.row_records.append(index)

    def _fast(self, route: _Route) -> Callable[[bytes], Any] | None:
        if route.attributes is not None or route.error is not None or route.corrupt is not None:
            return None
        return self._rows.fast.get(route.form or Format.JSON)

    def _route(self, headers: Iterable[tuple[str, bytes]]) -> _Route:
        form = corrupt = error = None
        dropped = 0
        attributes: dict[str, str] = {}
        for name, data in headers:
            key = name.lower()
            if key == CONTENT_TYPE_HEADER:
                try:
                    form = format_of_content_type(data or b"")
                except DecodeError as refused:
                    error = refused.reason, refused.detail
            elif key == CORRUPT_HEADER:
                corrupt = _text(data)
            elif key == DROPPED_HEADER:
                dropped += _dropped(data)
            elif key.startswith("ce_"):
                attributes[key[3:]] = _text(data)
        return _Route(form, corrupt, attributes if "specversion" in attributes else None, dropped, error)

    def _finish_arrow(self, work: _Work, plan: SchemaPlan, entries: list[tuple[int, pa.RecordBatch]]) -> None:
        gathered = self._arrow.gather(plan, entries)
        for index, error in gathered.broken:
            work.refuse(index, error)
        work.surplus += gathered.surplus
        if gathered.batch is None:
            return
        batch = EventBatch(gathered.batch)
        faults = [
            *gathered.faults,
            *find_faults(batch, work.now_us, self._config),
            *find_truth_faults(batch, self._wanted),
        ]
        if faults:
            self._refuse_rows(work, gathered, faults, dict(entries))
            keep = _unaffected(faults, len(batch))
            batch, gathered.origin = batch.take(keep), gathered.origin[keep]
        if len(batch):
            work.good.append((batch, gathered.origin))

    def _refuse_rows(
        self, work: _Work, gathered: Gathered, faults: list[Fault], sources: dict[int, pa.RecordBatch]
    ) -> None:
        first: dict[int, Fault] = {}
        for fault in faults:
            for row in fault.rows.tolist():
                first.setdefault(row, fault)
        by_record: dict[int, list[int]] = {}
        for row in sorted(first):
            by_record.setdefault(int(gathered.origin[row]), []).append(row)
        for index, rows in by_record.items():
            source, start = sources[index], int(np.searchsorted(gathered.origin, index))
            found = [(row - start, first[row]) for row in rows]
            record = work.records[index]
            if 1 < len(found) == source.num_rows:
                work.rejects.append((index, -1, all_rows_reject(record, source, found[0])))
                continue
            for row, fault in found:
                work.rejects.append((index, row, row_reject(record, source, row, fault)))

    def _finish_rows(self, work: _Work, rows: list[Any], indices: list[int]) -> None:
        try:
            records, surplus = gather_rows(rows, self._config)
        except DecodeError as error:
            # Some row cannot be made a column: halve until it is alone.
            if len(rows) == 1:
                work.refuse(indices[0], error)
                return
            middle = len(rows) // 2
            self._finish_rows(work, rows[:middle], indices[:middle])
            self._finish_rows(work, rows[middle:], indices[middle:])
            return
        work.surplus += surplus
        if rows is work.rows:
            self._rows.learn(records.schema.names)
        batch, origin = EventBatch(records), np.array(indices, np.intp)
        faults = [
            *find_time_faults(batch, work.now_us, self._config),
            *find_embedding_faults(batch, self._config),
            *find_truth_faults(batch, self._wanted),
        ]
        faults = [fault for fault in faults if len(fault.rows)]
        if faults:
            keep = _unaffected(faults, len(batch))
            for row, fault in {row: f for f in reversed(faults) for row in f.rows.tolist()}.items():
                work.refuse(indices[row], fault.error(records, row))
            batch, origin = batch.take(keep), origin[keep]
        if len(batch):
            work.good.append((batch, origin))

    def _join(self, work: _Work) -> EventBatch | None:
        if not work.good:
            return None
        batch = EventBatch.concat([batch for batch, _ in work.good])
        if len(work.good) > 1:
            batch = EventBatch(batch.records.select([name for name in FIELD_BY_NAME if batch.has(name)]))
            batch, lost = _limit_features(batch, self._config.max_features)
            work.surplus += lost
            origin = np.concatenate([origin for _, origin in work.good])
            if (np.diff(origin) < 0).any():
                batch = batch.take(np.argsort(origin, kind="stable"))
        return batch


def _unaffected(faults: list[Fault], count: int) -> NDArray[np.int64]:
    keep = np.ones(count, np.bool_)
    for fault in faults:
        keep[fault.rows] = False
    return np.flatnonzero(keep)


def _limit_features(batch: EventBatch, limit: int) -> tuple[EventBatch, int]:
    """Cut feature structs that grew past the limit when batches were joined."""
    records, lost = batch.records, 0
    for name in ("numeric_features", "categorical_features"):
        index = records.schema.get_field_index(name)
        if index < 0 or records.schema.field(index).type.num_fields <= limit:
            continue
        column = records.column(index)
        names = [child.name for child in column.type][:limit]
        lost += surplus_values(column, frozenset(names))
        cut = pa.StructArray.from_arrays(column.flatten()[:limit], names=names)
        records = records.set_column(index, name, cut)
    return (EventBatch(records) if lost else batch), lost


def _dropped(data: bytes | None) -> int:
    """The count in a `mlmon-dropped` header; 0 where it is none."""
    if not data or len(data) > 13 or not data.isdigit():
        return 0
    count = int(data)
    return count if count <= _MAX_DROPPED else 0


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def _registry_detail(value: bytes) -> str:
    schema_id = int.from_bytes(value[1:5], "big")
    return (
        f"framed for a Confluent schema registry (0x00, schema id {schema_id}): send plain JSON, "
        "MessagePack or an Arrow stream, without the registry's serializer"
    )
