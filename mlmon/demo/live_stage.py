"""The parts of the live demo at work: two model servers, traffic, evaluator and sidecar, in one folder."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from mlmon.demo.door import Door
from mlmon.demo.live_figures import Alert, live_scrape
from mlmon.demo.live_traffic import Questions, sentences
from mlmon.demo.live_weights import BITS, MODEL, export_rounded
from mlmon.demo.processes import answers, end, free_port, start, wait_for
from mlmon.demo.stage import VERSIONS
from mlmon.errors import SourceError
from mlmon.registry.tokenizers import load_tokenizer
from mlmon.shadow.report import WindowReport

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from mlmon.demo.live_figures import LiveFigures
    from mlmon.demo.live_screen import LiveScreen

__all__ = ["REPORT", "ROUNDED", "TIME_SCALE", "LiveStage", "ModelServer"]

SERVICE, NAME, VERSION = "completion", "technical-english", "2026-11-01"
#: Names in the folder: the other version of the weights, and what the evaluator reports.
ROUNDED, REPORT = "rounded", "shadow-report.jsonl"
#: An hour of the objectives takes 20 seconds.
TIME_SCALE = 180
#: Requests a second, and tokens of them that are mirrored: about every third text.
_RATE, _BUDGET = 30.0, 180.0
_SCRAPE_SECONDS = 0.25
#: Importing PyTorch twice at once takes a while on a busy machine.
_PATIENCE_SECONDS = 120.0
_READY = "/health/ready"
_MLMON = ("-m", "mlmon.cli")

_SERVER = """\
[server]
name = "{name}"
version = "{version}"
log_level = "warning"
shutdown_seconds = 5
[server.loading]
device = "cpu"
cpu_threads = 1
offline = true
"""
_WATCHED = """\
[server.events]
kind = "spool"
service = "{service}"
[server.events.spool]
directory = "spool"
[server.events.emitter]
batch_age_seconds = 0.25
[server.mirror]
kind = "spool"
[server.mirror.budget]
tokens_per_second = {budget}
burst_tokens = {budget}
[server.mirror.spool]
directory = "mirror"
retention_seconds = 3600
"""
_SHADOW = """\
[shadow]
self_labels = "tokens"
report = "{report}"
window_seconds = 5
[shadow.mirror.spool]
directory = "mirror"
retention_seconds = 3600
[shadow.reference]
url = "http://127.0.0.1:{reference}"
name = "{name} as it was evaluated"
[shadow.production]
url = "http://127.0.0.1:{production}"
[shadow.events.spool]
directory = "spool"
"""
_SIDECAR = """\
[source.spool]
directory = "spool"
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
size_seconds = 2
allowed_lateness_seconds = 1
idle_timeout_seconds = 3
[monitors.slo]
time_scale = {scale}
[http]
port = {port}
[log]
level = "warning"
"""


class ModelServer:
    """One running `mlmon serve`; it is not ready before `wait` has returned.

    Args:
        folder: where it runs.
        config: name of its configuration there.
        model: directory of its model.
    """

    def __init__(self, folder: Path, config: str, model: Path) -> None:
        self.port = free_port()
        self._log = folder / f"{config.removesuffix('.toml')}-{self.port}.log"
        arguments = ("serve", "-c", config, "--model", str(model), "--port", str(self.port))
        with self._log.open("wb") as log:
            self._process = start(*_MLMON, *arguments, folder=folder, output=log)

    def wait(self) -> None:
        """Wait until it serves.

        Raises:
            SourceError: it does not.
        """
        _wait(self.port, _READY, self._process, self._log)

    def ready(self) -> bool:
        """Whether it serves by now.

        Raises:
            SourceError: it has ended.
        """
        if self._process.poll() is not None:
            self.wait()
        return answers(self.port, _READY)

    def stop(self) -> None:
        """Let it answer what it accepted, write its events and texts, and end."""
        end(self._process)


class LiveStage:
    """The parts, and how they are changed.

    Args:
        folder: for everything that is written.
        port: of the sidecar's metrics.
        screen: where everything is told.
        stack: ends what was started.

    Attributes:
        alert: what pages.
        production: who is asked.
        traffic: what is asked of production.
    """

    def __init__(self, folder: Path, port: int, screen: LiveScreen, stack: ExitStack) -> None:
        self.folder, self.port, self.screen = folder, port, screen
        self.alert = Alert(TIME_SCALE)
        self._stack = stack
        self._servers: list[ModelServer] = []
        self.production: ModelServer
        self.traffic: Questions

    @property
    def url(self) -> str:
        """Of the metrics."""
        return f"http://127.0.0.1:{self.port}/metrics"

    def prepare(self) -> None:
        """Make the other weights and all configurations, serve the model twice, and begin the traffic."""
        began = time.monotonic()
        export_rounded(MODEL, self.folder / ROUNDED, BITS)
        names = {"service": SERVICE, "name": NAME, "version": VERSION}
        digest = load_tokenizer(MODEL / "tokenizer.json").digest
        self._write(
            "versions.toml", VERSIONS.format(service=SERVICE, model=NAME, version=VERSION, digest=digest)
        )
        self._write("reference.toml", _SERVER.format(**names))
        self._write("serve.toml", (_SERVER + _WATCHED).format(**names, budget=_BUDGET))
        self._write("mlmon.toml", _SIDECAR.format(scale=TIME_SCALE, port=self.port))
        self._stack.callback(self._end_servers)
        with self.screen.busy("starting two servers of a masked language model: production and a reference"):
            self._servers.append(ModelServer(self.folder, "reference.toml", MODEL))
            self.production = self.launch(MODEL)
            for server in self._servers:
                server.wait()
        door = Door(lambda: self.production.port)
        self._stack.callback(door.close)
        ports = {"reference": self._servers[0].port, "production": door.port}
        self._write("shadow.toml", _SHADOW.format(name=NAME, report=REPORT, **ports))
        self.traffic = Questions(sentences(), lambda: self.production.port, _RATE)
        self.traffic.start()
        self._stack.callback(self.traffic.stop)
        self.watch()
        self.screen.say(f"ready after {time.monotonic() - began:.0f} s")

    def watch(self) -> None:
        """Start sidecar and evaluator."""
        log = self.folder / "sidecar.log"
        sidecar = self._command(log, "run")
        self._command(self.folder / "shadow.log", "shadow", "run", "-c", "shadow.toml")
        _wait(self.port, "/readyz", sidecar, log)
        self.screen.say(f"  metrics at {self.url}")
        self.screen.title = f"mlmon demo --live   {self.url}"

    def launch(self, model: Path) -> ModelServer:
        """Start another server of the same name and version beside production; nothing is asked of it yet."""
        self._servers.append(ModelServer(self.folder, "serve.toml", model))
        return self._servers[-1]

    def switch(self, server: ModelServer) -> float:
        """Ask a server that is ready from now on; returns the moment, monotonic seconds.

        The one that was asked before stays, and answers what it has: no request fails.
        """
        self.production = server
        return time.monotonic()

    def until(self, enough: Callable[[LiveFigures], bool], most: float, least: float = 0.0) -> LiveFigures:
        """Scrape and show until there is enough, or too long; returns the last scrape.

        Raises:
            SourceError: the sidecar does not answer any more.
        """
        started = answered = time.monotonic()
        while True:
            figures = live_scrape(self.port)
            now = time.monotonic()
            if figures is not None:
                answered = now
                figures = figures._replace(page=self.alert.evaluate(figures.at, burning=figures.burning))
                self.screen.show(figures)
                if (now - started >= least and enough(figures)) or now - started >= most:
                    return figures
            elif now - answered > 30:
                raise SourceError("the sidecar of the demo does not answer any more")
            time.sleep(_SCRAPE_SECONDS)

    def reports(self) -> list[WindowReport]:
        """What the evaluator has reported, oldest first."""
        with suppress(FileNotFoundError):
            lines = (self.folder / REPORT).read_bytes().split(b"\n")[:-1]
            return [msgspec.json.decode(line, type=WindowReport) for line in lines]
        return []

    def stay(self) -> None:
        """Go on until Ctrl-C."""
        self.screen.say("\nCtrl-C to end")
        with suppress(KeyboardInterrupt):
            self.until(lambda _: False, float("inf"))

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def _end_servers(self) -> None:
        with ThreadPoolExecutor() as threads:
            list(threads.map(ModelServer.stop, self._servers))

    def _command(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        self.screen.say("$ mlmon " + " ".join(arguments))
        with log.open("wb") as output:
            process = start(*_MLMON, *arguments, folder=self.folder, output=output)
        self._stack.callback(end, process)
        return process


def _wait(port: int, path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a process answers, and say what it said where it does not.

    Raises:
        SourceError: it ended, or does not come up.
    """
    try:
        wait_for(port, path, process, _PATIENCE_SECONDS)
    except SourceError as error:
        said = log.read_text(errors="replace").strip()
        raise SourceError(f"{error}\nit said: {said[-2000:] or 'nothing'}") from None
