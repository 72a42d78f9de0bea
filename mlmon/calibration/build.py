"""From events to a baseline in bounded memory: staged on disk, then scope by scope calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from mlmon.baseline.model import Baseline
from mlmon.calibration.scope import READINGS, ScopeOptions, calibrate
from mlmon.calibration.stage import Stage
from mlmon.errors import BaselineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlmon.baseline.model import Scope, ScopeKey
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.drift import DriftMonitor

__all__ = ["CalibrationOptions", "Origin", "Progress", "build", "drift_monitors", "no_progress"]

#: What is being done, how much of it, and how much there is (None: not known).
Progress: TypeAlias = "Callable[[str, int, int | None], None]"

#: Rows of all samples together.
_SAMPLE_ROWS = 100_000
_FEWEST_SAMPLED = 200


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """How a baseline is built.

    Attributes:
        segment_by: keys of the events' segments map that make a segment, as in `[series]`.
        max_segments: segments of a scope with a reference of their own, the largest; the rest are `other`.
        max_scopes: most services, models and versions; events of further ones are left out.
        sample_rows: events of the sample of a scope; with many scopes fewer.
        directory: where temporary files go, about as large as the events; None: where the system has them.
    """

    segment_by: tuple[str, ...] = ()
    max_segments: int = 50
    max_scopes: int = 64
    sample_rows: int = 5_000
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What a baseline says of its making: where the events are from, in words, and when, µs."""

    source: str
    created_us: int


def no_progress(_what: str, _done: int, _total: int | None) -> None:
    """Nobody watches."""


def drift_monitors(monitors: Iterable[object]) -> list[DriftMonitor]:
    """Those monitors that learn from a reference."""
    return [cast("DriftMonitor", one) for one in monitors if hasattr(one, "learner")]


def build(
    batches: Iterable[EventBatch],
    monitors: Iterable[object],
    options: CalibrationOptions,
    origin: Origin,
    progress: Progress = no_progress,
) -> Baseline:
    """Build a baseline.

    The result depends on the events alone, not on their order or on how they are cut into batches. Golden
    probes among them are for the embeddings alone.

    Args:
        batches: events, with the columns that the monitors read.
        monitors: those of the configuration; the ones that do not drift are passed over.
        options: bounds.
        origin: what the baseline says of its making.
        progress: is told how far it is.

    Raises:
        BaselineError: there are no events, or nothing of them can be judged; the message says what to do.
    """
    drifting = drift_monitors(monitors)
    if not drifting:
        raise BaselineError(
            "none of the monitors watches for drift: enable features, tokenizer, embeddings or predictions"
        )
    with Stage(options.segment_by, options.max_scopes, options.directory) as stage:
        read = 0
        for batch in batches:
            stage.add(batch)
            read += len(batch)
            progress("reading", read, None)
        stage.finish()
        if not any(scope.events for scope in stage.scopes.values()):
            raise BaselineError(
                "there are no events to build a baseline from: name files, a range or a period that has some"
            )
        return _calibrated(stage, drifting, options, origin, progress)


def _calibrated(
    stage: Stage,
    monitors: Sequence[DriftMonitor],
    options: CalibrationOptions,
    origin: Origin,
    progress: Progress,
) -> Baseline:
    staged = [scope for _, scope in sorted(stage.scopes.items()) if scope.events]
    rows = min(options.sample_rows, max(_FEWEST_SAMPLED, _SAMPLE_ROWS // len(staged)))
    total = READINGS * sum(scope.events + scope.probes for scope in staged)
    done = 0

    def advance(count: int) -> Any:
        nonlocal done
        done += count
        progress("calibrating", done, total)

    scopes: dict[ScopeKey, Scope] = {}
    warnings: list[str] = []
    if stage.left_out:
        warnings.append(
            f"{stage.left_out:,} events of services, models or versions beyond the first "
            f"{options.max_scopes} are left out: build several baselines"
        )
    for one in staged:
        made = calibrate(one, monitors, ScopeOptions(options.segment_by, options.max_segments, rows), advance)
        name = " / ".join(part or "-" for part in one.key)
        if made.scope is None:
            warnings.extend(f"{name} is left out: {text}" for text in made.warnings)
            continue
        scopes[one.key] = made.scope
        warnings.extend(f"{name}: {text}" for text in made.warnings)
    if not scopes:
        raise BaselineError("no baseline can be built from these events. " + "\n".join(warnings))
    return Baseline(scopes, origin.created_us, origin.source, tuple(warnings))
