"""What moved, in its order, with its cause; and the draft that is kept of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import explorer_kit
import pandas as pd
import pytest

from mlmon.explorer.figures import timeline
from mlmon.explorer.incident import incident
from mlmon.explorer.postmortem import to_html, to_markdown
from mlmon.explorer.source import Bounds

if TYPE_CHECKING:
    from mlmon.explorer.incident import Incident
    from mlmon.explorer.source import HistorySource

SHIFT = pd.Timestamp(explorer_kit.SHIFT_US, unit="us", tz="UTC")
ADDRESS = "http://127.0.0.1:8501/incident?service=shop"


@pytest.fixture(scope="module")
def found(source: HistorySource, bounds: Bounds) -> Incident:
    one = incident(source, bounds, {})
    assert one is not None
    return one


def test_it_begins_with_the_shift_and_pages_soon(found: Incident) -> None:
    assert (found.service, found.model) == ("shop", "intent")
    assert found.began is not None
    assert SHIFT < found.began <= SHIFT + pd.Timedelta(minutes=3)
    assert found.detection_seconds is not None
    assert 0 <= found.detection_seconds <= 300
    assert found.ended is None


def test_the_cause_is_the_pagers(found: Incident) -> None:
    assert found.cause == "version"
    assert "pager" in found.why


def test_everything_that_was_moved_is_there_in_order(found: Incident) -> None:
    assert [one.at for one in found.moved] == sorted(one.at for one in found.moved)
    assert {one.cause for one in found.moved} >= {"version", "tokenizer", "embeddings", "predictions"}
    assert any(one.what == "objective availability burned its budget" for one in found.moved)
    assert any("language=de" in one.scope for one in found.moved)
    assert all(one.worst > one.limit or one.worst > 0 for one in found.moved)


def test_before_the_shift_nothing_moved(source: HistorySource) -> None:
    quiet = Bounds(explorer_kit.START * 1_000_000, explorer_kit.SHIFT_US)
    one = incident(source, quiet, {"service": "shop", "model": "intent"})
    assert one is not None
    assert (one.moved, one.cause, one.began, one.paged) == ((), "", None, None)
    without_names = incident(source, quiet, {})
    assert without_names is not None
    assert (without_names.service, without_names.model) == ("shop", "intent")


def test_no_windows_no_incident(source: HistorySource) -> None:
    assert incident(source, Bounds(0, 1), {}) is None


def test_the_draft_has_the_facts(found: Incident) -> None:
    text = to_markdown(found, ADDRESS)
    assert text.startswith("# Postmortem: shop / intent, 2025-10-09 09:31 UTC")
    assert f"**Explorer:** {ADDRESS}" in text
    rows = [line for line in text.splitlines() if line.startswith("| 2025-")]
    assert len(rows) == len(found.moved)
    assert all(line.count("|") == 8 for line in rows)
    assert "version (the pager blamed it" in text


def test_the_report_needs_nothing_else(found: Incident) -> None:
    text = to_html(found, [timeline(found)], ADDRESS + "&x=<script>")
    assert text.count("<tr>") > len(found.moved)
    assert not re.search(r"<(script|link|iframe|img)\b[^>]*\b(src|href)=", text)
    assert "x=<script>" not in text
    assert "tokenizer: unknown drifted" in text
