"""Makes docs/images/prometheus-*.png and explorer-*.png: what Prometheus and the explorer show of incidents.

    python docs/screenshots.py [prometheus] [explorer]

Nothing is drawn. For Prometheus the parts of the demo run: a service that answers, its traffic, a sidecar. A
Prometheus scrapes the sidecar and evaluates the rules of `alerts/`, an hour of them in a minute; then the
service is redeployed with a wrong tokenizer. When that has paged, Chromium photographs Prometheus's own
pages. What stands in them is not changed: rules and alerts that are not the point are left out, others are
opened as by a click, headings are smaller, and the picture ends where the page does.

The explorer's pages are those of the history that its tests have: a sidecar writes it, `mlmon explore` shows
it, and each picture ends where its page does.

Needs Debian's packages `prometheus` (its pages are those under /classic), `chromium` and `pngquant`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec
from rich.console import Console

from mlmon.config.reader import read_toml
from mlmon.demo.processes import free_port, require_server
from mlmon.demo.screen import Screen
from mlmon.demo.stage import Stage
from mlmon.demo.training import CASED, WEIGHTS
from mlmon.errors import ConfigError
from mlmon.slo import load_specs
from mlmon.slo.render import RenderConfig
from mlmon.slo.render_rules import rule_files

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
#: An hour of the rules takes a minute.
SCALE = 60
#: What must fire before the pictures are taken.
INCIDENT = ("MlmonDriftPage", "MlmonUnknownTokenJump", "MlmonVersionMismatch")
#: Those of them that are opened.
OPENED = ("MlmonDriftPage", "MlmonVersionMismatch")
#: Healthy traffic before the incident, in seconds: unknown tokens are compared with those of an hour ago.
HEALTHY_SECONDS = 75.0
PATIENCE_SECONDS = 120.0
#: Group of the rules that are shown.
GROUP = "mlmon-slo-availability"
#: Of the page in its own pixels, dots for each of them, and colours of the picture.
WIDTH, DOTS, COLOURS = 1180, 2, 64

#: The rules of the group that are shown; the others are read likewise.
RULES = (
    "mlmon_slo:total:rate5m",
    "mlmon_slo:bad:rate5m",
    "mlmon_slo:burn_rate:5m",
    "mlmon_slo:burn_rate:1h",
    "MlmonErrorBudgetBurnFast",
)

#: How a page is set and what is done to it before its picture, after its own scripts.
_STYLE = """
body { padding-bottom: 8px; font-size: 15px; }
h1, body > .container-fluid > h2 { font-size: 26px; }
thead h2 { font-size: 18px; margin: 0; }
table { margin-bottom: 0 !important; }
td { padding: 8px !important; }
td.rule_cell { display: table-cell; font-size: 13px; width: 68%; overflow-wrap: anywhere; }
tr.alert { margin: 0; }
.alert_details pre, .alert_details br { display: none !important; }
.alert_annotations p { margin-bottom: 0; }
.alert_details table { margin: 6px 0 !important; }
"""
_ALERTS = f"""
$('#alertsTable tr.alert-success, #alertsTable tr.alert-warning').each((_, row) => {{
  $(row).next('.alert_details').addBack().remove();
}});
$('#alertsTable > tbody > tr:not([class])').each((_, row) => $(row).next('[class]').length || row.remove());
$('div.show-annotations').first().click();
const opened = {json.dumps(OPENED)};
$('#alertsTable tr.alert-danger').filter((_, row) => opened.includes($('b', row).text())).click();
"""
_RULES = f"""
const group = $(document.getElementById('{GROUP}')).closest('thead');
$('table > thead, table > tbody').not(group.add(group.next())).remove();
const kept = {json.dumps(RULES)};
$('table > tbody > tr').slice(1).filter((_, row) => !kept.includes($('a', row).first().text())).remove();
"""
_MEASURE = "document.documentElement.dataset.height = Math.ceil(document.body.scrollHeight);"

#: Pages of the explorer: name of the picture, the page, and what its address says beside the time.
EXPLORER = {
    "overview": ("", {}),
    "incident": ("incident", {}),
    "fields": ("fields", {"version": "1", "monitor": "predictions", "field": "class"}),
    "tokenizer": ("tokenizer", {}),
    "embeddings": ("embeddings", {"show": "pca-prediction"}),
    "compare": ("compare", {"from": "2025-10-09T09:30:00Z", "monitor": "predictions", "field": "class"}),
    "simulate": ("simulate", {"show": "run"}),
}
EXPLORER_WIDTH = 1400
#: Below a page's last line.
FOOT = 120


class Prometheus:
    """A Prometheus in a folder: paths on its pages are those in the repository.

    Args:
        folder: of its configuration and data.
        port: of the sidecar.
        stack: ends it.
    """

    def __init__(self, folder: Path, port: int, stack: ExitStack) -> None:
        config = read_toml((ROOT / "alerts/config.toml").read_text(), RenderConfig, "alerts/config.toml")
        rules = msgspec.structs.replace(config.rules, time_scale=SCALE)
        for name, text in rule_files(load_specs([ROOT / "alerts/slos"]), rules, config.health).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        settings = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "rule_files": ["alerts/rules/*.yml"],
            "scrape_configs": [{"job_name": "mlmon", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML
        self.address = f"127.0.0.1:{free_port()}"
        log = stack.enter_context((folder / "prometheus.log").open("wb"))
        process = subprocess.Popen(  # noqa: S603 - Debian's
            [
                program("prometheus"),
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address={self.address}",
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)

    def get(self, path: str) -> str:
        """A page."""
        with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=30) as reply:
            return str(reply.read(), "utf-8")

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        query = urlencode({"query": 'ALERTS{alertstate="firing"}'})
        found = json.loads(self.get(f"api/v1/query?{query}"))["data"]["result"]
        return {one["metric"]["alertname"] for one in found}


def program(name: str) -> str:
    """Path of a program of Debian's."""
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"expected the program {name}: apt-get install {name}")
    return found


def chromium(page: Path, *options: str) -> str:
    """What headless Chromium prints about a page; it gets a profile of its own."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(  # noqa: S603 - Debian's
            [
                program("chromium"),
                "--headless",
                "--no-sandbox",  # a container's root has none
                "--hide-scrollbars",
                "--disable-lcd-text",
                f"--user-data-dir={profile}",
                "--virtual-time-budget=5000",
                *options,
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_SECONDS,
        )
    return done.stdout


def photograph(server: Prometheus, path: str, script: str, picture: Path, folder: Path) -> None:
    """Take a picture of a page of Prometheus's, as long as it is.

    Args:
        server: whose.
        path: of the page.
        script: is run first.
        picture: file to write.
        folder: for the page.
    """
    html = server.get(path)
    html = html.replace("<head>", f'<head><base href="http://{server.address}/">', 1)
    html = html.replace("</head>", f"<style>{_STYLE}</style></head>", 1)
    html = html.replace("</body>", f"<script>$(() => {{ {script} {_MEASURE} }})</script></body>", 1)
    page, shot = folder / f"{picture.stem}.html", folder / picture.name
    page.write_text(html)
    height = re.search(r'data-height="(\d+)"', chromium(page, "--dump-dom", f"--window-size={WIDTH},100"))
    if height is None:
        raise RuntimeError(f"{path}: expected Debian's /classic pages; the scripts did not run there")
    chromium(
        page,
        f"--screenshot={shot}",
        f"--window-size={WIDTH},{height[1]}",
        f"--force-device-scale-factor={DOTS}",
    )
    reduce(shot, picture)


def reduce(shot: Path, picture: Path) -> None:
    """Keep a picture, in few colours."""
    few = ["--nofs", "--strip", "--force", f"--output={picture}", str(COLOURS), str(shot)]
    subprocess.run([program("pngquant"), *few], check=True)  # noqa: S603 - Debian's


def wait(until: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not in {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.25)


def of_explorer() -> None:
    """Write the history of the explorer's tests, open its pages, and take their pictures."""
    sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/explorer")]
    import explorer_kit
    from browser_kit import Visit, launch, running
    from playwright.sync_api import sync_playwright

    hour = {"service": "shop", "from": "2025-10-09T08:54:00Z", "to": "2025-10-09T09:55:00Z"}
    with tempfile.TemporaryDirectory(prefix="mlmon-pictures-") as name, sync_playwright() as playwright:
        folder = Path(name)
        written = explorer_kit.write_history(folder)
        with running(folder, "-c", str(written.config)) as url:
            visit = Visit(launch(playwright), url)
            for picture, (path, more) in EXPLORER.items():
                page = visit.open(path, **{**hour, **more})
                height = page.get_by_test_id("stMainBlockContainer").evaluate("node => node.scrollHeight")
                page.set_viewport_size({"width": EXPLORER_WIDTH, "height": height - FOOT})
                page.wait_for_timeout(1500)  # charts ease into their new places
                page.screenshot(path=folder / f"{picture}.png")
                page.close()
                reduce(folder / f"{picture}.png", IMAGES / f"explorer-{picture}.png")
            visit.context.close()


def main() -> None:
    """Take the pictures that are asked for; all without a word."""
    asked = sys.argv[1:] or ["prometheus", "explorer"]
    for name, take in (("prometheus", of_prometheus), ("explorer", of_explorer)):
        if name in asked:
            take()


def of_prometheus() -> None:
    """Let it happen, and take the pictures."""
    require_server()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlmon-pictures-")))
        screen = Screen(Console())
        stage = Stage(folder, free_port(), screen, stack)
        stage.prepare()
        stage.watch()
        server = Prometheus(folder, stage.port, stack)
        healthy = stage.until(lambda _: True, HEALTHY_SECONDS, HEALTHY_SECONDS)
        if early := server.firing():
            raise RuntimeError(f"expected silence while nothing is wrong; {early} fire")
        screen.say(f"healthy: {healthy.requests:.0f} requests; now a wrong tokenizer")
        stage.deploy(CASED, WEIGHTS)
        wait(lambda: server.firing() >= set(INCIDENT), f"expected {INCIDENT} to fire")
        screen.say(f"firing: {', '.join(sorted(server.firing()))}")
        photograph(server, "classic/rules", _RULES, IMAGES / "prometheus-rules.png", folder)
        photograph(server, "classic/alerts", _ALERTS, IMAGES / "prometheus-alerts.png", folder)


if __name__ == "__main__":
    main()
