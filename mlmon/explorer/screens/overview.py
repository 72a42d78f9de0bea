"""Overview: where every service stands, what is left of its budgets, and what became of its pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from mlmon.explorer import overview
from mlmon.explorer.figures import Line, lines
from mlmon.explorer.shell import begin, chart, empty, link, table

if TYPE_CHECKING:
    from mlmon.explorer.shell import Page

_ICONS = {"ok": ":material/check_circle:", "alarm": ":material/error:", "no data": ":material/help:"}
_STATES = ("alarm", "ok", "insufficient data", "insufficient reference")
_BADGES = {"ok": "green", "alarm": "red", "no data": "gray"}


def draw() -> None:
    """Draw the page."""
    page = begin("Overview", "Where every service stands, and what led there. Times are in UTC.")
    if page is None:
        return
    standings = page.of_group(overview.standings)
    if not standings:
        empty("No windows in this time.", "Choose a longer time or fewer filters in the sidebar.")
        return
    _standings(page, standings)
    _pages(page)
    _pager(page)
    left, right = st.columns(2)
    with left:
        _budgets(page)
    with right:
        _versions(page)
    _detectors(page)


def _standings(page: Page, standings: list[overview.Standing]) -> None:
    for column, row in zip(st.columns(max(3, len(standings[:6]))), standings, strict=False):
        with column, st.container(border=True):
            st.badge(row.state, icon=_ICONS[row.state], color=_BADGES[row.state])  # type: ignore[arg-type]
            st.markdown(f"**{row.service}** / {row.model}")
            if row.state == "alarm":
                st.caption(f"likely cause: **{row.cause or 'unknown'}**, most of it in `{row.field or '?'}`")
                link("incident", "walk the incident", page.view, service=row.service, model=row.model)
            elif row.state == "no data":
                st.caption(f"newest window ended {row.newest:%Y-%m-%d %H:%M}")
            elif row.evidence is None:
                st.caption("no baseline judges it: name one in `[baseline] files`")
            else:
                st.caption(f"evidence {row.evidence:.3g} of {row.threshold or float('nan'):.3g} that page")
    if len(standings) > 6:
        st.caption(f"and {len(standings) - 6} more: choose a service in the sidebar")


def _pages(page: Page) -> None:
    st.subheader("Pages")
    pages = page.of_group(overview.pages)
    if pages.empty:
        st.caption("None in this time.")
        return
    ended = [f"{one:%Y-%m-%d %H:%M}" if pd.notna(one) else "still open" for one in pages["ended"]]
    table(
        pages.assign(ended=ended),
        opened=st.column_config.DatetimeColumn("opened, UTC", format="YYYY-MM-DD HH:mm"),
        ended="ended, UTC",
        cause="likely root cause",
        field="field with most of the evidence",
    )


def _pager(page: Page) -> None:
    st.subheader("How near a page is")
    frame = page.of_group(overview.pager)
    if frame.empty:
        empty(
            "No drift is judged here.",
            "Make a baseline (`mlmon baseline build`) and name it in `[baseline] files` of the "
            "configuration.",
        )
        return
    series = [
        Line(f"{service} / {model}", part) for (service, model), part in frame.groupby(["service", "model"])
    ]
    limits = frame.dropna(subset=["threshold"]).assign(value=lambda rows: rows["threshold"])
    limit = limits.sort_values("time").drop_duplicates("time")
    marks = [(row.opened, "page") for row in page.of_group(overview.pages).head(8).itertuples()]
    figure = lines(
        [*series, Line("a page is due", limit, limit=True)],
        "Evidence that something moved, against the threshold",
        "evidence",
        marks=marks,
        log=0.01,  # evidence of 0.01 is as good as none
    )
    chart(figure, "pager")


def _budgets(page: Page) -> None:
    st.subheader("Error budgets")
    frame = page.of_group(overview.budgets)
    if frame.empty:
        st.caption("No objective is judged here: see `[monitors.slo]`.")
        return
    number = st.column_config.NumberColumn
    table(
        _told(frame.assign(left=100 * frame["left"]).dropna(axis="columns", how="all")),
        slo="objective",
        left=number("budget left", format="%.1f %%", help="Of the period; below 0 it is overspent."),
        burn=number("burn, 1 h", format="%.3g", help="At burn 1 the budget lasts exactly its period."),
        coverage=number("labelled", format="percent", help="Share of requests with a label."),
    )


def _versions(page: Page) -> None:
    st.subheader("Versions that serve")
    frame = page.cached(overview.versions)
    if frame.empty:
        st.caption("None are reported in this time.")
        return
    table(
        _told(frame),
        share=st.column_config.NumberColumn("share of traffic", format="percent"),
        since=st.column_config.DatetimeColumn("first seen, UTC", format="YYYY-MM-DD HH:mm"),
    )
    if (frame["expected"] == "no").any():
        st.warning("A version serves that nobody declared.", icon=":material/warning:")


def _told(frame: pd.DataFrame) -> pd.DataFrame:
    """Without service and model where there is one: it stands above, and half a page is narrow."""
    names = ["service", "model"]
    return frame.drop(columns=names) if len(frame[names].drop_duplicates()) == 1 else frame


def _detectors(page: Page) -> None:
    st.subheader("Detectors")
    frame = page.cached(overview.detectors)
    if frame.empty:
        st.caption("None: no baseline covers what is looked at.")
        return
    counts = frame.pivot_table(
        index=["service", "model", "version", "deployment", "segment", "monitor"],
        columns="state",
        values="fields",
        aggfunc="sum",
        fill_value=0,
    )
    order = [name for name in _STATES if name in counts]
    shown = counts[order].reset_index().sort_values(order[0], ascending=False)
    table(_told(shown.replace({"segment": {"": "all"}})))
    st.caption(
        "Fields by state. *Insufficient reference*: no baseline, or too few events in it, for that version "
        "or segment; it is never an alarm."
    )


if __name__ == "__main__":
    draw()
