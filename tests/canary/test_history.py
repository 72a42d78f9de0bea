"""Verdicts out of the history of a real sidecar, by its port and by the command."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest

from mlmon.app.build import build
from mlmon.config import load_config
from mlmon.events.encode import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, encode_arrow
from mlmon.events.event import Event
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlmon.app.build import Running

START_US = 1_760_000_000_000_000
HEADERS = ((CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE.encode()),)
CONFIG = """
[source.spool]
directory = "{folder}/spool"
[checkpoint.sqlite]
path = "{folder}/checkpoint.sqlite"
[dead_letters]
directory = "{folder}/letters"
[history]
directory = "{folder}/history"
[canary]
margins = {{ availability = 0.02 }}
[windows]
size_seconds = 60
allowed_lateness_seconds = 0
[http]
port = 0
"""


def events(service: str, failing: float) -> list[Event]:
    """Ten minutes: 4,000 events of the stable deployment, 1,000 of the canary, which fails more often."""
    rng = np.random.default_rng(11)
    found = []
    for number in range(5_000):
        canary = number % 5 == 0
        bad = rng.random() < (failing if canary else 0.01)
        found.append(
            Event(
                event_id=f"{service}-{number}",
                event_time=START_US + number * 120_000,
                service=service,
                model_name="intent",
                model_version="2" if canary else "1",
                deployment="canary" if canary else "stable",
                status="error" if bad else "ok",
                latency_seconds=float(rng.lognormal(-4, 0.3)),
                prediction="a" if rng.random() < 0.4 else "b",
            )
        )
    return found


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a sidecar that has read ten minutes of two services."""
    folder = tmp_path_factory.mktemp("canary")
    path = folder / "mlmon.toml"
    path.write_text(CONFIG.format(folder=folder))
    with closing(SpoolWriter(SpoolWriterConfig(directory=str(folder / "spool")))) as writer:
        rows = sorted([*events("good", 0.01), *events("broken", 0.2)], key=lambda event: event.event_time)
        for first in range(0, len(rows), 500):
            writer.append(encode_arrow(rows[first : first + 500]), HEADERS)
    return path


@pytest.fixture(scope="module")
def sidecar(config_path: Path) -> Iterator[Running]:
    running = build(load_config(config_path))
    while running.engine.watermark_us < START_US + 540_000_000:
        running.sidecar.step()
        running.sidecar.commit()
    running.sidecar.step()
    running.server.start()
    yield running
    running.close()


def ask(sidecar: Running, path: str, method: str = "GET", body: str | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(sidecar.server.host, sidecar.server.port, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_the_port_answers_what_rollout_controllers_ask(sidecar: Running) -> None:
    status, good = ask(sidecar, "/canary/verdict?service=good")
    assert (status, good["verdict"]) == (200, "pass")
    checks = {check["name"]: check for check in good["checks"]}
    assert checks["availability"]["state"] == "pass"
    assert checks["latency-p95"]["canary"] < 0.05
    status, bad = ask(sidecar, "/canary/verdict?service=broken&model=intent")
    assert (status, bad["verdict"]) == (200, "fail")
    assert any(reason.startswith("availability: ") for reason in bad["reasons"])
    by_version = f"stable={quote('version=1')}&canary={quote('version=2')}"
    assert ask(sidecar, f"/canary/verdict?service=broken&{by_version}")[1]["verdict"] == "fail"


def test_the_gate_answers_by_its_status_to_posts_too(sidecar: Running) -> None:
    payload = json.dumps({"name": "shop", "namespace": "prod", "phase": "Progressing"})
    assert ask(sidecar, "/canary/gate?service=good", "POST", payload)[0] == 200
    assert ask(sidecar, "/canary/gate?service=broken", "POST", payload)[0] == 409
    assert ask(sidecar, "/canary/gate?service=broken")[0] == 409
    assert ask(sidecar, "/canary/gate?service=unknown")[1]["verdict"] == "inconclusive"


def test_before_it_began_a_canary_has_no_events(sidecar: Running) -> None:
    early = ask(sidecar, "/canary/verdict?service=broken&until=2025-10-09T08:00Z")[1]
    assert early["verdict"] == "inconclusive"
    half = ask(sidecar, "/canary/verdict?service=broken&since=2025-10-09T08:58:20Z")[1]
    whole = ask(sidecar, "/canary/verdict?service=broken")[1]
    sizes = [
        next(c["canary_events"] for c in v["checks"] if c["name"] == "availability") for v in (half, whole)
    ]
    assert 0 < sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "service: expected the name of a service"),
        ("?service=good&windows=3", "unknown parameters windows"),
        ("?service=good&stable=stable", "stable: expected COLUMN=VALUE with a column of deployment, version"),
        ("?service=good&since=yesterday", "since: expected a time such as"),
    ],
)
def test_bad_questions_are_told_what_is_expected(sidecar: Running, query: str, says: str) -> None:
    status, answer = ask(sidecar, f"/canary/verdict{query}")
    assert status == 400
    assert says in answer["error"]


def test_a_body_that_is_too_long_is_refused(sidecar: Running) -> None:
    connection = http.client.HTTPConnection(sidecar.server.host, sidecar.server.port, timeout=30)
    connection.putrequest("POST", "/canary/gate?service=good")
    connection.putheader("Content-Length", str(1 << 20))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_the_command_ends_with_its_verdict_and_tells_the_webhook(sidecar: Running, config_path: Path) -> None:
    told: list[tuple[str | None, dict[str, Any]]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.headers["Authorization"], json.loads(body)))
            self.send_response(204 if self.path == "/rollback" else 500)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    def check(service: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mlmon.cli", "canary", "check", "-c", str(config_path)]
        environment = {"MLMON_CANARY_TOKEN": "s3cret", "PATH": "/usr/bin"}
        return subprocess.run(
            [*command, "--service", service, *more],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        passed = check("good", "--on-fail", f"{url}/rollback")
        assert (passed.returncode, told) == (0, [])
        assert "pass" in passed.stdout
        failed = check("broken", "--on-fail", f"{url}/rollback", "--json")
        assert failed.returncode == 1, failed.stderr
        assert json.loads(failed.stdout)["verdict"] == "fail"
        assert "s3cret" not in failed.stdout + failed.stderr
        ((authorization, body),) = told
        assert (authorization, body["verdict"]) == ("Bearer s3cret", "fail")
        unheard = check("broken", "--on-fail", f"{url}/nothing")
        assert unheard.returncode == 3
        assert "answered 500" in unheard.stderr
        server.shutdown()
    assert check("unknown").returncode == 5
    assert check("good", "--since", "soon").returncode == 2
