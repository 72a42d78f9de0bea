"""OpenSLO documents compiled to `Specs`: references followed, defaults filled in, everything checked.

All mistakes of all files are told in one error. A document that is right by itself but means an alert that
can never fire is refused here too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from mlmon.slo.annotations import slo_notes
from mlmon.slo.feasible import infeasible
from mlmon.slo.model import (
    AlertPolicy,
    Method,
    NotificationTarget,
    Objective,
    ServiceInfo,
    Specs,
    Threshold,
)
from mlmon.slo.openslo_conditions import conditions_of, policy_conditions
from mlmon.slo.openslo_objectives import check_unused, drafts_of
from mlmon.slo.openslo_objects import (
    Header,
    PolicyDoc,
    SloDoc,
    TargetDoc,
    read_document,
)
from mlmon.slo.openslo_references import Library
from mlmon.slo.reader import documents, error, spec_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mlmon.slo.openslo_objectives import Draft
    from mlmon.slo.reader import Problem

__all__ = ["MINIMUM_EVENTS", "load_specs"]

#: Effective events that a ratio needs unless a spec says otherwise: one failure among fewer says too little.
MINIMUM_EVENTS = 20


def load_specs(paths: Iterable[Path]) -> Specs:
    """Read SLO specs.

    Args:
        paths: files of OpenSLO v1 documents, or directories of them. References may lead from any of the
            files to any other.

    Raises:
        ConfigError: with every mistake found; each names file, line, key, what was expected, what came and
            what to do.
        MissingExtraError: PyYAML is not installed.
    """
    problems: list[Problem] = []
    found = [read_document(item) for path in spec_files(paths) for item in documents(path, problems)]
    library = Library(document for document in found if document is not None)
    drafts = [
        draft
        for slo in library.all(SloDoc)
        for draft in drafts_of(slo, slo_notes(slo.head.annotations), library)
    ]
    check_unused(library)
    policies = tuple(_policy(policy, library) for policy in library.all(PolicyDoc))
    if problems:
        raise error(problems)
    objectives = tuple(_objective(group, library) for group in _grouped(drafts))
    if problems:
        raise error(problems)
    return Specs(
        objectives,
        policies,
        tuple(NotificationTarget(t.head.name, t.head.description, t.target) for t in library.all(TargetDoc)),
        tuple(ServiceInfo(s.name, s.display_name, s.description) for s in library.all(Header)),
    )


def _policy(policy: PolicyDoc, library: Library) -> AlertPolicy:
    head = policy.head
    return AlertPolicy(head.name, head.display_name, head.description, policy_conditions(policy, library))


def _grouped(drafts: Sequence[Draft]) -> list[list[Draft]]:
    """Drafts of one objective, its versions, oldest first."""
    groups: dict[str, list[Draft]] = {}
    for draft in drafts:
        groups.setdefault(draft.name, []).append(draft)
    for name, group in groups.items():
        group.sort(key=_since)
        _check_versions(name, group)
    return list(groups.values())


def _since(draft: Draft) -> float:
    moment = draft.version.effective_from
    return float("-inf") if moment is None else moment.timestamp()


def _check_versions(name: str, group: Sequence[Draft]) -> None:
    first = group[0]
    if first.version.effective_from is not None:
        first.slo.head.item.complain(
            f"a first version of {name} that holds from ever",
            "take mlmon.io/effective-from off the oldest one",
            "only later ones",
        )
    for before, draft in pairwise(group):
        place = draft.slo.head.item
        if _since(before) == _since(draft):
            other = before.slo.head.item
            place.complain(
                f"one objective {name} at a time",
                "rename it, or write mlmon.io/version-of and mlmon.io/effective-from",
                f"a second one; the first is in {other.file} on line {other.line}",
            )
        elif not draft.notes.version_of:
            place.complain(f"mlmon.io/version-of: {name}", "say of which SLO it is a later version", "none")
        differing = [word for word, old, new in _fixed(first, draft) if old != new]
        if differing:
            place.complain(
                f"the same {', '.join(differing)} in all versions of {name}",
                "write a new SLO: its budget cannot be counted on",
                "another",
            )


def _fixed(first: Draft, draft: Draft) -> list[tuple[str, object, object]]:
    """What no version may change: word, then, now."""
    return [
        ("service", first.slo.service, draft.slo.service),
        ("timeWindow", first.slo.window_seconds, draft.slo.window_seconds),
        ("budgetingMethod", first.slo.method, draft.slo.method),
        ("mlmon.io/group-by", first.notes.group_by, draft.notes.group_by),
        ("mlmon.io/label-delay", first.notes.label_delay_seconds, draft.notes.label_delay_seconds),
        ("kind of indicator", type(first.version.sli), type(draft.version.sli)),
    ]


def _objective(group: Sequence[Draft], library: Library) -> Objective:
    """One objective from its versions; the newest says all that is not in force at a time."""
    draft = group[-1]
    slo, notes, head = draft.slo, draft.notes, draft.slo.head
    objective = Objective(
        name=draft.name,
        service=slo.service,
        display_name=draft.display_name,
        description=head.description,
        window_seconds=slo.window_seconds,
        method=Method(slo.method),
        versions=tuple(each.version for each in group),
        conditions=conditions_of(slo, notes, library),
        group_by=notes.group_by,
        label_delay_seconds=notes.label_delay_seconds,
        minimum_events=_minimum(draft),
        minimum_coverage=notes.minimum_coverage,
        confidence=notes.confidence,
        severity_class=notes.severity_class,
        root_cause=notes.root_cause or draft.name,
        team=head.team,
        burns_in_release=notes.burns_in_release,
        requires=notes.requires,
        source=f"{head.item.file}:{head.item.line}",
    )
    for condition, expected, got, remedy in infeasible(objective):
        draft.item.complain(f"{expected} (condition {condition.name})", remedy, got)
    return objective


def _minimum(draft: Draft) -> int:
    if isinstance(draft.version.sli, Threshold):
        return 0
    return MINIMUM_EVENTS if draft.notes.minimum_events is None else draft.notes.minimum_events
