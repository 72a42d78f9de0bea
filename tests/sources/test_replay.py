from __future__ import annotations

import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlmon.errors import SourceError
from mlmon.events.record import CORRUPT_HEADER
from mlmon.sources.replay import ReplayConfig, ReplaySource

START_US = 1_700_000_000_000_000


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.time = 100.0

    def now_us(self):
        return int(self.time * 1e6)

    def monotonic(self):
        return self.time

    def sleep(self, seconds):
        assert seconds > 0
        self.time += seconds


def events(count, start_us=0, step_us=1000):
    return [
        {
            "event_id": f"{n}",
            "event_time": START_US + start_us + n * step_us,
            "service": "s",
            "model_name": "m",
        }
        for n in range(count)
    ]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def table(rows):
    column = [row["event_time"] for row in rows]
    return pa.table(
        {
            "event_id": [row["event_id"] for row in rows],
            "event_time": pa.array(column, pa.timestamp("us", tz="UTC")),
        }
    )


def write_columns(path, rows, group):
    data = table(rows)
    if path.suffix == ".parquet":
        pq.write_table(data, path, row_group_size=group)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, data.schema) as out:
            out.write_table(data, group)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as out:
            out.write_table(data, group)


def opened(pattern, positions=None, clock=None, **config):
    source = ReplaySource(ReplayConfig((str(pattern),), **config), clock)
    for name in source.poll(0).assigned:
        source.seek(name, (positions or {}).get(name))
    return source


def read(source):
    """(partition, record) in the order of arrival."""
    got = []
    while not source.finished:
        for chunk in source.poll(0).chunks:
            got += [(chunk.partition, record) for record in chunk.records]
    source.close()
    return got


def rows_of(record):
    return pa.ipc.open_stream(record.value).read_all()


def test_lines_come_as_they_stand_numbered_from_zero(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n  {"b": 2}\r\nnot json\n\xff\xfe\n{"last": 1}')
    got = read(opened(path))
    assert [(record.offset, record.value) for _, record in got] == [
        (0, b'{"a": 1}'),
        (2, b'{"b": 2}'),
        (3, b"not json"),
        (4, b"\xff\xfe"),
        (5, b'{"last": 1}'),
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
@pytest.mark.parametrize(("group", "batch_rows"), [(1000, 300), (70, 300), (5000, 10_000)])
def test_columns_come_as_streams_of_bounded_runs(tmp_path, suffix, group, batch_rows):
    path = tmp_path / f"a{suffix}"
    rows = events(2500)
    write_columns(path, rows, group)
    got = [record for _, record in read(opened(path, batch_rows=batch_rows))]
    assert all(dict(r.headers)["content-type"] == b"application/vnd.apache.arrow.stream" for r in got)
    lengths = [rows_of(record).num_rows for record in got]
    assert max(lengths) == min(group, batch_rows, 2500)
    assert [record.offset for record in got] == [sum(lengths[:n]) for n in range(len(lengths))]
    assert pa.concat_tables([rows_of(record) for record in got]).equals(table(rows))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow", ".arrows"])
@pytest.mark.parametrize("position", [0, 1, 299, 300, 1111, 2499, 2500, 9999])
def test_any_position_can_be_gone_on_from(tmp_path, suffix, position):
    path = tmp_path / f"a{suffix}"
    rows = events(2500)
    if suffix == ".jsonl":
        write_lines(path, rows)
    else:
        write_columns(path, rows, 1000)
    source = opened(path, {str(path): position}, batch_rows=300)
    assert source.lag()[str(path)].records == max(0, 2500 - position)
    got = [record for _, record in read(source)]
    if suffix == ".jsonl":
        found = [json.loads(record.value)["event_id"] for record in got]
    else:
        found = [text for record in got for text in rows_of(record)["event_id"].to_pylist()]
    assert found == [row["event_id"] for row in rows[position:]]


def test_files_are_merged_by_event_time(tmp_path):
    write_lines(tmp_path / "b-first.jsonl", events(2000, 0, 50_000))  # 0 to 100 s
    write_lines(tmp_path / "a-later.jsonl", events(2000, 200_000_000, 50_000))  # 200 to 300 s
    write_columns(tmp_path / "c-both.parquet", events(60, 0, 5_000_000), 1000)  # 0 to 300 s
    newest, count = -1, 0
    source = opened(tmp_path / "*", max_records=200, batch_rows=1)
    while not source.finished:
        times = [
            rows_of(record)["event_time"].cast(pa.int64())[0].as_py()
            if chunk.partition.endswith("parquet")
            else json.loads(record.value)["event_time"]
            for chunk in source.poll(0).chunks
            for record in chunk.records
        ]
        assert min(times, default=newest) > newest - 1_300_000
        newest = max(newest, *times)
        count += len(times)
    source.close()
    assert (newest, count) == (START_US + 200_000_000 + 1999 * 50_000, 4060)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_recorded_speed(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    rows = events(100, 0, 1_000_000)  # one a second
    if suffix == ".jsonl":
        write_lines(path, rows)
    else:
        write_columns(path, rows, 40)
    clock = Clock()
    source = opened(path, clock=clock, speed_ratio=10.0)
    began = clock.time
    count = 0
    while not source.finished:
        for chunk in source.poll(5.0).chunks:
            for record in chunk.records:
                count += 1 if suffix == ".jsonl" else rows_of(record).num_rows
            due = 1 + (clock.time - began) * 10
            assert due - 1 <= count <= due + 0.01
    assert count == 100
    assert clock.time - began == pytest.approx(9.9, abs=0.1)
    source.close()


def test_a_poll_at_recorded_speed_waits_no_longer_than_asked(tmp_path):
    write_lines(tmp_path / "a.jsonl", events(2, 0, 3_600_000_000))
    clock = Clock()
    source = opened(tmp_path / "a.jsonl", clock=clock, speed_ratio=1.0)
    assert len(source.poll(1.0).chunks) == 1
    before = clock.time
    assert not source.poll(2.5).chunks
    assert clock.time - before == pytest.approx(2.5)
    assert not source.finished
    source.close()


@pytest.mark.parametrize(
    "line",
    [
        {"data": {"event_time": START_US + 5_000_000}, "specversion": "1.0"},
        {"time": "2023-11-14T22:13:25Z", "data": {"x": 1}},
        {"event_time": "2023-11-14T22:13:25+00:00"},
    ],
)
def test_the_time_of_other_shapes_is_found(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(events(1)[0]) + "\nnonsense\n" + json.dumps(line) + "\n")
    clock = Clock()
    source = opened(path, clock=clock, speed_ratio=1.0)
    assert [len(chunk.records) for chunk in source.poll(1.0).chunks] == [2]
    began = clock.time
    assert [len(chunk.records) for chunk in source.poll(60.0).chunks] == [1]
    assert clock.time - began == pytest.approx(5.0, abs=0.1)
    source.close()


def test_a_line_too_long_is_cut_marked_and_does_not_fill_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"n": 0}\n{"n": 1, "pad": "')
        for _ in range(60):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"n": 2}\n')
    tracemalloc.start()
    got = [record for _, record in read(opened(path, max_record_bytes=50_000))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [record.offset for record in got] == [0, 1, 2]
    assert len(got[1].value) == 50_000
    assert b"60000019 bytes" in dict(got[1].headers)[CORRUPT_HEADER]
    assert [record.headers for record in got[::2]] == [[], []]
    assert peak < 8_000_000


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for n in range(60_000):
            file.write(f'{{"n": {n}, "pad": "{"x" * 300}"}}\n')
    source = opened(path, max_records=500)
    tracemalloc.start()
    while not source.finished:
        source.poll(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    source.close()
    assert peak < 3_000_000


def test_progress_goes_from_nothing_to_everything(tmp_path):
    write_lines(tmp_path / "a.jsonl", events(3000))
    for suffix in (".parquet", ".arrow", ".arrows"):
        write_columns(tmp_path / f"a{suffix}", events(3000), 500)
    source = opened(tmp_path / "*", max_records=5, batch_rows=200)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    seen = [source.progress()]
    while not source.finished:
        source.poll(0)
        seen.append(source.progress())
    source.close()
    assert seen[0] == (0, total)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert len({done for done, _ in seen}) > 10


def test_lag_of_a_large_file_is_estimated_then_exact(tmp_path, monkeypatch):
    monkeypatch.setattr("mlmon.sources.replay_files._COUNTED_AT_ONCE", 1 << 20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"pad": "' + b"x" * 100 + b'"}' + b'\n{"pad": "' * 0)
    with path.open("ab") as file:
        for n in range(39_999):
            file.write(b"\n" + b'{"pad": "' + b"x" * (90 + n % 20) + b'"}')
    source = opened(path)
    ends = [source.lag()[str(path)].end_offset for _ in range(8)]
    assert all(abs(end - 40_000) < 1000 for end in ends)
    assert ends[-1] == ends[-2] == 40_000
    source.close()


def test_a_broken_file_is_an_error_and_loses_nothing_of_the_others(tmp_path):
    write_lines(tmp_path / "good.jsonl", events(100))
    bad = tmp_path / "bad.arrows"
    write_columns(bad, events(3000), 100)
    bad.write_bytes(bad.read_bytes()[:-20_000])
    source = opened(tmp_path / "*", max_records=10)
    good, bad_rows, faults = [], 0, 0
    for _ in range(400):
        try:
            for chunk in source.poll(0).chunks:
                if chunk.partition.endswith("good.jsonl"):
                    good += [record.offset for record in chunk.records]
                else:
                    bad_rows += sum(rows_of(record).num_rows for record in chunk.records)
        except SourceError as error:
            assert "bad.arrows cannot be read at row" in str(error)  # noqa: PT017 - again and again
            faults += 1
    assert good == list(range(100))
    assert faults > 1
    assert bad_rows > 1000
    assert not source.finished
    source.close()


def test_what_cannot_be_replayed_is_named(tmp_path):
    with pytest.raises(SourceError, match="no file matches"):
        ReplaySource(ReplayConfig((str(tmp_path / "*.jsonl"),)))
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    with pytest.raises(SourceError, match="decompress it first"):
        ReplaySource(ReplayConfig((str(tmp_path / "a.gz"),))).poll(0)
    for n in range(4):
        (tmp_path / f"{n}.jsonl").write_text("{}\n")
    with pytest.raises(SourceError, match=r"4 files match, and 3 may"):
        ReplaySource(ReplayConfig((str(tmp_path / "*.jsonl"), str(tmp_path / "1.jsonl")), max_files=3))
    with pytest.raises(SourceError, match="not announced"):
        ReplaySource(ReplayConfig((str(tmp_path / "1.jsonl"),))).seek("x", None)


def test_an_empty_file_is_finished_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    source = opened(tmp_path / "a.jsonl")
    assert not source.poll(0).chunks
    assert source.finished
    assert source.lag()[str(tmp_path / "a.jsonl")].records == 0
    source.close()
