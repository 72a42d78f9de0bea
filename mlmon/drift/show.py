"""What is shown of drift: readings of the fields that say most, and the pager as it stands."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mlmon.catalog import drift as catalog
from mlmon.drift.distances import distances
from mlmon.drift.fields import FieldState, contributions
from mlmon.drift.pager import Detector
from mlmon.monitors.base import Reading, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlmon.baseline.model import FieldReference
    from mlmon.drift.fields import FieldVerdict
    from mlmon.drift.group import GroupKey
    from mlmon.drift.pager import Alarm, Pager, Standing
    from mlmon.monitors.base import SeriesKey
    from mlmon.stats.sums import FieldSums
    from mlmon.windows import Window

__all__ = [
    "HISTORY_ONLY",
    "Judged",
    "Shown",
    "pager_readings",
    "pager_samples",
    "unit_readings",
    "unreferenced",
]

#: Readings that go to the history alone: `pager_samples` shows the same at any time.
HISTORY_ONLY = frozenset({catalog.PAGER_EVIDENCE.name, catalog.PAGER_ALARM.name, catalog.PAGER_CAUSE.name})
#: Cells or directions named with a field that is shown.
_CONTRIBUTIONS = 8
#: Evidence shown is cut here; what is above pages anyway.
_MOST = 1e15


class Judged(NamedTuple):
    """A field of a series that was judged ("monitor/field"): its verdict, and what it was judged by."""

    name: str
    reference: FieldReference
    sums: FieldSums
    verdict: FieldVerdict


class Shown(NamedTuple):
    """A series that was judged.

    Attributes:
        series: its key.
        window: what was judged together.
        fields: its fields that have a reference.
        missing: by monitor, fields without one.
        thresholds: evidence at which each field alone would page; empty where it cannot.
    """

    series: SeriesKey
    window: Window
    fields: Sequence[Judged]
    missing: Counter[str]
    thresholds: Mapping[str, float]


def unit_readings(shown: Shown, standing: Standing, alarm: Alarm | None, top: int) -> Iterator[Reading]:
    """Readings of one series: its `top` fields of each monitor, and how many fields are in which state."""
    culprits = set() if alarm is None else set(alarm.culprits)
    by_monitor: defaultdict[str, list[Judged]] = defaultdict(list)
    for field in shown.fields:
        by_monitor[field.name.split("/", 1)[0]].append(field)
    for monitor in sorted(by_monitor.keys() | shown.missing.keys()):
        fields = by_monitor[monitor]
        unit = shown.series[2:]
        states = Counter({FieldState.INSUFFICIENT_REFERENCE: shown.missing[monitor]})
        states.update(
            FieldState.ALARM if Detector(*unit, f.name) in culprits else f.verdict.state for f in fields
        )
        n = max((f.verdict.n for f in fields), default=0)
        for state in FieldState:
            labels = (*shown.series, monitor, str(state))
            yield Reading(catalog.FIELDS, labels, float(states[state]), shown.window, n, float(n))
        judged = [f for f in fields if f.verdict.state is FieldState.OK]
        judged.sort(key=lambda f: _rank(f, standing.log_m.get(Detector(*unit, f.name), 0.0)))
        for field in judged[:top]:
            detector = Detector(*unit, field.name)
            log_m = standing.log_m.get(detector, 0.0)
            yield from _field_readings(shown, monitor, field, log_m, alarmed=detector in culprits)


def unreferenced(series: SeriesKey, window: Window, monitors: Sequence[str]) -> Iterator[Reading]:
    """Say that no baseline covers a series for these monitors, though one covers its service and model."""
    for monitor in monitors:
        labels = (*series, monitor, str(FieldState.INSUFFICIENT_REFERENCE))
        yield Reading(catalog.FIELDS, labels, 1.0, window, 0, 0.0)


def _rank(field: Judged, log_m: float) -> tuple[float, float, str]:
    """Most evidence first, then the largest effect for its tolerance."""
    tolerance = field.verdict.tolerance
    return -log_m, -field.verdict.effect / tolerance if tolerance > 0 else -field.verdict.effect, field.name


def _field_readings(
    shown: Shown, monitor: str, field: Judged, log_m: float, *, alarmed: bool
) -> Iterator[Reading]:
    verdict, name = field.verdict, field.name.split("/", 1)[1]
    labels = (*shown.series, monitor, name)
    n, n_eff = verdict.n, verdict.n_eff
    carried = contributions(field.reference, field.sums, _CONTRIBUTIONS)
    attributes = {str(rank): msgspec.json.encode(one).decode() for rank, one in enumerate(carried, 1)}
    yield Reading(
        catalog.EFFECT,
        labels,
        verdict.effect,
        shown.window,
        n,
        n_eff,
        threshold=verdict.tolerance,
        p_value=verdict.p_value,
        attributes=attributes,
    )
    yield Reading(catalog.TOLERANCE, labels, verdict.tolerance, shown.window, n, n_eff)
    yield Reading(catalog.SAMPLE_SIZE, labels, n_eff, shown.window, n, n_eff)
    for measure, distance in distances(field.reference, field.sums).items():
        yield Reading(catalog.DISTANCE, (*labels, measure), distance, shown.window, n, n_eff)
    threshold = shown.thresholds.get(field.name)
    if threshold is not None:
        evidence = min(math.exp(log_m), _MOST)
        yield Reading(catalog.EVIDENCE, labels, evidence, shown.window, n, n_eff, threshold=threshold)
        yield Reading(catalog.FIELD_THRESHOLD, labels, threshold, shown.window, n, n_eff)
        yield Reading(catalog.ALARM, labels, float(alarmed), shown.window, n, n_eff)


def pager_readings(
    key: GroupKey, window: Window, pager: Pager, standing: Standing, threshold: float
) -> Iterator[Reading]:
    """The pager after a window, for the history."""
    total = min(standing.total, _MOST)
    yield Reading(catalog.PAGER_EVIDENCE, tuple(key), total, window, 0, 0.0, threshold=threshold)
    yield Reading(catalog.PAGER_ALARM, tuple(key), float(pager.alarm is not None), window, 0, 0.0)
    if pager.alarm is not None:
        yield Reading(catalog.PAGER_CAUSE, _cause(key, pager.alarm), 1.0, window, 0, 0.0)


def pager_samples(key: GroupKey, pager: Pager, threshold: float, detectors: int) -> Iterator[Sample]:
    """The pager as it stands, whether or not windows close."""
    yield Sample(catalog.PAGER_EVIDENCE, tuple(key), min(pager.total(), _MOST))
    yield Sample(catalog.PAGER_THRESHOLD, tuple(key), threshold)
    yield Sample(catalog.PAGER_ALARM, tuple(key), float(pager.alarm is not None))
    yield Sample(catalog.PAGES, tuple(key), float(pager.pages))
    yield Sample(catalog.PAGER_DETECTORS, tuple(key), float(detectors))
    if pager.alarm is not None:
        yield Sample(catalog.PAGER_CAUSE, _cause(key, pager.alarm), 1.0)


def _cause(key: GroupKey, alarm: Alarm) -> tuple[str, ...]:
    return (*key, alarm.version, alarm.segment, alarm.cause, alarm.field)
