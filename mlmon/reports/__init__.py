"""Reports for people: what a stretch of time says against a baseline, our verdicts beside Evidently's.

    store = BaselineStore.load(["intent.baseline.safetensors"])
    chosen = Chosen(ScopeKey("shop", "intent", "7"))
    window = WindowEvents(chosen, report_extractors(store, chosen.scope), sample_rows=10_000)
    for batch in LoggedEvents(["events/*.parquet"]).batches(chosen):
        window.add(batch)
    made = build_report(find_reference(store, chosen), chosen, window.gathered(), Making("events", now_us))
    Path("report.html").write_text(render(made.report, made.evidently_page))

Evidently and pandas (extra `reports`) are imported when a report is built, not before.
"""

from __future__ import annotations

from mlmon.reports.build import Made, Making, Reference, build_report, find_reference, report_extractors
from mlmon.reports.evidently import require_evidently
from mlmon.reports.model import DriftReport
from mlmon.reports.page import render
from mlmon.reports.reading import Events, HistoryEvents, LoggedEvents
from mlmon.reports.window import Chosen, Gathered, Seen, WindowEvents

__all__ = [
    "Chosen",
    "DriftReport",
    "Events",
    "Gathered",
    "HistoryEvents",
    "LoggedEvents",
    "Made",
    "Making",
    "Reference",
    "Seen",
    "WindowEvents",
    "build_report",
    "find_reference",
    "render",
    "report_extractors",
    "require_evidently",
]
