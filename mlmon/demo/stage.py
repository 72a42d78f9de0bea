"""The parts of the demo at work: service, traffic, baseline and sidecar, in one folder."""

from __future__ import annotations

import importlib.util
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mlmon.baseline.file import SUFFIX
from mlmon.demo.figures import scrape
from mlmon.demo.processes import Deployment, end, free_port, run, start, wait_for
from mlmon.demo.service import MODEL, SERVICE, SPOOL, VERSION
from mlmon.demo.traffic import Traffic
from mlmon.demo.training import TOKENIZER, WEIGHTS
from mlmon.errors import SourceError
from mlmon.registry.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from mlmon.demo.figures import Figures
    from mlmon.demo.screen import Screen

__all__ = ["BASELINE", "EXPLORER_PORT", "VERSIONS", "Stage"]

BASELINE = f"healthy{SUFFIX}"
#: Answers that the baseline is made of, and how fast they are asked for; then the rate that is watched.
_RECORDED, _RECORD_RATE, _RATE = 6000, 800.0, 200.0
_RECORD_SECONDS = 120.0
_SCRAPE_SECONDS = 0.25
#: A replaced service gets no new requests; those under way are answered in this time.
_DRAIN_SECONDS = 0.5
#: Where the explorer listens, unless somebody else does.
EXPLORER_PORT = 8501
_EXPLORER = ("streamlit", "plotly", "duckdb", "pandas")
#: How a command of mlmon is run here.
_MLMON = ("-m", "mlmon.cli")
#: How lines of `mlmon baseline build` begin that matter here.
_TOLD = ("warning", "wrote")

_CONFIG = """\
[source.spool]
directory = "{spool}"
start = "latest"
[checkpoint.sqlite]
path = "checkpoint.sqlite"
[dead_letters]
directory = "dead-letters"
[history]
directory = "history"
[registry]
versions_file = "versions.toml"
[loop]
checkpoint_interval_seconds = 0.5
[windows]
size_seconds = 1
allowed_lateness_seconds = 1
idle_timeout_seconds = 3
[http]
port = {port}
[log]
level = "warning"
[baseline]
files = ["{baseline}"]
[drift]
min_events = 100
[alerts]
false_pages_per_month = 1
"""
#: What is expected to serve: one version of one model.
VERSIONS = """\
version = 1
[[expected]]
service = "{service}"
model = "{model}"
model_version = "{version}"
tokenizer_digest = "{digest}"
"""


class Stage:
    """The parts of the demo, and how they are changed.

    Args:
        folder: for everything that is written.
        port: of the sidecar's metrics.
        screen: where everything is told.
        stack: ends what was started.
    """

    def __init__(self, folder: Path, port: int, screen: Screen, stack: ExitStack) -> None:
        self.folder, self.port, self.screen = folder, port, screen
        self._stack = stack
        self._deployment: Deployment
        self.traffic: Traffic

    @property
    def url(self) -> str:
        """Of the metrics."""
        return f"http://127.0.0.1:{self.port}/metrics"

    def prepare(self) -> None:
        """Train, serve, record healthy traffic, make a baseline of it."""
        started = time.monotonic()
        with self.screen.busy("training a tokenizer, and a model of banking queries"):
            run("-m", "mlmon.demo.training", str(self.folder))
        digest = load_tokenizer(self.folder / TOKENIZER).digest
        names = {"service": SERVICE, "model": MODEL, "version": VERSION, "digest": digest}
        (self.folder / "versions.toml").write_text(VERSIONS.format(**names))
        config = _CONFIG.format(spool=SPOOL, port=self.port, baseline=BASELINE)
        (self.folder / "mlmon.toml").write_text(config)
        self._record()
        self._build()
        self.screen.say(f"ready after {time.monotonic() - started:.0f} s")

    def _record(self) -> None:
        """Start the service and its traffic, and wait for what the baseline needs."""
        with self.screen.busy(f"starting the service, and recording {_RECORDED:,} of its answers"):
            self._deployment = Deployment(self.folder, TOKENIZER, WEIGHTS)
            self._stack.callback(lambda: self._deployment.stop())
            self.traffic = Traffic(lambda: self._deployment.port, _RECORD_RATE)
            self.traffic.start()
            self._stack.callback(self.traffic.stop)
            deadline = time.monotonic() + _RECORD_SECONDS
            while self.traffic.answered < _RECORDED:
                if time.monotonic() > deadline:
                    raise SourceError(
                        f"the demo's service answered {self.traffic.answered:,} requests in "
                        f"{_RECORD_SECONDS:.0f} s, expected {_RECORDED:,}; is the machine very busy?"
                    )
                time.sleep(0.1)
        self.traffic.per_second = _RATE

    def _build(self) -> None:
        arguments = ["baseline", "build", BASELINE.removesuffix(SUFFIX), "--spool", SPOOL]
        with self.screen.busy(_typed(*arguments)):
            said = run(*_MLMON, *arguments, folder=self.folder)
        for line in said.splitlines():
            if line.startswith(_TOLD):  # the rest is what `mlmon baseline show` tells
                self.screen.say(f"  {line}", wrap=True)

    def watch(self) -> None:
        """Start the sidecar."""
        self.screen.say(_typed("run"))
        log = self._stack.enter_context((self.folder / "sidecar.log").open("wb"))
        sidecar = start(*_MLMON, "run", folder=self.folder, output=log)
        self._stack.callback(end, sidecar)
        try:
            wait_for(self.port, "/readyz", sidecar)
        except SourceError as error:
            said = (self.folder / "sidecar.log").read_text(errors="replace").strip()
            raise SourceError(f"{error}\nthe sidecar said: {said[-2000:] or 'nothing'}") from None
        self.screen.say(f"  metrics at {self.url}")
        self.screen.title = f"mlmon demo   {self.url}"

    def mix(self, travel: float) -> float:
        """Change what customers ask about; returns the moment, monotonic seconds."""
        self.traffic.travel = travel
        return time.monotonic()

    def deploy(self, tokenizer: str, model: str) -> float:
        """Replace the service without failing a request; returns the moment it was done."""
        old, self._deployment = self._deployment, Deployment(self.folder, tokenizer, model)
        done = time.monotonic()
        leaving = threading.Timer(_DRAIN_SECONDS, old.stop)
        leaving.start()
        self._stack.callback(leaving.join)
        return done

    def until(self, enough: Callable[[Figures], bool], most: float, least: float = 0.0) -> Figures:
        """Scrape and show until there is enough, or too long; returns the last scrape."""
        started = answered = time.monotonic()
        while True:
            figures = scrape(self.port)
            now = time.monotonic()
            if figures is not None:
                answered = now
                self.screen.show(figures)
                if (now - started >= least and enough(figures)) or now - started >= most:
                    return figures
            elif now - answered > 30:
                raise SourceError("the sidecar of the demo does not answer any more")
            time.sleep(_SCRAPE_SECONDS)

    def explore(self) -> str | None:
        """Start the explorer; returns its address, None where its extra is not installed."""
        if any(importlib.util.find_spec(package) is None for package in _EXPLORER):
            return None
        port = free_port(EXPLORER_PORT)
        arguments = ["explore", "-c", "mlmon.toml", "--port", str(port)]
        self.screen.say(_typed(*arguments))
        log = self._stack.enter_context((self.folder / "explorer.log").open("wb"))
        explorer = start(*_MLMON, *arguments, folder=self.folder, output=log)
        self._stack.callback(end, explorer)
        wait_for(port, "/_stcore/health", explorer)
        return f"http://127.0.0.1:{port}"

    def stay(self) -> None:
        """Go on until Ctrl-C."""
        self.screen.say("\nCtrl-C to end")
        with suppress(KeyboardInterrupt):
            self.until(lambda _: False, float("inf"))


def _typed(*arguments: str) -> str:
    """A command as one would type it in the folder."""
    return "$ mlmon " + " ".join(arguments)
