"""Objectives of one SLO document: each becomes a draft, a version of what the label `slo` names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlmon.slo.model import Method, Ratio, Threshold, Version
from mlmon.slo.openslo_objects import Reference, SliDoc, SloDoc, SourceDoc
from mlmon.slo.openslo_query import counters, expression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.slo.annotations import SloNotes
    from mlmon.slo.model import CompareOp
    from mlmon.slo.openslo_objects import MetricDoc
    from mlmon.slo.openslo_references import Library
    from mlmon.slo.reader import Item

__all__ = ["Draft", "check_unused", "drafts_of"]

_OPS: dict[str, CompareOp] = {"lte": "<=", "gte": ">=", "lt": "<", "gt": ">"}
#: What an objective must say with a method.
_SLICES: dict[str, tuple[str, ...]] = {
    Method.TIMESLICES: ("timeSliceWindow", "timeSliceTarget"),
    Method.RATIO_TIMESLICES: ("timeSliceWindow",),
}
#: Sources that are asked in PromQL.
_PROMETHEUS = ("prometheus", "thanos", "mimir", "cortex", "victoriametrics", "amazonprometheus", "gcm")


@dataclass(frozen=True, slots=True)
class Draft:
    """One objective of one document."""

    name: str
    display_name: str
    slo: SloDoc
    notes: SloNotes
    version: Version
    item: Item


def drafts_of(slo: SloDoc, notes: SloNotes, library: Library) -> list[Draft]:
    """The objectives of a document; what cannot be compiled is a problem and left out."""
    sli = slo.indicator if isinstance(slo.indicator, SliDoc) else library.find(slo.indicator, SliDoc)
    if sli is None or (sli.threshold is None and not sli.ratio):
        return []
    if not slo.objectives:
        slo.head.item.complain("at least one objective", "write one below spec.objectives", "none")
    if sli.threshold is not None and len(slo.objectives) > 1:
        slo.objectives[1].complain(
            "one objective with a thresholdMetric", "write one SLO for each limit", "a second one"
        )
    base = notes.version_of or slo.head.name
    drafts: list[Draft] = []
    for index, item in enumerate(slo.objectives):
        table = item.table(
            (),
            ("displayName", "op", "value", "target", "targetPercent", "timeSliceTarget", "timeSliceWindow"),
        )
        title = table["displayName"].text(255) if "displayName" in table else ""
        alone = len(slo.objectives) == 1
        name = base if alone else f"{base}-{_slug(title) or index + 1}"
        if name in [draft.name for draft in drafts]:
            item.complain(
                "objectives with different names", "give it a displayName of its own", f'"{title}" twice'
            )
        version = _version(slo, notes, _Given(sli, item, table), library)
        if version is not None:
            shown = slo.head.display_name if alone or not title else f"{slo.head.display_name}: {title}"
            drafts.append(Draft(name, shown, slo, notes, version, item))
    return drafts


def check_unused(library: Library) -> None:
    """Read the queries of SLIs that no SLO refers to: a mistake there is one all the same."""
    used = {slo.indicator.name for slo in library.all(SloDoc) if isinstance(slo.indicator, Reference)}
    for sli in library.all(SliDoc):
        if sli.head.name in used:
            continue
        threshold = _query(sli.threshold, library)
        if threshold is not None:
            expression(threshold)
        for metric in sli.ratio.values():
            query = _query(metric, library)
            if query is not None:
                counters(query, ())


def _slug(title: str) -> str:
    """A name from a title.

    Example:
        >>> _slug("Internal objective (95 %)")
        'internal-objective-95'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")


@dataclass(frozen=True, slots=True)
class _Given:
    """What an objective is made from."""

    sli: SliDoc
    item: Item
    table: Mapping[str, Item]


def _version(slo: SloDoc, notes: SloNotes, given: _Given, library: Library) -> Version | None:
    target = _target(given)
    length, share = _slices(slo.method, given)
    sli = _threshold(given, library) if given.sli.threshold else _ratio(notes, given, library)
    if target is None or sli is None:
        return None
    return Version(notes.effective_from, target, sli, notes.judgement, length, share)


def _target(given: _Given) -> float | None:
    table = given.table
    if ("target" in table) == ("targetPercent" in table):
        given.item.complain(
            "either target or targetPercent", "write one of them", "both" if "target" in table else "none"
        )
        return None
    if "target" in table:
        return table["target"].number("a share from 0 to below 1, such as 0.999", lambda v: 0 <= v < 1)
    percent = table["targetPercent"].number("a percentage from 0 to below 100", lambda v: 0 <= v < 100)
    return round(percent / 100, 12)


def _slices(method: str, given: _Given) -> tuple[int | None, float | None]:
    """Length of a slice and the share that makes it good, as far as the method has them."""
    table, wanted = given.table, _SLICES.get(method, ())
    for name in ("timeSliceWindow", "timeSliceTarget"):
        if name in wanted and name not in table:
            given.item.complain(f"{name} with {method}", f"add {name}", "none")
        elif name not in wanted and name in table:
            table[name].complain(f"no {name} with {method}", "remove it, or choose another budgetingMethod")
    length = share = None
    if "timeSliceWindow" in wanted and "timeSliceWindow" in table:
        length = _slice_seconds(table["timeSliceWindow"])
    if "timeSliceTarget" in wanted and "timeSliceTarget" in table:
        share = table["timeSliceTarget"].number("a share above 0 and up to 1", lambda v: 0 < v <= 1)
    return length, share


def _slice_seconds(item: Item) -> int:
    """A slice's length; a bare number is in minutes, as the specification has it."""
    if item.kind == "int":
        return 60 * int(item.number("a whole number of minutes", lambda v: v >= 1 and v.is_integer()))
    return item.duration()


def _threshold(given: _Given, library: Library) -> Threshold | None:
    query = _query(given.sli.threshold, library)
    missing = [name for name in ("op", "value") if name not in given.table]
    if missing:
        given.item.complain(
            "op and value with a thresholdMetric",
            f"add {' and '.join(missing)}",
            f"no {' and no '.join(missing)}",
        )
    if query is None or missing:
        return None
    op = _OPS[given.table["op"].choice(tuple(_OPS))]
    limit = given.table["value"].number("a number")
    return Threshold(expression(query), op, limit)


def _ratio(notes: SloNotes, given: _Given, library: Library) -> Ratio | None:
    if "value" in given.table:
        given.table["value"].complain(
            "no value with a ratioMetric", "remove it; target says what is asked for"
        )
    found = {name: _query(metric, library) for name, metric in given.sli.ratio.items()}
    part_is = "good" if "good" in found else "bad"
    part, total = found.get(part_is), found.get("total")
    if part is None or total is None:
        return None
    return Ratio(
        counters(part, notes.group_by),
        "good" if part_is == "good" else "bad",
        counters(total, notes.group_by),
    )


def _query(metric: MetricDoc | None, library: Library) -> Item | None:
    """The PromQL of a metric source; None, and a problem, where it is none."""
    if metric is None:
        return None
    word = metric.type.text(255) if metric.type is not None else ""
    place = metric.type or metric.item
    if not word and metric.source is not None:
        source = library.find(metric.source, SourceDoc)
        if source is None:
            return None
        word, place = source.type, metric.source.item
    if not word:
        metric.item.complain("a type or a metricSourceRef", "write type: Prometheus", "none")
        return None
    if word.lower() not in _PROMETHEUS:
        place.complain(
            "a source asked in PromQL, such as Prometheus", "measure it with a counter in Prometheus", word
        )
        return None
    for name in metric.spec.keys() - {"query"}:
        metric.spec[name].complain(
            "query alone in a Prometheus source", "put it into the query", f"the key {name}"
        )
    if "query" not in metric.spec:
        metric.item.complain("the key query in spec", "add query with PromQL", "none")
    return metric.spec.get("query")
