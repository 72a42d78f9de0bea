"""JSON, MessagePack and CloudEvents: one event per record, decoded in C and then made columns.

The bounds of the contract are built into the type that msgspec decodes into, so a good event costs one call
and no check in Python. What that call refuses takes the slow way, where an older version is brought up to
date and everything else gets its reason.
"""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import pyarrow as pa
from msgspec import Meta

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events.codecs.checks import ALLOWED, FLOAT_MAX, NON_EMPTY, bounds
from mlmon.events.codecs.columns import build_columns, columns_to_batch
from mlmon.events.codecs.formats import Format, format_of_content_type
from mlmon.events.codecs.upcast import upcast
from mlmon.events.schema import FIELDS, SCHEMA_VERSION, TIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mlmon.events.codecs.columns import Column
    from mlmon.events.codecs.config import DecodeConfig
    from mlmon.events.schema import Field

__all__ = ["FAST_ERRORS", "RowDecoder", "decode_error", "gather_rows"]

#: What the functions in `RowDecoder.fast` raise.
FAST_ERRORS = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STEP = 128
_FLOAT32_MAX = 3.4028234663852886e38
_FLOAT32: Any = Annotated[float, Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]
_TIME: Any = Annotated[int, Meta(ge=-(2**62), le=2**62)] | Annotated[datetime, Meta(tz=True)]
_PLAIN_TIMES = frozenset((int, type(None)))
_FINITE: Any = Annotated[float, Meta(ge=-FLOAT_MAX, le=FLOAT_MAX)]


class _CloudEvent(msgspec.Struct):
    """A structured CloudEvents 1.0 object."""

    specversion: str
    id: str
    source: str
    type: str
    time: Annotated[datetime, Meta(tz=True)] | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None


class RowDecoder:
    """Decodes single events to objects with fields of the contract, `schema_version` and `features`.

    There are two ways to the same end. `fast` decodes into a type that has only the fields seen so far,
    which most events leave short. What it refuses goes through `decode`, which knows all fields and ignores
    unknown ones, and `learn` widens the fast type; so the two differ in speed only.

    Attributes:
        fast: by format, a function from bytes to an event object; it raises on anything it is not sure of.
    """

    def __init__(self, config: DecodeConfig, fields: frozenset[str]) -> None:
        self._config = config
        self._max_depth = config.max_depth
        self._closed = len(fields) == len(FIELDS)
        self._seen = frozenset[str]() if self._closed else fields
        self.fast: dict[Format, Callable[[bytes], Any]] = {}
        if not self._closed:
            self._set_fast()
        strict, relaxed = _event_type(config, fields), _event_type(config, fields, required=False)
        self._strict, self._relaxed = strict, relaxed
        self._json: Any = msgspec.json.Decoder(strict)
        self._msgpack: Any = msgspec.msgpack.Decoder(strict)
        self._envelope = msgspec.json.Decoder(_CloudEvent)
        self._generic = msgspec.json.Decoder(), msgspec.msgpack.Decoder()

    def learn(self, names: Iterable[str]) -> None:
        """Let `fast` know these fields, of which it had to leave some to `decode`."""
        if not self._closed:
            return  # it knows all it is to know, and ignores the rest
        seen = self._seen.union(names)
        if seen != self._seen or not self.fast:
            self._seen = seen
            self._set_fast()

    def _set_fast(self) -> None:
        kind = _event_type(self._config, self._seen, closed=self._closed)
        self.fast = {
            Format.JSON: msgspec.json.Decoder(kind).decode,
            Format.MSGPACK: msgspec.msgpack.Decoder(kind).decode,
        }

    def decode(self, form: Format, value: bytes) -> Any:
        """One event of a record.

        Raises:
            DecodeError: it is none.
        """
        try:
            if form is Format.JSON:
                self._check_depth(value)
                return self._json.decode(value)
            if form is Format.MSGPACK:
                return self._msgpack.decode(value)
            return self._structured(value)
        except DecodeError:
            raise
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return self._slow(form, value, self._strict, error)

    def decode_binary(self, form: Format, value: bytes, attributes: Mapping[str, str]) -> Any:
        """One event of a CloudEvents binary record: data in the value, attributes in the headers.

        Raises:
            DecodeError: it is none.
        """
        try:
            envelope = msgspec.convert(attributes, _CloudEvent)
        except msgspec.ValidationError as error:
            raise decode_error(error, "CloudEvents headers: ") from None
        return self._fill(self._relaxed_event(form, value), envelope)

    def _structured(self, value: bytes) -> Any:
        self._check_depth(value)
        try:
            envelope = self._envelope.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise decode_error(error, "CloudEvents envelope: ") from None
        form, data = Format.JSON, bytes(envelope.data)
        if envelope.data_base64 is not None:
            data = base64.b64decode(envelope.data_base64, validate=True)
            stated = envelope.datacontenttype or ""
            form = format_of_content_type(stated.encode()) or Format.JSON
        if not data:
            raise DecodeError(DecodeReason.MISSING_FIELD, "CloudEvents envelope: expected data")
        return self._fill(self._relaxed_event(form, data), envelope)

    def _relaxed_event(self, form: Format, value: bytes) -> Any:
        if form not in (Format.JSON, Format.MSGPACK):
            detail = f"CloudEvents data: expected JSON or MessagePack, got {form.value}"
            raise DecodeError(DecodeReason.UNKNOWN_FORMAT, detail)
        try:
            if form is Format.MSGPACK:
                return msgspec.msgpack.decode(value, type=self._relaxed)
            self._check_depth(value)
            return msgspec.json.decode(value, type=self._relaxed)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return self._slow(form, value, self._relaxed, error)

    def _fill(self, event: Any, envelope: _CloudEvent) -> Any:
        if not envelope.specversion.startswith("1."):
            detail = f"CloudEvents specversion {envelope.specversion[:20]!r}: expected 1.0"
            raise DecodeError(DecodeReason.UNSUPPORTED_VERSION, detail)
        if event.event_id is None:
            event.event_id = envelope.id
        if event.event_time is None:
            event.event_time = envelope.time
        if event.service is None:
            event.service = envelope.source
        try:
            return msgspec.convert(_without_none(event), self._strict)
        except msgspec.ValidationError as error:
            raise decode_error(error) from None

    def _slow(self, form: Format, value: bytes, kind: type, error: Exception) -> Any:
        """What the typed decode refused: an older version, a MessagePack gap written as NaN, or a fault."""
        if not isinstance(error, msgspec.ValidationError):
            raise decode_error(error) from None
        try:
            event = self._generic[form is Format.MSGPACK].decode(value)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as second:
            raise decode_error(second) from None
        if not isinstance(event, dict):
            hint = "; send one event per record, or an Arrow stream" if isinstance(event, list) else ""
            got = type(event).__name__
            raise DecodeError(DecodeReason.WRONG_TYPE, f"expected an object, got {got}{hint}")
        current = _without_nan(upcast(event))
        try:
            return msgspec.convert(current, kind)
        except (msgspec.ValidationError, RecursionError) as third:
            raise decode_error(third) from None

    def _check_depth(self, value: bytes) -> None:
        # Counting is quick, and few records have so many brackets that they need the exact scan.
        limit = self._max_depth
        if value.count(b"{") + value.count(b"[") > limit and _depth(value) > limit:
            raise DecodeError(DecodeReason.TOO_DEEP, f"nested deeper than {limit} brackets")


def gather_rows(rows: Sequence[Any], config: DecodeConfig) -> tuple[pa.RecordBatch, int]:
    """One batch of decoded events of one type, in order, and how many feature values had no room.

    Raises:
        DecodeError: WRONG_TYPE, a value of some row cannot be made a column (base64, time).
    """
    fields = _transpose(rows)
    if _some(fields.get("features")):
        _split_features(fields)
    surplus = 0
    for name in ("numeric_features", "categorical_features"):
        if _some(fields.get(name)):
            fields[name], lost = _limit_names(fields[name], config)
            surplus += lost
    for name in TIMES:
        times = fields.get(name)
        if times is not None and _some(times) and not _PLAIN_TIMES.issuperset(map(type, times)):
            fields[name] = [_micros(time) for time in times]
    return columns_to_batch(build_columns(fields, len(rows))), surplus


def _transpose(rows: Sequence[Any]) -> dict[str, Column]:
    """Objects of one type to a list of values per field.

    In steps: tuples of many rows at once would set off the garbage collector, and fall out of the cache.
    """
    columns: list[list[Any]] = [[] for _ in rows[0].__struct_fields__]
    for start in range(0, len(rows), _STEP):
        step = zip(*map(msgspec.structs.astuple, rows[start : start + _STEP]), strict=True)
        for column, values in zip(columns, step, strict=True):
            column.extend(values)
    return dict(zip(rows[0].__struct_fields__, columns, strict=True))


def _some(column: Column | None) -> bool:
    return column is not None and column.count(None) < len(column)


def _micros(time: int | datetime | None) -> int | None:
    return (time - _EPOCH) // _MICROSECOND if isinstance(time, datetime) else time


def _split_features(fields: dict[str, Column]) -> None:
    """Sort the mixed `features` into numbers and strings; a name given twice keeps its specific value."""
    numbers, strings = [], []
    mixed_column = fields["features"]
    none = [None] * len(mixed_column)
    number_column = fields.get("numeric_features", none)
    string_column = fields.get("categorical_features", none)
    for mixed, number, string in zip(mixed_column, number_column, string_column, strict=True):
        if mixed is None:
            numbers.append(number)
            strings.append(string)
            continue
        texts = {name: value for name, value in mixed.items() if isinstance(value, str)}
        others = {name: value for name, value in mixed.items() if name not in texts}
        numbers.append(others | (number or {}))
        strings.append(texts | (string or {}))
    fields["numeric_features"], fields["categorical_features"] = numbers, strings


def _limit_names(column: Column, config: DecodeConfig) -> tuple[Column, int]:
    """Keep the first `max_features` names; say how many values the others had."""
    present = [features for features in column if features]
    names = dict.fromkeys(chain.from_iterable(present))
    kept = {name for name in names if len(name) <= config.max_label_length}
    if len(kept) > config.max_features:
        kept = set([name for name in names if name in kept][: config.max_features])
    if len(kept) == len(names):
        return column, 0
    cut = [features and {k: v for k, v in features.items() if k in kept} for features in column]
    values = sum(v is not None for features in present for k, v in features.items() if k not in kept)
    return cut, values


def _event_type(
    config: DecodeConfig, only: frozenset[str], *, required: bool = True, closed: bool = False
) -> type:
    """The type to decode into.

    Args:
        config: limits.
        only: the fields it has besides the required ones.
        required: whether required fields must be there.
        closed: whether anything else is refused, instead of ignored.
    """
    fields: list[Any] = []
    for field in FIELDS:
        kind = _value_type(field, config)
        if field.required and required:
            fields.append((field.name, kind))
        elif field.required or field.name in only:
            fields.append((field.name, kind | None, None))
    label: Any = Annotated[str, Meta(max_length=config.max_label_length)]
    features: Any = dict[str, _FINITE | label | None]
    version: Any = Literal[SCHEMA_VERSION]
    fields.append(("schema_version", version, SCHEMA_VERSION))
    if closed or not only.isdisjoint(("numeric_features", "categorical_features")):
        fields.append(("features", features | None, None))
    return msgspec.defstruct("FlatEvent", fields, kw_only=True, gc=False, forbid_unknown_fields=closed)


def _value_type(field: Field, config: DecodeConfig) -> Any:
    label: Any = Annotated[str, Meta(max_length=config.max_label_length)]
    count: Any = Annotated[int, Meta(ge=0, le=2**31 - 1)]
    vector: Any = Annotated[list[float], Meta(max_length=config.max_embedding_dim)]
    base64_text: Any = Annotated[str, Meta(max_length=4 * math.ceil(2 * config.max_embedding_dim / 3))]
    named: dict[str, Any] = {
        **dict.fromkeys(TIMES, _TIME),
        "token_ids": list[count],
        "top_labels": list[label],
        "top_scores": list[_FLOAT32],
        "embedding": vector | base64_text,
        "numeric_features": dict[str, _FINITE | None],
        "categorical_features": dict[str, label | None],
        "segments": dict[label, label],
    }
    if field.name in named:
        return named[field.name]
    if field.name in ALLOWED:
        return Literal[ALLOWED[field.name]]
    if field.type == pa.int32():
        return count
    if field.type == pa.float64():
        low, high = bounds(field.name)
        return Annotated[float, Meta(ge=low, le=high)]
    return Annotated[label, Meta(min_length=1)] if field.name in NON_EMPTY else label


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def _depth(value: bytes) -> int:
    """Deepest nesting of brackets outside strings, without building anything."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", value)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _without_nan(event: dict[Any, Any]) -> dict[Any, Any]:
    """Leave out gaps that a data frame wrote as not-a-number; a weight may not be one."""
    return {
        key: _without_nan(value) if isinstance(value, dict) else value
        for key, value in event.items()
        if key == "sampling_weight" or not (isinstance(value, float) and math.isnan(value))
    }


def _without_none(event: Any) -> dict[str, Any]:
    return {k: v for k, v in msgspec.structs.asdict(event).items() if v is not None}


def decode_error(error: Exception, where: str = "") -> DecodeError:
    """The typed error of what msgspec raised."""
    if isinstance(error, RecursionError):
        return DecodeError(DecodeReason.TOO_DEEP, f"{where}nested deeper than the interpreter's limit")
    text = f"{where}{str(error)[:300]}"
    if not isinstance(error, msgspec.ValidationError):
        return DecodeError(DecodeReason.MALFORMED, text)
    if "missing required field" in text:
        return DecodeError(DecodeReason.MISSING_FIELD, text)
    wrong = ", got `" in text
    return DecodeError(DecodeReason.WRONG_TYPE if wrong else DecodeReason.BAD_VALUE, text)
