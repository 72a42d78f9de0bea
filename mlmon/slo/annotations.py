"""mlmon's own words in a spec: what OpenSLO leaves open, in `metadata.annotations` under `mlmon.io/`.

Annotations are texts, as OpenSLO has it, so numbers and durations are written in quotes. Those of other
prefixes belong to other tools and are left alone. An annotation that is not known here is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from mlmon.slo.model import JudgeKind, Judgement
from mlmon.slo.reader import duration_seconds, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlmon.slo.model import SeverityClass
    from mlmon.slo.reader import Item

__all__ = ["CONDITION_KEYS", "SLO_KEYS", "ConditionNotes", "SloNotes", "condition_notes", "slo_notes"]

_PREFIX = "mlmon.io/"

#: What an SLO may say: key and its meaning, for the documentation.
SLO_KEYS: dict[str, str] = {
    "group-by": "labels, with commas: each of their values has a budget of its own; default none",
    "label-delay": "how long the truth about an event may take, such as 2d; default none",
    "minimum-events": "effective events in a window that it takes to say anything; default 20",
    "minimum-coverage": "share of events with a label below which a page becomes a ticket; default 0",
    "confidence": "one-sided level of the lower bound that pages test, 0.5 to below 1; default 0.95",
    "severity-class": "critical, standard or informational (never pages); default standard",
    "judge": "how the sidecar judges an event: availability, latency SECONDS, accuracy, masked-accuracy, "
    "agreement, echo",
    "effective-from": "date or time in UTC from which this version of the objective is in force",
    "version-of": "name of the SLO that this document is a later version of",
    "root-cause": "label by which symptoms of one cause are grouped; default the SLO's name",
    "release": "burns or excused: whether the budget burns during a planned release; default burns",
    "requires": "what must be switched on before the metrics exist, in words",
    "alerts": "standard or none, where the SLO names no alertPolicies; default standard",
}
#: What an AlertCondition may say.
CONDITION_KEYS: dict[str, str] = {
    "short-window": "window that ends the alert soon after the cause; default a twelfth of the lookback",
    "confident": "whether the lower bound is tested; default true for page, false for ticket",
}

_CLASSES = ("critical", "standard", "informational")
_JUDGES = tuple(kind.value for kind in JudgeKind)


@dataclass(frozen=True, slots=True)
class SloNotes:
    """Annotations of an SLO; None where the default depends on the rest of the document."""

    group_by: tuple[str, ...] = ()
    label_delay_seconds: int = 0
    minimum_events: int | None = None
    minimum_coverage: float = 0.0
    confidence: float = 0.95
    severity_class: SeverityClass = "standard"
    judgement: Judgement | None = None
    effective_from: datetime | None = None
    version_of: str = ""
    root_cause: str = ""
    burns_in_release: bool = True
    requires: str = ""
    alerts: Literal["standard", "none"] | None = None


@dataclass(frozen=True, slots=True)
class ConditionNotes:
    """Annotations of an AlertCondition; None where the default depends on the condition."""

    short_seconds: int | None = None
    confident: bool | None = None


def slo_notes(annotations: Mapping[str, Item]) -> SloNotes:
    """Read an SLO's annotations."""
    readers: dict[str, tuple[str, Callable[[Item], Any]]] = {
        "group-by": ("group_by", _labels),
        "label-delay": ("label_delay_seconds", _duration),
        "minimum-events": ("minimum_events", lambda i: int(_number(i, "a whole number of events", _whole))),
        "minimum-coverage": ("minimum_coverage", lambda i: _number(i, "a share from 0 to 1", _share)),
        "confidence": ("confidence", lambda i: _number(i, "a level from 0.5 to below 1", _level)),
        "severity-class": ("severity_class", lambda i: cast("SeverityClass", i.choice(_CLASSES))),
        "judge": ("judgement", _judgement),
        "effective-from": ("effective_from", _moment),
        "version-of": ("version_of", lambda i: i.name()),
        "root-cause": ("root_cause", lambda i: i.name(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")),
        "release": ("burns_in_release", lambda i: i.choice(("burns", "excused")) == "burns"),
        "requires": ("requires", lambda i: i.text()),
        "alerts": ("alerts", lambda i: i.choice(("standard", "none"))),
    }
    return SloNotes(**_read(annotations, readers))


def condition_notes(annotations: Mapping[str, Item]) -> ConditionNotes:
    """Read an AlertCondition's annotations."""
    readers: dict[str, tuple[str, Callable[[Item], Any]]] = {
        "short-window": ("short_seconds", _duration),
        "confident": ("confident", lambda item: item.choice(("true", "false")) == "true"),
    }
    return ConditionNotes(**_read(annotations, readers))


def _read(
    annotations: Mapping[str, Item], readers: Mapping[str, tuple[str, Callable[[Item], Any]]]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in annotations.items():
        if not key.startswith(_PREFIX):
            continue
        name = key.removeprefix(_PREFIX)
        if name not in readers:
            item.complain(f"a key that is known under {_PREFIX}", nearest(name, readers), "an unknown one")
        elif item.kind != "str":
            item.complain("a text", f'write it in quotes: "{item.plain}"')
        else:
            attribute, read = readers[name]
            found[attribute] = read(item)
    return found


def _labels(item: Item) -> tuple[str, ...]:
    labels = tuple(part.strip() for part in item.plain.split(","))
    if len(set(labels)) < len(labels) or not all(
        re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", part) for part in labels
    ):
        item.complain("different label names with commas between them", 'write them so: "service, model"')
        return ()
    return labels


def _duration(item: Item) -> int:
    if item.plain == "0":
        return 0
    if duration_seconds(item.plain) is None:
        item.complain("a whole number and one of m, h, d, w", 'write it such as "30m" or "2d"')
    return duration_seconds(item.plain) or 0


def _number(item: Item, wanted: str, accept: Callable[[float], bool]) -> float:
    try:
        value = float(item.plain)
    except ValueError:
        value = -1.0
    if not accept(value):
        item.complain(wanted, "write such a number, in quotes")
        return 0.5
    return value


def _whole(value: float) -> bool:
    return 0 <= value < 1e12 and value.is_integer()


def _share(value: float) -> bool:
    return 0 <= value <= 1


def _level(value: float) -> bool:
    return 0.5 <= value < 1


def _moment(item: Item) -> datetime | None:
    try:
        moment = datetime.fromisoformat(item.plain)
    except ValueError:
        item.complain("a date or time in UTC", 'write it such as "2026-08-01" or "2026-08-01T06:00:00Z"')
        return None
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def _judgement(item: Item) -> Judgement | None:
    kind, _, limit = item.plain.partition(" ")
    if kind not in _JUDGES:
        item.complain(f"one of {', '.join(_JUDGES)}", nearest(kind, _JUDGES))
        return None
    if kind != JudgeKind.LATENCY:
        if limit:
            item.complain(f"{kind} alone", "remove what follows it", f'"{item.plain}"')
        return Judgement(JudgeKind(kind))
    try:
        seconds = float(limit)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        item.complain("latency and a number of seconds", 'write it such as "latency 0.25"')
        return None
    return Judgement(JudgeKind.LATENCY, seconds)
