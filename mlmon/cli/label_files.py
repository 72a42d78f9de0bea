"""Files of labels as rows of a label event's fields, with the line or row each came from.

CSV with a header, JSON lines, or Parquet; which it is, the file's first bytes say. Rows are read forward in
bounded memory: a line, or 1,024 rows of Parquet.

Why not Arrow's reader for CSV: it cannot say which line a row was on where values are quoted or lines blank.
"""

from __future__ import annotations

import csv
import itertools
import math
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mlmon.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["LABEL_FIELDS", "LabelFile", "label_row", "open_label_file"]

#: Where a row stands (the number of its line, or of its row in Parquet, from 1), and its values by field, or
#: what is wrong with it.
Row = tuple[int, "dict[str, Any] | str"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_LINE_BYTES = 1 << 20
_PARQUET_ROWS = 1_024
_SEGMENT = "segments."


class LabelFile(Protocol):
    """A file of labels, read once.

    Attributes:
        unit: what places count: line or row.
    """

    unit: str

    @property
    def columns(self) -> Sequence[str] | None:
        """The fields that its columns hold; None where every row has its own."""
        ...

    def rows(self) -> Iterator[Row]:
        """All rows in order.

        Raises:
            SourceError: it cannot be read on; the message names the line or row.
        """
        ...

    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes there are, about."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_label_file(path: str, names: Mapping[str, str]) -> LabelFile:
    """Open a file by what it begins with.

    Args:
        path: the file.
        names: fields by the column that holds them, where the two differ.

    Raises:
        SourceError: it cannot be read, is compressed, empty or a JSON array.
        ConfigError: `names` has a column that is not there, or two columns hold one field.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(4096)
        text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        if start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\x03\x04")):
            raise SourceError(f"{path} is compressed as a whole: decompress it first")
        if start.startswith(b"PAR1"):
            return _Parquet(path, names)
        if text.startswith(b"["):
            raise SourceError(f"{path}: expected one JSON object a line, got an array: split it up first")
        if not text:
            raise SourceError(f"{path}: expected CSV with a header, JSON lines or Parquet, got nothing")
        return _JsonLines(path, names) if text.startswith(b"{") else _Csv(path, names)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def _fields(path: str, columns: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The fields that columns hold."""
    missing = [column for column in names if column not in columns]
    if missing:
        raise ConfigError(
            f"{path}: --column names {', '.join(missing)}: expected a column of the file, which has "
            f"{', '.join(columns)}"
        )
    fields = [names.get(column, column) for column in columns]
    twice = sorted({field for field in fields if is_label_field(field) and fields.count(field) > 1})
    if twice:
        raise ConfigError(f"{path}: expected one column for each of {', '.join(twice)}, got several")
    return fields


class _Lines:
    """The lines of a file, bounded, decoded, and counted."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.line = self.bytes = 0
        self.size = Path(path).stat().st_size
        self._file = Path(path).open("rb")  # noqa: SIM115 - closed by close()

    def __iter__(self) -> Iterator[str]:
        while value := self._file.readline(_MAX_LINE_BYTES + 1):
            self.line += 1
            self.bytes += len(value)
            if len(value) > _MAX_LINE_BYTES:
                raise self.error(f"expected at most {_MAX_LINE_BYTES:,} bytes a line, got more")
            try:
                yield value.decode("utf-8-sig" if self.line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise self.error(f"expected UTF-8, got byte {value[error.start]:#04x}") from error

    def error(self, what: str) -> SourceError:
        return SourceError(f"{self.path}, line {self.line}: {what}")

    def close(self) -> None:
        self._file.close()


class _Csv:
    """CSV: a header, then rows; commas, semicolons or tabs, as the header has. An empty cell is absent."""

    unit = "line"

    def __init__(self, path: str, names: Mapping[str, str]) -> None:
        with ExitStack() as unless_good:
            self._lines = _Lines(path)
            unless_good.callback(self._lines.close)
            lines = iter(self._lines)
            header = next(filter(str.strip, lines), "")
            mark = next((mark for mark in ",;\t" if mark in header), ",")
            self._reader = csv.reader(itertools.chain([header], lines), delimiter=mark, strict=True)
            self._first = self._lines.line
            self.columns = _fields(path, [name.strip() for name in next(self._reader)], names)
            unless_good.pop_all()

    def rows(self) -> Iterator[Row]:
        try:
            for cells in self._reader:
                place = self._first - 1 + self._reader.line_num
                if len(cells) == len(self.columns):
                    pairs = zip(self.columns, cells, strict=True)
                    yield place, {name: cell for name, cell in pairs if cell}
                elif cells:
                    yield place, f"expected {len(self.columns)} cells as in the header, got {len(cells)}"
        except csv.Error as error:
            raise self._lines.error(f"expected CSV: {error}") from error

    def progress(self) -> tuple[int, int]:
        return self._lines.bytes, self._lines.size

    def close(self) -> None:
        self._lines.close()


class _JsonLines:
    """JSON lines: one object a line; blank lines are passed over."""

    unit = "line"
    columns = None

    def __init__(self, path: str, names: Mapping[str, str]) -> None:
        self._lines = _Lines(path)
        self._names = names
        self._decode: Callable[[str], Any] = msgspec.json.Decoder(dict[str, Any]).decode

    def rows(self) -> Iterator[Row]:
        for line in self._lines:
            if not line.strip():
                continue
            try:
                found = self._decode(line)
            except (msgspec.MsgspecError, RecursionError) as error:
                yield self._lines.line, f"expected a JSON object: {error}"
            else:
                renamed = {field: found.pop(name) for name, field in self._names.items() if name in found}
                yield self._lines.line, found | renamed

    def progress(self) -> tuple[int, int]:
        return self._lines.bytes, self._lines.size

    def close(self) -> None:
        self._lines.close()


class _Parquet:
    """Parquet: only columns that a label has are read. Timestamps without a zone are UTC."""

    unit = "row"

    def __init__(self, path: str, names: Mapping[str, str]) -> None:
        self._path, self._names = path, names
        self._size = Path(path).stat().st_size
        with ExitStack() as unless_good:
            self._file = pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False)
            unless_good.callback(self._file.close)
            self._read = 0
            self._total = self._file.metadata.num_rows
            self._stored = list(self._file.schema_arrow.names)
            self.columns = _fields(path, self._stored, names)
            unless_good.pop_all()

    def rows(self) -> Iterator[Row]:
        pairs = zip(self._stored, self.columns, strict=True)
        known = [stored for stored, field in pairs if is_label_field(field)]
        try:
            for batch in self._file.iter_batches(batch_size=_PARQUET_ROWS, columns=known):
                plain = pa.table([_plain_times(column) for column in batch.columns], batch.schema.names)
                fields = [self._names.get(name, name) for name in plain.column_names]
                for values in plain.rename_columns(fields).to_pylist():
                    self._read += 1
                    yield self._read, values
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{self._path} cannot be read after row {self._read}: {error}") from error

    def progress(self) -> tuple[int, int]:
        return (self._size * self._read // self._total if self._total else self._size), self._size

    def close(self) -> None:
        self._file.close()


def _plain_times(column: pa.Array) -> pa.Array:
    if not pa.types.is_timestamp(column.type):
        return column
    return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())


def is_label_field(name: str) -> bool:
    """Whether a column is sent: a field of a label event, or one of its segments."""
    return name in _CONVERT or name.startswith(_SEGMENT)


def label_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row with values of the types of `Event`; other columns and absent values are left out.

    `segments.NAME` is one segment. A number becomes the text that a server would have answered.

    Raises:
        ValueError: a value is none of its field; the message names the field, what was expected, what came.

    Example:
        >>> label_row({"request_time": "2026-01-01T00:00:00Z", "label": 3.0, "segments.language": "de"})
        {'request_time': 1767225600000000, 'label': '3', 'segments': {'language': 'de'}}
    """
    row: dict[str, Any] = {}
    segments: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or (isinstance(value, float) and math.isnan(value)) or not is_label_field(name):
            continue
        if name.startswith(_SEGMENT):
            segments[name.removeprefix(_SEGMENT)] = _text(name, value)
        else:
            row[name] = _CONVERT[name](name, value)
    segments |= row.pop("segments", {})
    return row | ({"segments": segments} if segments else {})


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        return str(int(value))
    raise ValueError(f"{name}: expected text, got {_shown(value)}")


def _count(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number):
        raise ValueError(f"{name}: expected a whole number, got {_shown(value)}")
    return int(number)


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a number, got {_shown(value)}")
    return number


def _time(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value == int(value):
        return int(value)
    text = value.strip() if isinstance(value, str) else ""
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        expected = "expected µs since 1970 or a time with its zone like 2026-01-01T08:00:00Z"
        raise ValueError(f"{name}: {expected}, got {_shown(value)}")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _segments(name: str, value: Any) -> dict[str, str]:
    pairs = dict(value) if isinstance(value, dict | list) else None
    if pairs is None:
        raise ValueError(f"{name}: expected an object of names and texts, got {_shown(value)}")
    return {key: _text(f"{name}.{key}", text) for key, text in pairs.items() if text is not None}


def _shown(value: Any) -> str:
    return repr(value)[:100]


_CONVERT: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("event_id", "service", "model_name", "model_version", "deployment"), _text),
    **dict.fromkeys(("prediction", "label"), _text),
    **dict.fromkeys(("labelled_masked_tokens", "right_masked_tokens"), _count),
    "request_time": _time,
    "sampling_weight": _number,
    "segments": _segments,
}
#: The fields of a label event that a file can have.
LABEL_FIELDS = tuple(_CONVERT)
