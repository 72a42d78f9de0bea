"""Charts, from frames: one look for all of them. Knows Plotly, not Streamlit.

Colours are those of Okabe and Ito, which people tell apart whatever their colour vision; lines differ by dash
as well. Every axis says its unit, and a threshold is a line or a band, never a colour alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from mlmon.explorer.view import clock_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from mlmon.explorer.incident import Incident

__all__ = [
    "DASHES",
    "PALETTE",
    "STATES",
    "Line",
    "Points",
    "add_band",
    "bars",
    "by_series",
    "duration_bars",
    "lines",
    "placeholder",
    "scatter",
    "styled",
    "timeline",
]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
#: Colour of a state; its name always stands beside it.
STATES = {
    "ok": "#009E73",
    "alarm": "#D55E00",
    "insufficient data": "#999999",
    "insufficient reference": "#999999",
    "no data": "#999999",
}
_MARGIN = {"l": 64, "r": 16, "t": 40, "b": 60}
#: Readable on light and on dark alike.
_GRID = "rgba(128,128,128,0.25)"
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
#: Most lines of one chart; more are told of in its title.
_MOST_LINES = 16


class Line(NamedTuple):
    """A line: its name, times and values, and whether it is a limit that others are compared with."""

    name: str
    frame: pd.DataFrame
    limit: bool = False


def styled(figure: go.Figure, title: str, unit: str, height: int = 330) -> go.Figure:
    """The common look. Background and text are left to the page's theme."""
    figure.update_layout(
        title={"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left"},
        height=height,
        margin=_MARGIN,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="x unified" if height < 400 else "closest",
        # at the figure's own foot, so that it lies on no axis whatever the height
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
            "font": {"size": 11},
        },
        colorway=PALETTE,
    )
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID)
    figure.update_yaxes(title={"text": unit}, gridcolor=_GRID, zerolinecolor=_GRID, rangemode="tozero")
    return figure


def by_series(rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """Rows by what tells their lines apart, each with a name of it; what is usual (stable) is not named.

    By groups, never row by row: a month has ten thousands of rows.
    """
    found = []
    for key, part in rows.groupby(list(columns), dropna=False, sort=True):
        words = [
            f"version {one}" if name == "version" else one
            for name, one in zip(columns, key, strict=True)
            if isinstance(one, str) and one not in ("", "stable")
        ]
        found.append((", ".join(words) or "all", part))
    return found


def lines(
    series: Sequence[Line],
    title: str,
    unit: str,
    *,
    marks: Sequence[tuple[object, str]] = (),
    log: float | None = None,
) -> go.Figure:
    """Lines over time (UTC). `marks` are moments with a word each, drawn as vertical lines.

    `log` makes the other axis logarithmic: what is below it is shown there, since 0 has no place on it.
    """
    figure = go.Figure()
    shown = [line for line in series if len(line.frame)]
    for index, line in enumerate(shown[:_MOST_LINES]):
        style = (
            {"color": "#D55E00", "dash": "dash", "width": 1.5}
            if line.limit
            else {"color": PALETTE[index % 5], "dash": DASHES[index // 5 % len(DASHES)], "width": 2}
        )
        figure.add_trace(
            go.Scatter(
                x=_moments(line.frame["time"]),
                y=line.frame["value"].to_numpy(),
                name=line.name,
                mode="lines" if len(line.frame) > 1 else "markers",
                line=style,
                hovertemplate="%{y:.4g}",
            )
        )
    for moment, word in marks:
        figure.add_vline(x=moment, line={"color": "#999999", "dash": "dot", "width": 1})
        figure.add_annotation(
            x=moment, y=1.0, yref="paper", yanchor="bottom", text=word, showarrow=False, font={"size": 10}
        )
    if len(shown) > _MOST_LINES:
        title = f"{title} (first {_MOST_LINES} of {len(shown)})"
    # two names fit a line of the legend in half a page
    styled(figure, title, unit, height=330 + 8 * max(0, len(figure.data) - 2))
    figure.update_xaxes(title={"text": "time, UTC", "standoff": 6})
    if log is not None:
        for trace in figure.data:
            trace.y = np.maximum(trace.y, log)
        figure.update_yaxes(type="log", rangemode="normal")
    return figure


def _moments(times: pd.Series) -> NDArray[Any]:
    """Times in UTC as text: what a browser is sent anyway, and many times faster than one object for each."""
    if not hasattr(times.dtype, "tz"):
        return np.asarray(times)
    naive = np.asarray(times.dt.tz_convert("UTC").dt.tz_localize(None))
    return np.datetime_as_string(naive, unit="s")


def add_band(figure: go.Figure, limits: tuple[float, float], mean: float, name: str) -> None:
    """What is usual, as a band behind the lines, with its mean dotted."""
    figure.add_hrect(
        y0=limits[0], y1=limits[1], fillcolor="rgba(128,128,128,0.18)", line_width=0, layer="below"
    )
    # named in the legend: a word within the chart would lie on the lines
    style = {"color": "#999999", "dash": "dot", "width": 1.5}
    figure.add_hline(y=mean, line=style, name=name, showlegend=True)


def bars(
    groups: Sequence[tuple[str, Sequence[str], Sequence[float]]], title: str, axis: str, unit: str
) -> go.Figure:
    """Bars side by side: name, categories and values of each group."""
    figure = go.Figure()
    for index, (name, categories, values) in enumerate(groups):
        figure.add_trace(
            go.Bar(
                x=list(categories),
                y=list(values),
                name=name,
                marker={"color": PALETTE[index], "pattern": {"shape": "" if index == 0 else "/"}},
                hovertemplate="%{y:.3g}",
            )
        )
    styled(figure, title, unit)
    figure.update_layout(barmode="group", bargap=0.15)
    figure.update_xaxes(title={"text": axis}, type="category")
    return figure


def duration_bars(delays: pd.DataFrame, limit_seconds: int) -> go.Figure:
    """How long each shift takes to be found; what is not found in time is a hatched bar to the limit."""
    found = delays.dropna(subset=["median_seconds"])
    missed = delays[delays["median_seconds"].isna()]
    figure = go.Figure()
    parts = (("found", found, found["median_seconds"] / 60, ""), ("not found", missed, None, "/"))
    for index, (name, part, minutes, pattern) in enumerate(parts):
        figure.add_trace(
            go.Bar(
                y=part["shift"],
                x=[limit_seconds / 60] * len(part) if minutes is None else minutes,
                orientation="h",
                name=name,
                marker={"color": PALETTE[0] if index == 0 else "#999999", "pattern": {"shape": pattern}},
                hovertemplate="%{x:.4g} min" if minutes is not None else "not found by then",
            )
        )
    styled(figure, "Median time until a shift pages", "", height=max(300, 90 + 30 * len(delays)))
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title={"text": "minutes"})
    figure.update_yaxes(automargin=True, rangemode="normal", autorange="reversed")
    return figure


def timeline(incident: Incident) -> go.Figure:
    """A row for each reading that moved, at its first crossing, coloured by what it is a sign of."""
    causes = list(dict.fromkeys(one.cause for one in incident.moved))
    figure = go.Figure()
    names = [f"{one.what}" + (f" ({one.scope})" if one.scope else "") for one in incident.moved]
    for index, cause in enumerate(causes):
        mine = [(one, name) for one, name in zip(incident.moved, names, strict=True) if one.cause == cause]
        figure.add_trace(
            go.Scatter(
                x=[one.at for one, _ in mine],
                y=[name for _, name in mine],
                mode="markers+text",
                text=[f"  {clock_text(one.at)}" for one, _ in mine],
                textposition="middle right",
                cliponaxis=False,
                name=f"sign of {cause}",
                marker={"size": 13, "color": PALETTE[index % len(PALETTE)], "symbol": _SYMBOLS[index % 6]},
                hovertemplate="%{y}<br>%{x|%Y-%m-%d %H:%M:%S}<extra></extra>",
            )
        )
    began = "first sign, page" if incident.began == incident.paged else "first sign"
    paged = None if incident.began == incident.paged else incident.paged
    for moment, word in ((incident.began, began), (paged, "page"), (incident.ended, "ended")):
        if moment is not None:
            figure.add_vline(x=moment, line={"color": "#999999", "dash": "dot", "width": 1})
            figure.add_annotation(
                x=moment, y=1.0, yref="paper", yanchor="bottom", text=word, showarrow=False, font={"size": 10}
            )
    styled(figure, "Order of events", "", height=140 + 34 * len(names))
    figure.update_layout(hovermode="closest", margin={**_MARGIN, "l": 16, "r": 56, "t": 56})
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True, rangemode="normal")
    figure.update_xaxes(title={"text": "time, UTC", "standoff": 6})
    return figure


class Points(NamedTuple):
    """Points of one colour: a name, places of shape (n, 2), for each the row it stands for and a word."""

    name: str
    places: NDArray[np.float64]
    rows: Sequence[int]
    words: Sequence[str]


def scatter(
    now: Sequence[Points], baseline: NDArray[np.float64], title: str, axes: tuple[str, str]
) -> go.Figure:
    """Points in two dimensions before those of the baseline, which are grey.

    Groups differ by symbol as well as colour; `customdata` of a point is its row, and the baseline has none.
    """
    figure = go.Figure()
    if len(baseline):
        figure.add_trace(
            go.Scattergl(
                x=baseline[:, 0],
                y=baseline[:, 1],
                mode="markers",
                name=f"baseline ({len(baseline):,})",
                marker={"color": "#999999", "size": 5, "opacity": 0.35, "symbol": "circle-open"},
                hoverinfo="skip",
            )
        )
    for index, group in enumerate(now):
        style = {"color": PALETTE[index % len(PALETTE)], "symbol": _SYMBOLS[index % len(_SYMBOLS)]}
        figure.add_trace(
            go.Scattergl(
                x=group.places[:, 0],
                y=group.places[:, 1],
                mode="markers",
                name=f"{group.name} ({len(group.rows):,})",
                customdata=np.asarray(group.rows),
                text=np.asarray(group.words),
                marker={**style, "size": 6, "opacity": 0.75},
                hovertemplate="%{text}<extra></extra>",
            )
        )
    styled(figure, title, axes[1], height=560)
    figure.update_layout(dragmode="lasso", legend={"y": -0.14})
    figure.update_xaxes(title={"text": axes[0]})
    figure.update_yaxes(rangemode="normal")
    return figure


def placeholder(text: str) -> go.Figure:
    """A chart without data, that says why."""
    figure = styled(go.Figure(), "", "")
    figure.add_annotation(
        text=text, showarrow=False, font={"size": 13}, x=0.5, y=0.5, xref="paper", yref="paper"
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
