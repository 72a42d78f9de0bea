"""The passes over a scope's staged events: monitors learn, then their fields are summed.

The events are cut into chunks in the order of time, which belong to part 0 and part 1 in turn. What is
learned from one part is tried on the blocks of the other, so that the null holds what a window of new events
shows, overfitting included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mlmon.calibration.survey import plain_events
from mlmon.calibration.tables import BlockTable
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlmon.baseline.model import Parameters
    from mlmon.calibration.segments import Segments
    from mlmon.calibration.stage import StagedScope
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.drift import DriftMonitor, Extractor

__all__ = ["WHOLE", "Extracted", "Learned", "Lengths", "extract", "learn"]

#: Place of all segments together.
WHOLE = -1
#: The monitor that golden probes are for; they are no traffic.
_PROBED = "embeddings"
#: Events to a stretch where probes are among them.
_PROBED_ROWS = 128


class _Piece(NamedTuple):
    """Events of one part in the order of time; probes are apart from the traffic."""

    part: int
    events: EventBatch
    probes: bool


@dataclass(frozen=True, slots=True)
class Learned:
    """What the first pass made.

    Attributes:
        parameters: by monitor, from all events; monitors without any are left out.
        halves: by part, what was learned from that part alone, by monitor.
        counts: events by (place of a segment, part).
        warnings: what monitors say.
    """

    parameters: Mapping[str, Parameters]
    halves: Sequence[Mapping[str, Parameters]]
    counts: Mapping[tuple[int, int], int]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Lengths:
    """How the stream is cut.

    Attributes:
        chunk: events to a chunk of one part; a multiple of the block of `WHOLE`.
        blocks: events to a block by place of a segment; a place that is missing is not calibrated.
    """

    chunk: int
    blocks: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Extracted:
    """What the second pass made.

    Attributes:
        sums: by place of a segment and monitor, sums of fields made with the final parameters.
        tables: by (place of a segment, part) and monitor, blocks made with the other part's parameters.
        extractors: by part and monitor, what those blocks were made with.
    """

    sums: Mapping[int, Mapping[str, Mapping[str, FieldSums]]]
    tables: Mapping[tuple[int, int], Mapping[str, BlockTable]]
    extractors: Sequence[Mapping[str, Extractor]]


def _pieces(scope: StagedScope, chunk: int, progress: Callable[[int], Any]) -> Iterator[_Piece]:
    done = 0
    for batch in _stretches(scope):
        traffic, probes = plain_events(batch)
        if probes is not None:
            yield _Piece(done // chunk % 2, probes, probes=True)
        start = 0
        while start < len(traffic):
            count = min(chunk - done % chunk, len(traffic) - start)
            yield _Piece(done // chunk % 2, traffic.slice(start, count), probes=False)
            start += count
            done += count
        progress(len(batch))


def _stretches(scope: StagedScope) -> Iterator[EventBatch]:
    """The events in order; where there are probes in short stretches, so that each round has its block."""
    for batch in scope.batches():
        probe = batch.column("probe_id")
        if probe is None or probe.null_count == len(probe):
            yield batch
            continue
        for start in range(0, len(batch), _PROBED_ROWS):
            yield batch.slice(start, min(_PROBED_ROWS, len(batch) - start))


def learn(
    scope: StagedScope,
    monitors: Sequence[DriftMonitor],
    segments: Segments,
    chunk: int,
    progress: Callable[[int], Any],
) -> Learned:
    """First pass: each monitor's learner sees all events, told of which part they are."""
    learners = {monitor.name: monitor.learner() for monitor in monitors}
    counts: dict[tuple[int, int], int] = {}
    for piece in _pieces(scope, chunk, progress):
        for name, learner in learners.items():
            if not piece.probes or name == _PROBED:
                learner.update(piece.events, piece.part)
        if piece.probes:
            continue
        for place, count in segments.count(piece.events).items():
            counts[place, piece.part] = counts.get((place, piece.part), 0) + count
        counts[WHOLE, piece.part] = counts.get((WHOLE, piece.part), 0) + len(piece.events)
    made = [
        {name: found for name, one in learners.items() if (found := one.finish(parts)) is not None}
        for parts in ((0, 1), (0,), (1,))
    ]
    warnings = [f"{name}: {text}" for name, one in learners.items() for text in one.warnings()]
    return Learned(made[0], made[1:], counts, warnings)


def extract(
    scope: StagedScope,
    monitors: Sequence[DriftMonitor],
    segments: Segments,
    learned: Learned,
    lengths: Lengths,
    progress: Callable[[int], Any],
) -> Extracted:
    """Second pass: sums of fields over everything, and over blocks with the other part's parameters."""
    by_name = {monitor.name: monitor for monitor in monitors}
    final = {name: by_name[name].extractor(found) for name, found in learned.parameters.items()}
    # part 0 is measured with what part 1 taught, and the other way round
    crossed = [
        {name: by_name[name].extractor(found) for name, found in half.items() if name in final}
        for half in (learned.halves[1], learned.halves[0])
    ]
    tables = {
        (place, part): {
            name: BlockTable(one, count, lengths.blocks[place]) for name, one in crossed[part].items()
        }
        for (place, part), count in learned.counts.items()
        if place in lengths.blocks
    }
    places = sorted({place for place, _ in learned.counts} - {WHOLE})
    sums = {place: _empty(final) for place in [WHOLE, *places]}
    for piece in _pieces(scope, lengths.chunk, progress):
        if piece.probes:
            _probes(piece, final, sums[WHOLE], tables)
            continue
        for table in tables[WHOLE, piece.part].values():
            table.add(piece.events)
        for place, events in segments.split(piece.events):
            for name, one in final.items():
                one.extract(events, sums[place][name])
            for table in tables.get((place, piece.part), {}).values() if place != WHOLE else ():
                table.add(events)
    for place in places:
        for name, fields in sums[place].items():
            for field, part in fields.items():
                sums[WHOLE][name][field].merge(part)
    return Extracted(sums, tables, crossed)


def _empty(extractors: Mapping[str, Extractor]) -> dict[str, dict[str, FieldSums]]:
    return {
        name: {field: FieldSums(spec.width) for field, spec in one.fields.items()}
        for name, one in extractors.items()
    }


def _probes(
    piece: _Piece,
    final: Mapping[str, Extractor],
    sums: Mapping[str, Mapping[str, FieldSums]],
    tables: Mapping[tuple[int, int], Mapping[str, BlockTable]],
) -> None:
    if _PROBED in final:
        final[_PROBED].extract(piece.events, sums[_PROBED])
    table = tables.get((WHOLE, piece.part), {}).get(_PROBED)
    if table is not None:
        table.add_aside(piece.events)
