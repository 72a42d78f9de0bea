"""Real processes: killed writers, slots among processes, a full disk."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time

import pytest

from mlmon.errors import SourceError
from mlmon.sources.spool import SpoolWriter, SpoolWriterConfig
from mlmon.sources.spool_segment import list_slots

#: Appends numbered records of up to 2 MB and notes each number once its append has returned.
KILLED = """
import os, random, sys
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig
directory, number, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pick = random.Random(seed)
notes = os.open(sys.argv[4], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
writer = SpoolWriter(SpoolWriterConfig(directory, segment_bytes=4 << 20, max_bytes=1 << 30))
while True:
    size = pick.choice((10, 500, 30_000, 2_000_000))
    writer.append(b"%d." % number + b"x" * size)
    os.write(notes, b"%d\\n" % number)
    number += 1
"""


def test_a_writer_killed_again_and_again_under_a_tailing_reader(tmp_path, tailer):
    spool, notes = tmp_path / "spool", tmp_path / "notes"
    spool.mkdir()
    follow = tailer(spool)
    pick = random.Random(5)  # noqa: S311 - moments of death
    read, torn_or_unnoted, start = [], 0, 0
    for kill in range(14):
        command = [sys.executable, "-c", KILLED, str(spool), str(start), str(kill), str(notes)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as writer:
            _wait_for(lambda p=writer, s=start: p.poll() is not None or _last(notes) >= s + 7)
            until = time.monotonic() + pick.uniform(0.0, 0.05)
            while time.monotonic() < until:
                follow.poll(0)
                _gather(follow, read)
            writer.kill()
            assert writer.wait() == -9, writer.stderr.read()
        follow.drain()
        _gather(follow, read)
        noted = _last(notes)
        # at most the one record whose append was under way is in the log and not noted
        torn_or_unnoted += read[-1] - noted
        assert read[-1] in (noted, noted + 1)
        start = read[-1] + 1
    assert read == list(range(start))
    assert follow.corrupt == {}
    assert set(follow.lost.values()) == {0}
    assert list_slots(spool) == ["slot-0"]
    assert tailer(spool).drain().offsets["slot-0"] == list(range(start))
    assert start > 100


def _gather(follow, read):
    for value in follow.values.pop("slot-0", ()):
        read.append(int(value[: value.index(b".")]))


def _last(notes):
    return int(notes.read_bytes().split()[-1]) if notes.exists() and notes.stat().st_size else -1


def _wait_for(done):
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


HOLD = """
import sys
from mlmon.errors import SourceError
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig
try:
    writer = SpoolWriter(SpoolWriterConfig(sys.argv[1], max_slots=3))
    writer.append(writer.slot.encode())
    print(writer.slot, flush=True)
    sys.stdin.read()
except SourceError as error:
    print(error, flush=True)
"""


def test_processes_never_share_a_slot_and_a_dead_one_leaves_its_free(tmp_path):
    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    running: list[subprocess.Popen[str]] = []
    try:
        for _ in range(4):
            start()
        said = [process.stdout.readline().strip() for process in running]
        refused = [index for index, line in enumerate(said) if not line.startswith("slot-")]
        assert len(refused) == 1
        assert re.match(r"all 3 slots of the spool .* are held", said[refused[0]])
        assert sorted(line for line in said if line.startswith("slot-")) == ["slot-0", "slot-1", "slot-2"]
        victim = said.index("slot-1")
        running[victim].kill()
        running[victim].wait()
        assert start().stdout.readline().strip() == "slot-1"
    finally:
        for process in running:
            process.kill()
            process.communicate()


LIMITED = """
import resource, sys
from mlmon.errors import SourceError
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig
writer = SpoolWriter(SpoolWriterConfig(sys.argv[1]))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
written = 0
try:
    while True:
        writer.append(b"%d." % written + b"x" * 999)
        written += 1
except SourceError as error:
    assert "cannot be written" in str(error), error
refused = 0
for _ in range(3):
    try:
        writer.append(b"y" * 999)
    except SourceError:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
offset = writer.append(b"after")
print(written, refused, offset)
"""


def test_a_file_that_may_not_grow_keeps_whole_frames_only(tmp_path, tailer):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    written, refused, offset = map(int, run.stdout.split())
    assert (refused, offset) == (3, written)
    follow = tailer(tmp_path).drain()
    assert follow.offsets["slot-0"] == list(range(written + 1))
    assert follow.values["slot-0"][-1] == b"after"
    assert (follow.corrupt, follow.lost["slot-0"]) == ({}, 0)


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting a small disk needs root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_is_told_and_recovered_from(small_disk, tailer):
    spool = small_disk / "spool"
    writer = SpoolWriter(SpoolWriterConfig(str(spool), segment_bytes=1 << 20))
    follow = tailer(spool)
    (small_disk / "filler").write_bytes(bytes(200_000))
    written = 0
    told: list[str] = []
    while len(told) < 3:
        try:
            assert writer.append(b"%d." % written + b"x" * 7001) == written
            written += 1
        except SourceError as error:
            told.append(str(error))
        follow.poll(0)
    assert 20 < written < 100
    assert all("No space left" in text or "bytes were written" in text for text in told)
    (small_disk / "filler").unlink()
    for n in range(written, written + 10):
        assert writer.append(b"%d." % n + b"x" * 7001) == n
    writer.close()
    follow.drain()
    assert follow.offsets["slot-0"] == list(range(written + 10))
    assert follow.values["slot-0"] == [b"%d." % n + b"x" * 7001 for n in range(written + 10)]
    assert (follow.corrupt, follow.lost["slot-0"]) == ({}, 0)
    follow.source.close()
