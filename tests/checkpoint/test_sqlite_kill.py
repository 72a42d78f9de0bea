"""A process that commits is killed again and again: every commit is whole or absent, letters with it."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from mlmon.checkpoint.letters import DeadLetterConfig, DeadLetterFile, read_letters
from mlmon.checkpoint.sqlite import SqliteCheckpoint, SqliteCheckpointConfig, scan_sqlite

#: Commit n writes n to every record of both partitions, moves both positions to n and adds n % 4 letters.
COMMITTER = """
import os, sys
from mlmon.checkpoint.base import DeadLetter, PartitionChange
from mlmon.checkpoint.letters import DeadLetterConfig, DeadLetterFile
from mlmon.checkpoint.sqlite import SqliteCheckpoint, SqliteCheckpointConfig
from mlmon.errors import DecodeReason
from mlmon.events.record import Reject

directory = sys.argv[1]
letters = DeadLetterFile(DeadLetterConfig(directory + "/letters", file_bytes=20_000))
checkpoint = SqliteCheckpoint(SqliteCheckpointConfig(directory + "/c.db", sys.argv[2]), letters)
stored = checkpoint.load("a")
number = stored.next_offset if stored else 0
while True:
    number += 1
    value = b"%d" % number * 1000
    puts = {b"%d" % key: value for key in range(20)}
    puts[b"only-%d" % number] = b""
    rejects = [Reject(number, row, DecodeReason.EMPTY, "", b"p" * 500, ()) for row in range(number % 4)]
    checkpoint.write(
        [PartitionChange(name, number, puts, [b"only-%d" % (number - 1)]) for name in "ab"],
        [DeadLetter("a", reject) for reject in rejects],
    )
    os.write(1, b"%d\\n" % number)
"""


@pytest.mark.parametrize(("synchronous", "kills"), [("normal", 12), ("full", 4)])
def test_every_commit_is_whole_or_absent_with_its_letters(tmp_path, synchronous, kills):
    pick = random.Random(3)  # noqa: S311 - moments of death
    last = 0
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMITTER, str(tmp_path), synchronous],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        first = process.stdout.readline()
        assert first, process.stderr.read()
        assert int(first) == last + 1
        time.sleep(pick.uniform(0, 0.04))  # a random moment, not a wait for something
        process.kill()
        with process:  # closes and waits; communicate() would miss what readline has read ahead
            said = process.stdout.read().split(b"\n")[:-1]
        told = int(said[-1]) if said else int(first)
        last = _check(tmp_path)
        assert last in (told, told + 1)
    assert last > kills * 3


def _check(directory) -> int:
    """Open after the crash as a new process would; return the number of the last commit."""
    letters = DeadLetterFile(DeadLetterConfig(str(directory / "letters"), file_bytes=20_000))
    checkpoint = SqliteCheckpoint(SqliteCheckpointConfig(str(directory / "c.db")), letters)
    checkpoint.open()
    stored = dict(checkpoint.scan())
    checkpoint.close()
    number = stored["a"].next_offset
    expected = {b"%d" % key: b"%d" % number * 1000 for key in range(20)} | {b"only-%d" % number: b""}
    for name in "ab":
        assert stored[name].next_offset == number
        assert stored[name].records == expected
    found = [(one.offset, one.row) for one in read_letters(directory / "letters")]
    assert found == [(n, row) for n in range(1, number + 1) for row in range(n % 4)]
    assert dict(scan_sqlite(directory / "c.db")) == stored
    return number
