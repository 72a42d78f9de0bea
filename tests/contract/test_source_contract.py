"""What every source owes, whatever the log."""

from __future__ import annotations

import time


def test_records_come_once_and_in_order_with_rising_offsets(harness, reader, make_lines):
    for hint in (0, 1):
        harness.append(hint, make_lines(hint, 0, 300))
    read = reader(harness.make_source())
    read.until_count(600)
    assert read.numbers == {0: list(range(300)), 1: list(range(300))}
    for _ in range(3):
        read.poll(0.05)
    assert sum(map(len, read.got.values())) == 600


def test_nothing_is_delivered_before_it_is_sought(harness, reader, make_lines):
    harness.append(0, make_lines(0, 0, 20))
    source = harness.make_source()
    read = reader(source)
    assigned = []
    deadline = time.monotonic() + 60
    while not assigned:
        assert time.monotonic() < deadline
        assigned += read.poll(seek=False).assigned
    for _ in range(5):
        polled = read.poll(0.1, seek=False)
        assert not polled.chunks
        assigned += polled.assigned
    assert len(assigned) == len(set(assigned))
    for partition in assigned:
        source.seek(partition, None)
        read.sought.add(partition)
    read.until_count(20)


def test_reading_again_from_any_position_gives_the_same_records(harness, reader, make_lines):
    harness.append(0, make_lines(0, 0, 200))
    source = harness.make_source()
    read = reader(source)
    read.until_count(200)
    (partition, first), *_ = read.got.items()
    for index in (150, 3, 199, 0, 77):
        offset = first[index][0]
        source.seek(partition, offset)
        read.positions[partition], read.got, read.numbers = offset, {}, {}
        read.until_count(200 - index)
        assert read.got[partition] == first[index:]


def test_a_poll_is_bounded_in_records(harness, reader, make_lines):
    for hint in (0, 1):
        harness.append(hint, make_lines(hint, 0, 100))
    read = reader(harness.make_source(max_records=7))
    seen = 0
    deadline = time.monotonic() + 60
    while seen < 200:
        assert time.monotonic() < deadline
        count = sum(len(chunk.records) for chunk in read.poll().chunks)
        assert count <= 7
        seen += count


def test_a_poll_is_bounded_in_bytes_and_a_larger_record_still_comes(harness, reader, make_lines):
    harness.append(0, make_lines(0, 0, 40, pad=3000))
    harness.append(0, make_lines(0, 40, 41, pad=60_000))
    harness.append(0, make_lines(0, 41, 60, pad=3000))
    read = reader(harness.make_source(max_bytes=20_000))
    seen = []
    deadline = time.monotonic() + 60
    while sum(map(len, seen)) < 60:
        assert time.monotonic() < deadline
        sizes = [len(record.value) for chunk in read.poll().chunks for record in chunk.records]
        assert sum(sizes) <= 20_000 or len(sizes) == 1
        seen.append(sizes)
    assert read.numbers[0] == list(range(60))


def test_a_crash_and_a_new_source_lose_nothing_and_repeat_nothing(harness, reader, make_lines):
    for hint in (0, 1):
        harness.append(hint, make_lines(hint, 0, 120))
    source = harness.make_source(max_records=40)
    read = reader(source)
    read.until_count(70)
    harness.abandon(source)
    after = reader(harness.make_source(), read.positions)
    total = 240 - sum(map(len, read.numbers.values()))
    after.until_count(total)
    for hint in (0, 1):
        assert read.numbers.get(hint, []) + after.numbers.get(hint, []) == list(range(120))


def test_records_read_but_not_in_a_position_come_again_after_a_crash(harness, reader, make_lines):
    harness.append(0, make_lines(0, 0, 60))
    source = harness.make_source(max_records=10)
    read = reader(source)
    read.until_count(20)
    positions = dict(read.positions)
    kept = list(read.numbers[0])
    read.until_count(40)
    harness.abandon(source)
    after = reader(harness.make_source(), positions)
    after.until_count(60 - len(kept))
    assert kept + after.numbers[0] == list(range(60))


def test_reset_revokes_and_assigns_anew(harness, reader, make_lines):
    harness.append(0, make_lines(0, 0, 50))
    source = harness.make_source(max_records=20)
    read = reader(source)
    read.until_count(20)
    before = set(read.sought)
    source.reset()
    revoked: set[str] = set()
    deadline = time.monotonic() + 60
    while not revoked >= before:
        assert time.monotonic() < deadline
        revoked |= set(read.poll().revoked)
    read.until_count(50)
    assert read.numbers[0] == list(range(50))


def test_lag_falls_to_zero(harness, reader, make_lines):
    harness.append(0, make_lines(0, 0, 50))
    source = harness.make_source(max_records=5)
    read = reader(source)
    read.until_count(5)
    read.until(lambda: sum(lag.records for lag in source.lag().values()) > 0 or len(read.numbers[0]) > 45)
    read.until_count(50)
    read.until(lambda: sum(lag.records for lag in source.lag().values()) == 0)
    assert max(lag.end_offset for lag in source.lag().values()) >= 50


def test_an_empty_poll_returns_in_time(harness, reader, make_lines):
    harness.append(0, make_lines(0, 0, 5))
    source = harness.make_source()
    read = reader(source)
    read.until_count(5)
    start = time.monotonic()
    assert not any(chunk.records for chunk in source.poll(0.3).chunks)
    assert time.monotonic() - start < 20


def test_a_live_log_shows_what_is_appended_later(live_harness, reader, make_lines):
    live_harness.append(0, make_lines(0, 0, 10))
    read = reader(live_harness.make_source())
    read.until_count(10)
    assert not read.source.finished
    for start in (10, 20, 30):
        live_harness.append(0, make_lines(0, start, start + 10))
        read.until_count(start + 10)
    assert read.numbers[0] == list(range(40))


def test_latest_begins_with_what_comes_after(live_harness, reader, make_lines):
    live_harness.append(0, make_lines(0, 0, 10))
    read = reader(live_harness.make_source(start="latest"))
    read.until(lambda: bool(read.sought))
    for _ in range(5):
        read.poll(0.1)
    live_harness.append(0, make_lines(0, 10, 20))
    read.until(lambda: 19 in read.numbers.get(0, ()))
    assert read.numbers[0] == list(range(10, 20))


def test_a_bounded_log_finishes_after_its_last_record_and_not_before(bounded_harness, reader, make_lines):
    for hint in (0, 1):
        bounded_harness.append(hint, make_lines(hint, 0, 50))
    source = bounded_harness.make_source(max_records=9, bounded=True)
    read = reader(source)
    assert not source.finished
    while not source.finished:
        before = sum(map(len, read.numbers.values()))
        assert before < 100 or not source.finished
        read.poll()
    assert read.numbers == {0: list(range(50)), 1: list(range(50))}
    again = reader(bounded_harness.make_source(bounded=True), read.positions)
    again.until(lambda: again.source.finished)
    assert again.numbers == {}
