"""Torn tails and flipped bits: what was whole is read once and in order, and nothing else passes for it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.sources.spool import SpoolWriter, SpoolWriterConfig
from mlmon.sources.spool_format import HEADER_BYTES, MAGIC, encode_frame
from mlmon.sources.spool_segment import list_segments, segment_path

SLOT = "slot-0"


def config(directory: Path) -> SpoolWriterConfig:
    return SpoolWriterConfig(str(directory), segment_bytes=4096)


def append(directory: Path, *values: bytes) -> list[int]:
    writer = SpoolWriter(config(directory))
    offsets = [writer.append(value, [("content-type", b"x")]) for value in values]
    writer.close()
    return offsets


def test_a_tail_torn_at_every_byte(tmp_path, tailer):
    append(tmp_path / "whole", b"first" * 3, b"second" * 3, b"third" * 3)
    whole = segment_path(tmp_path / "whole" / SLOT, 0).read_bytes()
    frame = len(b"".join(encode_frame(b"third" * 3, [("content-type", b"x")], 2, 0))) + 15
    for kept in range(frame + 1):
        spool = tmp_path / f"cut-{kept}"
        shutil.copytree(tmp_path / "whole", spool)
        segment_path(spool / SLOT, 0).write_bytes(whole[: len(whole) - frame + kept])
        torn = kept < frame
        follow = tailer(spool).drain()
        assert follow.offsets[SLOT] == [0, 1] + [2] * (not torn)
        assert append(spool, b"new") == [2 if torn else 3]
        for reader in (follow.drain(), tailer(spool).drain()):
            assert reader.values[SLOT][-1] == b"new"
            assert reader.offsets[SLOT] == list(range(3 if torn else 4))
            assert (reader.corrupt, reader.lost[SLOT]) == ({}, 0)
        follow.source.close()


def test_a_torn_first_frame_leaves_no_trace(tmp_path, tailer):
    append(tmp_path, b"first")
    path = segment_path(tmp_path / SLOT, 0)
    path.write_bytes(path.read_bytes()[:-2])
    follow = tailer(tmp_path).drain()
    assert append(tmp_path, b"again") == [0]
    assert follow.drain().values == {SLOT: [b"again"]}
    assert follow.corrupt == {}


def test_a_frame_being_written_is_waited_for(tmp_path, tailer):
    append(tmp_path, b"first", b"second" * 50)
    path = segment_path(tmp_path / SLOT, 0)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    follow = tailer(tmp_path).drain()
    assert follow.offsets[SLOT] == [0]
    with path.open("ab") as file:
        for at in range(100, 0, -7):
            file.write(data[len(data) - at : len(data) - max(0, at - 7)])
            file.flush()
            follow.poll(0)
    assert follow.drain().values[SLOT] == [b"first", b"second" * 50]
    assert follow.corrupt == {}


def test_a_frame_inside_a_payload_is_not_taken_for_a_record(tmp_path, tailer):
    nested = b"".join(encode_frame(b"inner", [], 5000, 0)) + b"inner"
    append(tmp_path, b"a", b"<" + nested + b">", b"c")
    path = segment_path(tmp_path / SLOT, 0)
    data = bytearray(path.read_bytes())
    second = data.index(MAGIC, 1)
    data[second + 5] ^= 1  # its header
    path.write_bytes(data)
    follow = tailer(tmp_path).drain()
    assert follow.values[SLOT] == [b"a", b"c"]
    assert follow.corrupt[SLOT] == [1]


def test_garbage_between_frames_takes_nobodys_place(tmp_path, tailer):
    append(tmp_path, b"a", b"b")
    path = segment_path(tmp_path / SLOT, 0)
    data = path.read_bytes()
    second = data.index(MAGIC, 1)
    path.write_bytes(data[:second] + b"\xab" * 500 + data[second:])
    append(tmp_path, b"c")
    follow = tailer(tmp_path).drain()
    assert follow.values[SLOT] == [b"a", b"b", b"c"]
    assert (follow.corrupt, follow.lost[SLOT]) == ({}, 0)


def test_zeros_where_a_power_failure_left_them(tmp_path, tailer):
    append(tmp_path, b"a", b"b")
    with segment_path(tmp_path / SLOT, 0).open("ab") as file:
        file.write(bytes(10_000))
    follow = tailer(tmp_path).drain()
    assert follow.values[SLOT] == [b"a", b"b"]
    assert append(tmp_path, b"c") == [
        3
    ]  # an acknowledged record may have stood there: its offset is not reused
    follow.drain()
    assert follow.values[SLOT] == [b"a", b"b", b"c"]
    assert follow.corrupt[SLOT] == [2]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    spool = tmp_path_factory.mktemp("original")
    append(spool, *(b"%03d" % n * (1 + n * 7 % 90) for n in range(60)))
    slot = spool / SLOT
    frames = []  # (segment, first byte, byte after) by offset
    for base in list_segments(slot):
        data = segment_path(slot, base).read_bytes()
        starts = [at for at in range(len(data)) if data.startswith(MAGIC, at)]
        frames += [(base, start, end) for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
    assert len(frames) == 60
    assert len(list_segments(slot)) >= 2
    return spool, frames


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_bits_flipped_anywhere(original, data):
    source, frames = original
    flips = data.draw(
        st.lists(
            st.tuples(st.integers(0, 59), st.integers(0, 10_000), st.integers(1, 255)),
            min_size=1,
            max_size=4,
            unique_by=lambda flip: flip[0],
        )
    )
    with tempfile.TemporaryDirectory() as name:
        spool = Path(name) / "spool"
        shutil.copytree(source, spool)
        for offset, at, mask in flips:
            base, start, end = frames[offset]
            path = segment_path(spool / SLOT, base)
            content = bytearray(path.read_bytes())
            content[start + at % (end - start)] ^= mask
            path.write_bytes(content)
        touched = {offset for offset, _, _ in flips}
        (new,) = append(spool, b"new")
        _check(spool, touched, new, frames)


def _check(spool, touched, new, frames):
    from mlmon.events.record import CORRUPT_HEADER
    from mlmon.sources.spool import SpoolConfig, SpoolSource

    reader = SpoolSource(SpoolConfig(str(spool)))
    reader.seek(*reader.poll(0).assigned, None)
    intact, corrupt, lost, last = {}, [], 0, -1
    while chunks := reader.poll(0).chunks:
        for chunk in chunks:
            lost += chunk.lost
            for record in chunk.records:
                assert record.offset > last
                last = record.offset
                if CORRUPT_HEADER in dict(record.headers):
                    corrupt.append(record.offset)
                else:
                    intact[record.offset] = record.value
    lag = reader.lag()[SLOT]
    reader.close()
    expected = {n: b"%03d" % n * (1 + n * 7 % 90) for n in range(60) if n not in touched}
    assert intact == {**expected, new: b"new"}
    assert set(corrupt) <= touched
    assert lag.records == 0
    if len(touched) == 1:
        assert (corrupt, lost, new) == (sorted(touched), 0, 60)
    else:
        assert touched & set(corrupt)
        assert len(corrupt) + lost <= len(touched)


def test_what_is_kept_of_damage_is_bounded(tmp_path, tailer):
    append(tmp_path, b"a")
    with segment_path(tmp_path / SLOT, 0).open("ab") as file:
        file.write(b"\xab" * 5_000_000)
    append(tmp_path, b"b")
    source = tailer(tmp_path, max_bytes=4096).source
    source.seek(*source.poll(0).assigned, None)
    records = []
    while chunks := source.poll(0).chunks:
        records += [record for chunk in chunks for record in chunk.records]
    assert [len(record.value) for record in records] == [1, 1024 * 1024, 1]
    assert records[1].headers[0][1] == b"5000000 bytes are not a frame"
    assert HEADER_BYTES == 40
