"""`mlmon explore` as a process, and Debian's Chromium that opens it as a user's does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Playwright

__all__ = ["Visit", "choose", "drawn", "launch", "picker", "running"]

#: Two cores may have three lanes of tests on them.
PATIENCE_SECONDS = 120
#: Streamlit says so when it has drawn everything.
_DRAWN = '[data-testid="stApp"][data-test-script-state="notRunning"]'


def launch(playwright: Playwright) -> Browser:
    """A Chromium without a window; without one the test is skipped, or failed where CI=true."""
    path = shutil.which("chromium")
    if path is None:
        reason = "chromium is not installed: apt-get install chromium"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=path, args=[*root, "--disable-dev-shm-usage"])


@contextmanager
def running(folder: Path, *options: str) -> Iterator[str]:
    """`mlmon explore` with some options; its address, as it says it. Its log is in the folder."""
    log = folder / "explore.log"
    command = [sys.executable, "-m", "mlmon.cli", "explore", "--port", "0", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        said = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if said is not None and _answers(f"{said[0]}/_stcore/health"):
            return said[0]
        time.sleep(0.1)
    raise RuntimeError(f"mlmon explore did not answer:\n{log.read_text()[-2000:]}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - our own
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


class Visit:
    """A visit of the explorer with a browser's fresh profile; it notes what a user would not like to see.

    Args:
        browser: whose profile it is.
        url: of the explorer.
        options: of the profile, as Playwright names them.

    Attributes:
        faults: errors in the console, exceptions of pages, and requests to anywhere but the explorer.
    """

    def __init__(self, browser: Browser, url: str, **options: object) -> None:
        self.url = url
        self.faults: list[str] = []
        settings = {"viewport": {"width": 1400, "height": 1000}, **options}
        self.context: BrowserContext = browser.new_context(**settings)
        self.context.set_default_timeout(PATIENCE_SECONDS * 1000)
        self.context.on("console", self._console)
        self.context.on("weberror", lambda one: self.faults.append(f"exception: {one.error}"))
        self.context.on("request", lambda one: self._asked(one.url))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text} ({message.location.get('url')})")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "file") and parts.netloc != urlsplit(self.url).netloc:
            self.faults.append(f"asks elsewhere: {url}")

    def address(self, name: str, **query: str) -> str:
        """Of a page; a trailing underscore of a name is not part of it."""
        said = urlencode({key.rstrip("_"): value for key, value in query.items()})
        return f"{self.url}/{name}?{said}"

    def open(self, name: str, **query: str) -> Page:
        """A new tab with a page, drawn to its end."""
        page = self.context.new_page()
        page.on("websocket", lambda one: self._asked(one.url))
        page.goto(self.address(name, **query))
        drawn(page)
        return page


def drawn(page: Page) -> None:
    """Wait until a page is drawn to its end, charts included."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(_DRAWN)).to_be_visible()
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    page.wait_for_function(
        """() => [...document.querySelectorAll('[data-testid="stPlotlyChart"]')]
            .every(one => one.querySelector('.js-plotly-plot .main-svg'))"""
    )


def picker(page: Page, label: str) -> Locator:
    """What is chosen by its label: its value is what is chosen."""
    return page.get_by_role("combobox", name=label, exact=True)


def choose(page: Page, label: str, option: str) -> None:
    """Choose by a part of its name, as one does from a long list."""
    picker(page, label).fill(option)
    page.get_by_role("option", name=option, exact=True).click()
