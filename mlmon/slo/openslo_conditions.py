"""Alert policies as burn conditions: which ones an objective has, and what they compare."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from mlmon.slo.model import CRITICAL_ACCURACY, STANDARD, BurnCondition
from mlmon.slo.openslo_objects import ConditionDoc, PolicyDoc, TargetDoc

if TYPE_CHECKING:
    from mlmon.slo.annotations import SloNotes
    from mlmon.slo.model import Severity
    from mlmon.slo.openslo_objects import SloDoc
    from mlmon.slo.openslo_references import Library

__all__ = ["conditions_of", "policy_conditions"]

_SHORTEST_WINDOW = 60


def policy_conditions(policy: PolicyDoc, library: Library) -> tuple[BurnCondition, ...]:
    """The conditions of one policy, with its notification targets."""
    named = [library.resolve(target, TargetDoc) for target in policy.targets]
    targets = tuple(target.head.name for target in named if target is not None)
    found = []
    for reference in policy.conditions:
        condition = library.resolve(reference, ConditionDoc)
        if condition is None:
            continue
        found.append(
            replace(_condition(condition), no_data=policy.no_data, resolved=policy.resolved, targets=targets)
        )
    return tuple(found)


def _condition(condition: ConditionDoc) -> BurnCondition:
    severity = cast("Severity", condition.severity)
    notes = condition.notes
    return BurnCondition(
        condition.head.name,
        severity,
        condition.threshold,
        condition.lookback_seconds,
        notes.short_seconds or max(condition.lookback_seconds // 12, _SHORTEST_WINDOW),
        condition.after_seconds,
        confident=severity == "page" if notes.confident is None else notes.confident,
    )


def conditions_of(slo: SloDoc, notes: SloNotes, library: Library) -> tuple[BurnCondition, ...]:
    """When an SLO alerts: by the policies it names, else by the standard ones."""
    if slo.policies:
        if notes.alerts is not None:
            slo.head.annotations["mlmon.io/alerts"].complain(
                "it only where no alertPolicies are named", "remove it, or alertPolicies"
            )
        policies = [library.resolve(policy, PolicyDoc) for policy in slo.policies]
        found = [c for policy in policies if policy is not None for c in policy_conditions(policy, library)]
        for name in sorted({c.name for c in found if [o.name for o in found].count(c.name) > 1}):
            slo.head.item.complain("alert policies with different conditions", "remove one", f"{name} twice")
    elif notes.alerts == "none":
        found = []
    else:
        labelled = notes.label_delay_seconds > 0
        extra = (CRITICAL_ACCURACY,) if notes.severity_class == "critical" and labelled else ()
        found = [*STANDARD, *extra]
    if notes.severity_class == "informational":
        found = [replace(condition, severity="ticket") for condition in found]
    return tuple(found)
