"""The explorer as its users have it: `mlmon explore` as a process, opened in Chromium."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import explorer_kit
import pytest
from browser_kit import Visit, choose, drawn, launch, picker, running
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

#: An alert's link is the first that a server is asked for: not the page that it begins with.
TITLES = {
    "incident": "Incident",
    "": "Overview",
    "fields": "Features and predictions",
    "tokenizer": "Tokenizer",
    "embeddings": "Embeddings",
    "compare": "Compare",
    "simulate": "Simulate",
}
NAVIGATION = ["Overview", *(title for title in TITLES.values() if title != "Overview")]
#: The whole hour, whatever comes after it.
HOUR = {"from_": "2025-10-09T08:54:00Z", "to": "2025-10-09T09:55:00Z"}
SHOP = {"service": "shop", **HOUR}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture(scope="module")
def own(explored: explorer_kit.Explored, tmp_path_factory: pytest.TempPathFactory) -> explorer_kit.Explored:
    """A copy of the history, which can go on."""
    return explorer_kit.copy_history(explored, tmp_path_factory.mktemp("browsed"))


@pytest.fixture(scope="module")
def url(own: explorer_kit.Explored) -> Iterator[str]:
    with running(own.folder, "-c", str(own.config), "--refresh", "2") as address:
        yield address


@pytest.fixture(scope="module")
def usual(browser: Browser, url: str) -> Iterator[Visit]:
    """The profile of most tests: what one has fetched another has at hand."""
    found = Visit(browser, url)
    yield found
    found.context.close()


@pytest.fixture
def visit(browser: Browser, url: str, usual: Visit) -> Iterator[Callable[..., Visit]]:
    """Begins visits, and at the end asserts that nobody met an error or was sent elsewhere."""
    begun = [usual]

    def begin(**options: object) -> Visit:
        if options:
            begun.append(Visit(browser, url, **options))
        return begun[-1]

    yield begin
    for page in usual.context.pages:
        page.close()
    for one in begun[1:]:
        one.context.close()
    faults = [fault for one in begun for fault in one.faults]
    usual.faults.clear()
    assert faults == []


@pytest.mark.parametrize("name", TITLES)
def test_a_page_is_drawn_and_asks_nothing_of_others(visit: Callable[..., Visit], name: str) -> None:
    page = visit().open(name, **HOUR)
    expect(page.get_by_role("heading", level=1)).to_have_text(TITLES[name])
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page).to_have_title(TITLES[name])
    links = page.get_by_test_id("stSidebarNav").get_by_role("link")
    expect(links).to_have_text([re.compile(title) for title in NAVIGATION])
    assert (
        page.locator("link[rel~=icon]").first.get_attribute("href", timeout=5000).startswith("data:image/svg")
    )


def test_an_address_is_a_view(visit: Callable[..., Visit]) -> None:
    asked = {**SHOP, "version": "1", "deployment": "stable", "monitor": "features", "field": "channel"}
    one = visit()
    page = one.open("fields", **asked)
    expect(picker(page, "version")).to_have_value("1")
    expect(picker(page, "deployment")).to_have_value("stable")
    expect(page.get_by_text("features/channel: distribution")).to_be_visible()
    expect(page.get_by_text("from 2025")).to_contain_text("08:54:00 UTC")
    choose(page, "field", "features/amount")
    expect(page.get_by_text("features/amount: distribution")).to_be_visible()
    expect(page).to_have_url(re.compile("field=amount"))
    for part in ("service=shop", "version=1", "deployment=stable", "from=2025-10-09T08%3A54%3A00Z"):
        assert part in page.url
    second = one.context.new_page()
    second.goto(page.url)
    page.reload()
    for tab in (page, second):
        drawn(tab)
        expect(picker(tab, "deployment")).to_have_value("stable")
        expect(tab.get_by_text("features/amount: distribution")).to_be_visible()


#: Of the map: what a polygon on the screen has in it, by the chart's own places. Events of the baseline stand
#: for none.
_INSIDE = """(chart, box) => {
    const {xaxis, yaxis, _size} = chart._fullLayout;
    const frame = chart.getBoundingClientRect();
    let count = 0;
    for (const trace of chart._fullData) {
        if (!trace.customdata) continue;
        for (let i = 0; i < trace.x.length; i++) {
            const x = frame.left + _size.l + xaxis.d2p(trace.x[i]);
            const y = frame.top + _size.t + yaxis.d2p(trace.y[i]);
            count += x >= box.left && x <= box.right && y >= box.top && y <= box.bottom;
        }
    }
    return count;
}"""


def test_what_is_dragged_around_is_listed(visit: Callable[..., Visit]) -> None:
    page = visit().open("embeddings", **SHOP, show="pca-prediction")
    chart = page.get_by_test_id("stPlotlyChart").last.locator(".js-plotly-plot")
    chart.scroll_into_view_if_needed()
    plot = chart.locator(".nsewdrag").bounding_box()
    assert plot is not None
    box = {
        "left": plot["x"] + 0.15 * plot["width"],
        "right": plot["x"] + 0.4 * plot["width"],
        "top": plot["y"] + 0.3 * plot["height"],
        "bottom": plot["y"] + 0.7 * plot["height"],
    }
    inside = chart.evaluate(_INSIDE, box)
    assert inside > 50
    lasso(page, box)
    expect(page.get_by_text(re.compile(r"events selected"))).to_be_visible()
    assert selected(page) == pytest.approx(inside, rel=0.02)
    # a table is drawn as a picture, with its cells within for those who cannot see it
    table = page.get_by_test_id("stDataFrame").locator("canvas table")
    expect(table.locator("th").first).to_have_text("event time, UTC")
    expect(table.locator("tbody tr").first).to_contain_text("order")
    page.get_by_role("button", name=re.compile("Nearest events of the baseline")).click()
    expect(page.get_by_test_id("stDataFrame")).to_have_count(2)


def lasso(page: Page, box: dict[str, float]) -> None:
    """Drag the mouse along the box's edges."""
    corners = [("left", "top"), ("right", "top"), ("right", "bottom"), ("left", "bottom"), ("left", "top")]
    page.mouse.move(box["left"], box["top"])
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box[x], box[y], steps=8)
    page.mouse.up()


def selected(page: Page) -> int:
    said = page.get_by_text(re.compile(r"[\d,]+ events selected")).inner_text()
    return int(said.split(" ")[0].replace(",", ""))


def test_an_incident_is_saved_as_files(visit: Callable[..., Visit], tmp_path: Path, url: str) -> None:
    one = visit()
    page = one.open("incident", **HOUR)
    draft = saved(page, "Postmortem draft (Markdown)", tmp_path)
    assert draft.name == "incident-shop-20251009T0931.md"
    text = draft.read_text()
    assert text.startswith("# Postmortem: shop / intent, 2025-10-09 09:31 UTC")
    assert "- **Likely root cause:** version (" in text
    assert "| 2025-10-09 09:31 UTC | tokenizer: unknown drifted |" in text
    back = re.search(r"\*\*Explorer:\*\* (\S+)", text)
    assert back is not None
    assert back[1].startswith(f"{url}/incident?service=shop")
    report = saved(page, "Report (HTML)", tmp_path)
    alone = one.context.new_page()
    alone.goto(back[1])
    drawn(alone)
    expect(alone.get_by_test_id("stMetric").first).to_contain_text("shop")
    for scheme in ("light", "dark"):
        alone.emulate_media(color_scheme=scheme)
        alone.goto(report.as_uri())
        expect(alone.get_by_role("heading", level=1)).to_have_text(
            "Incident: shop / intent, 2025-10-09 09:31 UTC"
        )
        expect(alone.locator(".js-plotly-plot .main-svg").first).to_be_visible()
        assert faint(alone, "body, td, th, .js-plotly-plot text") == []


def saved(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_a_configuration_is_copied_and_saved(visit: Callable[..., Visit], tmp_path: Path) -> None:
    one = visit(permissions=["clipboard-read", "clipboard-write"])
    page = one.open("simulate", budget="0.5", window="300")
    draft = saved(page, "Download (TOML)", tmp_path).read_text()
    assert tomllib.loads(draft)["alerts"] == {"false_pages_per_month": 0.5}
    page.get_by_test_id("stCode").hover()
    page.get_by_role("button", name="Copy to clipboard").click()
    page.wait_for_function("() => navigator.clipboard.readText().then(text => text.includes('[alerts]'))")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied.strip() == draft.strip()
    choose(page, "window, seconds", "600")
    expect(page.get_by_test_id("stCode")).to_contain_text("size_seconds = 600")
    expect(page).to_have_url(re.compile("window=600"))


def test_evidently_s_report_is_made(visit: Callable[..., Visit], tmp_path: Path) -> None:
    page = visit().open("compare", **SHOP)
    page.get_by_text("left against the baseline").click()
    page.get_by_role("button", name="Make the report").click()
    report = saved(page, "Download the report (HTML)", tmp_path)
    assert report.name == "drift-shop-intent-1.html"
    assert report.stat().st_size > 100_000
    expect(page.locator("iframe").last).to_be_visible()


def test_new_windows_come_by_themselves(visit: Callable[..., Visit], own: explorer_kit.Explored) -> None:
    page = visit().open("")
    ended = page.get_by_text("newest window ended")
    expect(ended).to_contain_text("09:55:00 UTC")
    page.get_by_text("refresh every 2 s").click()
    explorer_kit.prolong_history(own, 3)
    expect(ended).to_contain_text("09:58:00 UTC")
    assert page.get_by_test_id("stPlotlyChart").first.is_visible()


def test_the_keyboard_is_enough(visit: Callable[..., Visit]) -> None:
    page = visit().open("", **HOUR)
    tab_to(page, "service")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("service=shop"))
    tab_to(page, "Tokenizer", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Tokenizer")
    drawn(page)
    tab_to(page, "version")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("version=1"))
    expect(picker(page, "version")).to_have_value("1")
    # who and when goes along from page to page
    expect(picker(page, "service")).to_have_value("shop")
    assert "from=2025-10-09" in page.url


def tab_to(page: Page, name: str, key: str = "Tab") -> None:
    """Press Tab until what has the focus is named so."""
    named = page.locator(":focus").and_(
        page.get_by_role("combobox", name=name, exact=True).or_(
            page.get_by_role("link", name=name, exact=True)
        )
    )
    for _ in range(60):
        page.keyboard.press(key)
        if named.count():
            return
    pytest.fail(f"nothing named {name} is reached by Tab")


#: Texts that are too like what is behind them (WCAG 2.1, 1.4.3 and for large or incidental text 3 to 1).
_FAINT = """(selector) => {
    const light = (rgb) => {
        const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = rgb.map(v => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const rgba = parse(getComputedStyle(node).backgroundColor);
            if (rgba.length === 3 || rgba[3] > 0.5) return rgba.slice(0, 3);
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const node of document.querySelectorAll(selector)) {
        const style = getComputedStyle(node);
        const said = node.textContent.trim();
        if (!said || node.closest('.hoverlayer, .modebar-container')) continue;
        const ink = parse(node instanceof SVGElement ? style.fill : style.color);
        const [a, b] = [light(ink.slice(0, 3)), light(behind(node))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 3) found.push(`${said.slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return found;
}"""


def faint(page: Page, selector: str) -> list[str]:
    found: list[str] = page.evaluate(_FAINT, selector)
    return found


@pytest.mark.parametrize("name", ["incident", "tokenizer"])
def test_charts_are_readable_in_the_dark(visit: Callable[..., Visit], name: str) -> None:
    page = visit(color_scheme="dark").open(name, **HOUR)
    ground = page.get_by_test_id("stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground)[:3])) < 64
    assert faint(page, ".js-plotly-plot text, h1, h2, h3, p, label") == []
