"""What the maker of a baseline should know of the events it was made from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlmon.stats.blocks import BURSTS_PER_BLOCK, MIN_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlmon.baseline.model import Segment
    from mlmon.calibration.stage import StagedScope
    from mlmon.calibration.survey import Survey

__all__ = ["Findings", "events_needed", "warnings_of"]

_DAY_US = 86_400 * 1_000_000
#: Fewer independent events than this find only large shifts.
_SMALL = 2_000
#: A column that is carried by a smaller share of events has gaps.
_COVERED = 0.95
#: A segment with more than this of all events speaks for the whole.
_DOMINATES = 0.9
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Findings:
    """What the calibration of a scope found out on its way.

    Attributes:
        survey: the first look.
        burst: length of bursts.
        slow: features left out of it.
        folded: segments that have no reference of their own.
        segments: references by segment.
        learned: what the monitors say.
    """

    survey: Survey
    burst: float
    slow: Sequence[str]
    folded: int
    segments: Mapping[str, Segment]
    learned: Sequence[str]


def events_needed(burst: float) -> int:
    """Events that make enough blocks of enough bursts.

    Example:
        >>> events_needed(1.0), events_needed(5.2)
        (600, 3120)
    """
    return MIN_BLOCKS * math.ceil(BURSTS_PER_BLOCK * burst)


def warnings_of(scope: StagedScope, found: Findings) -> Iterator[str]:
    """Warnings in words, each with what to do."""
    yield from _size(scope, found)
    yield from _gaps(found)
    yield from _balance(scope, found)
    if found.slow:
        yield (
            f"features that change too slowly for a null of their own: {_some(found.slow)}; they may be "
            "counters or identities: leave them out, or give a longer period"
        )
    yield from found.learned
    whole = found.segments[""]
    if whole.problems:
        first = next(iter(whole.problems))
        yield (
            f"{len(whole.problems)} of {len(whole.fields)} fields cannot be judged: "
            f"{_some(list(whole.problems))} ({first}: {whole.problems[first]})"
        )


def _size(scope: StagedScope, found: Findings) -> Iterator[str]:
    total, squares = found.survey.weight
    independent = total**2 / squares / found.burst
    if independent < _SMALL:
        yield (
            f"small: {scope.events:,} events, weighted and in bursts of {found.burst:.1f}, count as "
            f"{independent:,.0f} independent ones; with fewer than {_SMALL:,} only large shifts are found: "
            "give more events"
        )
    span = scope.last_us - scope.first_us
    if span < _DAY_US:
        yield (
            f"short: the events span {span / 3.6e9:.1f} hours; what changes over a day is not in them and "
            "will look like drift: build from a day or more"
        )


def _gaps(found: Findings) -> Iterator[str]:
    coverage = found.survey.coverage
    for name, carried in coverage.carried.items():
        share = carried / coverage.events
        if not 0 < share < _COVERED:
            continue
        silent = coverage.silent[name] / coverage.events
        times = f", {silent:.0%} of them in stretches without any" if silent >= 0.01 else ""
        yield (
            f"gaps: {name} is absent from {1 - share:.0%} of the events{times}; see to it that all events "
            "carry it, or that those without it are meant to"
        )


def _balance(scope: StagedScope, found: Findings) -> Iterator[str]:
    if len(scope.segments) > 1:
        name, count = max(scope.segments.items(), key=lambda item: (item[1], item[0]))
        if count > _DOMINATES * scope.events:
            yield (
                f"unbalanced: {count / scope.events:.0%} of the events are of the segment {name}; what is "
                "said of all together is said of it"
            )
    if found.folded:
        yield f"{found.folded:,} smaller segments have no reference of their own; they are counted as other"
    without = [name for name, one in found.segments.items() if name and len(one.problems) == len(one.fields)]
    if without:
        yield f"{len(without)} segments have too few events to be judged: {_some(without)}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
