"""A real Prometheus for tests: started on a free port of the loopback, asked through its API.

Use the fixture `prometheus_server` (import it into a conftest): a factory that takes what goes into the
scrape configuration and returns a running `PrometheusServer`; all are stopped when the test ends.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_START_SECONDS = 30.0


class PrometheusServer:
    """One Prometheus that scrapes one target twice a second.

    Args:
        directory: for its configuration, data and log.
        target: host and port to scrape.
        job: further keys of the scrape configuration, such as `scheme`, `basic_auth`, `tls_config`.
        rule_files: rule files to load.

    Raises:
        RuntimeError: it did not start; carries the end of its log.
    """

    def __init__(
        self,
        directory: Path,
        target: str,
        job: dict[str, Any] | None = None,
        rule_files: tuple[str, ...] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": list(rule_files),
            "scrape_configs": [
                {"job_name": "mlmon", "static_configs": [{"targets": [target]}], **(job or {})}
            ],
        }
        # JSON is YAML
        path = directory / "prometheus.yml"
        path.write_text(json.dumps(config))
        self._log = directory / "prometheus.log"
        self.port = _free_port()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary(),
                    f"--config.file={path}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self._get("/-/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"Prometheus did not start: {self._log.read_text()[-2000:]}")

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def api(self, path: str, **parameters: str) -> Any:
        """`data` of an API answer."""
        status, body = self._get(f"/api/v1/{path}?{urlencode(parameters)}")
        answer = json.loads(body)
        assert status == 200, answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series now."""
        return [
            (item["metric"], float(item["value"][1]))
            for item in self.api("query", query=expression)["result"]
        ]

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """Exemplars of the last hour and the next, one list over all series."""
        now = time.time()
        found = self.api("query_exemplars", query=expression, start=str(now - 3600), end=str(now + 3600))
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def target(self) -> dict[str, Any]:
        """What it says of the target, `health`, `lastError`, ...; empty before it knows the target."""
        found: list[dict[str, Any]] = self.api("targets")["activeTargets"]
        return found[0] if found else {}

    def wait_for(self, what: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Poll until `what()` is true, and return it."""
        deadline = time.monotonic() + seconds
        while True:
            found = what()
            if found:
                return found
            assert time.monotonic() < deadline, f"not in {seconds} s; target: {self.target()}"
            time.sleep(0.1)

    def wait_value(self, expression: str, expected: float, seconds: float = 20.0) -> None:
        """Wait until a query gives exactly one series with this value."""
        last: list[Any] = []

        def reached() -> bool:
            last[:] = self.query(expression)
            return [value for _, value in last] == [expected]

        try:
            self.wait_for(reached, seconds)
        except AssertionError as error:
            raise AssertionError(f"{expression}: expected {expected}, got {last}; {error}") from error

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def binary() -> str:
    """Path of the program: `MLMON_TEST_PROMETHEUS`, else the one on the path."""
    found = os.environ.get("MLMON_TEST_PROMETHEUS") or shutil.which("prometheus")
    if found is None:
        reason = "Prometheus is not installed: apt-get install prometheus, or set MLMON_TEST_PROMETHEUS"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def prometheus_server(tmp_path: Path) -> Iterator[Callable[..., PrometheusServer]]:
    """A factory: `prometheus_server("127.0.0.1:9477", {"scheme": "https"})`."""
    started: list[PrometheusServer] = []

    def start(
        target: str, job: dict[str, Any] | None = None, rule_files: tuple[str, ...] = ()
    ) -> PrometheusServer:
        binary()
        directory = tmp_path / f"prometheus{len(started)}"
        started.append(PrometheusServer(directory, target, job, rule_files))
        return started[-1]

    yield start
    for server in started:
        server.close()
