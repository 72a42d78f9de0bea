"""Files of recorded events as sequences of log records: JSON lines, Parquet, Arrow IPC.

Offsets count what the format counts: lines of a JSON-lines file, rows of a columnar one (a record there is a
run of rows, and its offset the number of its first row, so that no setting changes what a position means).
Files must not change while they are positions' ground.
"""

from __future__ import annotations

import bisect
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlmon.errors import SourceError
from mlmon.events.record import CORRUPT_HEADER, LogRecord
from mlmon.windows import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from mlmon.sources.budget import Budget

__all__ = ["ARROW_STREAM", "RecordedFile", "open_recorded"]

ARROW_STREAM: list[tuple[str, bytes]] = [("content-type", b"application/vnd.apache.arrow.stream")]
_AHEAD_LINES = 256
_AHEAD_BYTES = 256 * 1024
_COUNTED_AT_ONCE = 64 * 1024 * 1024

#: (number of the first row, rows, bytes of the file read with them)
_Rows = tuple[int, pa.RecordBatch, int]


class RecordedFile(Protocol):
    """One file, read forward from a position.

    Attributes:
        next_offset: of the next record.
        done_bytes: how much of the file lies behind, about.
    """

    next_offset: int
    done_bytes: int

    def seek(self, offset: int) -> None:
        """Read on from this offset; beyond the end means the end."""
        ...

    def peek_us(self) -> int | None:
        """Event time of the next record, `NEVER` where it has none, None at the end of the file."""
        ...

    def take(self, until_us: int | None, budget: Budget) -> list[LogRecord]:
        """Some of the next records: up to this event time (the first whatever its time), within the budget.

        None at all only where the file ends or nothing more fits.
        """
        ...

    def end_offset(self) -> int:
        """The offset after the last record; for a large file of lines an estimate until it is read."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class _Format(NamedTuple):
    """A columnar format: `read(path, row, step)` its rows from a row or a little before, `count` them."""

    read: Callable[[Path, int, int], Iterator[_Rows]]
    count: Callable[[Path], int]


def open_recorded(path: Path, *, batch_rows: int, max_record_bytes: int, paced: bool) -> RecordedFile:
    """Open a file by what it begins with.

    Raises:
        SourceError: it cannot be read, or is compressed.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(8)
        if magic.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\x03\x04")):
            raise SourceError(f"{path} is compressed as a whole: decompress it first")
        for prefix, kind in _FORMATS.items():
            if magic.startswith(prefix):
                return _ColumnarFile(path, kind, batch_rows, paced=paced)
        return _LinesFile(path, max_record_bytes)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


class _LinesFile:
    """JSON lines: one record a line; blank lines are passed over, a line over the limit is cut and marked."""

    def __init__(self, path: Path, max_record_bytes: int) -> None:
        self._path = path
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self._most = max_record_bytes
        self._counted = (0, 0)
        self._end: int | None = None
        self.seek(0)

    def seek(self, offset: int) -> None:
        self._file.seek(0)
        self._read_bytes = self._line = 0
        self._ahead: list[tuple[LogRecord, int]] = []
        self._at = 0
        while self._line < offset and self._read_line() is not None:
            pass
        self.next_offset, self.done_bytes = self._line, self._read_bytes

    def peek_us(self) -> int | None:
        if self._at == len(self._ahead):
            self._look_ahead()
        return _json_time(self._ahead[self._at]) if self._ahead else None

    def take(self, until_us: int | None, budget: Budget) -> list[LogRecord]:
        if self.peek_us() is None:
            return []
        stop = len(self._ahead)
        if until_us is not None and _json_time(self._ahead[-1]) > until_us:
            stop = bisect.bisect_right(self._ahead, until_us, lo=self._at, key=_json_time)
        records: list[LogRecord] = []
        for record, end in self._ahead[self._at : max(stop, self._at + 1)]:
            if not budget.take(len(record.value or b"")):
                break
            records.append(record)
            self._at += 1
            self.next_offset, self.done_bytes = record.offset + 1, end
        return records

    def end_offset(self) -> int:
        if self._end is not None:
            return self._end
        lines, position = max(self._counted, (self._line, self._read_bytes), key=lambda pair: pair[1])
        here = self._file.tell()
        self._file.seek(position)
        left, last = _COUNTED_AT_ONCE, b"\n"
        while left > 0 and (block := self._file.read(1 << 20)):
            lines += block.count(b"\n")
            position += len(block)
            left -= len(block)
            last = block
        self._file.seek(here)
        if position < self._size:
            self._counted = (lines, position)
            return int(lines * self._size / position)
        self._end = lines + (not last.endswith(b"\n"))
        return self._end

    def close(self) -> None:
        self._file.close()

    def _look_ahead(self) -> None:
        self._ahead, self._at = [], 0
        held = 0
        while len(self._ahead) < _AHEAD_LINES and held < _AHEAD_BYTES:
            offset = self._line
            line = self._read_line()
            if line is None:
                break
            value, size = line
            held += len(value)
            headers = []
            if size > len(value):
                detail = f"a line of {size} bytes, of which the first {len(value)} were read"
                headers.append((CORRUPT_HEADER, detail.encode()))
            if value:
                self._ahead.append((LogRecord(offset, -1, None, value, headers), self._read_bytes))
        if not self._ahead:
            self.next_offset, self.done_bytes = self._line, self._read_bytes

    def _read_line(self) -> tuple[bytes, int] | None:
        """The next line without its end and white space around it, cut to the limit, and its full length."""
        try:
            line = self._file.readline(self._most + 1)
            size = read = len(line)
            cut = size > self._most and not line.endswith(b"\n")
            while cut and (rest := self._file.readline(1 << 20)):
                read += len(rest)
                size = read - rest.endswith(b"\n")
                if size < read:
                    break
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read after line {self._line}: {error}") from error
        if not line:
            return None
        self._read_bytes += read
        self._line += 1
        if cut:
            return line[: self._most], size
        line = line.strip()
        return line, len(line)


class _ColumnarFile:
    """Parquet or Arrow: a record is a run of at most `batch_rows` rows, as an Arrow IPC stream of one batch.

    Runs end where those of the file end. Paced, they also end where the time has not come yet.
    """

    def __init__(self, path: Path, kind: _Format, batch_rows: int, *, paced: bool) -> None:
        self._path, self._kind, self._batch_rows, self._paced = path, kind, batch_rows, paced
        self._end: int | None = None
        self.seek(0)

    def seek(self, offset: int) -> None:
        self.next_offset, self.done_bytes = offset, 0
        self._rows: Iterator[_Rows] | None = None
        self._run: pa.RecordBatch | None = None
        self._times: NDArray[np.int64] = np.empty(0, np.int64)
        self._run_end_bytes = 0

    def peek_us(self) -> int | None:
        if self._run is None and not self._next_run():
            return None
        return int(self._times[0])

    def take(self, until_us: int | None, budget: Budget) -> list[LogRecord]:
        if self.peek_us() is None or self._run is None:
            return []
        rows = self._run.num_rows
        if self._paced and until_us is not None:
            rows = max(1, int(np.searchsorted(self._times, until_us, side="right")))
        value = _stream_of(self._run.slice(0, rows))
        if not budget.take(len(value)):
            return []
        record = LogRecord(self.next_offset, -1, None, value, ARROW_STREAM)
        self.next_offset += rows
        if rows == self._run.num_rows:
            self._run, self.done_bytes = None, self._run_end_bytes
        else:
            self._run, self._times = self._run.slice(rows), self._times[rows:]
        return [record]

    def end_offset(self) -> int:
        if self._end is None:
            with self._errors():
                self._end = self._kind.count(self._path)
        return self._end

    def close(self) -> None:
        self._rows = self._run = None

    def _next_run(self) -> bool:
        try:
            with self._errors():
                if self._rows is None:
                    self._rows = self._runs()
                found = next(self._rows, None)
                if found is None:
                    self.done_bytes = self._path.stat().st_size
                    return False
        except SourceError:
            self._rows = None  # a generator that raised would now say that the file has ended
            raise
        start, run, self._run_end_bytes = found
        self._run = run.slice(self.next_offset - start)
        self._times = _row_times(self._run)
        return True

    def _runs(self) -> Iterator[_Rows]:
        """Runs of rows from the one that holds the position on."""
        for start, rows, done in self._kind.read(self._path, self.next_offset, self._batch_rows):
            for at in range(0, rows.num_rows, self._batch_rows):
                run = rows.slice(at, self._batch_rows)
                if start + at + run.num_rows > self.next_offset:
                    yield start + at, run, done

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{self._path} cannot be read at row {self.next_offset}: {error}") from error


def _parquet(path: Path, offset: int, step: int) -> Iterator[_Rows]:
    """Row groups in steps, so that a large one is never in memory at once."""
    with pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
        size, total, start = path.stat().st_size, file.metadata.num_rows, 0
        for group in range(file.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if start + length <= offset:
                start += length
                continue
            for rows in file.iter_batches(batch_size=step, row_groups=[group]):
                yield start, rows, size * (start + rows.num_rows) // total
                start += rows.num_rows


def _parquet_count(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def _ipc_file(path: Path, _offset: int, _step: int) -> Iterator[_Rows]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        size, count, start = path.stat().st_size, file.num_record_batches, 0
        for index in range(count):
            rows = file.get_batch(index)
            yield start, rows, size * (index + 1) // count
            start += rows.num_rows


def _ipc_stream(path: Path, _offset: int, _step: int) -> Iterator[_Rows]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        start = 0
        for rows in stream:
            yield start, rows, source.tell()
            start += rows.num_rows


_FORMATS = {
    b"PAR1": _Format(_parquet, _parquet_count),
    b"ARROW1": _Format(_ipc_file, lambda path: sum(rows.num_rows for _, rows, _ in _ipc_file(path, 0, 0))),
    b"\xff\xff\xff\xff": _Format(
        _ipc_stream, lambda path: sum(rows.num_rows for _, rows, _ in _ipc_stream(path, 0, 0))
    ),
}


def _stream_of(rows: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_batch(rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _row_times(rows: pa.RecordBatch) -> NDArray[np.int64]:
    """The newest event time up to each row, µs; `NEVER` where there is none."""
    index = rows.schema.get_field_index("event_time")
    times = np.full(rows.num_rows, NEVER, np.int64)
    if index >= 0:
        column = rows.column(index)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        if pa.types.is_int64(column.type):
            times = column.fill_null(NEVER).to_numpy(zero_copy_only=False)
    result: NDArray[np.int64] = np.maximum.accumulate(times)
    return result


class _Outer(msgspec.Struct):
    event_time: Any = None
    time: Any = None
    data: msgspec.Raw = msgspec.Raw(b"")


class _Inner(msgspec.Struct):
    event_time: Any = None


_OUTER = msgspec.json.Decoder(_Outer)
_INNER = msgspec.json.Decoder(_Inner)


def _json_time(ahead: tuple[LogRecord, int]) -> int:
    """Event time of a flat event or of a CloudEvent around one, µs; `NEVER` where none can be read."""
    try:
        outer = _OUTER.decode(ahead[0].value or b"")
        found = outer.event_time
        if found is None and outer.data:
            found = _INNER.decode(outer.data).event_time
    except (msgspec.DecodeError, UnicodeDecodeError):
        return NEVER
    found = outer.time if found is None else found
    if isinstance(found, int):
        return found
    try:
        moment = datetime.fromisoformat(found)
    except (TypeError, ValueError):
        return NEVER
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000)
