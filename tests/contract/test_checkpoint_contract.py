"""What every checkpoint owes, whatever the store."""

from __future__ import annotations

import pytest

from mlmon.checkpoint.base import DeadLetter, PartitionChange, Stored
from mlmon.errors import CheckpointError, DecodeReason, FencedError, LockedError
from mlmon.events.record import Reject


def letter(partition: str, offset: int, row: int = -1) -> DeadLetter:
    reject = Reject(
        offset, row, DecodeReason.MALFORMED, "not \udcff text", bytes([0, 255, offset]), [("h", b"\xfe")]
    )
    return DeadLetter(partition, reject)


def test_what_was_never_written_is_none(store):
    assert store.make().load(store.partitions[0]) is None


def test_state_and_position_come_back_together(store):
    one, two = store.partitions
    checkpoint = store.make()
    for partition in store.partitions:
        checkpoint.load(partition)
    written = checkpoint.write(
        [PartitionChange(one, 7, {b"a": b"1", b"\x00\xff": b""}), PartitionChange(two, 9, {b"a": b"2"})], []
    )
    assert written.bytes > 0
    assert checkpoint.load(one) == Stored(7, {b"a": b"1", b"\x00\xff": b""})
    assert checkpoint.load(two) == Stored(9, {b"a": b"2"})


def test_puts_replace_deletes_remove_and_the_rest_stays(store):
    one = store.partitions[0]
    checkpoint = store.make()
    checkpoint.load(one)
    checkpoint.write([PartitionChange(one, 1, {b"a": b"1", b"b": b"1", b"c": b"1"})], [])
    checkpoint.write([PartitionChange(one, 2, {b"a": b"2"}, [b"b", b"never"])], [])
    assert checkpoint.load(one) == Stored(2, {b"a": b"2", b"c": b"1"})
    checkpoint.write([PartitionChange(one, 3, {})], [])
    assert checkpoint.load(one) == Stored(3, {b"a": b"2", b"c": b"1"})


def test_a_commit_survives_a_crash(store):
    one = store.partitions[0]
    checkpoint = store.make()
    checkpoint.load(one)
    state = {b"key%d" % n: bytes([n % 256]) * (n * 20) for n in range(300)}
    checkpoint.write([PartitionChange(one, 12, state)], [letter(one, 3)])
    store.abandon(checkpoint)
    again = store.make()
    assert again.load(one) == Stored(12, state)
    again.write([PartitionChange(one, 13, {}, list(state))], [])
    again.close()
    assert store.make().load(one) == Stored(13, {})


def test_dead_letters_are_committed_once(store):
    one, two = store.partitions
    checkpoint = store.make()
    for partition in store.partitions:
        checkpoint.load(partition)
    checkpoint.write([PartitionChange(one, 1, {})], [letter(one, 0), letter(two, 4, row=2)])
    store.abandon(checkpoint)
    checkpoint = store.make()
    checkpoint.load(one)
    checkpoint.write([PartitionChange(one, 2, {})], [letter(one, 1)])
    checkpoint.close()
    assert store.letters() == [
        (one, 0, -1, "malformed", b"\x00\xff\x00"),
        (two, 4, 2, "malformed", b"\x00\xff\x04"),
        (one, 1, -1, "malformed", b"\x00\xff\x01"),
    ]


def test_scan_shows_everything_while_another_holds_it(store):
    one, two = store.partitions
    checkpoint = store.make()
    for partition in store.partitions:
        checkpoint.load(partition)
    checkpoint.write([PartitionChange(one, 5, {b"k": b"v"}), PartitionChange(two, 6, {})], [])
    expected = {one: Stored(5, {b"k": b"v"}), two: Stored(6, {})}
    assert dict(store.observer().scan()) == expected
    checkpoint.write([PartitionChange(one, 8, {b"k": b"w"})], [])
    assert dict(store.observer().scan()) == {**expected, one: Stored(8, {b"k": b"w"})}


def test_scan_of_nothing_is_empty(store):
    assert list(store.observer().scan()) == []


def test_own_partitions_are_no_peers(store):
    checkpoint = store.make()
    for partition in store.partitions:
        checkpoint.load(partition)
    checkpoint.write([PartitionChange(partition, 1, {b"meta": b"m"}) for partition in store.partitions], [])
    assert dict(checkpoint.peers(frozenset(store.partitions))) == {}


def test_two_cannot_write_the_same_partitions(store):
    one = store.partitions[0]
    first = store.make()
    first.load(one)
    first.write([PartitionChange(one, 1, {b"k": b"first"})], [])
    second = store.make()
    if store.rival == "locked":
        with pytest.raises(LockedError):
            second.load(one)
        first.write([PartitionChange(one, 2, {b"k": b"again"})], [])
        assert first.load(one) == Stored(2, {b"k": b"again"})
        return
    assert second.load(one) == Stored(1, {b"k": b"first"})
    with pytest.raises(CheckpointError) as raised:
        first.write([PartitionChange(one, 5, {b"k": b"stale"})], [letter(one, 1)])
    assert isinstance(raised.value, FencedError)
    assert second.load(one) == Stored(1, {b"k": b"first"})
    assert store.letters() == []
