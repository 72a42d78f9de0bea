"""Objectives, events and an oracle for burns: one event at a time, in plain Python over lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from mlmon.engine import Engine, EngineConfig, Intake, SeriesConfig
from mlmon.events.batch import EventBatch
from mlmon.monitors.slo import SloConfig, SloMonitor
from mlmon.monitors.slo_objectives import JudgedObjective
from mlmon.slo.feasible import lower_bound
from mlmon.slo.windows import window_name
from mlmon.windows import NEVER, WindowConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlmon.engine import Published
    from mlmon.monitors.base import Reading
    from mlmon.monitors.slo_objectives import JudgedVersion, Judging

SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
#: A whole hour.
START = 1_700_000_000 * SECOND // HOUR * HOUR
WINDOWS = (300, 3600, 21_600, 86_400, 259_200)


class Event(NamedTuple):
    """A request, or with `request_us` the label of one."""

    time_us: int
    status: str | None = None
    latency: float | None = None
    label: str | None = None
    prediction: str | None = None
    request_us: int | None = None
    weight: float = 1.0
    service: str = "shop"
    deployment: str = "stable"


def at(us: int) -> datetime:
    """A time in µs as one in UTC."""
    return datetime.fromtimestamp(us / 1e6, UTC)


def objective(name: str, *versions: JudgedVersion, **changes: Any) -> JudgedObjective:
    """An objective over ten days with windows of 5 minutes to 3 days."""
    given: dict[str, Any] = {"window_seconds": 10 * 86_400, "coverage_window_seconds": 21_600} | changes
    return JudgedObjective(name, versions, burn_windows_seconds=given.pop("windows", WINDOWS), **given)


def batch_of(events: Sequence[Event]) -> EventBatch:
    """A batch."""
    stamp = pa.timestamp("us", tz="UTC")
    columns = {
        "event_id": pa.array([f"{number}" for number in range(len(events))]),
        "event_time": pa.array([event.time_us for event in events], stamp),
        "service": pa.array([event.service for event in events]),
        "model_name": pa.array(["intent"] * len(events)),
        "deployment": pa.array([event.deployment for event in events]),
        "status": pa.array([event.status for event in events], pa.string()),
        "latency_seconds": pa.array([event.latency for event in events], pa.float64()),
        "sampling_weight": pa.array([event.weight for event in events], pa.float64()),
    }
    if any(event.label is not None for event in events):
        columns["label"] = pa.array([event.label for event in events], pa.string())
        columns["prediction"] = pa.array([event.prediction for event in events], pa.string())
    if any(event.request_us is not None for event in events):
        columns["request_time"] = pa.array([event.request_us for event in events], stamp)
    return EventBatch(pa.record_batch(columns))


def told_us(event: Event) -> int:
    """The time of the request that an event is about."""
    return event.time_us if event.request_us is None else event.request_us


def outcome(one: JudgedObjective, event: Event) -> float | None:
    """What an event spoils in the newest version's currency: 0 where it is good, None if it is none."""
    version = None
    for candidate in one.versions:
        if candidate.effective_from is None or candidate.effective_from <= at(told_us(event)):
            version = candidate
    if version is None:
        return None
    if one.judge == "accuracy":
        bad = event.label is not None and event.label != event.prediction
        there = event.label is not None and event.prediction is not None
    elif one.judge == "latency":
        bad = event.latency is not None and event.latency > (version.limit_seconds or 0)
        there = event.request_us is None and event.latency is not None
    else:
        bad = event.status in ("error", "timeout")
        there = event.request_us is None
    return (one.budget / version.budget if bad else 0.0) if there else None


class Said(NamedTuple):
    """What an oracle says of one window: None where there are no events."""

    burn: float
    lower: float
    n_eff: float


def window_of(one: JudgedObjective, seconds: int, end_us: int, length_us: int = MINUTE) -> tuple[int, int]:
    """Where a window begins and ends: days begin with whole five minutes, the period with a whole hour."""
    buckets = 1 if seconds <= 21_600 else 5 if seconds in one.burn_windows_seconds else 60
    start = end_us - -(-seconds // 60) * length_us
    return start // (buckets * length_us) * (buckets * length_us), end_us


def judged(one: JudgedObjective, events: Iterable[Event], start_us: int, end_us: int) -> Said | None:
    """The burn of a window from first principles."""
    total = squared = bad = bad_squared = 0.0
    for event in events:
        spoilt = outcome(one, event) if start_us <= told_us(event) < end_us else None
        if spoilt is not None:
            total += event.weight
            squared += event.weight**2
            bad += event.weight * spoilt
            bad_squared += (event.weight * spoilt) ** 2
    if not total:
        return None
    good, rest = total - bad, max(squared - bad_squared, 0.0)
    below = good**2 * bad_squared + bad**2 * rest
    n = total**2 * bad * good / below if below else 0.0
    n = n if n > 0 else total**2 / squared
    share = bad / total
    lower = lower_bound(min(share, 1.0), n, one.confidence)
    return Said(share / one.budget, lower / one.budget, total**2 / squared)


def coverage(one: JudgedObjective, events: Iterable[Event], start_us: int, end_us: int) -> float | None:
    """Labelled requests among all; None without any."""
    told = requests = 0.0
    for event in events:
        if start_us <= told_us(event) < end_us:
            told += event.weight if outcome(one, event) is not None else 0.0
            requests += event.weight if event.request_us is None else 0.0
    return told / requests if requests else None


def oracle(
    objectives: Sequence[JudgedObjective], events: Sequence[Event], watermark_us: int, length_us: int = MINUTE
) -> dict[tuple[str, ...], float]:
    """Every gauge at a watermark, of one service: by name, objective and window.

    Args:
        objectives: all of them.
        events: what came, in any order.
        watermark_us: up to where.
        length_us: of a base bucket.
    """
    found: dict[tuple[str, ...], float] = {}
    events = [event for event in events if event.deployment != "shadow"]
    for one in objectives:
        scale = length_us / MINUTE
        end = int(watermark_us - one.label_delay_seconds * SECOND * scale) // length_us * length_us
        for seconds in (*one.burn_windows_seconds, one.window_seconds):
            said = judged(one, events, *window_of(one, seconds, end, length_us))
            if said is None:
                continue
            if seconds == one.window_seconds:
                found["mlmon_slo_period_burn_rate", one.name] = said.burn
                found["mlmon_slo_budget_remaining_ratio", one.name] = 1 - said.burn
                found["mlmon_slo_horizon_timestamp_seconds", one.name] = end / 1e6
                continue
            name = window_name(seconds)
            for metric, value in zip(("burn_rate", "burn_rate_lower", "effective_events"), said, strict=True):
                found[f"mlmon_slo_{metric}", one.name, name] = value
        if one.labelled and any(outcome(one, event) is not None for event in events):
            start, end = window_of(one, one.coverage_window_seconds, end, length_us)
            share = coverage(one, events, start, end)
            if share is not None:
                found["mlmon_slo_label_coverage_ratio", one.name] = share
    return found


@dataclass
class Run:
    """An engine with the monitor `slo` alone, and the store of its partitions."""

    judging: Judging
    partitions: tuple[str, ...] = ("p",)
    window_seconds: int = 60
    max_groups: int = 100
    state: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    engine: Engine = field(init=False)
    published: Published = field(init=False)

    def __post_init__(self) -> None:
        self.load()

    def load(self) -> None:
        """Begin anew from the store, as after a kill."""
        monitor: Any = SloMonitor(SloConfig(max_groups=self.max_groups))
        monitor.judging, monitor.fields = self.judging, self.judging.fields
        windows = WindowConfig(size_seconds=self.window_seconds, allowed_lateness_seconds=0)
        config = EngineConfig(windows, SeriesConfig())
        self.engine = Engine(config, [monitor], "me", None, self._keep)
        for name in self.partitions:
            self.assign(name)

    def _keep(self, window: Any, readings: Sequence[Reading], summaries: Any) -> list[bytes]:
        """What goes into the history."""
        self.readings = [*readings]
        return []

    def assign(self, name: str) -> None:
        """Take a partition over from the store."""
        self.engine.assign(name, self.offsets.get(name, 0), self.state.setdefault(name, {}), 0.0)

    def process(self, events: Sequence[Event], partition: str = "p") -> None:
        """Count a lot of events."""
        offset = self.engine.partitions[partition].next_offset + 1
        self.engine.process(partition, Intake(offset, batch_of(events) if events else None), 0.0)

    def prepare(self, *, final: bool = False) -> list[Any]:
        """What a commit would write."""
        lag = {name: 1 for name, held in self.engine.partitions.items() if held.meta.seen_us != NEVER}
        return self.engine.changes(START, 0.0, lag, final=final)

    def commit(self, *, final: bool = False) -> Mapping[str, dict[bytes, bytes]]:
        """Commit; returns what was written by partition."""
        changes = self.prepare(final=final)
        for change in changes:
            held = self.state[change.partition]
            for key in change.deletes:
                held.pop(key, None)
            held.update(change.puts)
            self.offsets[change.partition] = change.next_offset
        self.published = self.engine.committed()
        return {change.partition: dict(change.puts) for change in changes}

    def shown(self, service: str = "shop") -> dict[tuple[str, ...], float]:
        """Gauges of one service: by name, objective and window."""
        return {
            (sample.metric.name, *sample.labels[2:]): float(sample.value)  # type: ignore[arg-type]
            for sample in self.engine.standing()
            if sample.labels[:1] == (service,)
        }

    def burns(self, name: str) -> dict[bytes, bytes]:
        """The ledger's records of a partition in the store."""
        return {key: value for key, value in self.state[name].items() if key.startswith(b"b")}
