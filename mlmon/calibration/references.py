"""References of fields: sums with the null that blocks of the reference show, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mlmon.baseline.model import FieldReference, Segment
from mlmon.stats.blocks import MIN_BLOCKS, block_traces, block_wander, combine_traces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.baseline.model import FieldSpec
    from mlmon.calibration.passes import Extracted
    from mlmon.calibration.tables import BlockTable
    from mlmon.stats.blocks import Traces
    from mlmon.stats.sums import FieldSums

__all__ = ["FEWEST_EVENTS", "PER_DIMENSION", "Place", "reference_segment"]

#: Effective events that a field needs.
FEWEST_EVENTS = 200
#: Effective events to a dimension of a whitened vector: below, its covariance is mostly noise.
PER_DIMENSION = 25


@dataclass(frozen=True, slots=True)
class Place:
    """One segment, or all together.

    Attributes:
        place: of the segment.
        events: in it.
        problem: why none of its fields can be calibrated; empty where they can.
        burst: how many events in a row are alike.
    """

    place: int
    events: int
    problem: str = ""
    burst: float = 1.0


class _Null(NamedTuple):
    traces: Traces
    wander: float


def reference_segment(
    place: Place, specs: Mapping[str, Mapping[str, FieldSpec]], extracted: Extracted
) -> Segment:
    """The reference of every field of a segment; fields without a usable null have 0 blocks and a problem.

    Args:
        place: which segment.
        specs: final specifications by monitor and field.
        extracted: what the second pass made.
    """
    fields: dict[str, FieldReference] = {}
    problems: dict[str, str] = {}
    for monitor, by_field in specs.items():
        for field, spec in by_field.items():
            name = f"{monitor}/{field}"
            sums = extracted.sums[place.place][monitor][field]
            # probes are sent on a schedule, whatever the traffic does
            burst = 1.0 if field.startswith("probe") else place.burst
            null = _null(place.place, monitor, field, extracted, burst)
            problem = place.problem or _problem(spec, sums, null)
            if problem:
                problems[name] = problem
                fields[name] = FieldReference(spec, sums, *_independent(spec), 0.0, 0)
            else:
                fields[name] = FieldReference(
                    spec, sums, null.traces.trace, null.traces.trace2, null.wander, null.traces.blocks
                )
    return Segment(fields, place.events, problems)


def _null(place: int, monitor: str, field: str, extracted: Extracted, burst: float) -> _Null:
    """Traces over the blocks of both parts, each in the metric that the other part taught."""
    traces: list[Traces] = []
    wander = 0.0
    for part, extractors in enumerate(extracted.extractors):
        tables: Mapping[str, BlockTable] = extracted.tables.get((place, part), {})
        if monitor not in tables or field not in tables[monitor].sizes:
            continue
        spec = extractors[monitor].fields[field]
        blocks = (spec.kind, tables[monitor].totals[field], tables[monitor].sizes[field], spec.whiten)
        traces.append(block_traces(*blocks, burst))
        wander = max(wander, block_wander(*blocks))
    # fewer than two blocks say nothing
    return _Null(combine_traces([one for one in traces if one.blocks > 1]), wander)


def _independent(spec: FieldSpec) -> tuple[float, float]:
    """Traces of independent events, for a field whose distance is shown but never judged."""
    if spec.kind != "vector":
        return 1.0, 1.0
    rank = float(spec.width if spec.whiten is None else spec.whiten.shape[1])
    return rank, rank


def _problem(spec: FieldSpec, sums: FieldSums, null: _Null) -> str:
    """Why a field cannot be judged, and what to do; empty where it can."""
    if not sums.n:
        return "no event carries it"
    if sums.n_eff < FEWEST_EVENTS:
        return (
            f"{sums.n:,} events carry it, of the weight of {sums.n_eff:,.0f}: {FEWEST_EVENTS} are needed; "
            "give more events"
        )
    if null.traces.blocks < MIN_BLOCKS:
        return (
            f"{null.traces.blocks} blocks of events carry it, {MIN_BLOCKS} are needed: give more events, or "
            "a longer period"
        )
    return _dimension_problem(spec, sums, null.traces)


def _dimension_problem(spec: FieldSpec, sums: FieldSums, traces: Traces) -> str:
    if spec.whiten is None or spec.whiten.shape[1] < 2:
        return ""
    rank = spec.whiten.shape[1]
    effective = sums.n_eff / max(1.0, traces.trace / rank)
    needed = PER_DIMENSION * rank
    if effective >= needed:
        return ""
    return (
        f"{sums.n:,} events count as {effective:,.0f} independent ones; {rank} dimensions need {needed:,} "
        f"({PER_DIMENSION} each): give more events"
    )
