"""Arrow IPC streams to columns of the contract: the fast path, hundreds of events in one record.

`ArrowReader.read` takes one record apart without looking at its values; `ArrowReader.gather` validates and
casts all records of one schema at once. Opening a stream costs some 20 µs, mostly for its schema, so schemas
are kept by their bytes and only the record batch is read, in 7 µs.

Safety: bytes come from anybody. Message headers are checked in `frames`; every column that is used is
fully validated (offsets, UTF-8, dictionary indices) before any value is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events.codecs.cast import (
    accepts,
    cast_column,
    check_features,
    decode_dictionaries,
    feature_struct,
    has_dictionary,
    is_ascii,
    plain_type,
    wrong_type,
)
from mlmon.events.codecs.checks import Fault
from mlmon.events.codecs.formats import VERSION_METADATA
from mlmon.events.codecs.frames import BATCH, DICTIONARY, END, SCHEMA, read_frame, read_frames
from mlmon.events.schema import FIELDS, SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlmon.events.codecs.config import DecodeConfig
    from mlmon.events.schema import Field

__all__ = ["ArrowReader", "Gathered", "SchemaPlan"]

#: Schemas kept, and the largest schema accepted: what they take is bounded by the product.
_MAX_PLANS = 32
_MAX_SCHEMA_BYTES = 256 * 1024
_ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, MemoryError)
_FEATURE_TYPES = {"numeric_features": pa.float64(), "categorical_features": pa.string()}


class ColumnPlan(NamedTuple):
    """How one column is read: its place in the stream, and the feature names kept of a struct."""

    field: Field
    place: int
    names: frozenset[str]
    direct: bool


@dataclass(frozen=True, slots=True, eq=False)
class SchemaPlan:
    """What is done with the streams of one schema.

    Attributes:
        prefix: the bytes of the schema message.
        schema: what they say.
        plain: the columns that are used, as they are after dictionaries are decoded.
        columns: how each of them is read, in the contract's order.
        single: whether a record batch can be read on its own, there being no dictionaries.
        error: why no stream of this schema is accepted: reason and detail, or None.
    """

    prefix: bytes
    schema: pa.Schema
    plain: pa.Schema
    columns: tuple[ColumnPlan, ...]
    single: bool
    error: tuple[DecodeReason, str] | None = None

    @property
    def indices(self) -> list[int]:
        """Places in the stream of the columns that are used."""
        return [column.place for column in self.columns]


@dataclass(slots=True)
class Gathered:
    """Records gathered into one batch.

    Attributes:
        batch: columns of the contract's types, rows in the order of the log.
        origin: index of the record each row came in, ascending, shape (rows,).
        faults: rows whose values could not be cast.
        broken: indices of records that failed validation, and why; none of their rows are in the batch.
        surplus: feature values left out because there are too many names.
    """

    batch: pa.RecordBatch | None
    origin: NDArray[np.intp]
    faults: list[Fault] = field(default_factory=list)
    broken: list[tuple[int, DecodeError]] = field(default_factory=list)
    surplus: int = 0


class ArrowReader:
    """Reads the given fields of Arrow records; keeps the schemas seen, up to a bound. For one thread."""

    def __init__(self, config: DecodeConfig, fields: frozenset[str]) -> None:
        self._config = config
        self._fields = [field for field in FIELDS if field.required or field.name in fields]
        self._plans: list[SchemaPlan] = []

    def read(self, value: bytes) -> tuple[SchemaPlan, pa.RecordBatch]:
        """Take a stream apart; no value is looked at yet, and the batch must not be used before `gather`.

        Raises:
            DecodeError: the stream is broken, too long, of a wrong schema or an unsupported version.
        """
        plan = self._plan(value)
        if plan.error is not None:
            raise DecodeError(*plan.error)
        try:
            batch = self._read_single(plan, value)
            if batch is None:
                batch = self._read_general(plan, value)
        except _ARROW_ERRORS as error:
            raise _malformed(error) from None
        if batch.num_rows > self._config.max_events_per_record:
            raise _too_many(batch.num_rows, self._config.max_events_per_record)
        return plan, batch

    def gather(self, plan: SchemaPlan, entries: Sequence[tuple[int, pa.RecordBatch]]) -> Gathered:
        """Validate and cast what `read` returned for one plan.

        Args:
            plan: the plan all entries were read with.
            entries: record index, ascending, and batch.
        """
        broken: list[tuple[int, DecodeError]] = []
        try:
            table = _combine(plan, entries)
        except _ARROW_ERRORS:
            entries, broken = _split_valid(plan, entries)
            table = _combine(plan, entries)
        origin = np.repeat([index for index, _ in entries], [batch.num_rows for _, batch in entries])
        gathered = Gathered(None, origin.astype(np.intp), broken=broken)
        if table.num_rows:
            _cast_all(plan, table, gathered)
        return gathered

    def _plan(self, value: bytes) -> SchemaPlan:
        for plan in self._plans:
            if value.startswith(plan.prefix):
                return plan
        frame = read_frame(value, 0)
        if frame.kind != SCHEMA:
            raise DecodeError(DecodeReason.MALFORMED, "expected an Arrow stream to begin with its schema")
        if frame.end > _MAX_SCHEMA_BYTES:
            detail = f"the Arrow schema has {frame.end} bytes: expected at most {_MAX_SCHEMA_BYTES}"
            raise DecodeError(DecodeReason.TOO_LARGE, detail)
        prefix = value[: frame.end]
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(prefix))
            plan = _make_plan(prefix, schema, self._fields, self._config)
        except _ARROW_ERRORS as error:
            raise _malformed(error) from None
        if len(self._plans) >= _MAX_PLANS:
            self._plans.pop(0)
        self._plans.append(plan)
        return plan

    def _read_single(self, plan: SchemaPlan, value: bytes) -> pa.RecordBatch | None:
        """Exactly one record batch and the end mark behind the known schema; None for anything else."""
        start = len(plan.prefix)
        if not plan.single or len(value) <= start + len(END):
            return None
        frame = read_frame(value, start)
        if frame.kind != BATCH or frame.end != len(value) - len(END) or not value.endswith(END):
            return None
        batch = pa.ipc.read_record_batch(pa.py_buffer(value).slice(start), plan.schema)
        return batch if plan.schema is plan.plain else batch.select(plan.indices)

    def _read_general(self, plan: SchemaPlan, value: bytes) -> pa.RecordBatch:
        kinds = {frame.kind for frame in read_frames(value)[1:]}
        if not kinds <= {BATCH, DICTIONARY}:
            raise DecodeError(DecodeReason.MALFORMED, "expected record batches after the Arrow schema")
        table = pa.ipc.open_stream(value).read_all()
        if table.num_rows > self._config.max_events_per_record:
            raise _too_many(table.num_rows, self._config.max_events_per_record)
        table = table.select(plan.indices)
        table.validate(full=True)
        limit = self._config.max_label_length
        plain = [
            pa.RecordBatch.from_arrays(
                [decode_dictionaries(column, limit) for column in batch.columns], schema=plan.plain
            )
            for batch in table.to_batches()
        ]
        if len(plain) == 1:
            return plain[0]
        merged = pa.Table.from_batches(plain, plan.plain).combine_chunks().to_batches()
        return merged[0] if merged else pa.RecordBatch.from_pylist([], schema=plan.plain)


def _make_plan(prefix: bytes, schema: pa.Schema, fields: Sequence[Field], config: DecodeConfig) -> SchemaPlan:
    try:
        _check_version(schema)
        columns = tuple(filter(None, [_plan_column(field, schema, config) for field in fields]))
    except DecodeError as error:
        return SchemaPlan(prefix, schema, schema, (), single=False, error=(error.reason, error.detail))
    straight = [column.place for column in columns] == list(range(len(schema)))
    single = not any(map(has_dictionary, schema.types))
    plain = schema
    if not (straight and single):
        plain = pa.schema(
            [pa.field(column.field.name, plain_type(schema.field(column.place).type)) for column in columns]
        )
    return SchemaPlan(prefix, schema, plain, columns, single=single)


def _check_version(schema: pa.Schema) -> None:
    stated = (schema.metadata or {}).get(VERSION_METADATA, b"%d" % SCHEMA_VERSION)
    if stated != b"%d" % SCHEMA_VERSION:
        raise DecodeError(
            DecodeReason.UNSUPPORTED_VERSION,
            f"{VERSION_METADATA.decode()} is {stated[:20]!r}: expected {SCHEMA_VERSION}; "
            "upgrade mlmon before its producers",
        )


def _plan_column(field: Field, schema: pa.Schema, config: DecodeConfig) -> ColumnPlan | None:
    places = schema.get_all_field_indices(field.name)
    kind = schema.field(places[0]).type if places else pa.null()
    if pa.types.is_null(kind):
        if field.required:
            raise DecodeError(DecodeReason.MISSING_FIELD, f"{field.name}: the column is required")
        return None
    if len(places) > 1:
        raise DecodeError(DecodeReason.WRONG_TYPE, f"{field.name}: expected one column, got {len(places)}")
    if not accepts(field, kind):
        raise wrong_type(field.name, field.type or "a struct", kind)
    if field.type is None:
        check_features(kind, _FEATURE_TYPES[field.name])
        names = [child.name for child in kind if len(child.name) <= config.max_label_length]
        kept = frozenset(list(dict.fromkeys(names))[: config.max_features])
        return ColumnPlan(field, places[0], kept, direct=False)
    if pa.types.is_fixed_size_list(kind) and kind.list_size > config.max_embedding_dim:
        detail = f"{field.name}: expected at most {config.max_embedding_dim} numbers, got {kind.list_size}"
        raise DecodeError(DecodeReason.BAD_VALUE, detail)
    cast_column(pa.array([], plain_type(kind)), field.type)  # raises where Arrow has no such cast
    return ColumnPlan(field, places[0], frozenset(), direct=kind == field.type)


def _combine(plan: SchemaPlan, entries: Sequence[tuple[int, pa.RecordBatch]]) -> pa.Table:
    """All entries as a table of one chunk, fully validated.

    First, per record, only that buffers are as long as lengths and outer offsets say, which is all that
    joining relies on. What is inside is checked once for all, since a full check costs 20 µs a record.

    Raises:
        pa.ArrowInvalid: some record is not valid.
    """
    table = pa.Table.from_batches([batch for _, batch in entries], plan.plain)
    table.validate()
    table = table.combine_chunks()
    for column in table.columns:
        for array in column.chunks:
            if not is_ascii(array):
                array.validate(full=True)
    return table


def _cast_all(plan: SchemaPlan, table: pa.Table, gathered: Gathered) -> None:
    columns: dict[str, pa.Array] = {}
    for place, column in enumerate(plan.columns):
        name, array = column.field.name, table.column(place).chunk(0)
        if column.field.type is None:
            struct = feature_struct(array, _FEATURE_TYPES[name], column.names)
            gathered.surplus += surplus_values(array, column.names)
            if struct is not None:
                columns[name] = struct
            continue
        if not column.direct:
            array, bad = cast_column(array, column.field.type)
            if bad is not None and len(bad):
                expected = f"expected a value that fits {column.field.type}"
                gathered.faults.append(Fault(bad, DecodeReason.WRONG_TYPE, name, expected))
        columns[name] = array
    gathered.batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def surplus_values(struct: pa.Array, kept: frozenset[str]) -> int:
    """How many values a struct holds under names that are not kept."""
    if len(kept) == struct.type.num_fields:
        return 0
    children = zip(struct.type, struct.flatten(), strict=True)
    return sum(len(child) - child.null_count for field, child in children if field.name not in kept)


def _split_valid(
    plan: SchemaPlan,
    entries: Sequence[tuple[int, pa.RecordBatch]],
) -> tuple[list[tuple[int, pa.RecordBatch]], list[tuple[int, DecodeError]]]:
    good, broken = [], []
    for index, batch in entries:
        try:
            _combine(plan, [(index, batch)])
        except _ARROW_ERRORS as error:
            broken.append((index, _malformed(error)))
        else:
            good.append((index, batch))
    return good, broken


def _malformed(error: BaseException) -> DecodeError:
    if isinstance(error, DecodeError):
        return error
    return DecodeError(DecodeReason.MALFORMED, f"expected an Arrow IPC stream: {str(error)[:300]}")


def _too_many(count: int, limit: int) -> DecodeError:
    return DecodeError(DecodeReason.TOO_LARGE, f"{count} events in one record: expected at most {limit}")
