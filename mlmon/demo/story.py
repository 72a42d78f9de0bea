"""The demo, start to end: a service, its traffic, a sidecar, and a wrong tokenizer deployed midway."""

from __future__ import annotations

import http.client
import importlib.util
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mlmon.demo.figures import scrape
from mlmon.demo.service import MODEL, SERVICE, VERSION, train_tokenizers
from mlmon.demo.traffic import Traffic
from mlmon.errors import MissingExtraError, SourceError
from mlmon.registry.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.demo.figures import Figures

__all__ = ["Outcome", "run_demo"]

_CONFIG = """\
[source.spool]
directory = "{folder}/spool"
[checkpoint.sqlite]
path = "{folder}/checkpoint.sqlite"
[dead_letters]
directory = "{folder}/dead-letters"
[registry]
versions_file = "{folder}/versions.toml"
[loop]
checkpoint_interval_seconds = 0.5
[windows]
size_seconds = 3
allowed_lateness_seconds = 1
idle_timeout_seconds = 3
[http]
port = {port}
[log]
level = "warning"
"""
_VERSIONS = """\
version = 1
[[expected]]
service = "{service}"
model = "{model}"
model_version = "{version}"
tokenizer_digest = "{digest}"
"""


#: Widths of the values in a line, in the order of `_Screen._rows`; what comes after them is left out.
_WIDTHS = (13, 2, 7, 5, 8, 1)


class Outcome(NamedTuple):
    """What was seen before and after the wrong deployment."""

    before: Figures
    after: Figures

    @property
    def seen(self) -> bool:
        """Whether the unknown-token ratio and the version mismatch both moved."""
        rose = (self.after.unknown_ratio or 0.0) > 5 * (self.before.unknown_ratio or 0.0) + 0.01
        return rose and (self.before.mismatch_ratio, self.after.mismatch_ratio) == (0.0, 1.0)


def free_port() -> int:
    """A port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Deployment:
    """One running service process."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        self.port = free_port()
        module = [sys.executable, "-m", "mlmon.demo.service"]
        options = ["--port", str(self.port), "--folder", str(folder), "--tokenizer", str(tokenizer)]
        self._process = subprocess.Popen([*module, *options], stdout=subprocess.DEVNULL)  # noqa: S603 - ours
        _wait_for(self.port, "/healthz", self._process)

    def stop(self) -> None:
        """Let it flush its events and end."""
        _end(self._process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def _wait_for(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SourceError(
                f"a process of the demo ended with code {process.returncode}; see above for why"
            )
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise SourceError("a process of the demo did not come up within 60 s; is the machine very busy?")


class _Screen:
    """The live table on a terminal, a line every few seconds elsewhere."""

    def __init__(self, console: Console, metrics_url: str) -> None:
        self._console, self._url = console, metrics_url
        self._live: Live | None = None
        self._recent: deque[Figures] = deque(maxlen=8)
        self._next_line = 0.0
        self._told = ""
        self.phase = ""

    def __enter__(self) -> _Screen:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def show(self, figures: Figures) -> None:
        """Show a scrape."""
        self._recent.append(figures)
        rows = list(self._rows(figures))
        if self._live is not None:
            self._live.update(self._table(rows))
        elif self.phase != self._told:
            self._told = self.phase
            self._console.print(f"\n{self.phase}")
        elif figures.at >= self._next_line:
            self._next_line = figures.at + 4
            shown = zip(rows, _WIDTHS, strict=False)
            line = "  ".join(f"{name} {value:>{width}}" for (name, value), width in shown)
            self._console.print(line, soft_wrap=True)

    def _table(self, rows: list[tuple[str, str]]) -> Table:
        table = Table(title=f"mlmon demo   {self._url}", caption=self.phase, min_width=78)
        table.add_column("what")
        table.add_column("now", justify="right")
        for name, value in rows:
            table.add_row(name, value)
        return table

    def _rows(self, now: Figures) -> Iterator[tuple[str, str]]:
        last = self._recent[0]
        rate = (now.requests - last.requests) / (now.at - last.at) if now.at > last.at else 0.0
        yield "requests", f"{now.requests:,.0f} ({rate:.0f}/s)"
        yield "errors", f"{now.errors:,.0f}"
        yield "unknown tokens", _percent(now.unknown_ratio)
        yield "tokens per word", "-" if now.tokens_per_word is None else f"{now.tokens_per_word:.3f}"
        yield "wrong versions", _percent(now.mismatch_ratio)
        yield "tokenizers", "-" if now.tokenizers is None else f"{now.tokenizers:.0f}"
        yield "behind", f"{now.lag_seconds:.1f} s"
        yield "dead letters", f"{now.dead_letters:,.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def run_demo(seconds: float, port: int, *, stay: bool, console: Console | None = None) -> Outcome:
    """Run the demo.

    Args:
        seconds: length of each of the two phases, about.
        port: of /metrics; 0 chooses one.
        stay: go on until Ctrl-C after the story is told.
        console: where to show it.

    Raises:
        SourceError: a part did not come up.
        MissingExtraError: FastAPI is not installed.
    """
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "server")
    console = console or Console()
    port = port or free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlmon-demo-")))
        console.print("training a WordPiece tokenizer on the standard library's docstrings ...")
        right, wrong = train_tokenizers(folder)
        digest = load_tokenizer(right).digest
        (folder / "versions.toml").write_text(
            _VERSIONS.format(service=SERVICE, model=MODEL, version=VERSION, digest=digest)
        )
        (folder / "mlmon.toml").write_text(_CONFIG.format(folder=folder, port=port))
        console.print("starting the service and the sidecar ...")
        deployments = [_Deployment(folder, right)]
        stack.callback(lambda: deployments[-1].stop())
        command = [sys.executable, "-m", "mlmon.cli", "run", "--config", str(folder / "mlmon.toml")]
        sidecar = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - ours
        stack.callback(_end, sidecar)
        traffic = Traffic(lambda: deployments[-1].port)
        traffic.start()
        stack.callback(traffic.stop)
        _wait_for(port, "/readyz", sidecar)
        url = f"http://127.0.0.1:{port}/metrics"
        console.print(f"metrics at {url}")
        with _Screen(console, url) as screen:
            screen.phase = "healthy: the tokenizer the model was trained with"
            before = _watch(screen, port, seconds)
            deployments.append(_Deployment(folder, wrong))
            deployments[0].stop()
            screen.phase = "redeployed: same vocabulary, lowercasing off; every answer is still 200 OK"
            after = _watch(screen, port, seconds)
            if stay:
                screen.phase += "   (Ctrl-C to end)"
                _stay(screen, port)
        return Outcome(before, after)


def _watch(screen: _Screen, port: int, seconds: float) -> Figures:
    """Scrape and show for this long and until every figure is there; returns the last scrape."""
    deadline = time.monotonic() + seconds
    while True:
        figures = scrape(port)
        if figures is not None:
            screen.show(figures)
            complete = None not in (figures.unknown_ratio, figures.mismatch_ratio)
            if time.monotonic() > deadline and (complete or time.monotonic() > deadline + 30):
                return figures
        elif time.monotonic() > deadline + 30:
            raise SourceError("the sidecar of the demo does not answer any more")
        time.sleep(0.5)


def _stay(screen: _Screen, port: int) -> None:
    try:
        while True:
            _watch(screen, port, 1.0)
    except KeyboardInterrupt:
        pass
