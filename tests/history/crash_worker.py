"""Runs the history in processes of their own, which are killed by SIGKILL.

    crash_worker.py points PARCELS ROOT        for each i a process that dies before its i-th step
    crash_worker.py endless PARCELS DIRECTORY  writes and joins until it is killed; prints durable keys

PARCELS is a MessagePack file of (key, chunks). A step is whatever changes the disk: a folder made, rows
written, a file or folder made durable, renamed or deleted.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow.parquet as pq

from mlmon.history.config import HistoryConfig
from mlmon.history.store import History
from mlmon.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_US = 1_767_225_600_000_000
POINTS = 500


def die_before_step(number: int) -> None:
    """From now on the steps are counted, and the process kills itself before one of them."""
    left = number

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return step(*args, **kwargs)

        return run

    os.fsync = counted(os.fsync)
    for name in ("replace", "unlink", "mkdir"):
        setattr(Path, name, counted(getattr(Path, name)))
    pq.ParquetWriter.write_table = counted(pq.ParquetWriter.write_table)
    pq.ParquetWriter.close = counted(pq.ParquetWriter.close)


def scenario(parcels: list[tuple[str, list[bytes]]], directory: Path) -> None:
    """Write windows, and join them when there are two."""
    config = HistoryConfig(directory=str(directory), compact_files=2)
    history = History(config, ManualClock(DAY_US))
    acknowledged = (directory.parent / f"{directory.name}.acknowledged").open("a")
    for key, chunks in parcels:
        history.write(key, chunks)
        acknowledged.write(f"{key}\n")
        acknowledged.flush()
        while history.maintain():
            pass


def points(parcels: list[tuple[str, list[bytes]]], root: Path) -> None:
    """Die at every step in turn, each in a fresh process and directory, until one comes through."""
    for number in range(POINTS):
        child = os.fork()
        if child == 0:
            die_before_step(number)
            scenario(parcels, root / f"{number:03d}")
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            print(number)
            return


def endless(parcels: list[tuple[str, list[bytes]]], directory: Path) -> None:
    """Write one parcel after the other, upkeep in between."""
    history = History(HistoryConfig(directory=str(directory), compact_files=5), ManualClock(DAY_US))
    for key, chunks in parcels:
        history.write(key, chunks)
        print(key, flush=True)
        history.maintain()


if __name__ == "__main__":
    what, source, place = sys.argv[1:]
    loaded = msgspec.msgpack.decode(Path(source).read_bytes(), type=list[tuple[str, list[bytes]]])
    {"points": points, "endless": endless}[what](loaded, Path(place))
