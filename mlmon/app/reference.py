"""Events for a baseline: out of files, a spool, a range of a topic, or what arrives from now on.

Nothing here changes a log: no group is joined, no position committed, no checkpoint opened.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import msgspec

from mlmon.errors import ConfigError
from mlmon.sources.kafka_range import Bound, KafkaRange
from mlmon.sources.replay import ReplayConfig, ReplaySource
from mlmon.sources.spool import SpoolConfig, SpoolSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlmon.clock import Clock
    from mlmon.config import Config
    from mlmon.events.batch import EventBatch
    from mlmon.events.codecs import Decoder
    from mlmon.monitors.base import Monitor
    from mlmon.sources.base import Polled

__all__ = [
    "ReferenceEvents",
    "event_fields",
    "files_source",
    "live_source",
    "range_source",
    "spool_source",
]

_WAIT_SECONDS = 0.5


class ReadOnce(Protocol):
    """What is needed of a source here."""

    def poll(self, max_wait_seconds: float) -> Polled:
        """The next records."""
        ...

    def seek(self, partition: str, offset: int | None) -> None:
        """Begin where it is configured to."""
        ...

    @property
    def finished(self) -> bool:
        """Whether it was read to its end."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


def files_source(paths: tuple[str, ...], clock: Clock) -> ReadOnce:
    """Recorded events, read once."""
    return ReplaySource(ReplayConfig(paths=paths), clock)


def spool_source(directory: str, clock: Clock) -> ReadOnce:
    """A spool, up to its end as it is now."""
    return SpoolSource(SpoolConfig(directory=directory, stop_at_end=True), clock)


def range_source(config: Config, topics: tuple[str, ...], first: Bound, last: Bound) -> ReadOnce:
    """A range of topics; brokers and login are those of `[source.kafka]`."""
    return KafkaRange(msgspec.structs.replace(config.source.kafka, topics=topics), first, last)


def live_source(config: Config, clock: Clock) -> ReadOnce:
    """The configured log from its end on.

    Raises:
        ConfigError: the configured source is a replay, where nothing arrives.
    """
    if config.source.kind == "kafka":
        return KafkaRange(config.source.kafka, Bound(latest=True), None)
    if config.source.kind == "spool":
        return SpoolSource(msgspec.structs.replace(config.source.spool, start="latest"), clock)
    raise ConfigError('source.kind is "replay": nothing arrives there; name the files instead')


def event_fields(config: Config, monitors: Iterable[Monitor]) -> frozenset[str]:
    """The optional fields that a baseline keeps: what monitors read, and what the sample is told apart by."""
    own = {"model_version", "deployment", "sampling_weight", "probe_id"}
    if config.series.segment_by:
        own.add("segments")
    return frozenset(own).union(*(monitor.fields for monitor in monitors))


class ReferenceEvents:
    """Decoded events of a source, batch by batch.

    Args:
        source: what is read; it is not closed here.
        decoder: of its records.
        clock: tells the time.
        seconds: how long to read what has no end; None: to the end.

    Attributes:
        events: decoded so far.
        refused: records or rows that are no events, by reason.
    """

    def __init__(
        self, source: ReadOnce, decoder: Decoder, clock: Clock, seconds: float | None = None
    ) -> None:
        self._source, self._decoder, self._clock = source, decoder, clock
        self._seconds = seconds
        self._started = clock.monotonic()
        self.events = 0
        self.refused: Counter[str] = Counter()

    def progress(self) -> tuple[float, float | None]:
        """How much is read, and how much there is (None: not known): bytes, offsets or seconds."""
        if self._seconds is not None:
            return min(self._clock.monotonic() - self._started, self._seconds), self._seconds
        told = getattr(self._source, "progress", None)
        if told is None:
            return 0.0, None
        done, total = told()
        return float(done), float(total)

    def batches(self) -> Iterator[EventBatch]:
        """The events, in the order of the log.

        Raises:
            SourceError: the log cannot be read.
        """
        self._started = self._clock.monotonic()
        while not self._source.finished and not self._late():
            polled = self._source.poll(_WAIT_SECONDS)
            for partition in polled.assigned:
                self._source.seek(partition, None)
            for chunk in polled.chunks:
                decoded = self._decoder.decode(chunk.records, self._clock.now_us())
                self.refused.update(str(reject.reason) for reject in decoded.rejects)
                if decoded.batch is not None:
                    self.events += len(decoded.batch)
                    yield decoded.batch

    def _late(self) -> bool:
        return self._seconds is not None and self._clock.monotonic() - self._started >= self._seconds
