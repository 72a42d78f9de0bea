"""The page and its JSON: whole, self-contained, and safe whatever events carried."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import msgspec
import pytest
from report_kit import KEY, START_US, batches, events

from mlmon.errors import BaselineError, ConfigError
from mlmon.reports import (
    Chosen,
    DriftReport,
    Making,
    WindowEvents,
    build_report,
    find_reference,
    render,
    report_extractors,
)
from mlmon.reports.markup import element, joined
from mlmon.reports.model import ColumnVerdict, FieldRow, Ours, Peer, Side, Subject

if TYPE_CHECKING:
    from mlmon.baseline.store import BaselineStore
    from mlmon.reports import Gathered, Made

CHOSEN = Chosen(KEY)
EVIL = "<img src=x onerror=alert(1)>\"'&"


def gathered(store: BaselineStore, chosen: Chosen = CHOSEN) -> Gathered:
    window = WindowEvents(chosen, report_extractors(store, chosen.scope), 600)
    for batch in batches(events(1500, 2, moved=True, start_us=START_US + 86_400_000_000)):
        window.add(batch)
    found = window.gathered()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def made(store: BaselineStore) -> Made:
    making = Making("moved events", START_US, 800, ("A note.",))
    return build_report(find_reference(store, CHOSEN), CHOSEN, gathered(store), making)


def test_both_parts_are_in_the_report(made: Made) -> None:
    report = made.report
    assert (report.baseline.rows, report.baseline.events) == (800, 8000)
    assert (report.window.rows, report.window.events, report.window.weight) == (600, 1500, 30_000)
    rows = {row.field: row for row in report.ours.fields}
    columns = {column.column: column for column in report.evidently.columns}
    for name, column in (
        ("features/amount", "numeric_features.amount"),
        ("predictions/class", "prediction"),
        ("embeddings/shift", "embedding"),
    ):
        assert rows[name].columns == [column]
        assert rows[name].state == "drifted"
        assert columns[column].drifted
    assert columns["numeric_features.amount"].baseline_values == 800
    # the first principal directions, as many as there are
    assert "embedding.direction_1" in columns
    assert report.notes[0] == "A note."
    assert "sample of 600 events of the window's 1,500" in report.notes[1]


def test_json_is_of_its_schema_and_comes_back_equal(made: Made) -> None:
    data = msgspec.json.encode(made.report)
    assert msgspec.json.decode(data, type=DriftReport, strict=True) == msgspec.json.decode(
        msgspec.json.encode(msgspec.json.decode(data, type=DriftReport)), type=DriftReport
    )
    plain = msgspec.json.decode(data)
    assert plain["form"] == 1
    assert set(plain) == {
        "form",
        "mlmon_version",
        "created_us",
        "subject",
        "baseline",
        "window",
        "ours",
        "evidently",
        "notes",
    }
    assert {row["state"] for row in plain["ours"]["fields"]} <= {"drifted", "ok"}
    assert plain["evidently"]["report"]["metrics"]


class Structure(HTMLParser):
    """Tags in order, whether they nest, what is fetched, and the documents in frames."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.frames: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{tag}.{name}" for name, _ in attrs if name in ("src", "href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "iframe":
            self.frames.append(dict(attrs))
        if tag not in ("br", "input", "meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_fetches_nothing(made: Made) -> None:
    page = render(made.report, made.evidently_page)
    found = Structure(page)
    assert found.open == []
    assert found.fetched == found.handlers == []
    assert "default-src 'none'" in page.split("</head>")[0].replace("&#x27;", "'")
    (frame,) = found.frames
    assert frame["sandbox"] == "allow-scripts"  # neither our origin nor navigation, forms or popups
    inner = frame["srcdoc"]
    assert inner is not None
    assert (
        inner.replace(
            inner[inner.index("<body>") + 6 : inner.index("</script>", inner.index("<body>")) + 9], "", 1
        )
        == made.evidently_page
    )
    text = "".join(found.text)
    for said in (
        "bank",
        "intent",
        "amount",
        "6",
        "Evidently's own report",
        "How to read this",
        "moved events",
    ):
        assert said in text
    assert "color-scheme: light dark" in page


def row(name: str, **changes: object) -> FieldRow:
    base = FieldRow(name, "cells", 0.3, 0.1, None, 9.0, 1e-5, 10, 10.0, "drifted", {"psi": 0.1}, [], [])
    return msgspec.structs.replace(base, **changes)


def hostile() -> DriftReport:
    side = Side(EVIL, EVIL, 1, 1.0, 1, 0, 1)
    columns = [ColumnVerdict(EVIL, "numeric", "", EVIL, 0.1, 0.1, True, 1, 1)]
    fields = [row(EVIL, columns=[EVIL], reading=EVIL, problem=EVIL), row("a/b", effect=None, n=0)]
    return DriftReport(
        EVIL,
        0,
        Subject(*[EVIL] * 6),
        side,
        side,
        Ours(0.05, 1, 20.0, fields),
        Peer(EVIL, EVIL, 0.5, True, columns, {EVIL: EVIL}, {}),
        [EVIL],
    )


def test_whatever_events_carry_is_text() -> None:
    page = render(hostile(), f"<html><body>{EVIL}</body></html>")
    found = Structure(page)
    assert "img" not in found.tags
    assert found.fetched == found.handlers == found.open == []
    assert "".join(found.text).count("onerror=alert(1)") >= 15


def test_numbers_carry_their_units() -> None:
    report = hostile()
    fields = [
        row("m/rate", kind="rate", effect=0.0123, tolerance=0.01, baseline_rate=0.008, state="ok"),
        row("m/mean", kind="vector", effect=0.3, tolerance=0.1, log_e=500.0),
        row("m/none", state="insufficient_data", p_value=None),
    ]
    page = render(msgspec.structs.replace(report, ours=Ours(0.05, 2, 40.0, fields)), "")
    for said in ("1.23 %", "was 0.800 %, up to 1.00 %", "0.300 sd", "10<sup>217</sup>", "too few events"):
        assert said in page
    assert "not clear yet" in page  # beyond the tolerance, but without the evidence
    assert "It compared no columns." in page


def test_elements_escape_what_is_no_markup() -> None:
    assert element("a", "<b>", element("i"), title='"x"', hidden=True, lang=False) == (
        '<a title="&quot;x&quot;" hidden>&lt;b&gt;<i></i></a>'
    )
    assert joined("a", joined("<")) == "a&lt;"


def test_what_speaks_for_no_event_is_an_error(store: BaselineStore) -> None:
    with pytest.raises(BaselineError, match="the baseline covers bank / intent / 7, not other / intent / 7"):
        find_reference(store, Chosen(KEY._replace(service="other")))
    with pytest.raises(ConfigError, match=r"no segment 'x=1': it has \(all\), language=de, language=en"):
        find_reference(store, CHOSEN._replace(segment="x=1"))


def test_another_version_is_compared_with_what_the_baseline_has(store: BaselineStore) -> None:
    chosen = Chosen(KEY._replace(version="8"))
    reference = find_reference(store, chosen)
    assert {name.split("/")[0] for name in reference.fields} == {"tokenizer", "features"}
    assert reference.key == KEY
    assert reference.notes[0].startswith("No baseline was built for version 8")
    assert set(report_extractors(store, chosen.scope)) == {"tokenizer", "features"}
