"""The demo as a user runs it, shortened; and what it calls a success."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import sync_playwright

from mlmon.demo.figures import Figures
from mlmon.demo.story import ENCODER, TOPIC, WRONG_TOKENIZER, Found, Options, Outcome, run_demo
from mlmon.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def wait_for(met: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def cause_shown(link: str) -> str:
    """The root cause that the explorer's page names, in a browser."""
    with sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=root)
        page = browser.new_page()
        page.goto(link)
        cause = page.get_by_test_id("stMetric").filter(has_text="likely root cause")
        return cause.get_by_test_id("stMetricValue").inner_text(timeout=90_000)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_demo_pages_for_each_change_and_its_incidents_lead_to_the_cause(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlmon.cli", "demo", "--seconds", "6", "--port", "0", "--stay"]
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as demo:
        try:
            wait_for(lambda: "Ctrl-C to end" in log.read_text() or demo.poll() is not None, 250)
            links = re.findall(r"(http://127\.0\.0\.1:\d+/incident\S+)    # ([a-z ]+)", log.read_text())
            assert [name for _, name in links] == ["topic shift", "damaged encoder", "wrong tokenizer"]
            causes = [cause_shown(link) for link, _ in links]
        finally:
            demo.terminate()
    said = log.read_text()
    assert demo.returncode == 0, said
    assert "everything was seen" in said
    assert re.search(r"metrics at http://127\.0\.0\.1:\d+/metrics", said)
    assert re.search(r"=> no page\. Evidence of a drift: [\d.,]+ of 2,592,000", said)
    pages = re.findall(r"=> PAGE after [\d.]+ s\. Cause: (\w+); most of it in ([\w/:]+)", said)
    assert len(pages) == 3, said
    assert causes == [cause for cause, _ in pages]
    assert pages[0][0] in ("embeddings", "features", "predictions")
    assert pages[1][0] == "embeddings"
    assert pages[2][0] in ("version", "tokenizer")
    assert said.count("the page closed by itself") == 2, said
    assert "traffic on undeclared versions: 100.00 %" in said
    assert re.search(r" 0 failed, 0 dead letters, 0 false pages", said)


def test_without_the_extra_the_demo_names_the_line_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(MissingExtraError, match=r'pip install "mlmon\[demo\]"'):
        run_demo(Options())


def figures(**values: Any) -> Figures:
    """A scrape in which all is well."""
    quiet: dict[str, Any] = {
        "at": 0.0,
        "requests": 100.0,
        "errors": 0.0,
        "unknown_ratio": 0.001,
        "mismatch_ratio": 0.0,
        "lag_seconds": 0.0,
        "dead_letters": 0.0,
        "evidence": 0.5,
        "threshold": 1000.0,
        "detectors": 30.0,
        "pages": 0,
        "page": None,
        "drift": {},
    }
    return Figures(**quiet | values)


def outcome(
    *, healthy: Figures | None = None, found: dict[int, dict[str, Any]] | None = None, failed: int = 0
) -> Outcome:
    """A demo in which everything was seen, less what is said."""
    wrong = figures(unknown_ratio=0.1, mismatch_ratio=1.0, pages=3)
    rows = [
        Found(TOPIC, 3.0, "embeddings", "embeddings/shift", 8.0, figures(pages=1)),
        Found(ENCODER, 3.0, "embeddings", "embeddings/shift", 8.0, figures(pages=2)),
        Found(WRONG_TOKENIZER, 3.0, "version", "tokenizer/unknown", None, wrong),
    ]
    for place, values in (found or {}).items():
        rows[place] = rows[place]._replace(**values)
    return Outcome(healthy or figures(), tuple(rows), rows[-1].figures, failed)


@pytest.mark.parametrize(
    ("spoiled", "seen"),
    [
        ({}, True),
        ({"found": {0: {"cause": "features"}}}, True),
        ({"found": {0: {"cause": "tokenizer"}}}, False),
        ({"found": {1: {"cause": "predictions"}}}, False),
        ({"found": {2: {"cause": "embeddings"}}}, False),
        *(({"found": {place: {"seconds": None}}}, False) for place in range(3)),
        ({"healthy": figures(pages=1)}, False),
        ({"healthy": figures(evidence=None)}, False),
        ({"healthy": figures(mismatch_ratio=None)}, False),
        ({"found": {2: {"figures": figures(unknown_ratio=0.1, mismatch_ratio=0.5)}}}, False),
        ({"found": {2: {"figures": figures(unknown_ratio=0.002, mismatch_ratio=1.0)}}}, False),
        (
            {"found": {2: {"figures": figures(unknown_ratio=0.1, mismatch_ratio=1.0, dead_letters=1.0)}}},
            False,
        ),
        ({"found": {2: {"figures": figures(unknown_ratio=0.1, mismatch_ratio=1.0, errors=1.0)}}}, False),
        ({"failed": 1}, False),
    ],
)
def test_everything_is_seen_only_with_three_right_pages_and_nothing_else(
    spoiled: dict[str, Any], seen: bool
) -> None:
    assert outcome(**spoiled).seen is seen
