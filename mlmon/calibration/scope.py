"""One scope calibrated: three readings of its staged events, then the references of all its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlmon.baseline.model import Scope
from mlmon.calibration.passes import WHOLE, Lengths, extract, learn
from mlmon.calibration.quality import Findings, events_needed, warnings_of
from mlmon.calibration.references import Place, reference_segment
from mlmon.calibration.segments import Segments
from mlmon.calibration.survey import survey
from mlmon.stats.blocks import MIN_BLOCKS, block_length

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlmon.baseline.model import Segment
    from mlmon.calibration.passes import Learned
    from mlmon.calibration.stage import StagedScope
    from mlmon.calibration.survey import Bursts
    from mlmon.monitors.drift import DriftMonitor

__all__ = ["READINGS", "Calibrated", "ScopeOptions", "calibrate"]

#: How often a scope's events are read.
READINGS = 3
#: Chunks that belong to the two parts in turn, about.
_CHUNKS = 32
#: Numbers held in the tables of blocks of one scope: 128 MiB.
_TABLE_NUMBERS = 1 << 24
#: Events of a segment among those looked at, for bursts of its own.
_LOOKED_AT = 1_000


@dataclass(frozen=True, slots=True)
class ScopeOptions:
    """What a scope is calibrated with; see `CalibrationOptions`."""

    segment_by: tuple[str, ...]
    max_segments: int
    sample_rows: int


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The outcome.

    Attributes:
        scope: None where nothing of it can be judged.
        warnings: what the maker should know; without a scope, why there is none.
    """

    scope: Scope | None
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a segment is cut: its bursts, and events to a block, None where there are too few."""

    burst: float
    length: int | None


def calibrate(
    staged: StagedScope,
    monitors: Sequence[DriftMonitor],
    options: ScopeOptions,
    progress: Callable[[int], Any],
) -> Calibrated:
    """Calibrate one scope.

    Memory: what the learners hold, at most 128 MiB of blocks, and the sample. Time: three readings, and each
    event through every monitor's extractor three times (twice without segments).
    """
    segments = Segments(options.segment_by, staged.segments, options.max_segments, staged.uncounted)
    looked = survey(staged, segments.places, options.sample_rows, progress)
    burst, slow = looked.bursts.length(staged.events)
    whole = _Cut(burst, block_length(staged.events, burst))
    if whole.length is None:
        return Calibrated(None, [_too_few(staged.events, burst)])
    chunk = whole.length * max(1, staged.events // whole.length // _CHUNKS)
    learned = learn(staged, monitors, segments, chunk, progress)
    cuts = {WHOLE: whole} | _cuts(segments, learned, looked.bursts, burst)
    lengths = Lengths(chunk, _bounded(cuts, learned))
    extracted = extract(staged, monitors, segments, learned, lengths, progress)
    specs = {name: made.fields for name, made in learned.parameters.items()}
    references = {
        "" if place == WHOLE else segments.names[place]: reference_segment(
            Place(place, events, "" if cut.length else _too_few(events, cut.burst), cut.burst),
            specs,
            extracted,
        )
        for place, cut in cuts.items()
        if (events := _events(learned, place))
    }
    found = Findings(looked, burst, slow, segments.folded, references, learned.warnings)
    if not _usable(references[""]):
        problems = references[""].problems
        why = next(iter(problems.values()), "no event carries what a monitor reads")
        return Calibrated(None, [*learned.warnings, f"no field can be judged: {why}"])
    scope = Scope(
        parameters=learned.parameters,
        segments=references,
        first_us=staged.first_us,
        last_us=staged.last_us,
        burst=burst,
        block=lengths.blocks[WHOLE],
        sample=looked.sample,
    )
    return Calibrated(scope, list(warnings_of(staged, found)))


def _events(learned: Learned, place: int) -> int:
    return learned.counts.get((place, 0), 0) + learned.counts.get((place, 1), 0)


def _usable(segment: Segment) -> bool:
    return len(segment.problems) < len(segment.fields)


def _too_few(events: int, burst: float) -> str:
    return (
        f"{events:,} events in bursts of {burst:.1f} are too few: {events_needed(burst):,} are needed; give "
        "more events, or a longer period"
    )


def _cuts(segments: Segments, learned: Learned, bursts: Bursts, burst: float) -> dict[int, _Cut]:
    """How each segment is cut; one with too few events looked at has the bursts of all."""
    cuts = {}
    for place in range(len(segments)):
        events = _events(learned, place)
        own = bursts.length(events, place)[0] if bursts.seen(place) >= _LOOKED_AT else burst
        cuts[place] = _Cut(own, block_length(events, own))
    return cuts


def _bounded(cuts: Mapping[int, _Cut], learned: Learned) -> dict[int, int]:
    """Events to a block by place, longer where the tables would not fit, never fewer than enough blocks."""
    numbers = sum(spec.width + 3 for made in learned.parameters.values() for spec in made.fields.values())
    parts = sum(1 for place, cut in cuts.items() if place != WHOLE and cut.length)
    most = max(2 * MIN_BLOCKS, _TABLE_NUMBERS // max(1, numbers) // max(1, parts + 1))
    return {
        place: cut.length if place == WHOLE else max(cut.length, -(-_events(learned, place) // most))
        for place, cut in cuts.items()
        if cut.length
    }
