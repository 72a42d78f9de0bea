"""Windows for the history, made by real monitors, and histories in temporary directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monitor_kit import batch_of

from mlmon.catalog import drift as catalog
from mlmon.history.config import HistoryConfig
from mlmon.history.outbox import encode_window
from mlmon.history.store import History
from mlmon.monitors.base import Reading, SeriesKey
from mlmon.monitors.samples import SamplesConfig, SamplesMonitor
from mlmon.monitors.traffic import TrafficConfig, TrafficMonitor
from mlmon.testing import ManualClock
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: 2026-01-01 00:00 UTC.
DAY_US = 1_767_225_600_000_000
MINUTE_US = 60_000_000
SERIES = SeriesKey("search", "intent", "1", "stable", "language=en")
TRAFFIC = TrafficMonitor(TrafficConfig())
SAMPLES = SamplesMonitor(SamplesConfig(rows=4))


def window_at(number: int) -> Window:
    return Window(DAY_US + number * MINUTE_US, DAY_US + (number + 1) * MINUTE_US)


def readings_of(window: Window, number: int) -> list[Reading]:
    labels = (*SERIES, "features", "amount")
    return [
        Reading(
            catalog.EFFECT,
            labels,
            float(number),
            window,
            100,
            80.5,
            threshold=0.2,
            p_value=0.04,
            interval=(0.1, 0.9),
            attributes={"bin 3": "0.25"},
        ),
        Reading(catalog.PAGER_ALARM, SERIES[:2], 1.0, window, 100, 80.5),
        Reading(catalog.DISTANCE, (*labels, "psi"), 0.5, window, 100, 80.5),
    ]


def summaries_of(number: int, events: int = 12) -> dict[str, dict[SeriesKey, Any]]:
    rows = [
        {
            "event_id": f"event {number}-{index}",
            "event_time": DAY_US + number * MINUTE_US + index,
            "latency_seconds": (index + 1) / 16,
            "prediction": f"class {index % 3}",
            "embedding": [0.5, -1.5, index / 8],
            "segments": [("language", "en")],
            "sampling_weight": 2.0,
        }
        for index in range(events)
    ]
    traffic, samples = TRAFFIC.summary(), SAMPLES.summary()
    for summary in (traffic, samples):
        summary.update(batch_of(rows))
    return {"traffic": {SERIES: traffic}, "samples": {SERIES: samples}}


def parcel(number: int, events: int = 12) -> list[bytes]:
    """Chunks of the window that starts `number` minutes into 2026."""
    window = window_at(number)
    return encode_window(window, readings_of(window, number), summaries_of(number, events))


def key_of(number: int) -> str:
    return f"events-0/{number}"


def history_in(directory: Path, clock: ManualClock | None = None, **settings: Any) -> History:
    config = HistoryConfig(directory=str(directory), **settings)
    return History(config, clock or ManualClock(DAY_US))


def figures(history: History) -> Mapping[str, float]:
    """Its samples by short name."""
    return {
        sample.metric.name.removeprefix("mlmon_history_"): float(sample.value)  # type: ignore[arg-type]
        for sample in history.samples(pending=3)
    }
