"""The sidecar's image: small rights, pinned base, only what the base install needs."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text(encoding="utf-8"))
    text = re.sub(r"\\\n\s*", " ", text)
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def last_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_base_images_are_pinned(path: Path) -> None:
    bases = [rest.split()[0] for word, rest in instructions(path) if word == "FROM"]
    assert bases
    for base in bases:
        assert re.search(r":\d+\.\d+\.\d+", base), base


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_image_runs_as_a_user_without_rights(path: Path) -> None:
    stage = last_stage(path)
    users = [rest for word, rest in stage if word == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[-1])
    words = [word for word, _ in stage]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert not any(word == "RUN" and "USER" in words[:index] for index, (word, _) in enumerate(stage))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_nothing_is_fetched_but_packages_at_pinned_versions(path: Path) -> None:
    for word, rest in instructions(path):
        assert word != "ADD"
        assert not re.search(r"\b(curl|wget)\b", rest)
        for install in re.findall(r"pip .*?install[^&]*", rest):
            assert "--constraint constraints.txt" in install


def test_the_sidecar_has_no_extras() -> None:
    text = " ".join(rest for _, rest in instructions(ROOT / "docker/sidecar.Dockerfile"))
    assert "torch" not in text
    assert not re.search(r"\[(demo|server|all|dev)", text)


def test_everything_that_is_copied_is_in_the_build_context() -> None:
    """.dockerignore excludes everything and lets some back in; the last matching line decides."""
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]

    def sent(name: str) -> bool:
        kept = True
        for rule in rules:
            pattern = rule.removeprefix("!")
            if fnmatch.fnmatch(name, pattern) or name.startswith(f"{pattern}/"):
                kept = rule.startswith("!")
        return kept

    for path in DOCKERFILES:
        for word, rest in instructions(path):
            if word == "COPY" and "--from" not in rest:
                for source in shlex.split(rest)[:-1]:
                    assert (ROOT / source).exists(), source
                    assert sent(source), source
    assert not sent(".git")
    assert not sent("tests")
    assert not sent("docker/secrets/metrics_password")


class _Probe(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def probe() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Probe)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_health_check_tells_a_healthy_sidecar_from_a_sick_one(
    probe: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (check,) = (
        rest for word, rest in last_stage(ROOT / "docker/sidecar.Dockerfile") if word == "HEALTHCHECK"
    )
    program, flag, code = json.loads(check.partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")

    def healthy() -> bool:
        environment = {**os.environ, "MLMON_HEALTH_URL": f"http://127.0.0.1:{probe.server_port}/healthz"}
        done = subprocess.run([sys.executable, flag, code], env=environment, capture_output=True, check=False)
        return done.returncode == 0

    monkeypatch.setattr(_Probe, "status", 200)
    assert healthy()
    monkeypatch.setattr(_Probe, "status", 503)
    assert not healthy()
