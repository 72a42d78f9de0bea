"""Incident: everything that moved, in the order in which it did, the likely root cause, a draft to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from mlmon.catalog import METRICS
from mlmon.explorer.figures import Line, by_series, lines, timeline
from mlmon.explorer.incident import incident
from mlmon.explorer.overview import label, pages
from mlmon.explorer.postmortem import to_html, to_markdown
from mlmon.explorer.shell import address, begin, chart, empty, link, table
from mlmon.explorer.view import clock_text, span_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mlmon.explorer.incident import Incident, Moved
    from mlmon.explorer.shell import Page

_SHOWN = 4
_PAGE_OF = {"tokenizer": "tokenizer", "embeddings": "embeddings"}


def draw() -> None:
    """Draw the page."""
    page = begin("Incident", "From a page to its cause: what moved, since when, for whom.")
    if page is None:
        return
    found: Incident | None = page.of_group(incident)
    if found is None:
        empty("No service has windows in this time.", "Choose a longer time or fewer filters in the sidebar.")
        return
    if page.view.alert:
        st.caption(f"opened from the alert **{page.view.alert}**")
    _verdict(page, found)
    if not found.moved:
        empty(
            f"Nothing of {found.service} / {found.model} left its bounds in this time.",
            "Look at a longer time, or at the time before: an incident needs some windows before it to "
            "compare.",
        )
        return
    chart(timeline(found), "timeline")
    _table(page, found)
    figures = [figure for one in found.moved[:_SHOWN] if (figure := _figure(page, found, one)) is not None]
    for index, figure in enumerate(figures):
        chart(figure, f"moved-{index}")
    _exports(page, found, figures)


def _verdict(page: Page, found: Incident) -> None:
    columns = st.columns(4)
    columns[0].metric("service", found.service, help=f"model {found.model}")
    columns[1].metric("likely root cause", found.cause or "none", help=found.why or None)
    began = "-" if found.began is None else f"{found.began:%m-%d} {clock_text(found.began)}"
    columns[2].metric("first sign, UTC", began)
    delay = found.detection_seconds
    waited = "at the first sign" if delay == 0 else "not paged" if delay is None else span_text(delay)
    columns[3].metric("paged after" if delay else "paged", waited)
    if found.why:
        st.caption(f"Cause: {found.why}.")
    others = page.of_group(pages)
    if len(others) > 1:
        with st.expander(f"{len(others)} pages in this time"):
            for row in others.itertuples():
                at = int(row.opened.timestamp() * 1_000_000)
                opened = f"{row.opened:%Y-%m-%d} {clock_text(row.opened)}"
                link(
                    "incident", f"{opened} {row.service} / {row.model}: {row.cause}",
                    page.view.around(at, 3600), service=row.service, model=row.model,
                )  # fmt: skip


def _table(page: Page, found: Incident) -> None:
    st.subheader("What moved, first crossing first")
    frame = pd.DataFrame(found.moved, columns=list(type(found.moved[0])._fields))
    frame["scope"] = frame["scope"].replace("", "all")
    numbers = ("before", "worst", "limit")
    shown = "YYYY-MM-DD HH:mm" + (":ss" if any(one.at.second for one in found.moved) else "")
    table(
        frame[["at", "what", "cause", *numbers, "scope"]],
        at=st.column_config.DatetimeColumn("first crossing, UTC", format=shown),
        cause=st.column_config.TextColumn("sign of", width="small"),
        scope=st.column_config.TextColumn("where", width="medium"),
        **{name: st.column_config.NumberColumn(name, format="%.4g", width="small") for name in numbers},
    )
    if found.segments:
        text = ", ".join(f"{name} ({count})" for name, count in found.segments)
        st.caption(f"Segments touched: {text}")
    fields = [one for one in found.moved if one.field]
    for column, one in zip(st.columns(4), fields[:4], strict=False):
        with column:
            name = _PAGE_OF.get(one.monitor, "fields")
            link(
                name, f"look into {one.monitor}/{one.field}", page.view,
                service=found.service, model=found.model, monitor=one.monitor, field=one.field,
            )  # fmt: skip


def _figure(page: Page, found: Incident, one: Moved) -> go.Figure | None:
    """The reading over time, with its limit and the moments of its crossing and of the page."""
    where = {"service": found.service, "model": found.model}
    if one.field:
        where |= {"monitor": one.monitor, "field": one.field}
    key = (one.metric, tuple(where.items()))
    rows: pd.DataFrame = page.computed(page.source.readings, key, [one.metric], page.bounds, where)
    if rows.empty:
        return None
    objective = (
        one.what.removeprefix("objective ").split(" ")[0] if "{slo=" in str(rows["labels"].iloc[0]) else ""
    )
    if objective:
        rows = rows[[label(text, "slo") == objective for text in rows["labels"]]]
        named = [(f"over {label(str(text), 'window')}", part) for text, part in rows.groupby("labels")]
    else:
        named = by_series(rows, ("version", "segment"))
    series = [Line(name, part) for name, part in named]
    limit = rows.assign(value=one.limit).sort_values("time").drop_duplicates("time")
    marks = [(one.at, "crossed, page" if one.at == found.paged else "crossed")]
    if found.paged not in (None, one.at):
        marks.append((found.paged, "page"))
    return lines([*series, Line("limit", limit, limit=True)], one.what, _unit(one, objective), marks=marks)


def _unit(one: Moved, objective: str) -> str:
    if objective:
        return "burn"
    return "effect" if one.field else METRICS[one.metric].unit


def _exports(page: Page, found: Incident, figures: list[go.Figure]) -> None:
    where = address("incident", page.view, service=found.service, model=found.model)
    name = f"incident-{found.service}-{found.began:%Y%m%dT%H%M}"
    left, right, _ = st.columns([1, 1, 2])
    left.download_button(
        "Postmortem draft (Markdown)",
        to_markdown(found, where),
        f"{name}.md",
        "text/markdown",
        on_click="ignore",
    )
    right.download_button(
        "Report (HTML)",
        lambda: to_html(found, figures, where),
        f"{name}.html",
        "text/html",
        on_click="ignore",
    )


if __name__ == "__main__":
    draw()
