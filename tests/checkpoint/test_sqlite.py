from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from mlmon.checkpoint.base import DeadLetter, PartitionChange, Stored
from mlmon.checkpoint.letters import DeadLetterConfig, DeadLetterFile, read_letters
from mlmon.checkpoint.sqlite import FORMAT, SqliteCheckpoint, SqliteCheckpointConfig, scan_sqlite
from mlmon.errors import CheckpointError, DecodeReason, FencedError, LockedError
from mlmon.events.record import Reject


@pytest.fixture
def make(tmp_path):
    made = []

    def build(path="checkpoint.db", **config):
        letters = DeadLetterFile(DeadLetterConfig(str(tmp_path / "letters")))
        made.append(SqliteCheckpoint(SqliteCheckpointConfig(str(tmp_path / path), **config), letters))
        return made[-1]

    yield build
    for one in made:
        one.close()


def letter(offset: int) -> DeadLetter:
    return DeadLetter("p", Reject(offset, -1, DecodeReason.EMPTY, "nothing", b"", ()))


def offsets(tmp_path: Path) -> list[int]:
    return [one.offset for one in read_letters(tmp_path / "letters")]


def test_the_holder_of_the_lock_is_named(make):
    make().open()
    with pytest.raises(LockedError, match=f"held by process {os.getpid()}: stop that sidecar"):
        make().open()


def test_the_lock_is_free_after_close(make):
    first = make()
    first.open()
    with pytest.raises(LockedError):
        make().open()
    first.close()
    assert make().load("p") is None


def test_making_one_takes_no_lock_and_writes_nothing(make, tmp_path):
    make()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_both_modes_commit(make, synchronous):
    one = make(synchronous=synchronous)
    one.write([PartitionChange("p", 3, {b"k": b"v"})], [letter(0)])
    assert one.load("p") == Stored(3, {b"k": b"v"})


def test_a_file_of_something_else_is_refused_and_left_alone(make, tmp_path):
    path = tmp_path / "checkpoint.db"
    path.write_text("not a database, though long enough to look at" * 50)
    before = path.read_bytes()
    one = make()
    with pytest.raises(CheckpointError, match="not an SQLite database"):
        one.open()
    one.close()
    with pytest.raises(CheckpointError, match="not an SQLite database"):
        list(scan_sqlite(path))
    assert path.read_bytes() == before
    path.unlink()
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE things (a)")
    foreign.close()
    with pytest.raises(CheckpointError, match="another program"):
        make().open()
    with pytest.raises(CheckpointError, match="another program"):
        list(scan_sqlite(path))


def test_a_newer_format_is_refused_by_name(make, tmp_path):
    one = make()
    one.write([PartitionChange("p", 1, {})], [])
    one.close()
    with sqlite3.connect(tmp_path / "checkpoint.db") as database:
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()
    with pytest.raises(CheckpointError, match=f"format {FORMAT + 1}, and this version of mlmon has {FORMAT}"):
        make().open()
    with pytest.raises(CheckpointError, match="run the version that wrote it"):
        list(scan_sqlite(tmp_path / "checkpoint.db"))


def test_a_path_that_cannot_be_made_is_named(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        make("file/checkpoint.db").open()


def test_a_failed_commit_leaves_neither_state_nor_letters(make, tmp_path):
    one = make()
    one.write([PartitionChange("p", 1, {b"k": b"1"})], [letter(0)])
    bad = PartitionChange("q", "text where a number belongs", {})  # type: ignore[arg-type]
    with sqlite3.connect(tmp_path / "checkpoint.db") as rule:
        rule.execute(
            "CREATE TRIGGER t BEFORE INSERT ON partitions WHEN typeof(new.next_offset) = 'text'"
            " BEGIN SELECT raise(ABORT, 'no'); END"
        )
    rule.close()
    with pytest.raises(CheckpointError, match="cannot be written: no"):
        one.write([PartitionChange("p", 2, {b"k": b"2"}, []), bad], [letter(1), letter(2)])
    assert one.load("p") == Stored(1, {b"k": b"1"})
    assert offsets(tmp_path) == [0]
    one.write([PartitionChange("p", 3, {b"k": b"3"})], [letter(1)])
    assert one.load("p") == Stored(3, {b"k": b"3"})
    assert offsets(tmp_path) == [0, 1]


def test_an_interrupt_in_a_commit_leaves_nothing_of_it(make, tmp_path, monkeypatch):
    one = make()
    one.write([PartitionChange("p", 1, {b"k": b"1"})], [letter(0)])

    class Interrupted(dict[bytes, bytes]):
        def items(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.write(
            [PartitionChange("p", 2, {b"k": b"2"}), PartitionChange("q", 2, Interrupted())], [letter(1)]
        )
    assert one.load("p") == Stored(1, {b"k": b"1"})
    one.write([PartitionChange("p", 2, {})], [letter(1)])
    assert offsets(tmp_path) == [0, 1]


@pytest.mark.parametrize("name", ["checkpoint.db", "checkpoint.db.lock"])
def test_files_removed_from_under_it_fence_it(make, tmp_path, name):
    one = make()
    one.write([PartitionChange("p", 1, {b"k": b"1"})], [])
    (tmp_path / name).unlink()
    with pytest.raises(FencedError, match="removed or replaced"):
        one.write([PartitionChange("p", 2, {})], [])
    other = make()
    other.open()
    with pytest.raises(LockedError):
        one.load("p")


def test_scan_is_of_one_moment(make, tmp_path):
    one = make()
    one.write([PartitionChange(name, 1, {b"k": b"1"}) for name in "abc"], [])
    scan = scan_sqlite(tmp_path / "checkpoint.db")
    assert next(scan) == ("a", Stored(1, {b"k": b"1"}))
    one.write([PartitionChange(name, 2, {b"k": b"2"}) for name in "abc"], [])
    assert list(scan) == [("b", Stored(1, {b"k": b"1"})), ("c", Stored(1, {b"k": b"1"}))]
    assert {stored.next_offset for _, stored in one.scan()} == {2}


def test_scan_where_nothing_may_be_written(make, tmp_path):
    one = make()
    one.write([PartitionChange("a", 1, {b"k": b"1"})], [])
    one.close()
    directory = Path(tempfile.mkdtemp())  # the test's own directory is closed to others
    try:
        shutil.copy(tmp_path / "checkpoint.db", directory / "c.db")
        directory.chmod(0o555)
        child = os.fork()
        if not child:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)  # for root nothing is forbidden
                seen = dict(scan_sqlite(directory / "c.db"))
                os._exit(7 if seen == {"a": Stored(1, {b"k": b"1"})} else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert [path.name for path in directory.iterdir()] == ["c.db"]
    finally:
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_the_write_ahead_log_stays_bounded(make, tmp_path):
    one = make()
    state = {b"%d" % n: bytes(8192) for n in range(128)}
    for step in range(60):
        one.write([PartitionChange("p", step, state)], [])
    used = sum(path.stat().st_size for path in tmp_path.glob("checkpoint.db*"))
    assert used < 16 * 1024 * 1024


def test_what_is_deleted_makes_room_for_what_comes(make, tmp_path):
    one = make()
    for step in range(40):
        new = {b"%d-%d" % (step, n): bytes(4096) for n in range(50)}
        old = [b"%d-%d" % (step - 1, n) for n in range(50)]
        one.write([PartitionChange("p", step, new, old)], [])
    one.close()
    assert (tmp_path / "checkpoint.db").stat().st_size < 2_000_000
