"""Histories of a few made-up rows, written through the history's own writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlmon.history.config import HistoryConfig
from mlmon.history.store import History
from mlmon.history.tables import TABLES, Parcel, chunks_of
from mlmon.testing import ManualClock
from mlmon.windows import Window

if TYPE_CHECKING:
    from pathlib import Path

START_US = 1_760_054_400_000_000  # midnight
MINUTE_US = 60_000_000
SERIES = {"service": "shop", "model": "intent", "version": "1", "deployment": "stable", "segment": ""}


def writer(directory: Path, compact_files: int = 1000) -> History:
    config = HistoryConfig(directory=str(directory), compact_files=compact_files)
    return History(config, ManualClock(START_US + 3_600_000_000))


def reading(metric: str, value: float, **more: Any) -> dict[str, Any]:
    return {**SERIES, "metric": metric, "value": value, "n": 100, "labels": [], "attributes": [], **more}


def write_window(history: History, number: int, **tables: list[dict[str, Any]]) -> None:
    """Rows of a window, a minute long."""
    window = Window(START_US + number * MINUTE_US, START_US + (number + 1) * MINUTE_US)
    made = {name: _table(name, rows, window) for name, rows in tables.items()}
    history.write(f"window-{number}", chunks_of(Parcel(window, made)))


def _table(name: str, rows: list[dict[str, Any]], window: Window) -> pa.Table:
    times = {"window_start": window.start_us, "window_end": window.end_us}
    full = [{**dict.fromkeys(TABLES[name].names), **times, **row} for row in rows]
    return pa.Table.from_pylist(full, TABLES[name])
