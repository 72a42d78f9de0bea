"""A closed window judged: fields against their baseline, evidence into the pager, readings out.

For each (service, model): (1) the sums of its series are put together, with one series more for each version
and deployment over all its segments; (2) series with enough events are judged, others wait; (3) evidence goes
to the pager; (4) readings. Pure: what must survive a crash is in `Group`, which the engine puts into the
checkpoint with the transaction that closes the window.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from mlmon.baseline.model import ScopeKey
from mlmon.catalog import requests as catalog
from mlmon.drift.config import MONTH_SECONDS
from mlmon.drift.fields import FieldState, judge_fields
from mlmon.drift.group import Group, GroupKey, Pool, Unit
from mlmon.drift.pager import Detector, Evidence
from mlmon.drift.show import Judged, Shown, pager_readings, pager_samples, unit_readings, unreferenced
from mlmon.monitors.base import SeriesKey
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlmon.baseline.model import FieldReference, Scope
    from mlmon.drift.config import AlertsConfig, DriftConfig
    from mlmon.monitors.base import Reading, Sample
    from mlmon.stats.sums import FieldSums

__all__ = ["FieldTable", "Judge", "References"]

#: The deployment whose drift pages; others are shown.
_PAGED = "stable"
#: Bursts that a series needs to be judged: as many independent events as a mean of scalars needs.
_BURSTS = 100
#: Readings that tell what should serve and what does; their labels begin with service, model, deployment.
_VERSIONS = (catalog.VERSION_MISMATCH_RATIO, catalog.EXPECTED_VERSION, catalog.VERSION_TRAFFIC)
#: A series without events for this long no longer counts: 24 hours of event time.
_FORGET_US = 86_400 * 1_000_000
#: Share of the budget that all segments together have; the series over all segments have the rest.
_SEGMENTS_SHARE = 0.5

#: Field sums of one series: by monitor, by field.
FieldTable: TypeAlias = "Mapping[str, Mapping[str, FieldSums]]"


class References(Protocol):
    """What a judge needs of the baselines: `baseline.store.BaselineStore`."""

    @property
    def scopes(self) -> Mapping[ScopeKey, Scope]:
        """Every scope."""
        ...

    def find(self, scope: ScopeKey, monitor: str) -> tuple[ScopeKey, Scope] | None:
        """The scope that a monitor's fields are judged by, or None."""
        ...


class Budget(NamedTuple):
    """Detectors of a group: fields of its largest scope over all segments, fields in segments, scopes."""

    all: int
    segments: int
    scopes: int


class Judge:
    """Judges windows, keeps the groups' state.

    Args:
        references: the baselines.
        alerts: the budget.
        drift: when there is enough, and how much is shown.
        window_seconds: length of a window; how many there are in a month makes the threshold.
    """

    def __init__(
        self, references: References, alerts: AlertsConfig, drift: DriftConfig, window_seconds: int
    ) -> None:
        self._references = references
        self._drift = drift
        self._windows_per_page = MONTH_SECONDS / window_seconds / alerts.false_pages_per_month
        self._budgets = _budgets(references.scopes)
        self.groups: dict[GroupKey, Group] = {}

    # State

    def load(self, key: GroupKey, data: bytes) -> None:
        """Take a group over; of several records of it (its series was split) the newest counts.

        Raises:
            IncompatibleStateError: the record is damaged or of another form.
        """
        group = Group.from_bytes(data)
        held = self.groups.get(key)
        if held is None or held.judged_us < group.judged_us:
            self.groups[key] = group

    def retain(self, keys: Iterable[GroupKey]) -> None:
        """Drop every group but these."""
        kept = set(keys)
        for key in self.groups.keys() - kept:
            del self.groups[key]

    def samples(self) -> tuple[Sample, ...]:
        """The pager as it stands, for every group: what must be shown also while no window closes."""
        return tuple(
            sample
            for key, group in self.groups.items()
            for sample in pager_samples(key, group.pager, self.threshold(key), self._detectors(key))
        )

    def threshold(self, key: GroupKey) -> float:
        """Evidence at which a page of the group is due: models of a service share its budget."""
        models = {scope.model for scope in self._references.scopes if scope.service == key.service}
        return self._windows_per_page * max(1, len(models))

    def _detectors(self, key: GroupKey) -> int:
        budget = self._budgets.get(key)
        return 0 if budget is None else (budget.all + budget.segments) * budget.scopes

    # Windows

    def close(
        self, window: Window, tables: Mapping[SeriesKey, FieldTable], readings: Sequence[Reading]
    ) -> list[Reading]:
        """Judge a closed window.

        Args:
            window: the window.
            tables: field sums of its series; they are not changed.
            readings: what the monitors already said of it.

        Returns:
            Readings of drift. The pager's are among them for the history; `samples` shows them.
        """
        wrong = _wrong_versions(readings)
        groups: defaultdict[GroupKey, dict[Unit, Pool]] = defaultdict(dict)
        said: list[Reading] = []
        for series, table in tables.items():
            key = GroupKey(series.service, series.model)
            if key not in self._budgets:
                continue
            digests = {monitor: self._digest(series, monitor) for monitor in table}
            said.extend(unreferenced(series, window, [m for m, digest in digests.items() if digest is None]))
            brought = _flat(table, window.start_us, digests)
            if brought.fields:
                for unit in {Unit(*series[2:]), Unit(*series[2:4], "")}:
                    groups[key].setdefault(unit, Pool(window.start_us, {}, {})).merge(brought)
        for key, units in groups.items():
            group = self.groups.setdefault(key, Group())
            said.extend(self._close_group(window, key, group, units, wrong_version=key in wrong))
        return said

    def _close_group(
        self,
        window: Window,
        key: GroupKey,
        group: Group,
        units: Mapping[Unit, Pool],
        *,
        wrong_version: bool,
    ) -> Iterator[Reading]:
        group.judged_us = max(group.judged_us, window.end_us)
        ready: dict[Unit, Pool] = {}
        for unit, brought in units.items():
            group.seen[unit] = window.end_us
            pool = group.pools.get(unit)
            if pool is None:
                pool = group.pools[unit] = brought
            else:
                pool.merge(brought)
            waited = window.end_us - pool.start_us
            enough = max(self._drift.min_events, _BURSTS * self._burst(key, unit))
            if pool.events >= enough or waited >= self._drift.max_wait_seconds * 1_000_000:
                ready[unit] = group.pools.pop(unit)
        group.expire(window.end_us - _FORGET_US)
        judged = self._judge(key, ready)
        weights = self._weights(key, group)
        evidence = {
            Detector(*unit, field.name): Evidence(field.verdict.log_e, weights[unit.segment != ""])
            for unit, fields in judged.items()
            if unit.deployment == _PAGED
            for field in fields
            if field.verdict.state is FieldState.OK
        }
        threshold = self.threshold(key)
        standing = group.pager.update(evidence, threshold, window.end_us, wrong_version=wrong_version)
        for unit, fields in judged.items():
            shown = Shown(
                SeriesKey(*key, *unit),
                Window(ready[unit].start_us, window.end_us),
                fields,
                _unjudged(ready[unit], fields),
                {
                    f.name: threshold / weights[unit.segment != ""]
                    for f in fields
                    if unit.deployment == _PAGED
                },
            )
            yield from unit_readings(shown, standing, group.pager.alarm, self._drift.top_fields)
        if ready:
            yield from pager_readings(key, window, group.pager, standing, threshold)

    def _weights(self, key: GroupKey, group: Group) -> tuple[float, float]:
        """Share of the budget of one field over all segments, and of one field of a segment."""
        budget = self._budgets.get(key, Budget(1, 0, 1))
        versions = max(budget.scopes, len({unit.version for unit in group.seen}))
        split = _SEGMENTS_SHARE if budget.segments else 0.0
        return (1 - split) / max(1, budget.all) / versions, split / max(1, budget.segments) / versions

    def _judge(self, key: GroupKey, ready: Mapping[Unit, Pool]) -> dict[Unit, list[Judged]]:
        """Judge every field of these series that has a reference, in one pass."""
        found: list[tuple[Unit, str, FieldReference, FieldSums]] = []
        for unit, pool in ready.items():
            for name, sums in pool.fields.items():
                reference = self._reference(key, unit, name, pool)
                if reference is not None:
                    found.append((unit, name, reference, sums))
        verdicts = judge_fields([(reference, sums) for _, _, reference, sums in found])
        judged: dict[Unit, list[Judged]] = {unit: [] for unit in ready}
        for (unit, name, reference, sums), verdict in zip(found, verdicts, strict=True):
            judged[unit].append(Judged(name, reference, sums, verdict))
        return judged

    def _digest(self, series: SeriesKey, monitor: str) -> str | None:
        """Of the parameters that the sums of a series were made with; None where no baseline covers it."""
        found = self._references.find(ScopeKey(*series[:3]), monitor)
        if found is None:
            return None
        parameters = found[1].parameters.get(monitor)
        return "" if parameters is None else parameters.digest

    def _burst(self, key: GroupKey, unit: Unit) -> float:
        found = self._references.find(ScopeKey(*key, unit.version), "features")
        return 1.0 if found is None else found[1].burst

    def _reference(self, key: GroupKey, unit: Unit, name: str, pool: Pool) -> FieldReference | None:
        monitor = name.split("/", 1)[0]
        found = self._references.find(ScopeKey(*key, unit.version), monitor)
        if found is None:
            return None
        scope = found[1]
        parameters = scope.parameters.get(monitor)
        if parameters is None or parameters.digest != pool.digests.get(monitor):
            return None
        segment = scope.segments.get(unit.segment)
        return None if segment is None else segment.fields.get(name)


def _budgets(scopes: Mapping[ScopeKey, Scope]) -> dict[GroupKey, Budget]:
    """Count the detectors of every group: fixed by the baselines, so that the budget does not move.

    Fields without a null (`blocks` is 0) are never judged and take no share.
    """
    found: dict[GroupKey, Budget] = {}
    for (service, model, _), scope in scopes.items():
        sizes = {
            segment: sum(reference.blocks > 0 for reference in part.fields.values())
            for segment, part in scope.segments.items()
        }
        whole = sizes.pop("", 0)
        held = found.get(GroupKey(service, model), Budget(0, 0, 0))
        found[GroupKey(service, model)] = Budget(
            max(held.all, whole), max(held.segments, sum(sizes.values())), held.scopes + 1
        )
    return found


def _flat(table: FieldTable, start_us: int, digests: Mapping[str, str | None]) -> Pool:
    """The sums of a series by "monitor/field"."""
    fields = {f"{monitor}/{name}": sums for monitor, part in table.items() for name, sums in part.items()}
    return Pool(start_us, fields, {monitor: digest or "" for monitor, digest in digests.items()})


def _unjudged(pool: Pool, judged: Sequence[Judged]) -> Counter[str]:
    """By monitor, how many of its fields have no reference to be judged by."""
    names = pool.fields.keys() - {field.name for field in judged}
    return Counter(name.split("/", 1)[0] for name in names)


def _wrong_versions(readings: Iterable[Reading]) -> set[GroupKey]:
    """Groups of which some stable traffic was on a version that is not the declared one.

    Another tokenizer under the declared model is none: it shows in the tokenizer's own fields, which say so.
    """
    expected: dict[GroupKey, tuple[str, ...]] = {}
    served: defaultdict[GroupKey, set[tuple[str, ...]]] = defaultdict(set)
    wrong = set()
    for reading in readings:
        if reading.metric not in _VERSIONS or reading.labels[2] != _PAGED:
            continue
        key = GroupKey(reading.labels[0], reading.labels[1])
        if reading.metric is catalog.EXPECTED_VERSION:
            expected[key] = reading.labels[3:]
        elif reading.metric is catalog.VERSION_TRAFFIC:
            served[key].add(reading.labels[3:])
        elif reading.value > 0:
            wrong.add(key)
    return {key for key in wrong if not _only_tokenizer(expected.get(key, ()), served[key])}


def _only_tokenizer(expected: Sequence[str], served: Iterable[Sequence[str]]) -> bool:
    """Whether everything that serves differs from what is expected in parts of the tokenizer at most.

    Args:
        expected: model version, model digest, tokenizer version, tokenizer digest; empty where anything may.
        served: the same of all that serves; empty where the event does not say, "other" beyond the cap.
    """
    model = [(want, parts[index]) for parts in served for index, want in enumerate(expected[:2])]
    return bool(model) and all(not want or not got or want == got for want, got in model)
