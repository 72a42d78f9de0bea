"""A real Alertmanager for tests, and a receiver that records what it is told.

`Notifications` stands for everybody's pager: the webhook, Slack, PagerDuty and Opsgenie channels all send
their JSON to it, each to a path of its own.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import Self

_START_SECONDS = 30.0


def program(name: str) -> str:
    """Path of `prometheus-alertmanager` or `amtool`; without it tests are skipped, or fail where CI=true."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: apt-get install prometheus-alertmanager"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Notification(NamedTuple):
    """One request of Alertmanager's."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def firing(self) -> list[str]:
        """Names of the firing alerts in a webhook's JSON."""
        return sorted(a["labels"]["alertname"] for a in self.body["alerts"] if a["status"] == "firing")


class Notifications:
    """An HTTP server that takes everything and keeps it."""

    def __init__(self) -> None:
        self._kept: list[Notification] = []
        kept = self._kept

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                kept.append(Notification(self.path, dict(self.headers), json.loads(text)))
                answer = b'{"status": "success"}'
                self.send_response(202)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def at(self, path: str) -> list[Notification]:
        """What came to a path, in order."""
        return [one for one in list(self._kept) if one.path == path]

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Gate:
    """A proxy that lets in who has a token, as companies put before Alertmanager.

    Args:
        target: address of what is behind it.
        token: is asked for.
        redirect: send everybody there instead.
    """

    def __init__(self, target: str, token: str, *, redirect: bool = False) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                if redirect:
                    self._answer(307, b"", Location=f"{target}{self.path}")
                elif self.headers["Authorization"] != f"Bearer {token}":
                    self._answer(401, b"who are you?")
                else:
                    host = urlsplit(target).netloc
                    connection = http.client.HTTPConnection(host, timeout=10)
                    sent = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
                    kind = {"Content-Type": "application/json"}
                    connection.request(self.command, self.path, sent, kind)
                    answer = connection.getresponse()
                    self._answer(answer.status, answer.read())
                    connection.close()

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - their names there

            def _answer(self, status: int, text: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class AlertmanagerServer:
    """One Alertmanager on a free port of the loopback, without a cluster.

    Args:
        directory: for its configuration, data and log.
        config: text of its configuration.
        web: of its web configuration, with TLS; `call` and what uses it then get no answer.
    """

    def __init__(self, directory: Path, config: str, web: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "alertmanager.yml"
        path.write_text(config, encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"{'https' if web else 'http'}://127.0.0.1:{self._port}"
        self._log = directory / "alertmanager.log"
        if web:
            (directory / "web.yml").write_text(web, encoding="utf-8")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus-alertmanager"),
                    f"--config.file={path}",
                    f"--storage.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--cluster.listen-address=",
                    *([f"--web.config.file={directory / 'web.yml'}"] if web else []),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.close()
                raise RuntimeError(f"Alertmanager did not start: {self.log()[-2000:]}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            # where it wants TLS it says that this is none
            return self.call("GET", "/-/ready")[0] == (400 if self.url.startswith("https") else 200)
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and text of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def fire(self, alerts: Iterable[Mapping[str, str]], annotations: Mapping[str, str] | None = None) -> None:
        """Alerts that fire from now on for an hour."""
        ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        notes = dict(annotations or {"summary": "It burns"})
        posted = [{"labels": dict(one), "annotations": notes, "endsAt": ends} for one in alerts]
        status, text = self.call("POST", "/api/v2/alerts", posted)
        assert status == 200, text

    def muted(self) -> dict[str, bool]:
        """Whether each alert is inhibited or silenced, by name."""
        found = json.loads(self.call("GET", "/api/v2/alerts")[1])
        return {one["labels"]["alertname"]: one["status"]["state"] == "suppressed" for one in found}

    def log(self) -> str:
        """Everything it said."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def wait_for(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Poll until `what()` is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(0.1)
    return found
