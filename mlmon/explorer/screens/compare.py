"""Compare: two windows, versions, deployments or segments side by side, and Evidently's report of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from mlmon.errors import MlmonError
from mlmon.explorer import compare, fields
from mlmon.explorer.compare import Side
from mlmon.explorer.compare_report import make_report
from mlmon.explorer.figures import bars
from mlmon.explorer.shell import baselines, begin, chart, empty
from mlmon.explorer.shell import table as draw_table
from mlmon.explorer.view import moment_text, moment_us, moment_words

if TYPE_CHECKING:
    from mlmon.explorer.compare_report import ReportPage
    from mlmon.explorer.shell import Page
    from mlmon.explorer.source import Bounds

_ALL = "all"
_MADE = "mlmon_report"
_CHOSEN = ("version", "deployment", "segment")


def draw() -> None:
    """Draw the page."""
    page = begin("Compare", "Left is what the sidebar says; right is what is chosen here.")
    if page is None:
        return
    whose: dict[str, str] = page.of_group(compare.subject)
    if not whose:
        empty("No service has windows in this time.", "Choose a longer time or fewer filters in the sidebar.")
        return
    left = Side("left", page.bounds, tuple(sorted((whose | page.where).items())))
    right = _right(page, whose)
    st.caption(f"**left:** {_said(left)}  \n**right:** {_said(right)}")
    if left[1:] == right[1:]:
        st.info("Both sides are the same: choose another time or version for the right.")
    table = _table(page, left, right)
    if table.empty:
        empty("Neither side has readings.", "Choose a longer time, or a version that served.")
        return
    _show(table)
    _distributions(page, left, right)
    _report(page, left, right)


def _right(page: Page, whose: dict[str, str]) -> Side:
    """Pickers of the right side; what they say stands in the address, where absent means as on the left."""
    columns = st.columns(4)
    times = list(compare.TIMES)
    asked = page.view.show if page.view.show in times else times[0]
    time = columns[0].selectbox("right: time", times, index=times.index(asked))
    filters, changes = dict(whose), {"show": "" if time == times[0] else time}
    for column, name in zip(columns[1:], _CHOSEN, strict=True):
        same = page.where.get(name, _ALL)
        current = getattr(page.view, f"other_{name}") or same
        options = list(dict.fromkeys([_ALL, *sorted({*page.of_group(compare.known_values, name), current})]))
        picked = str(column.selectbox(f"right: {name}", options, index=options.index(current)))
        changes[f"other_{name}"] = "" if picked == same else picked
        if picked != _ALL:
            filters[name] = picked
    page.remember(**changes)
    return Side("right", _bounds(page, time), tuple(sorted(filters.items())))


def _bounds(page: Page, time: str) -> Bounds:
    """The right side's time; one of its own is asked for in two fields."""
    moments: list[int | None] = []
    if time == "another time":
        first, last = compare.other_bounds(page.bounds, "the time before", (None, None))
        for name, preset, column in zip(("from", "to"), (first, last), st.columns(4)[:2], strict=True):
            held = getattr(page.view, f"other_{name}") or moment_text(preset)
            text = column.text_input(f"right: {name}, UTC", held)
            moments.append(moment_us(text))
            page.remember(**{f"other_{name}": text})
            if moments[-1] is None:
                st.warning(f"right, {name}: expected a time such as 2026-01-31T12:30:00Z; got {text[:40]!r}")
        if None not in moments and moments[0] >= moments[1]:  # type: ignore[operator]
            st.warning("right: expected from before to; the time before is shown")
    both = (moments[0], moments[1]) if moments else (None, None)
    return compare.other_bounds(page.bounds, time, both)


def _said(side: Side) -> str:
    known = dict(side.filters)
    what = ", ".join(f"{name} {known[name]}" for name in ("service", "model", *_CHOSEN) if name in known)
    return f"{moment_words(side.bounds.start_us)} to {moment_words(side.bounds.end_us)}; {what}"


def _table(page: Page, left: Side, right: Side) -> pd.DataFrame:
    sides = []
    for side in (left, right):
        parts = [
            page.computed(function, (side,), page.source, side)
            for function in (compare.levels, compare.volume, compare.latency)
        ]
        sides.append(pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True))
    return compare.beside(*sides)


def _show(table: pd.DataFrame) -> None:
    number = {name: st.column_config.NumberColumn(format="%.4g") for name in ("left", "right", "difference")}
    count = {
        name: st.column_config.NumberColumn(format="localized") for name in ("left events", "right events")
    }
    change = st.column_config.NumberColumn("change", format="%+.0f %%", help="Of the right side's.")
    draw_table(table.assign(change=100 * table["change"]), **number, **count, change=change)
    st.caption(
        "Means over each time, weighted by events; latency is of all sketches merged. Sorted by how much the "
        "sides differ in relation to their size."
    )


def _distributions(page: Page, left: Side, right: Side) -> None:
    st.subheader("Distributions")
    table = page.computed(fields.ranking, ("ranking", left), page.source, left.bounds, left.where)
    known = page.computed(compare.cell_fields, ("cells", left), page.source, left)
    ranked = [pair for pair in zip(table["monitor"], table["field"], strict=True) if pair in known]
    pairs = list(dict.fromkeys([*ranked, *known]))
    if not pairs:
        st.caption("The left side has no distributions: they need a baseline, which says what the cells are.")
        return
    asked = (page.view.monitor, page.view.field)
    index = pairs.index(asked) if asked in pairs else 0
    monitor, field = st.selectbox("field", pairs, index=index, format_func="/".join)
    page.remember(monitor=monitor, field=field)
    found = [_distribution(page, side, monitor, field) for side in (left, right)]
    if found[0] is None:
        st.caption("The left side has no events of this field.")
        return
    total, events, key = found[0]
    other, others = (total[:0], 0) if found[1] is None else found[1][:2]
    reference = fields.reference_of(baselines(), key, "", monitor, field)
    spec = None if reference is None else reference.spec
    shown = fields.side_by_side((total, events), (other, others), spec)
    groups = [(f"left ({shown.events:,} events)", shown.names, shown.shares)]
    if shown.reference:
        groups.append((f"right ({shown.reference_events:,} events)", shown.names, shown.reference))
    else:
        st.caption("The right side has no events of this field, or they were counted by another baseline.")
    chart(bars(groups, f"{monitor}/{field}: left and right", "cell", "share of events"), "distributions")


def _distribution(page: Page, side: Side, monitor: str, field: str) -> Any:
    key = ("distribution", side, monitor, field)
    return page.computed(fields.distribution, key, page.source, side.bounds, side.where, monitor, field)


def _report(page: Page, left: Side, right: Side) -> None:
    st.subheader("Evidently's report")
    choices = ["left against right", "left against the baseline"]
    chosen = st.radio("report", choices, horizontal=True, label_visibility="collapsed")
    other = right if chosen == choices[0] else None
    key = (left, other)
    if st.button("Make the report", help="Takes some ten seconds."):
        st.session_state.pop(_MADE, None)
        with st.status("making the report", expanded=True) as status:
            try:
                made = make_report(
                    page.source, baselines(), left, other, lambda step: status.update(label=step)
                )
                st.session_state[_MADE] = (key, made)
                status.update(label="made", state="complete")
            except MlmonError as error:
                status.update(label="not made", state="error")
                st.error(str(error))
    held: tuple[object, ReportPage] | None = st.session_state.get(_MADE)
    if held is None or held[0] != key:
        st.caption("Evidently's own tests on a sample of events, beside ours. Made when asked for.")
        return
    st.download_button(
        "Download the report (HTML)", held[1].html, held[1].name, "text/html", on_click="ignore"
    )
    if hasattr(st, "iframe"):
        st.iframe(held[1].html, height=900)
    else:  # an older Streamlit
        st.components.v1.html(held[1].html, height=900, scrolling=True)


if __name__ == "__main__":
    draw()
