"""A history of counters and of what rules recorded of them, for `rules.py`; and the counters going on."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlmon.slo.windows import STEP_SECONDS, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = RuleSettings()
SCRAPE = 60
STEM = "mlmon_requests"
PERIOD_DAYS = 30
#: History of the fast recordings: more than their longest window.
_RECENT_SECONDS = 7200
_BLOCK = "162h"


class Size(NamedTuple):
    """How much there is.

    Attributes:
        services: that have every objective.
        objectives: each over a segment of its own.
        versions: series of a counter that an objective sums, for each status.
        days: of the counters' history.
    """

    services: int
    objectives: int
    versions: int
    days: float

    def counters(self) -> Iterator[tuple[str, str, float]]:
        """Name, labels and increase at each scrape of every counter."""
        for name in (STEM, f"{STEM}_weight_squared"):
            for service in range(self.services):
                for index in range(self.objectives):
                    for version in range(self.versions):
                        who = f'service="service-{service}",model="m",version="{version}",segment="s{index}"'
                        for status, step in (("ok", 100.0), ("error", bad(service, index))):
                            yield name, f'{{{who},status="{status}"}}', step


def bad(service: int, index: int) -> float:
    """Failed requests in a scrape interval, beside 100 that did not: burns between 0.1 and 0.7."""
    return 0.01 * (1 + (service + 3 * index) % 7)


class Exporter:
    """The counters as they go on after the history."""

    def __init__(self, size: Size, start: int) -> None:
        counters = list(size.counters())

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                count = (time.time() - start) / SCRAPE
                body = "".join(f"{n}_total{labels} {count * step:.6g}\n" for n, labels, step in counters)
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.target = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def counter_lines(size: Size, start: int, end: int) -> Iterator[str]:
    """The counters as OpenMetrics text."""
    written = ""
    for name, labels, step in size.counters():
        if name != written:
            yield f"# TYPE {name} counter\n"
            written = name
        yield from (
            f"{name}_total{labels} {n * step:.6g} {at}\n" for n, at in enumerate(range(start, end, SCRAPE))
        )


def recorded_lines(size: Size, end: int) -> Iterator[str]:
    """What the rules would have recorded of them: two hours of the fast ones, a period of the slow ones."""
    slow = range(end - PERIOD_DAYS * 86_400, end, STEP_SECONDS)
    fast = range(end - _RECENT_SECONDS, end, SETTINGS.interval_seconds)
    for what in ("bad", "total"):
        for squared in ("", "_weight_squared"):
            for suffix, moments, scale in (
                ("rate5m", fast, 1 / SCRAPE),
                ("increase5m", slow, STEP_SECONDS / SCRAPE),
            ):
                name = f"mlmon_slo:{what}{squared}:{suffix}"
                yield f"# TYPE {name} gauge\n"
                for service in range(size.services):
                    for index in range(size.objectives):
                        step = bad(service, index) + (100.0 if what == "total" else 0.0)
                        value = f"{size.versions * step * scale:.9g}"
                        labels = f'{{service="service-{service}",model="m",slo="objective-{index}"}}'
                        yield from (f"{name}{labels} {value} {at}\n" for at in moments)


def blocks(folder: Path, lines: Iterator[str]) -> Path:
    """Blocks of Prometheus's storage that hold these lines."""
    text, made = folder / "history", Path(tempfile.mkdtemp(dir=folder))
    with text.open("w") as out:
        out.writelines(lines)
        out.write("# EOF\n")
    create = ("promtool", "tsdb", "create-blocks-from", f"--max-block-duration={_BLOCK}", "openmetrics")
    subprocess.run([*create, str(text), str(made)], check=True, stdout=subprocess.DEVNULL)
    text.unlink()
    return made
