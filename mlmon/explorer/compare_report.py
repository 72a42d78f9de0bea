"""Evidently's report of what is looked at, on demand: against the baseline, or one side against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlmon.baseline.model import Scope, ScopeKey, Segment
from mlmon.baseline.store import BaselineStore
from mlmon.clock import SystemClock
from mlmon.errors import ConfigError
from mlmon.reports import (
    Chosen,
    HistoryEvents,
    Making,
    Reference,
    WindowEvents,
    build_report,
    find_reference,
    render,
    report_extractors,
    require_evidently,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlmon.explorer.compare import Side
    from mlmon.explorer.source import HistorySource
    from mlmon.reports import Gathered

__all__ = ["ReportPage", "chosen_of", "make_report"]

#: Events of each side that Evidently is given.
_ROWS = 5_000


class ReportPage(NamedTuple):
    """A report as a page that needs no server, and its name as a file."""

    html: str
    name: str


def chosen_of(source: HistorySource, side: Side) -> Chosen:
    """Which events a side means; of several versions or deployments the one with most events kept.

    Raises:
        ConfigError: there are no events.
    """
    filters = {name: value for name, value in side.filters if name != "segment"}
    condition = "".join(f" and {name} = ?" for name in filters)
    counts = source.query(
        "events",
        "select service, model, version, deployment, count(*) as n from rows "  # noqa: S608 - names of ours
        f"where true{condition} group by all order by n desc, service, model, version limit 1",
        side.bounds,
        list(filters.values()),
    )
    if counts.empty:
        raise ConfigError(
            f"{side.name}: no events are kept in its time; `[monitors.samples] rows` must be above 0"
        )
    row = counts.iloc[0]
    key = ScopeKey(str(row["service"]), str(row["model"]), str(row["version"] or ""))
    deployment = str(row["deployment"] or "stable")
    return Chosen(key, deployment, side.where.get("segment", ""), *side.bounds)


def make_report(
    source: HistorySource,
    store: BaselineStore | None,
    side: Side,
    other: Side | None,
    step: Callable[[str], None],
) -> ReportPage:
    """Make a report of one side, against the other, or against the baseline where `other` is None.

    Args:
        source: of the history.
        store: the baselines.
        side: whose events are reported on.
        other: what they are compared with.
        step: told what is being done.

    Raises:
        MissingExtraError: Evidently is not installed.
        MlmonError: there are no events, no baseline, or nothing that both sides have.
    """
    step("importing Evidently")
    require_evidently()
    chosen = chosen_of(source, side)
    events = HistoryEvents(str(source.directory))
    step(f"reading events of {side.name}")
    if other is None:
        store = store or BaselineStore()
        reference = find_reference(store, chosen)
        window = _gathered(
            events, chosen, WindowEvents(chosen, report_extractors(store, chosen.scope), _ROWS)
        )
    else:
        window = _gathered(events, chosen, WindowEvents(chosen, {}, _ROWS))
        step(f"reading events of {other.name}")
        reference = _as_reference(events, chosen_of(source, other), other.name)
        # both are cut to their segments by now
        chosen = chosen._replace(segment="")
    making = Making(events.source, SystemClock().now_us(), _ROWS, tuple(events.notes(chosen)), step)
    made = build_report(reference, chosen, window, making)
    step("writing")
    name = f"drift-{chosen.scope.service}-{chosen.scope.model}-{chosen.scope.version or 'none'}.html"
    return ReportPage(render(made.report, made.evidently_page), name.replace("/", "_"))


def _gathered(events: HistoryEvents, chosen: Chosen, window: WindowEvents) -> Gathered:
    for batch in events.batches(chosen, lambda _share: None):
        window.add(batch)
    found = window.gathered()
    if found is None:
        raise ConfigError(
            f"no events of {'/'.join(chosen.scope)}, {chosen.deployment}, segment {chosen.segment or 'all'}, "
            "are kept in this time: choose a longer time, or fewer filters"
        )
    return found


def _as_reference(events: HistoryEvents, chosen: Chosen, name: str) -> Reference:
    """The other side in the place of a baseline: its events alone, since it was never calibrated."""
    window = _gathered(events, chosen, WindowEvents(chosen, {}, _ROWS))
    segment = Segment({}, window.events)
    scope = Scope(
        {}, {"": segment}, window.first_us, window.last_us, burst=1.0, block=1, sample=window.sample
    )
    note = (
        f"Compared with {name}, not with a baseline: our own verdicts need a calibrated one and are absent."
    )
    return Reference(chosen.scope, scope, {}, {}, window.events, "", name, [note])
