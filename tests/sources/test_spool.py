from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from mlmon.errors import SourceError
from mlmon.sources import spool_format
from mlmon.sources.spool import SpoolConfig, SpoolSource, SpoolWriter, SpoolWriterConfig
from mlmon.sources.spool_segment import list_segments, segment_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def writer(tmp_path):
    made = []

    def make(**config):
        made.append(SpoolWriter(SpoolWriterConfig(str(tmp_path / "spool"), **config)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


def bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("slot-*/*.seg"))


def test_a_record_comes_back_with_its_headers_and_time(spool, writer):
    before = time.time_ns() // 1_000_000
    assert writer().append(b"\x00payload", [("content-type", b"a/b"), ("x", b"\xff")]) == 0
    source = SpoolSource(SpoolConfig(str(spool)))
    source.seek(*source.poll(1).assigned, None)
    ((record,),) = (chunk.records for chunk in source.poll(1).chunks)
    assert (record.offset, record.key, record.value) == (0, None, b"\x00payload")
    assert list(record.headers) == [("content-type", b"a/b"), ("x", b"\xff")]
    assert before <= record.timestamp <= time.time_ns() // 1_000_000
    source.close()


def test_a_clean_end_is_continued_in_the_same_file(spool, writer, tailer):
    first = writer()
    first.append(b"a")
    first.close()
    second = writer()
    assert second.append(b"b") == 1
    assert list_segments(spool / "slot-0") == [0]
    assert tailer(spool).drain().values == {"slot-0": [b"a", b"b"]}


def test_segments_roll_by_size_and_are_named_by_their_first_offset(spool, writer, tailer):
    one = writer(segment_bytes=4096)
    for n in range(100):
        one.append(b"%4d" % n + b"." * 300)
    bases = list_segments(spool / "slot-0")
    assert len(bases) > 5
    assert all(segment_path(spool / "slot-0", base).stat().st_size <= 4096 for base in bases)
    assert tailer(spool).drain().offsets["slot-0"] == list(range(100))
    for base in bases:
        assert tailer(spool).drain({"slot-0": base}).values["slot-0"][0].startswith(b"%4d" % base)


def test_segments_roll_by_age(tmp_path):
    class Clock:
        time = 0.0

        def now_us(self):
            return 1_000_000

        def monotonic(self):
            return self.time

        def sleep(self, seconds):
            self.time += seconds

    clock = Clock()
    writer = SpoolWriter(SpoolWriterConfig(str(tmp_path), segment_seconds=5.0), clock)
    for _ in range(4):
        writer.append(b"a")
        clock.time += 3.0
    writer.close()
    assert list_segments(tmp_path / "slot-0") == [0, 2]


def test_the_directory_stays_within_its_bytes_and_what_is_lost_is_counted(spool, writer, tailer):
    one = writer(segment_bytes=8192, max_bytes=40_000)
    behind = tailer(spool)
    for n in range(10):
        one.append(b"%d" % n)
    behind.poll(0)
    behind.poll(0)
    assert behind.next["slot-0"] == 10
    for n in range(10, 2000):
        one.append(b"%d" % n + b"." * 200)
        assert bytes_in(spool) <= 40_000
    behind.drain()
    assert behind.lost["slot-0"] > 1500
    assert len(behind.offsets["slot-0"]) + behind.lost["slot-0"] == 2000
    assert behind.offsets["slot-0"][-1] == 1999
    assert one.removed_bytes > 300_000
    fresh = tailer(spool).drain()
    assert fresh.lost == {"slot-0": 0}  # it was never told of older ones
    sought = tailer(spool).drain({"slot-0": 4})
    assert sought.lost["slot-0"] == fresh.offsets["slot-0"][0] - 4


def test_old_segments_go_even_those_of_a_writer_that_is_gone(spool, writer, tailer):
    gone, alive = writer(segment_bytes=4096), writer(segment_bytes=4096, max_age_seconds=100)
    assert (gone.slot, alive.slot) == ("slot-0", "slot-1")
    for n in range(30):
        gone.append(b"%d" % n + b"." * 300)
    half = tailer(spool)
    half.poll(0)
    half.source.seek("slot-0", 7)
    gone.close()
    for path in (spool / "slot-0").glob("*.seg"):
        os.utime(path, (1_000_000, 1_000_000))
    for _ in range(30):
        alive.append(b"." * 300)
    assert list_segments(spool / "slot-0") == [30]
    assert segment_path(spool / "slot-0", 30).stat().st_size == 0
    half.drain()
    assert half.lost["slot-0"] == 23
    assert half.next["slot-0"] == 30
    assert writer().append(b"again") == 30
    half.drain()
    assert half.values["slot-0"][-1] == b"again"


def test_the_newest_segment_of_a_running_writer_is_never_removed(spool, writer):
    idle, busy = writer(), writer(segment_bytes=4096, max_bytes=8192)
    idle.append(b"a" * 5000)
    os.utime(next((spool / "slot-0").glob("*.seg")), (1, 1))
    for _ in range(100):
        busy.append(b"b" * 300)
    assert (spool / "slot-0" / f"{0:020}.seg").stat().st_size > 5000
    assert idle.append(b"c") == 1


def test_slots_are_shared_out_and_run_out(writer):
    first, second = writer(max_slots=2), writer(max_slots=2)
    assert (first.slot, second.slot) == ("slot-0", "slot-1")
    with pytest.raises(SourceError, match=r"all 2 slots .* raise max_slots"):
        writer(max_slots=2)
    first.close()
    assert writer(max_slots=2).slot == "slot-0"


def test_a_closed_or_forked_writer_refuses(writer):
    one = writer()
    one.append(b"a")
    child = os.fork()
    if not child:
        try:
            one.append(b"b")
        except SourceError as error:
            os._exit(7 if "fork" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert one.append(b"c") == 1
    one.close()
    one.close()
    with pytest.raises(SourceError, match="closed"):
        one.append(b"d")


def test_a_record_too_large_is_refused_and_leaves_nothing(spool, writer, tailer, monkeypatch):
    one = writer()
    monkeypatch.setattr(spool_format, "MAX_FRAME_BYTES", 1000)
    with pytest.raises(SourceError, match="smaller batches"):
        one.append(b"x" * 1000)
    assert one.append(b"y") == 0
    assert tailer(spool).drain().values == {"slot-0": [b"y"]}


@pytest.mark.parametrize("fsync", ["never", "batch"])
def test_what_is_appended_is_seen_at_once(spool, writer, tailer, fsync):
    one = writer(fsync=fsync, segment_bytes=4096)
    follow = tailer(spool)
    for n in range(30):
        one.append(b"%d" % n + b"." * 300)
        follow.poll(0)
        follow.poll(0)
        assert follow.offsets["slot-0"][-1] == n
    one.flush()


def test_every_slot_gets_its_share_of_a_poll(spool, writer, tailer):
    for one in (writer(), writer(), writer()):
        for n in range(1000):
            one.append(b"%03d" % n + b"." * 57)
    for bounds in ({"max_records": 12}, {"max_bytes": 4096}):
        follow = tailer(spool, **bounds)
        follow.poll(0)
        for polls in range(1, 10):
            follow.poll(0)
            read = [len(follow.offsets[f"slot-{n}"]) for n in range(3)]
            assert max(read) - min(read) <= polls
            assert min(read) >= 4 * polls


def test_records_as_large_as_the_bound_come_from_every_slot(spool, writer, tailer):
    for one in (writer(), writer()):
        for _ in range(10):
            one.append(b"." * 4000)
    follow = tailer(spool, max_bytes=4096)
    for _ in range(7):
        follow.poll(0)
    assert {len(offsets) for offsets in follow.offsets.values()} == {3}


def test_a_fault_within_a_slot_forgets_nothing_before_it(spool, writer, tailer):
    one = writer(segment_bytes=4096)
    for n in range(20):
        one.append(b"%02d" % n + b"." * 300)
    follow = tailer(spool)
    follow.poll(0)
    second = list_segments(spool / "slot-0")[1]
    path = segment_path(spool / "slot-0", second)
    path.rename(spool / "kept")
    path.symlink_to(path)  # cannot be opened
    follow.poll(0)
    assert follow.offsets["slot-0"] == list(range(second))
    with pytest.raises(SourceError, match="cannot be read"):
        follow.poll(0)
    path.unlink()
    (spool / "kept").rename(path)
    assert follow.drain().offsets["slot-0"] == list(range(20))


def test_waiting_costs_next_to_nothing(spool, writer):
    for _ in range(8):
        writer().append(b"a")
    source = SpoolSource(SpoolConfig(str(spool)))
    for name in source.poll(0).assigned:
        source.seek(name, None)
    source.poll(0)
    cpu = time.process_time()
    assert not source.poll(0.6).chunks
    assert time.process_time() - cpu < 0.15
    source.close()


def test_a_directory_that_comes_later_is_waited_for(spool, writer, tailer):
    follow = tailer(spool)
    assert follow.poll(0) == 0
    writer().append(b"a")
    assert follow.drain().values == {"slot-0": [b"a"]}


def test_slots_born_later_are_read_from_their_first_record_even_at_latest(spool, writer, tailer):
    writer().append(b"old")
    follow = tailer(spool, start="latest")
    follow.drain()
    writer().append(b"first")
    follow.drain()
    assert follow.values == {"slot-1": [b"first"]}


def test_a_position_beyond_the_end_goes_on_from_the_end(spool, writer, tailer, caplog):
    one = writer()
    one.append(b"a")
    follow = tailer(spool)
    follow.drain({"slot-0": 50})
    assert "lost its tail" in caplog.text
    one.append(b"b")
    follow.drain()
    assert follow.values == {"slot-0": [b"b"]}


def test_a_spool_replaced_under_the_reader_is_read_from_its_beginning(spool, writer, tailer):
    one = writer()
    one.append(b"a")
    follow = tailer(spool).drain()
    one.close()
    for path in (spool / "slot-0").iterdir():
        path.unlink()
    writer().append(b"b")
    assert follow.drain().values == {"slot-0": [b"a", b"b"]}


def test_a_fault_in_one_slot_forgets_nothing_of_another(spool, writer, tailer):
    good, bad = writer(), writer()
    follow = tailer(spool)
    good.append(b"0")
    bad.append(b"0")
    follow.drain()
    follow.source.seek("slot-1", 0)
    path = segment_path(spool / "slot-1", 0)
    path.rename(spool / "kept")
    path.mkdir()
    for n in range(1, 20):
        good.append(b"%d" % n)
        for _ in range(2):
            with contextlib.suppress(SourceError):
                follow.poll(0)
    with pytest.raises(SourceError, match="cannot be read"):
        follow.poll(0)
    assert follow.values["slot-0"] == [b"%d" % n for n in range(20)]
    path.rmdir()
    (spool / "kept").rename(path)
    follow.drain()
    assert follow.values["slot-1"] == [b"0", b"0"]  # sought back on purpose


def test_wrong_paths_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="not a directory"):
        SpoolSource(SpoolConfig(str(tmp_path / "file")))
    with pytest.raises(SourceError, match="does not exist"):
        SpoolSource(SpoolConfig(str(tmp_path / "none"), stop_at_end=True))
    with pytest.raises(SourceError, match="cannot be written"):
        SpoolWriter(SpoolWriterConfig(str(tmp_path / "file" / "spool")))
    source = SpoolSource(SpoolConfig(str(tmp_path)))
    with pytest.raises(SourceError, match="not announced"):
        source.seek("slot-3", None)


def test_stop_at_end_leaves_out_what_is_written_later(spool, writer):
    one = writer()
    for n in range(5):
        one.append(b"%d" % n)
    source = SpoolSource(SpoolConfig(str(spool), stop_at_end=True))
    source.seek(*source.poll(0).assigned, None)
    one.append(b"later")
    writer().append(b"later")
    values = []
    while not source.finished:
        values += [record.value for chunk in source.poll(0).chunks for record in chunk.records]
    assert values == [b"0", b"1", b"2", b"3", b"4"]
    assert not source.poll(0).assigned
    source.close()


def test_an_empty_spool_that_stops_at_its_end_is_finished_after_one_poll(tmp_path):
    source = SpoolSource(SpoolConfig(str(tmp_path), stop_at_end=True))
    assert not source.finished
    source.poll(1.0)
    assert source.finished


def test_lag_is_exact_at_every_step(spool, writer, tailer):
    one = writer(segment_bytes=4096)
    follow = tailer(spool, max_records=3)
    for step in range(40):
        for _ in range(step % 7):
            one.append(b"." * 500)
        follow.poll(0)
        if follow.source.lag():
            lag = follow.source.lag()["slot-0"]
            written, read = sum(n % 7 for n in range(step + 1)), len(follow.offsets.get("slot-0", ()))
            assert (lag.records, lag.end_offset) == (written - read, written)
