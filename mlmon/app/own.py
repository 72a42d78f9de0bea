"""What mlmon says of itself, as samples: made at the scrape from the loop's status, so that ages grow when
the loop hangs. Label sets are bounded: partitions beyond `MAX_PARTITIONS` are summed up as `other`.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from typing import TYPE_CHECKING

from mlmon import __version__
from mlmon.catalog import sidecar as own
from mlmon.monitors.base import Sample
from mlmon.windows import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlmon.app.sidecar import Status
    from mlmon.catalog import Metric
    from mlmon.clock import Clock
    from mlmon.engine import Engine

__all__ = ["MAX_PARTITIONS", "own_samples"]

MAX_PARTITIONS = 256
_OTHER = "other"
_BY_PARTITION = {"events": own.EVENTS, "records": own.RECORDS, "late": own.LATE, "lost": own.LOST}


def own_samples(status: Status, engine: Engine, clock: Clock, source: str) -> Iterator[Sample]:
    """Samples of everything in `catalog.sidecar`, as of now. Any thread may call it."""
    yield from _counters(status, engine)
    yield from _gauges(status, engine, clock)
    yield from _lags(status, engine)
    yield Sample(own.BUILD, (__version__, platform.python_version(), source), 1.0)


def _counters(status: Status, engine: Engine) -> Iterator[Sample]:
    tallies = list(status.tallies.items())
    for what, metric in _BY_PARTITION.items():
        yield from _bounded(metric, ((name, float(tally[what, ""])) for name, tally in tallies), sum)
    kinds = ("series", "segment", "feature", "window", "partition", "history")
    overflow: dict[str, float] = dict.fromkeys(kinds, 0.0)
    reasons: dict[str, float] = defaultdict(float)
    dropped = 0
    for _, tally in tallies:
        dropped += tally["dropped", ""]
        for (what, label), count in list(tally.items()):
            if what == "overflow":
                overflow[label] += count
            elif what == "reject":
                reasons[label] += count
    overflow["window"] += engine.forced_windows
    overflow["partition"] += max(0, len(tallies) - MAX_PARTITIONS)
    yield from (Sample(own.OVERFLOW, (kind,), count) for kind, count in overflow.items())
    yield from (Sample(own.DECODE_ERRORS, (reason,), count) for reason, count in sorted(reasons.items()))
    yield Sample(own.DEAD_LETTERS, (), sum(reasons.values()))
    yield Sample(own.DROPPED, (), float(dropped))
    yield Sample(own.CHECKPOINTS, (), float(status.checkpoints))
    for kind in ("fenced", "error"):
        yield Sample(own.CHECKPOINT_FAILURES, (kind,), float(status.failures[kind]))
    yield Sample(own.SOURCE_ERRORS, (), float(status.source_errors))
    yield Sample(own.STATE_DISCARDED, (), float(engine.discarded))
    yield Sample(own.CLOSED_WINDOWS, (), float(status.closed_windows))


def _gauges(status: Status, engine: Engine, clock: Clock) -> Iterator[Sample]:
    yield Sample(own.SERIES, (), float(engine.series_count))
    yield Sample(own.OPEN_WINDOWS, (), float(status.open_windows))
    yield Sample(own.ASSIGNED, (), float(status.loaded))
    yield Sample(own.SPLIT_SERIES, (), float(status.split_series))
    if engine.watermark_us != NEVER:
        age = clock.now_us() - engine.watermark_us
        yield Sample(own.WATERMARK_AGE, (), max(0.0, age / 1e6))
    if status.last_commit is not None:
        yield Sample(own.CHECKPOINT_AGE, (), clock.monotonic() - status.last_commit)
        yield Sample(own.CHECKPOINT_SIZE, (), float(status.commit_bytes))
        yield Sample(own.CHECKPOINT_SECONDS, (), status.commit_seconds)


def _lags(status: Status, engine: Engine) -> Iterator[Sample]:
    lag = dict(status.lag)
    partitions = dict(engine.partitions)
    records = {name: float(at.records) for name, at in lag.items()}
    events = {}
    for name, waiting in records.items():
        meta = partitions[name].meta if name in partitions else None
        per_record = meta.events / meta.records if meta is not None and meta.records else 1.0
        events[name] = waiting * per_record
    seconds = {name: status.lag_seconds.get(name, 0.0) if at.records else 0.0 for name, at in lag.items()}
    yield from _bounded(own.LAG_RECORDS, records.items(), sum)
    yield from _bounded(own.LAG_EVENTS, events.items(), sum)
    yield from _bounded(own.LAG_SECONDS, seconds.items(), max)


def _bounded(
    metric: Metric, values: Iterable[tuple[str, float]], fold: Callable[[list[float]], float]
) -> Iterator[Sample]:
    """One sample a partition, those beyond the bound folded into `other`."""
    rows = sorted(values)
    for name, value in rows[:MAX_PARTITIONS]:
        yield Sample(metric, (name,), value)
    if len(rows) > MAX_PARTITIONS:
        yield Sample(metric, (_OTHER,), fold([value for _, value in rows[MAX_PARTITIONS:]]))
