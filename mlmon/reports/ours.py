"""Our part of the report: every field judged over the whole window, with one chance of a false claim for all.

The pager adds evidence up from window to window and shares a budget of pages; a report speaks of one stretch
of time once. So it has a rule of its own: of K judged fields those have drifted whose e-value reaches
K/alpha. By Markov's inequality and the union bound, a report on traffic within the tolerances names any field
with a probability of at most alpha, however the fields depend on each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlmon.drift.distances import distances
from mlmon.drift.fields import FieldState, contributions, judge_fields
from mlmon.reports.model import Carrier, FieldRow, Ours

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.baseline.model import FieldReference
    from mlmon.drift.fields import FieldVerdict
    from mlmon.stats.sums import FieldSums

__all__ = ["FALSE_REPORT_RATE", "judge"]

#: Of so many reports without drift at most one names a field.
FALSE_REPORT_RATE = 0.05
#: Cells or directions named for each field.
_CARRIERS = 5


def judge(references: Mapping[str, FieldReference], sums: Mapping[str, FieldSums]) -> Ours:
    """Judge the fields of a window.

    Args:
        references: by "monitor/field".
        sums: of the window, by the same. Fields without a reference are told of.
    """
    known = [(name, references[name], one) for name, one in sums.items() if name in references]
    verdicts = judge_fields([(reference, one) for _, reference, one in known])
    judged = sum(verdict.state is FieldState.OK for verdict in verdicts)
    threshold = max(judged, 1) / FALSE_REPORT_RATE
    rows = [_row(*one, verdict, threshold) for one, verdict in zip(known, verdicts, strict=True)]
    rows += [_unreferenced(name, one) for name, one in sums.items() if name not in references]
    return Ours(FALSE_REPORT_RATE, judged, threshold, sorted(rows, key=_rank))


def _row(
    name: str, reference: FieldReference, sums: FieldSums, verdict: FieldVerdict, threshold: float
) -> FieldRow:
    state = str(verdict.state)
    if verdict.state is FieldState.OK and verdict.log_e >= math.log(threshold):
        state = "drifted"
    sees = verdict.n > 0
    return FieldRow(
        field=name,
        kind=reference.spec.kind,
        effect=verdict.effect if sees else None,
        tolerance=verdict.tolerance,
        baseline_rate=float(reference.sums.mean[0]) if reference.spec.kind == "rate" else None,
        log_e=verdict.log_e,
        p_value=verdict.p_value if verdict.state is FieldState.OK else None,
        n=verdict.n,
        n_eff=verdict.n_eff,
        state=state,  # type: ignore[arg-type]
        distances=distances(reference, sums),
        carriers=[Carrier(*one) for one in contributions(reference, sums, _CARRIERS)],
        columns=[],
    )


def _unreferenced(name: str, sums: FieldSums) -> FieldRow:
    return FieldRow(
        field=name,
        kind="",
        effect=None,
        tolerance=None,
        baseline_rate=None,
        log_e=0.0,
        p_value=None,
        n=sums.n,
        n_eff=sums.n_eff,
        state="insufficient_reference",
        distances={},
        carriers=[],
        columns=[],
    )


def _rank(row: FieldRow) -> tuple[int, float, str]:
    """Drifted ones first, by evidence; then by the effect in tolerances; what cannot be judged last."""
    if row.state == "drifted":
        return 0, -row.log_e, row.field
    size = row.effect / row.tolerance if row.effect is not None and row.tolerance else 0.0
    return (1 if row.state == "ok" else 2), -size, row.field
