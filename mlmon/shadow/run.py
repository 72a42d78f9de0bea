"""The evaluator's loop: read a lot from the mirror, replay it, send its evaluations, commit, report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mlmon.attach.emitter import Emitter
from mlmon.attach.kafka_sink import KafkaSink
from mlmon.attach.sinks import SpoolSink
from mlmon.clock import SystemClock
from mlmon.errors import ConfigError, SourceError
from mlmon.shadow.compare import evaluation
from mlmon.shadow.evaluate import Evaluator
from mlmon.shadow.reading import open_mirror
from mlmon.shadow.replay import Replay
from mlmon.shadow.report import WindowSums

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlmon.clock import Clock
    from mlmon.shadow.config import ShadowConfig
    from mlmon.shadow.reading import MirrorReader
    from mlmon.shadow.report import Outcome, WindowReport

__all__ = ["Parts", "Shadow", "build_shadow"]

log = logging.getLogger(__name__)

#: Windows that are filled at a time; requests come from the mirror nearly in order.
_OPEN = 2
#: How long a log that does not take the evaluations is waited for before the lot is given back.
_FLUSH_SECONDS = 60.0
_WAIT_SECONDS = 1.0
_PRODUCTION = "production"


class Parts(NamedTuple):
    """What the loop works with; `emitter` is None where no events are wanted."""

    reader: MirrorReader
    reference: Replay
    production: Replay | None
    emitter: Emitter | None


class Shadow:
    """Evaluates a mirror. One thread.

    Args:
        config: what is compared.
        parts: mirror, servers and log; closed by `close`.
        clock: says when an evaluation was made.
        tell: called with each window's report when it is complete.
    """

    def __init__(
        self,
        config: ShadowConfig,
        parts: Parts,
        clock: Clock | None = None,
        tell: Callable[[WindowReport], None] | None = None,
    ) -> None:
        self._config, self._parts = config, parts
        self._clock = clock or SystemClock()
        self._tell = tell
        self._evaluator = Evaluator(config, parts.reference, parts.production)
        self._windows: dict[tuple[str, str], dict[int, WindowSums]] = {}

    def step(self, wait_seconds: float = _WAIT_SECONDS) -> int:
        """Evaluate the next lot; returns how many requests it had, 0 when none came.

        Raises:
            SourceError: the mirror cannot be read, or the log took no evaluations for a minute. The lot is
                not committed then, and comes again.
        """
        records = self._parts.reader.poll(self._config.lot, wait_seconds)
        if not records:
            return 0
        outcomes = self._evaluator.evaluate(records)
        self._send(outcomes)
        self._parts.reader.commit()
        for outcome in outcomes:
            self._count(outcome)
        return len(records)

    def finish(self) -> None:
        """Report the windows that are open."""
        for windows in self._windows.values():
            for start in sorted(windows):
                self._report(windows.pop(start))

    def close(self) -> None:
        """Free mirror, servers and log."""
        self._parts.reader.close()
        for server in (self._parts.reference, self._parts.production):
            if server is not None:
                server.close()
        if self._parts.emitter is not None:
            self._parts.emitter.close()

    def _send(self, outcomes: list[Outcome]) -> None:
        emitter = self._parts.emitter
        if emitter is None:
            return
        before = emitter.stats().dropped
        for outcome in outcomes:
            if outcome.comparison is not None and outcome.comparison.says_anything:
                masked = next((count for name, count, _ in outcome.masked if name == _PRODUCTION), None)
                emitter.emit(
                    evaluation(
                        outcome.record,
                        outcome.comparison,
                        self._parts.reference.name,
                        masked,
                        self._clock.now_us(),
                    )
                )
        if not emitter.flush(_FLUSH_SECONDS):
            raise SourceError(
                f"the log took no evaluations for {_FLUSH_SECONDS:g} s: see [shadow.events]; the mirrored "
                f"requests "
                "are not committed and will be replayed"
            )
        dropped = emitter.stats().dropped - before
        if dropped:
            log.warning("%d evaluations were dropped: the log refuses them", dropped)

    def _count(self, outcome: Outcome) -> None:
        record = outcome.record
        length = round(self._config.window_seconds * 1e6)
        start = record.event_time // length * length
        windows = self._windows.setdefault((record.service, record.model_name), {})
        if start not in windows:
            if windows and start < min(windows):
                start = min(windows)  # its window is reported
            else:
                windows[start] = WindowSums(self._config, start, record.service, record.model_name)
        windows[start].add(outcome)
        while len(windows) > _OPEN:
            self._report(windows.pop(min(windows)))

    def _report(self, sums: WindowSums) -> None:
        report = sums.report(self._parts.reference.name)
        if self._config.report:
            try:
                with Path(self._config.report).open("ab") as file:
                    file.write(msgspec.json.encode(report) + b"\n")
            except OSError as error:
                log.warning("the report %s cannot be written: %s", self._config.report, error)
        for finding in report.findings:
            log.warning("%s/%s: %s", report.service, report.model, finding)
        if self._tell is not None:
            self._tell(report)


def build_shadow(
    config: ShadowConfig, clock: Clock | None = None, tell: Callable[[WindowReport], None] | None = None
) -> Shadow:
    """Open everything that a configuration names.

    Raises:
        ConfigError: no reference is named, or a place is not as it must be.
        SourceError: a place cannot be reached.
    """
    if not config.reference.url:
        raise ConfigError(
            "no reference: expected [shadow.reference] with the url of the server to compare with, or "
            "--reference"
        )
    reader = open_mirror(config.mirror, clock)
    try:
        reference = Replay(config.reference)
        production = Replay(config.production) if config.production.url else None
        emitter = _emitter(config)
    except BaseException:
        reader.close()
        raise
    return Shadow(config, Parts(reader, reference, production, emitter), clock, tell)


def _emitter(config: ShadowConfig) -> Emitter | None:
    match config.events.kind:
        case "none":
            return None
        case "spool":
            return Emitter(SpoolSink(config.events.spool))
        case _:
            return Emitter(KafkaSink(config.events.kafka))
