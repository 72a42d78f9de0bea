"""The tables of the page: each field with what Evidently says of the same, and columns it has alone."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from mlmon.reports.markup import element, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.reports.markup import Markup
    from mlmon.reports.model import ColumnVerdict, DriftReport, FieldRow

__all__ = ["evidence_text", "field_table", "lone_columns", "number"]

_DISTANCES = {"psi": "PSI", "ks": "KS", "js": "JS", "wasserstein": "W"}
_NOTHING = "\N{EN DASH}"
_STATES = {
    "drifted": ("drifted", "drifted"),
    "ok": ("ok", "within tolerance"),
    "unclear": ("unclear", "not clear yet"),
    "insufficient_data": ("none", "too few events"),
    "insufficient_reference": ("none", "no sound baseline"),
}
_SHOWN = (("all", "All fields"), ("drifted", "Drifted for either"), ("differ", "Verdicts differ"))


def number(value: float) -> str:
    """Three significant digits, never as a power.

    Example:
        >>> number(0.01234), number(-3.0), number(12345.6), number(0.0)
        ('0.0123', '-3.00', '12,346', '0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def evidence_text(log_e: float) -> Markup:
    """An e-value from its logarithm: plain to a million, beyond as a power of ten.

    Example:
        >>> evidence_text(0.0), evidence_text(100.0)
        ('1.00', '10<sup>43</sup>')
    """
    if log_e < math.log(1e-3):
        return joined("< 0.001")
    if log_e < math.log(1e6):
        return joined(number(math.exp(log_e)))
    return joined("10", element("sup", f"{log_e / math.log(10):.0f}"))


def field_table(report: DriftReport) -> Markup:
    """All fields, and a choice of which are shown that works without a script."""
    columns = {verdict.column: verdict for verdict in report.evidently.columns}
    rows = [_row(row, columns[row.columns[0]] if row.columns else None) for row in report.ours.fields]
    heads = element(
        "tr",
        element("th", "Field"),
        element("th", "Effect and tolerance", class_="n"),
        element("th", "Evidence e", class_="n"),
        element("th", "State"),
        element("th", "Events n", element("br"), "effective", class_="n"),
        element("th", "Distances"),
        element("th", "Column and method", class_="theirs"),
        element("th", "Score", element("br"), "threshold", class_="n"),
        element("th", "Verdict"),
        element("th", "Compared", class_="theirs"),
    )
    sides = element(
        "tr",
        element("th", "mlmon", colspan="6"),
        element("th", "Evidently", colspan="3", class_="theirs"),
        element("th", "", class_="theirs"),
        class_="sides",
    )
    table = element("table", element("thead", sides, heads), element("tbody", *rows))
    return element(
        "section", element("h2", "Fields"), _choice(report), element("div", table, class_="scroll")
    )


def _choice(report: DriftReport) -> Markup:
    columns = {verdict.column: verdict for verdict in report.evidently.columns}
    kinds = [_kinds(row, columns[row.columns[0]] if row.columns else None) for row in report.ours.fields]
    counts = {"all": len(kinds), "drifted": sum("either" in k for k in kinds)}
    counts["differ"] = sum("differ" in k for k in kinds)
    parts = []
    for key, label in _SHOWN:
        chosen = element("input", type="radio", name="show", id=f"show-{key}", checked=key == "all")
        parts += [chosen, element("label", f"{label} ({counts[key]:,})", for_=f"show-{key}")]
    return element("div", *parts, class_="show")


def _kinds(row: FieldRow, column: ColumnVerdict | None) -> list[str]:
    ours, theirs = row.state == "drifted", column is not None and column.drifted
    judged = column is not None and row.state in ("drifted", "ok")
    return [
        name for name, holds in (("either", ours or theirs), ("differ", judged and ours != theirs)) if holds
    ]


def _row(row: FieldRow, column: ColumnVerdict | None) -> Markup:
    kind, text = _STATES["unclear" if row.state == "ok" and _past(row) else row.state]
    monitor, _, name = row.field.partition("/")
    sized = joined(f"{row.n:,}", element("div", f"{row.n_eff:,.0f}", class_="small"))
    cells = [
        element("td", _name(name), element("div", monitor, class_="small"), _carriers(row), class_="field"),
        element("td", _effect(row), class_="n"),
        element("td", evidence_text(row.log_e) if row.p_value is not None else _NOTHING, class_="n"),
        element("td", _badge(kind, text), element("div", row.problem, class_="small")),
        element("td", sized, class_="n"),
        element("td", _distances(row)),
        *_their_cells(column),
        element("td", row.reading, class_="reading theirs"),
    ]
    return element("tr", *cells, class_=" ".join(_kinds(row, column)))


def _name(name: str) -> Markup:
    return element("div", _broken(name), class_="name")


def _broken(name: str) -> Markup:
    """A name that may be broken after its separators."""
    parts = [part for part in re.split(r"(?<=[._:/-])", name) if part]
    return joined(*(joined(part, element("wbr")) for part in parts))


def _past(row: FieldRow) -> bool:
    return row.effect is not None and row.tolerance is not None and row.effect > row.tolerance


def _distances(row: FieldRow) -> Markup:
    if not row.distances:
        return joined(_NOTHING)
    pairs = [
        joined(element("span", title, class_="small"), element("span", f"{row.distances[key]:.3f}"))
        for key, title in _DISTANCES.items()
        if key in row.distances
    ]
    return element("div", *pairs, class_="distances")


def _effect(row: FieldRow) -> Markup:
    if row.effect is None or row.tolerance is None:
        return joined(_NOTHING)
    rate = row.kind == "rate"
    shown = f"{number(100 * row.effect)} %" if rate else f"{number(row.effect)} sd"
    allowed = f"{number(100 * row.tolerance)} %" if rate else f"{number(row.tolerance)} sd"
    if rate and row.baseline_rate is not None:
        allowed = f"was {number(100 * row.baseline_rate)} %, up to {allowed}"
    else:
        allowed = f"up to {allowed}"
    part = row.effect / row.tolerance if row.tolerance > 0 else 2.0 if row.effect > 0 else 0.0
    width = min(part / 2, 1.0)
    gauge = element(
        "div",
        element("i", style=f"width:{100 * width:.0f}%"),
        element("b"),
        class_=f"gauge {row.state}" if part > 1 else "gauge",
    )
    return joined(shown, gauge, element("span", allowed, class_="small"))


def _carriers(row: FieldRow) -> Markup:
    if not row.carriers or row.kind == "rate" or row.state != "drifted":
        return joined()
    shares = row.kind == "cells"

    def shown(value: float) -> str:
        return f"{number(100 * value)} %" if shares else number(value)

    items = [
        element(
            "li",
            f"{one.name}: {shown(one.baseline)} → {shown(one.now)} ",
            element("span", f"({one.share_of_shift:.0%} of the shift)", class_="small"),
        )
        for one in row.carriers
    ]
    return element("details", element("summary", "what carries it"), element("ul", *items, class_="carriers"))


def _their_cells(column: ColumnVerdict | None) -> list[Markup]:
    if column is None:
        dash = [element("td", _NOTHING, class_=name) for name in ("n", "")]
        return [element("td", _NOTHING, class_="theirs"), *dash]
    group, _, name = column.column.rpartition(".")
    method = f"{group}, {column.method}" if group else column.method
    return [
        element("td", _name(name), element("div", _broken(method), class_="small"), class_="theirs"),
        element(
            "td",
            number(column.score),
            element("br"),
            element("span", _threshold(column), class_="small"),
            class_="n",
        ),
        element("td", _badge("drifted", "drifted") if column.drifted else _badge("ok", "not drifted")),
    ]


def _threshold(column: ColumnVerdict) -> str:
    return "resampled" if column.threshold is None else number(column.threshold)


def _badge(kind: str, text: str) -> Markup:
    return element("span", text, class_=f"badge {kind}")


def lone_columns(report: DriftReport, columns: Sequence[ColumnVerdict]) -> Markup:
    """Columns that no field of ours looks at, and those that were not compared."""
    parts = []
    if columns:
        rows = [
            element("tr", *_their_cells(column), element("td", _values(column), class_="n"))
            for column in columns
        ]
        heads = [
            element("th", "Column and method"),
            element("th", "Score", element("br"), "threshold", class_="n"),
            element("th", "Verdict"),
            element("th", "Values, baseline / window", class_="n"),
        ]
        table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
        parts += [
            element("h2", "Columns that only Evidently looks at"),
            element("div", table, class_="scroll narrow"),
        ]
    left_out = report.evidently.left_out
    if left_out:
        items = [element("li", f"{name}: {reason}") for name, reason in left_out.items()]
        parts += [element("h2", "Not compared by Evidently"), element("ul", *items, class_="notes")]
    return element("section", *parts) if parts else joined()


def _values(column: ColumnVerdict) -> str:
    return f"{column.baseline_values:,} / {column.window_values:,}"
