"""Real sidecar processes that are killed, frozen and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from tests.fire.load import Expected


class Sidecars:
    """Processes of `mlmon run`, one for each configuration file."""

    def __init__(self, configs: list[Path], logs: Path) -> None:
        self._configs = configs
        self._logs = logs
        self._running: list[subprocess.Popen[bytes] | None] = [None] * len(configs)
        self._log_ends = [0] * len(configs)
        self.kills = 0
        self.freezes = 0

    def start(self, index: int) -> None:
        """Start one that does not run."""
        with self._log(index).open("ab") as log:
            self._log_ends[index] = log.tell()
            self._running[index] = subprocess.Popen(
                [sys.executable, "-m", "mlmon.cli", "run", "--config", str(self._configs[index])],
                stdout=log,
                stderr=log,
            )

    def wait_started(self, index: int) -> None:
        """Wait until one is at work: to kill a process that still imports its modules tries nothing."""
        deadline = time.monotonic() + 120
        process = self._running[index]
        assert process is not None
        while b"metrics at" not in self._log(index).read_bytes()[self._log_ends[index] :]:
            assert process.poll() is None, f"a sidecar died by itself:\n{self.log(index)}"
            assert time.monotonic() < deadline, f"a sidecar did not start:\n{self.log(index)}"
            time.sleep(0.02)

    def start_all(self) -> None:
        """Start all."""
        for index in range(len(self._configs)):
            self.start(index)

    def kill(self, index: int) -> None:
        """SIGKILL, and start again."""
        process = self._running[index]
        assert process is not None
        assert process.poll() is None, f"a sidecar died by itself:\n{self.log(index)}"
        process.kill()
        process.wait()
        self.kills += 1
        self.start(index)

    def freeze(self, index: int, seconds: float) -> None:
        """SIGSTOP for so long, then SIGCONT."""
        process = self._running[index]
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(seconds)  # the freeze itself, not a wait for something
        os.kill(process.pid, signal.SIGCONT)
        self.freezes += 1

    def close(self) -> None:
        """SIGTERM all; they commit and leave."""
        for process in self._running:
            if process is not None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for index, process in enumerate(self._running):
            if process is not None:
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise AssertionError(f"a sidecar did not stop on SIGTERM:\n{self.log(index)}") from None

    def _log(self, index: int) -> Path:
        return self._logs / f"sidecar-{index}.log"

    def log(self, index: int) -> str:
        """The end of one's output."""
        return self._log(index).read_text()[-4000:]

    def status(self) -> dict[str, dict[str, Any]]:
        """`mlmon status --json`, by partition."""
        out = subprocess.run(
            [sys.executable, "-m", "mlmon.cli", "status", "--config", str(self._configs[0]), "--json"],
            capture_output=True,
            check=False,
            timeout=120,
        )
        if out.returncode:
            return {}
        return {row["partition"]: row for row in json.loads(out.stdout)["partitions"]}

    def wait_for(self, expected: dict[str, Expected], seconds: float) -> dict[str, dict[str, Any]]:
        """Wait until as many records were read as there are; returns the status then, or the last one."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            missing = [
                name
                for name, want in expected.items()
                if status.get(name, {}).get("records", 0) < want.records
            ]
            if not missing or time.monotonic() > deadline:
                return status
            time.sleep(0.5)


def differences(status: dict[str, dict[str, Any]], expected: dict[str, Expected]) -> list[str]:
    """Every total that is not what it must be; empty when all is exact."""
    wrong = []
    for name, want in expected.items():
        got = status.get(name, {})
        wrong += [
            f"{name} {what}: expected {getattr(want, what)}, got {got.get(what)}"
            for what in ("records", "events", "late", "rejects")
            if got.get(what) != getattr(want, what)
        ]
        windows = {int(start): count for start, count in got.get("windows", {}).items()}
        if windows != dict(want.windows):
            wrong.append(f"{name}: windows differ")
    return wrong


def pick(rng: np.random.Generator, count: int) -> int:
    """One of `count`, at random."""
    return int(rng.integers(count))
