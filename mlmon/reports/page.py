"""The report as one page: our table beside Evidently's verdicts, then Evidently's own page in a frame.

The page needs nothing from a network, and its content policy forbids it. Evidently's page is script, built
from what events carried, so it runs in a sandboxed frame that can reach neither this page nor any origin; the
only thing it tells this page is its height.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from mlmon.reports.markup import element, joined, trusted
from mlmon.reports.pairing import unpaired
from mlmon.reports.table import field_table, lone_columns

if TYPE_CHECKING:
    from mlmon.reports.markup import Markup
    from mlmon.reports.model import DriftReport, Side

__all__ = ["render"]

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)
#: Said by the frame, whenever its size changes.
_TELL_HEIGHT = (
    "<script>addEventListener('load',()=>{const tell=()=>parent.postMessage("
    "{height:document.documentElement.scrollHeight},'*');"
    "new ResizeObserver(tell).observe(document.body);tell()})</script>"
)
_TAKE_HEIGHT = (
    "<script>addEventListener('message',e=>{const f=document.getElementById('evidently');"
    "const h=e.data&&e.data.height;if(f&&e.source===f.contentWindow&&Number.isFinite(h))"
    "f.style.height=Math.min(Math.max(h+4,300),60000)+'px'})</script>"
)


def render(report: DriftReport, evidently_page: str) -> str:
    """Render a report as a self-contained HTML document.

    Args:
        report: what is said.
        evidently_page: Evidently's page for it; empty where it compared no columns.
    """
    title = f"Drift of {report.subject.model} ({report.subject.service})"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        trusted(f"<style>{(files('mlmon.reports') / 'page.css').read_text(encoding='utf-8')}</style>"),
        trusted(_TAKE_HEIGHT),
    )
    main = element(
        "main",
        _title(report),
        _verdicts(report),
        element("div", _baseline_card(report), _window_card(report), class_="cards"),
        _notes(report),
        field_table(report),
        lone_columns(report, unpaired(report.ours, report.evidently)),
        _reading_help(report),
        _evidently(evidently_page),
        _footer(report),
    )
    return "<!doctype html>\n" + element("html", head, element("body", main), lang="en")


def _title(report: DriftReport) -> Markup:
    subject = report.subject
    named = [("version", subject.version), ("deployment", subject.deployment), ("segment", subject.segment)]
    where = ", ".join(f"{name} {value}" for name, value in named if value)
    return element(
        "header",
        element("p", f"Drift report · {subject.service}", class_="kicker"),
        element("h1", subject.model),
        element("p", where, class_="kicker"),
    )


def _verdicts(report: DriftReport) -> Markup:
    ours, peer = report.ours, report.evidently
    drifted = sum(row.state == "drifted" for row in ours.fields)
    columns = sum(column.drifted for column in peer.columns)
    return element(
        "div",
        _verdict(
            "mlmon",
            f"{drifted} of {ours.judged} fields drifted" if drifted else "No field drifted",
            f"beyond their tolerances; at most one in {1 / ours.false_report_rate:.0f} such reports names a "
            "field without cause",
            drifted > 0,
        ),
        _verdict(
            f"Evidently {peer.evidently_version}",
            f"{columns} of {len(peer.columns)} columns drifted" if columns else "No column drifted",
            "with its default methods and thresholds; it calls the data set "
            f"{'' if peer.dataset_drifted else 'not '}drifted (from {peer.drift_share:.0%} of columns)",
            columns > 0,
        ),
        class_="verdicts",
    )


def _verdict(who: str, what: str, how: str, drifted: bool) -> Markup:
    return element(
        "div",
        element("div", who, class_="who"),
        element("div", what, class_="what"),
        element("p", how, class_="how"),
        class_="verdict drifted" if drifted else "verdict",
    )


def _baseline_card(report: DriftReport) -> Markup:
    side = report.baseline
    rows = [
        ("version", report.subject.baseline_version),
        *_side_rows(side),
        ("digest", side.digest[:16] if side.digest else ""),
    ]
    return _card("Baseline", rows)


def _window_card(report: DriftReport) -> Markup:
    return _card("Window", [("version", report.subject.version), *_side_rows(report.window)])


def _side_rows(side: Side) -> list[tuple[str, str]]:
    seconds = max(0, side.last_us - side.first_us) / 1e6
    events = f"{side.events:,}"
    if side.weight > side.events * 1.001:
        events += f", sampled of about {side.weight:,.0f} requests"
    return [
        ("from", _moment(side.first_us)),
        ("to", f"{_moment(side.last_us)} ({_span(seconds)})"),
        ("events", events),
        ("given to Evidently", f"{side.rows:,} events"),
        ("source", side.source),
    ]


def _card(title: str, rows: list[tuple[str, str]]) -> Markup:
    pairs = [joined(element("dt", name), element("dd", value)) for name, value in rows if value]
    return element("div", element("h3", title), element("dl", *pairs), class_="card")


def _moment(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    """A length of time in the two largest units that it has.

    Example:
        >>> _span(9000.0), _span(42.0)
        ('2 h 30 min', '42 s')
    """
    left, parts = round(seconds), []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _notes(report: DriftReport) -> Markup:
    if not report.notes:
        return joined()
    return element("ul", *(element("li", note) for note in report.notes), class_="notes")


def _reading_help(report: DriftReport) -> Markup:
    ours = report.ours
    paragraphs = (
        "mlmon's effect is the shift beyond noise: for distributions the root of the chi-square distance, "
        "for means standard deviations (both in sd), for rates the share itself. The mark in the middle of "
        "the bar is the tolerance, the shift that is not worth a page; it grows with the uncertainty of the "
        "baseline and with what the baseline itself wandered.",
        f"Evidence is an e-value: how many times better the events agree with a shift beyond the tolerance "
        f"than with one within it. A field has drifted from e = {ours.threshold:,.0f} on, which is "
        f"{ours.judged:,} fields ÷ {ours.false_report_rate:g}: then at most one report in "
        f"{1 / ours.false_report_rate:.0f} names any field although all of them are within their tolerances, "
        "bursts of similar requests included. The pager has another rule, since it adds evidence up from "
        "window to window under its budget of false pages.",
        "Evidently compares the two samples column by column with its own defaults: above 1,000 rows a "
        "distance with a threshold of 0.1, below a p-value with one of 0.05. Its distances know no sampling "
        "noise, its p-values no tolerance and no dependence of events, and each column has its own chance of "
        "a false alarm. So it can call a shift drift that is noise or too small to matter, and miss a rare "
        "but clear one. Where the two differ, the last column says why.",
        "PSI is corrected for sampling noise, so it may be negative; JS is the Jensen-Shannon divergence in "
        "bits; KS the largest difference of the distribution functions; W the Wasserstein distance in "
        "standard deviations of the baseline. They are for people: no verdict of ours is taken from them.",
    )
    return element("section", element("h2", "How to read this"), *(element("p", text) for text in paragraphs))


def _evidently(page: str) -> Markup:
    title = element("h2", "Evidently's own report")
    if not page:
        return element("section", title, element("p", "It compared no columns."))
    framed = page.replace("<body>", f"<body>{_TELL_HEIGHT}", 1)
    frame = trusted(
        '<iframe id="evidently" title="Evidently\'s report" sandbox="allow-scripts" '
        f'srcdoc="{escape(framed)}"></iframe>'
    )
    return element("section", title, frame)


def _footer(report: DriftReport) -> Markup:
    peer = report.evidently
    return element(
        "footer",
        f"Made {_moment(report.created_us)} by mlmon {report.mlmon_version} with Evidently "
        f"{peer.evidently_version} and pandas {peer.pandas_version}.",
    )
