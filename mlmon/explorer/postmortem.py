"""An incident as a Markdown draft of its postmortem, and as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from mlmon.explorer.view import clock_text, span_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import plotly.graph_objects as go

    from mlmon.explorer.incident import Incident

__all__ = ["to_html", "to_markdown"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#1b1f24;
background:#fff}table{border-collapse:collapse;width:100%;font-size:14px}td,th{padding:4px 8px;
border-bottom:1px solid #d0d7de;text-align:left}td.t{white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
h1{font-size:1.5rem}h2{font-size:1.15rem}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}td,th{border-color:#30363d}
.js-plotly-plot text{fill:#e6edf3!important}.js-plotly-plot .hoverlayer text{fill:#1b1f24!important}}
"""


def _time(moment: pd.Timestamp | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d} {clock_text(moment)} UTC"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _facts(incident: Incident) -> list[tuple[str, str]]:
    delay = incident.detection_seconds
    return [
        ("Service", f"{incident.service} / {incident.model}"),
        ("First sign", _time(incident.began)),
        ("Paged", _time(incident.paged)),
        ("Time to detection", "-" if delay is None else span_text(delay)),
        ("Page ended", _time(incident.ended) if incident.ended is not None else "open, or nothing paged"),
        ("Likely root cause", f"{incident.cause or 'unknown'} ({incident.why or 'nothing moved'})"),
        ("Segments touched", ", ".join(f"{name} ({count})" for name, count in incident.segments) or "-"),
    ]


#: Classes of a row's cells: of a time, of a number.
_CELLS = ("t", "", "", "n", "n", "n", "")
_COLUMNS = ("first crossing", "what", "sign of", "before", "worst", "limit", "where")


def _rows(incident: Incident) -> list[tuple[str, ...]]:
    return [
        (
            _time(one.at), one.what, one.cause, _number(one.before), _number(one.worst), _number(one.limit),
            one.scope or "all",
        )
        for one in incident.moved
    ]  # fmt: skip


def to_markdown(incident: Incident, address: str) -> str:
    """A draft: what is known is filled in, what people must say is asked.

    Args:
        incident: what happened.
        address: of the explorer's view of it.
    """
    facts = "\n".join(f"- **{name}:** {value}" for name, value in _facts(incident))
    head = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"
    rows = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in _rows(incident))
    return f"""# Postmortem: {incident.service} / {incident.model}, {_time(incident.began)}

{facts}
- **Explorer:** {address}

## What changed and alerted

{head}
{rows}

## Impact

Who was affected, how many requests, for how long?

## Root cause

What was deployed or changed shortly before the first sign? Was the likely cause above right?

## What went well, what did not

Was the page early enough, and did it name the cause? Did anything page that should not have?

## Actions

| action | owner | due |
|---|---|---|
|  |  |  |
"""


def to_html(incident: Incident, figures: Sequence[go.Figure], address: str) -> str:
    """One file with its charts inside; opens without a network, and follows the reader's light or dark."""
    title = html.escape(f"{incident.service} / {incident.model}, {_time(incident.began)}")
    facts = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in _facts(incident)
    )
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    rows = "".join(
        "<tr>"
        + "".join(f'<td class="{_CELLS[index]}">{html.escape(cell)}</td>' for index, cell in enumerate(row))
        + "</tr>"
        for row in _rows(incident)
    )
    charts = "".join(
        figure.to_html(full_html=False, include_plotlyjs="inline" if index == 0 else False)
        for index, figure in enumerate(figures)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Incident: {title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>Incident: {title}</h1><table>{facts}</table>"
        f"<h2>What moved, first crossing first</h2><table><tr>{head}</tr>{rows}</table>{charts}"
        f"<p><small>{html.escape(address)}</small></p></body></html>"
    )
