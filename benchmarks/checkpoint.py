"""What a checkpoint costs by size of the state it writes, and what the spool carries.

    python benchmarks/checkpoint.py [--rounds 9] [--megabytes 200]

Checkpoint: wall milliseconds of one commit that rewrites the whole state, as records of 8 KiB, median of the
rounds, beside writing the same bytes to a plain file. Most commits write less, since only changed records are
written. Spool: one writer process' records of 25 KB, about 256 events, then the same read back, beside one
`os.write` of the same bytes to a plain file. The files lie in the page cache: what is measured is mlmon.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from mlmon.checkpoint.base import PartitionChange
from mlmon.checkpoint.letters import DeadLetterConfig, DeadLetterFile
from mlmon.checkpoint.sqlite import SqliteCheckpoint, SqliteCheckpointConfig
from mlmon.sources.spool import SpoolConfig, SpoolSource, SpoolWriter, SpoolWriterConfig

SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20)
RECORD_BYTES = 8 << 10
SPOOL_RECORD_BYTES = 25_000


def commit_ms(directory: Path, size: int, rounds: int, synchronous: str) -> float:
    """Median milliseconds to commit `size` bytes of state over the same keys."""
    letters = DeadLetterFile(DeadLetterConfig(str(directory / "letters")))
    config = SqliteCheckpointConfig(str(directory / f"{synchronous}-{size}.db"), synchronous)  # type: ignore[arg-type]
    checkpoint = SqliteCheckpoint(config, letters)
    times = []
    for step in range(rounds + 2):
        puts = {b"key-%d" % n: os.urandom(RECORD_BYTES) for n in range(size // RECORD_BYTES)}
        start = time.perf_counter()
        checkpoint.write([PartitionChange("slot-0", step, puts)], [])
        times.append((time.perf_counter() - start) * 1e3)
    checkpoint.close()
    return statistics.median(times[2:])  # the first two make the file as large as it will be


def plain_ms(directory: Path, size: int, rounds: int) -> float:
    """Median milliseconds to write `size` bytes to a file."""
    data = os.urandom(size)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        (directory / "plain").write_bytes(data)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def spool_rates(directory: Path, megabytes: int) -> dict[str, float]:
    """Records per second by what was done with them."""
    count = megabytes * 1_000_000 // SPOOL_RECORD_BYTES
    value = os.urandom(SPOOL_RECORD_BYTES)
    headers = [("content-type", b"application/vnd.apache.arrow.stream")]
    rates = {}

    fd = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    start = time.perf_counter()
    for _ in range(count):
        os.write(fd, value)
    rates["bare os.write"] = count / (time.perf_counter() - start)
    os.close(fd)
    (directory / "bare").unlink()

    writer = SpoolWriter(SpoolWriterConfig(str(directory / "spool"), max_bytes=1 << 40))
    start = time.perf_counter()
    for _ in range(count):
        writer.append(value, headers)
    rates["spool append"] = count / (time.perf_counter() - start)
    writer.close()

    source = SpoolSource(SpoolConfig(str(directory / "spool"), stop_at_end=True))
    for name in source.poll(0).assigned:
        source.seek(name, None)
    start, read = time.perf_counter(), 0
    while not source.finished:
        read += sum(len(chunk.records) for chunk in source.poll(0).chunks)
    rates["spool read"] = read / (time.perf_counter() - start)
    assert read == count
    source.close()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"{'state':>10} {'normal ms':>10} {'full ms':>10} {'plain file ms':>14} {'normal MB/s':>12}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for size in SIZES:
            normal, full = (commit_ms(directory, size, options.rounds, mode) for mode in ("normal", "full"))
            plain = plain_ms(directory, size, options.rounds)
            rate = size / normal / 1e3
            print(f"{size >> 10:>6} KiB {normal:>10.2f} {full:>10.2f} {plain:>14.2f} {rate:>12.0f}")
    print(f"\n{'25 KB records':<16} {'records/s':>10} {'MB/s':>8}")
    with tempfile.TemporaryDirectory() as name:
        for label, rate in spool_rates(Path(name), options.megabytes).items():
            print(f"{label:<16} {rate:>10.0f} {rate * SPOOL_RECORD_BYTES / 1e6:>8.0f}")


if __name__ == "__main__":
    main()
