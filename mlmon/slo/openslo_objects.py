"""OpenSLO v1's kinds as objects: what a document says, before references between documents are followed.

Keys, types and limits are those of the public specification (github.com/OpenSLO/OpenSLO, version 1). Where it
leaves a choice to who implements it, the choice is said in `docs/slo.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from mlmon.slo.annotations import condition_notes
from mlmon.slo.reader import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlmon.slo.annotations import ConditionNotes
    from mlmon.slo.reader import Item

__all__ = [
    "KINDS",
    "ConditionDoc",
    "Header",
    "MetricDoc",
    "PolicyDoc",
    "Reference",
    "SliDoc",
    "SloDoc",
    "SourceDoc",
    "TargetDoc",
    "read_document",
]

_T = TypeVar("_T")
_API = "openslo/v1"
#: Kinds in the order in which the specification has them.
KINDS = ("DataSource", "SLO", "SLI", "AlertPolicy", "AlertCondition", "AlertNotificationTarget", "Service")


@dataclass(frozen=True, slots=True)
class Header:
    """Kind and metadata of a document, or of one written inside another."""

    kind: str
    name: str
    display_name: str
    description: str
    team: str
    annotations: Mapping[str, Item]
    item: Item


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of another document, and where it stands."""

    name: str
    item: Item


@dataclass(frozen=True, slots=True)
class SourceDoc:
    """A DataSource."""

    head: Header
    type: str


@dataclass(frozen=True, slots=True)
class MetricDoc:
    """A metricSource: its type (or that of the source it refers to) and its query."""

    item: Item
    type: Item | None
    source: Reference | None
    spec: Mapping[str, Item]


@dataclass(frozen=True, slots=True)
class SliDoc:
    """An SLI: a threshold's metric, or a ratio's metrics by name (good, bad, total)."""

    head: Header
    threshold: MetricDoc | None
    ratio: Mapping[str, MetricDoc]


@dataclass(frozen=True, slots=True)
class ConditionDoc:
    """An AlertCondition."""

    head: Header
    severity: str
    threshold: float
    lookback_seconds: int
    after_seconds: int
    notes: ConditionNotes


@dataclass(frozen=True, slots=True)
class TargetDoc:
    """An AlertNotificationTarget."""

    head: Header
    target: str


@dataclass(frozen=True, slots=True)
class PolicyDoc:
    """An AlertPolicy."""

    head: Header
    resolved: bool
    no_data: bool
    conditions: tuple[ConditionDoc | Reference, ...]
    targets: tuple[TargetDoc | Reference, ...]


@dataclass(frozen=True, slots=True)
class SloDoc:
    """An SLO; its objectives stay tables, since what they may say depends on the indicator."""

    head: Header
    service: str
    indicator: SliDoc | Reference
    window_seconds: int
    method: str
    objectives: tuple[Item, ...]
    policies: tuple[PolicyDoc | Reference, ...] = field(default=())


Document = SourceDoc | SloDoc | SliDoc | PolicyDoc | ConditionDoc | TargetDoc | Header


def read_document(item: Item) -> Document | None:
    """Read one document; None where it is not even one of OpenSLO's."""
    table = item.table(("apiVersion", "kind", "metadata", "spec"))
    if not {"apiVersion", "kind", "metadata", "spec"} <= table.keys():
        return None
    if table["apiVersion"].plain != _API:
        table["apiVersion"].complain(_API, f"write the document for {_API}: other versions name other keys")
        return None
    kind = table["kind"].plain
    if kind not in KINDS:
        table["kind"].complain(f"one of {', '.join(KINDS)}", nearest(kind, KINDS))
        return None
    head, spec = _header(kind, table["metadata"], table["spec"])
    return _READERS[kind](head, spec)


def _header(kind: str, metadata: Item, spec: Item) -> tuple[Header, Item]:
    table = metadata.table(("name",), ("displayName", "labels", "annotations"))
    # An SLO's name becomes a label's value, a rule's name and part of an address.
    name = _SLO_NAME if kind == "SLO" else None
    text = "" if "name" not in table else table["name"].name(name) if name else table["name"].name()
    display = table["displayName"].text(255) if "displayName" in table else text
    team = _team(table["labels"]) if "labels" in table else ""
    notes = table["annotations"].pairs() if "annotations" in table else {}
    described = spec.pairs().get("description") if spec.kind == "map" else None
    description = described.text() if described is not None else ""
    return Header(kind, text, display, description, team, notes, metadata), spec


_SLO_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def _team(labels: Item) -> str:
    """The owner: the label `team`, or the first of several."""
    team = ""
    for name, item in labels.pairs().items():
        values = [v.text(63) for v in item.list()] if item.kind == "seq" else [item.text(63)]
        if name == "team" and values:
            team = values[0]
    return team


def _service(head: Header, spec: Item) -> Header:
    spec.table((), ("description",)) if spec.kind != "null" else None
    return head


def _data_source(head: Header, spec: Item) -> SourceDoc:
    table = spec.table(("type",), ("description", "connectionDetails"))
    return SourceDoc(head, table["type"].text() if "type" in table else "")


def _target(head: Header, spec: Item) -> TargetDoc:
    table = spec.table(("target",), ("description",))
    return TargetDoc(head, table["target"].text(255) if "target" in table else "")


def _condition(head: Header, spec: Item) -> ConditionDoc:
    table = spec.table(("severity", "condition"), ("description",))
    severity = table["severity"].choice(("page", "ticket")) if "severity" in table else ""
    inner = (
        table["condition"].table(("threshold", "lookbackWindow"), ("kind", "op", "alertAfter"))
        if "condition" in table
        else {}
    )
    if "kind" in inner:
        inner["kind"].choice(("burnrate",))
    if "op" in inner and inner["op"].choice(("gt", "gte", "lt", "lte")) in ("lt", "lte"):
        inner["op"].complain("gt or gte", "write gt: a burn below a threshold is no reason to alert")
    return ConditionDoc(
        head,
        severity,
        inner["threshold"].number("a burn above 0", lambda v: v > 0) if "threshold" in inner else 1.0,
        inner["lookbackWindow"].duration() if "lookbackWindow" in inner else 60,
        _after(inner["alertAfter"]) if "alertAfter" in inner else 0,
        condition_notes(head.annotations),
    )


def _after(item: Item) -> int:
    # The specification's own default, 0m, is not of the form it asks for.
    return 0 if item.plain == "0m" else item.duration()


def _policy(head: Header, spec: Item) -> PolicyDoc:
    flags = ("alertWhenBreaching", "alertWhenResolved", "alertWhenNoData")
    table = spec.table(("conditions",), ("description", *flags, "notificationTargets"))
    said = {name: table[name].flag() for name in flags if name in table}
    if not said.get(flags[0]):
        spec.complain(
            "alertWhenBreaching: true", "write it: without it the policy never alerts", "none or false"
        )
    conditions = _many(table.get("conditions"), "conditionRef", "AlertCondition", _condition)
    if len(conditions) != 1 and "conditions" in table:
        table["conditions"].complain(
            "exactly one condition", "write one policy for each condition", f"{len(conditions)}"
        )
    return PolicyDoc(
        head,
        said.get(flags[1], True),
        said.get(flags[2], False),
        conditions,
        _many(table.get("notificationTargets"), "targetRef", "AlertNotificationTarget", _target),
    )


def _many(
    item: Item | None, reference: str, kind: str, read: Callable[[Header, Item], _T]
) -> tuple[_T | Reference, ...]:
    """Entries that are references, or documents written in place."""
    found: list[_T | Reference] = []
    for entry in item.list() if item is not None and item.kind != "null" else ():
        if entry.kind == "map" and any(key.value == reference for key, _ in entry.node.value):
            table = entry.table((reference,))
            if reference in table:
                found.append(Reference(table[reference].name(), table[reference]))
            continue
        table = entry.table(("metadata", "spec"), ("kind", "apiVersion"))
        if "kind" in table:
            table["kind"].choice((kind,))
        if "metadata" in table and "spec" in table:
            found.append(read(*_header(kind, table["metadata"], table["spec"])))
    return tuple(found)


def _metric(item: Item) -> MetricDoc | None:
    outer = item.table(("metricSource",))
    if "metricSource" not in outer:
        return None
    table = outer["metricSource"].table(("spec",), ("type", "metricSourceRef"))
    if "spec" not in table:
        return None
    source = table.get("metricSourceRef")
    reference = Reference(source.name(), source) if source is not None else None
    return MetricDoc(outer["metricSource"], table.get("type"), reference, table["spec"].pairs())


def _sli(head: Header, spec: Item) -> SliDoc:
    table = spec.table((), ("description", "thresholdMetric", "ratioMetric"))
    given = [name for name in ("thresholdMetric", "ratioMetric") if name in table]
    if len(given) != 1:
        spec.complain(
            "either thresholdMetric or ratioMetric", "write one of them", " and ".join(given) or "none"
        )
        return SliDoc(head, None, {})
    if given == ["thresholdMetric"]:
        return SliDoc(head, _metric(table["thresholdMetric"]), {})
    return SliDoc(head, None, _ratio(table["ratioMetric"]))


def _ratio(item: Item) -> dict[str, MetricDoc]:
    table = item.table((), ("counter", "good", "bad", "total", "raw", "rawType"))
    if "raw" in table:
        table["raw"].complain(
            "good or bad, and total",
            "give the counters that the ratio is made of: a stored ratio has lost how many events it rests "
            "on, and ratios cannot be averaged",
            "a precomputed ratio",
        )
        return {}
    if "rawType" in table:
        table["rawType"].complain("it only beside raw", "remove it")
    if ("good" in table) == ("bad" in table) or "total" not in table:
        got = ", ".join(name for name in ("good", "bad", "total") if name in table) or "none"
        item.complain("total, and either good or bad", "write these two", got)
        return {}
    if "counter" not in table or not table["counter"].flag():
        table.get("counter", item).complain(
            "counter: true",
            "write it where both are counters that only rise; for a value that rises and falls write a "
            "thresholdMetric",
            "counter: false" if "counter" in table else "none",
        )
    metrics = {name: _metric(table[name]) for name in ("good", "bad", "total") if name in table}
    return {name: metric for name, metric in metrics.items() if metric is not None}


def _slo(head: Header, spec: Item) -> SloDoc | None:
    table = spec.table(
        ("service", "budgetingMethod", "objectives"),
        ("description", "indicator", "indicatorRef", "timeWindow", "alertPolicies"),
    )
    if ("indicator" in table) == ("indicatorRef" in table):
        spec.complain(
            "either indicator or indicatorRef",
            "write one of them",
            "both" if "indicator" in table else "none",
        )
        return None
    if not {"service", "budgetingMethod", "objectives"} <= table.keys():
        return None
    return SloDoc(
        head,
        table["service"].name(),
        _indicator(table),
        _window(table["timeWindow"]) if "timeWindow" in table else 30 * 86_400,
        table["budgetingMethod"].choice(("Occurrences", "Timeslices", "RatioTimeslices")),
        tuple(table["objectives"].list()),
        _policies(table.get("alertPolicies")),
    )


def _policies(item: Item | None) -> tuple[PolicyDoc | Reference, ...]:
    found: list[PolicyDoc | Reference] = []
    for entry in item.list() if item is not None and item.kind != "null" else ():
        if entry.kind == "str":  # the form that the specification's own test files have
            found.append(Reference(entry.name(), entry))
            continue
        key = "alertPolicyRef"
        if entry.kind == "map" and any(name.value == key for name, _ in entry.node.value):
            table = entry.table((key,))
            if key in table:
                found.append(Reference(table[key].name(), table[key]))
            continue
        table = entry.table(("kind", "metadata", "spec"), ("apiVersion",))
        if {"metadata", "spec"} <= table.keys():
            found.append(_policy(*_header("AlertPolicy", table["metadata"], table["spec"])))
    return tuple(found)


def _indicator(table: Mapping[str, Item]) -> SliDoc | Reference:
    if "indicatorRef" in table:
        return Reference(table["indicatorRef"].name(), table["indicatorRef"])
    inner = table["indicator"].table(("metadata", "spec"), ("apiVersion", "kind"))
    if not {"metadata", "spec"} <= inner.keys():
        return SliDoc(Header("SLI", "", "", "", "", {}, table["indicator"]), None, {})
    return _sli(*_header("SLI", inner["metadata"], inner["spec"]))


def _window(item: Item) -> int:
    windows = list(item.list())
    if len(windows) != 1:
        item.complain("exactly one time window", "write one", f"{len(windows)}")
        return 60
    table = windows[0].table(("duration",), ("isRolling", "calendar"))
    rolling = "isRolling" in table and table["isRolling"].flag()
    if "calendar" in table or not rolling:
        windows[0].complain(
            "a rolling window",
            "write isRolling: true and no calendar: PromQL looks back from now and knows no calendar",
            "one aligned to a calendar",
        )
    return table["duration"].duration() if "duration" in table else 60


_READERS: dict[str, Callable[[Header, Item], Document | None]] = {
    "DataSource": _data_source,
    "SLO": _slo,
    "SLI": _sli,
    "AlertPolicy": _policy,
    "AlertCondition": _condition,
    "AlertNotificationTarget": _target,
    "Service": _service,
}
