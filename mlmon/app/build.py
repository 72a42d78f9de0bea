"""From a configuration to a running sidecar: the only place that knows every part."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from mlmon.app.canary_route import CanaryRoute
from mlmon.app.deliver import Delivery
from mlmon.app.own import own_samples
from mlmon.app.sidecar import Parts, Sidecar
from mlmon.baseline.model import no_parameters
from mlmon.baseline.store import BaselineStore
from mlmon.catalog.drift import BASELINE, BASELINE_TIME
from mlmon.checkpoint.kafka import KafkaCheckpoint
from mlmon.checkpoint.letters import DeadLetterFile
from mlmon.checkpoint.sqlite import SqliteCheckpoint
from mlmon.clock import SystemClock
from mlmon.drift.judge import Judge
from mlmon.engine import Engine
from mlmon.errors import ConfigError
from mlmon.events.codecs import Decoder
from mlmon.history.outbox import drift_fields, encode_window
from mlmon.history.store import History
from mlmon.monitors import Surroundings, build_monitors
from mlmon.monitors.base import Sample
from mlmon.monitors.tokenizer import no_tables
from mlmon.monitors.versions import nothing_expected
from mlmon.publish.http import Health, MetricsServer
from mlmon.publish.prometheus import Snapshot, SnapshotCollector
from mlmon.publish.readings import ReadingBoard
from mlmon.registry.file import VersionRegistry
from mlmon.registry.tokenizers import load_tokenizer
from mlmon.sources.kafka import KafkaSource
from mlmon.sources.replay import ReplaySource
from mlmon.sources.spool import SpoolSource
from mlmon.windows import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlmon.checkpoint.base import Checkpoint
    from mlmon.clock import Clock
    from mlmon.config import Config
    from mlmon.engine import Published
    from mlmon.monitors.base import Monitor, SeriesKey, Summary
    from mlmon.monitors.tokenizer import TokenCounter
    from mlmon.publish.connections import Reply
    from mlmon.sources.base import Source

__all__ = ["Running", "build", "build_source", "open_for_reading", "owner_name", "token_tables"]

#: Readings of windows older than this many windows before the newest are no longer shown.
_SHOWN_WINDOWS = 10
_END = 2**62


@dataclass(frozen=True, slots=True)
class Running:
    """A sidecar with all its parts, ready to step.

    Attributes:
        sidecar: the loop.
        source: its log.
        engine: its counts.
        collector: what a scrape sees.
        server: the HTTP port, bound but not yet serving.
    """

    sidecar: Sidecar
    source: Source
    engine: Engine
    checkpoint: Checkpoint
    collector: SnapshotCollector
    server: MetricsServer

    def run(self, stop: Callable[[], bool]) -> None:
        """Serve metrics and step until `stop()` or the log's end; then commit and leave."""
        self.server.start()
        try:
            self.sidecar.run(stop)
        finally:
            self.close()

    def close(self) -> None:
        """Leave the group, free the state and the port."""
        self.source.close()
        self.checkpoint.close()
        self.server.close()


def owner_name() -> str:
    """Host and process, to tell sidecars apart."""
    return f"{socket.gethostname()}:{os.getpid()}"


def build(config: Config, clock: Clock | None = None) -> Running:
    """Make every part and connect them. Binds the port; opens no connection to a broker yet.

    Raises:
        ConfigError: a file the configuration names cannot be used.
        SourceError: the log cannot be opened, or the port is taken.
    """
    clock = SystemClock() if clock is None else clock
    registry = (
        None if config.registry.versions_file is None else VersionRegistry(config.registry.versions_file)
    )
    tables = token_tables(config.registry.tokenizers)
    baselines = load_baselines(config)
    parameters = no_parameters if baselines is None else baselines.parameters
    expected = nothing_expected if registry is None else registry
    monitors = build_monitors(config.monitor_configs, Surroundings(tables, expected, parameters))
    judge = None
    if baselines is not None:
        judge = Judge(baselines, config.alerts, config.drift, config.windows.size_seconds)
    history = History(config.history, clock) if config.history.enabled else None
    encode = None
    if history is not None:
        encode = partial(encode_window, fields=drift_fields(monitors, parameters))
    engine = Engine(config.engine, monitors, owner_name(), judge, encode)
    source = build_source(config, clock)
    checkpoint = _build_checkpoint(config, source, clock)
    publisher = _Publisher(monitors, engine, clock, config)
    parts = Parts(
        source,
        Decoder(config.decode, engine.fields),
        engine,
        checkpoint,
        publisher.publish,
        clock,
        refresh=(lambda: None) if registry is None else registry.refresh,
        deliver=(lambda: None) if history is None else Delivery(engine, history, clock),
    )
    sidecar = Sidecar(config.loop, parts)
    live: list[Callable[[], Iterable[Sample]]] = [
        lambda: own_samples(sidecar.status, engine, clock, config.source.kind),
        publisher.board.samples,
        lambda: publisher.pager,
        lambda: server.samples(),
    ]
    if registry is not None:
        live.append(registry.samples)
    if baselines is not None:
        covered = tuple(baseline_samples(baselines))
        live.append(lambda: covered)
    if history is not None:
        live.append(lambda: history.samples(len(engine.outbox)))
    collector = publisher.collector = SnapshotCollector(monitors, live)
    routes = _routes(config, clock)
    server = MetricsServer(config.http, collector, _health(sidecar, source, config, clock), routes=routes)
    return Running(sidecar, source, engine, checkpoint, collector, server)


def _routes(config: Config, clock: Clock) -> dict[str, Callable[[str], Reply]]:
    """What the port answers beside metrics: canary verdicts, where there is a history to read them from."""
    if not config.history.enabled:
        return {}
    answer = CanaryRoute(config, clock).answer
    return {"/canary/verdict": answer, "/canary/gate": answer}


def load_baselines(config: Config) -> BaselineStore | None:
    """The configured baselines, or None where there are none.

    Raises:
        BaselineError: a file cannot be read, is damaged, or has a digest that is not expected.
    """
    if not config.baseline.files:
        return None
    return BaselineStore.load(config.baseline.files, config.baseline.digests)


def baseline_samples(baselines: BaselineStore) -> Iterator[Sample]:
    """Which baseline covers which service, model and version."""
    for scope, held in baselines.scopes.items():
        yield Sample(BASELINE, (*scope, baselines.digest_of(scope)), 1.0)
        yield Sample(BASELINE_TIME, tuple(scope), held.last_us / 1e6)


def build_source(config: Config, clock: Clock) -> Source:
    """The configured log."""
    if config.source.kind == "kafka":
        return KafkaSource(config.source.kafka)
    if config.source.kind == "spool":
        return SpoolSource(config.source.spool, clock)
    if config.source.replay is None:
        raise ConfigError('source.kind is "replay", but [source.replay] names no files: add paths = [...]')
    return ReplaySource(config.source.replay, clock)


def _build_checkpoint(config: Config, source: Source | None, clock: Clock) -> Checkpoint:
    kafka = config.source.kafka
    if config.checkpoint_kind == "kafka":
        claims = cast("KafkaSource | None", source)
        return KafkaCheckpoint(config.checkpoint.kafka, kafka, kafka.group, kafka.topics, claims)
    return SqliteCheckpoint(config.checkpoint.sqlite, DeadLetterFile(config.dead_letters, clock))


def open_for_reading(config: Config) -> Checkpoint:
    """The configured checkpoint, for `scan` only: takes no lock and joins no group."""
    return _build_checkpoint(config, None, SystemClock())


def token_tables(paths: dict[str, str]) -> Callable[[str, str], TokenCounter | None]:
    """Look-up of token tables by model and version.

    Args:
        paths: tokenizer.json by "MODEL/VERSION" or "MODEL".

    Raises:
        ConfigError: a file cannot be read.
    """
    if not paths:
        return no_tables
    tables = {name: load_tokenizer(path).table for name, path in paths.items()}

    def find(model: str, version: str) -> TokenCounter | None:
        return tables.get(f"{model}/{version}") or tables.get(model)

    return find


class _Publisher:
    """Turns what a commit made public into the next snapshot."""

    def __init__(self, monitors: Sequence[Monitor], engine: Engine, clock: Clock, config: Config) -> None:
        self.board = ReadingBoard()
        self.pager: Sequence[Sample] = ()
        self.collector: SnapshotCollector | None = None
        self._counters: Mapping[str, Mapping[SeriesKey, Summary]] = {m.name: {} for m in monitors}
        self._engine = engine
        self._clock = clock
        self._shown_us = _SHOWN_WINDOWS * config.windows.size_us
        self._shown_seconds = self._shown_us / 1e6 + config.windows.idle_timeout_seconds
        self._newest = clock.monotonic()

    def publish(self, published: Published | None) -> None:
        """Publish a commit. None, when there was nothing to commit, only lets old readings go."""
        if published is not None:
            self._counters = published.counters
            self.board.add(published.readings)
            if published.readings:
                self._newest = self._clock.monotonic()
        self.pager = self._engine.standing()
        if self._engine.watermark_us != NEVER:
            self.board.expire(self._engine.watermark_us - self._shown_us)
        if self._clock.monotonic() - self._newest > self._shown_seconds:
            self.board.expire(_END)  # nothing closes any more: what stands there is no news
        if self.collector is not None:
            readings, now = self.board.current(), self._clock.monotonic()
            self.collector.publish(Snapshot(self._counters, readings, taken_at=now))


def _health(sidecar: Sidecar, source: Source, config: Config, clock: Clock) -> Callable[[], Health]:
    stall = config.loop.stall_seconds

    def health() -> Health:
        status = sidecar.status
        idle = clock.monotonic() - status.last_step
        reasons = []
        if idle > stall:
            reasons.append(f"the loop made no step for {idle:.0f} s")
        if getattr(source, "stalled", False):
            reasons.append("the source does not answer")
        if status.problem:
            reasons.append(status.problem)
        if not status.loaded and not source.finished:
            reasons.append("no partition is assigned yet")
        if status.waiting:
            reasons.append(f"{status.waiting} partitions wait for their state")
        return Health(alive=idle <= 10 * stall, ready=not reasons, reasons=tuple(reasons))

    return health
