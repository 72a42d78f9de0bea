"""Would one baseline's events alarm by another baseline: the sample of the new judged by the old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlmon.drift.fields import contributions, judge_fields
from mlmon.events.batch import EventBatch
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from mlmon.baseline.model import Scope
    from mlmon.drift.fields import Contribution, FieldVerdict
    from mlmon.monitors.drift import DriftMonitor

__all__ = ["Judged", "judge_sample"]

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Judged:
    """One field of the sample against its reference.

    Attributes:
        name: "monitor/field".
        verdict: as of a window that holds the sample.
        carried_by: the cells or directions that carry most of its shift.
    """

    name: str
    verdict: FieldVerdict
    carried_by: Sequence[Contribution]


def judge_sample(scope: Scope, sample: pa.Table, monitors: Sequence[DriftMonitor]) -> list[Judged]:
    """Judge events by a scope's references of all segments together, the most evidence first.

    A sample drawn from a long time has few bursts left, so its noise is less than the null allows for: the
    evidence errs to the side of silence.

    Args:
        scope: by which.
        sample: events with the contract's columns.
        monitors: those that drift; one the scope has no parameters for is passed over.
    """
    references = scope.segments[""].fields
    sums = _sums(scope, sample, monitors)
    names = [name for name in references if name in sums]
    verdicts = judge_fields([(references[name], sums[name]) for name in names])
    found = [
        Judged(name, verdict, contributions(references[name], sums[name], _SHOWN))
        for name, verdict in zip(names, verdicts, strict=True)
    ]
    return sorted(found, key=lambda one: (-one.verdict.log_e, one.verdict.p_value, one.name))


def _sums(scope: Scope, sample: pa.Table, monitors: Sequence[DriftMonitor]) -> Mapping[str, FieldSums]:
    sums: dict[str, FieldSums] = {}
    batches = sample.combine_chunks().to_batches()
    for monitor in monitors:
        parameters = scope.parameters.get(monitor.name)
        if parameters is None:
            continue
        into = {name: FieldSums(spec.width) for name, spec in parameters.fields.items()}
        extractor = monitor.extractor(parameters)
        for batch in batches:
            extractor.extract(EventBatch(batch), into)
        sums |= {f"{monitor.name}/{name}": one for name, one in into.items()}
    return sums
