"""One drift field on a page: over time, as a distribution beside its baseline, and who carries it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from mlmon.catalog import drift
from mlmon.explorer import fields
from mlmon.explorer.figures import Line, bars, by_series, lines
from mlmon.explorer.shell import baselines, chart, empty
from mlmon.explorer.shell import table as draw_table

if TYPE_CHECKING:
    import pandas as pd

    from mlmon.explorer.shell import Page

__all__ = ["chosen_field", "field_charts", "field_view", "ranking_table"]


def ranking_table(table: pd.DataFrame) -> None:
    """Fields by evidence, with how near each is to a page."""
    number = st.column_config.NumberColumn
    draw_table(
        table.drop(columns=["service", "model"]).replace({"segment": {"": "all"}}),
        effect=number(format="%.3g", help="How far it moved, beyond noise."),
        tolerance=number(format="%.3g", help="What is not worth a page."),
        times=number("effect / tolerance", format="%.2f"),
        evidence=number(format="compact", help="1 is none."),
        threshold=number(format="compact", help="Evidence at which it would page."),
        n=number("events", format="localized"),
    )


def chosen_field(page: Page, table: pd.DataFrame) -> tuple[str, str]:
    """A field out of a ranking: the address's own, else the one with most evidence."""
    pairs = list(dict.fromkeys(zip(table["monitor"], table["field"], strict=True)))
    asked = (page.view.monitor, page.view.field)
    index = pairs.index(asked) if asked in pairs else 0
    monitor, field = st.selectbox("field", pairs, index=index, format_func=lambda pair: "/".join(pair))
    page.remember(monitor=monitor, field=field)
    return monitor, field


def field_charts(page: Page, monitor: str, field: str) -> bool:
    """Effect and evidence over time, each with its limit. False, nothing drawn, where there is neither."""
    rows = page.cached(fields.over_time, monitor, field)
    if rows.empty:
        return False
    left, right = st.columns(2)
    name = f"{monitor}/{field}"
    with left:
        figure = _line(rows, drift.EFFECT.name, "tolerance", f"{name}: effect", "effect")
        chart(figure, f"effect-{field}")
    with right:
        figure = _line(rows, drift.EVIDENCE.name, "pages alone", f"{name}: evidence", "evidence", log=0.01)
        chart(figure, f"evidence-{field}")
    return True


def field_view(page: Page, monitor: str, field: str) -> None:
    """Everything about one field."""
    field_charts(page, monitor, field)
    _distribution(page, monitor, field)
    st.subheader("Who carries it")
    ranking_table(page.cached(fields.segments, monitor, field))


def _line(rows: pd.DataFrame, metric: str, limit: str, title: str, unit: str, *, log: float | None = None):  # type: ignore[no-untyped-def]
    mine = rows[rows["metric"] == metric]
    series = [Line(name, part) for name, part in by_series(mine, ("version", "deployment", "segment"))]
    limits = mine.dropna(subset=["threshold"]).sort_values("time").drop_duplicates("time")
    limits = limits.assign(value=limits["threshold"])
    return lines([*series, Line(limit, limits, limit=True)], title, unit, log=log)


def _distribution(page: Page, monitor: str, field: str) -> None:
    found = page.cached(fields.distribution, monitor, field)
    if found is None:
        st.caption("Its sums are a mean, not a distribution: there are no cells to compare.")
        return
    total, events, key = found
    reference = fields.reference_of(baselines(), key, page.view.segment, monitor, field)
    shown = fields.beside(total, events, reference)
    groups = [(f"now ({events:,} events)", shown.names, shown.shares)]
    if shown.reference:
        groups.append((f"baseline ({shown.reference_events:,} events)", shown.names, shown.reference))
    chart(bars(groups, f"{monitor}/{field}: distribution", "cell", "share of events"), "distribution")
    if not shown.reference:
        empty(
            "No baseline to compare with.",
            f"None of those given covers {'/'.join(key)}: `mlmon explore --baseline FILE`, or a "
            "configuration with `[baseline] files` by `-c`.",
        )
