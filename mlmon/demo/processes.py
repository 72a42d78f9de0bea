"""The processes of the demo: how they are started, waited for and ended."""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlmon.errors import MissingExtraError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from typing import IO

__all__ = [
    "Deployment",
    "answers",
    "demo_folder",
    "end",
    "ended_in_order",
    "free_port",
    "require_server",
    "run",
    "start",
    "wait_for",
]

_PATIENCE_SECONDS = 60.0


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, so that what this process has started is ended too."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def demo_folder(stack: ExitStack, *, keep: bool) -> Path:
    """A folder for all that a demo writes; it goes with the stack, unless it is kept."""
    if keep:
        return Path(tempfile.mkdtemp(prefix="mlmon-demo-"))
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlmon-demo-")))


def require_server() -> None:
    """Make sure that the service can run.

    Raises:
        MissingExtraError: FastAPI or uvicorn is not installed.
    """
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "demo")


def free_port(wanted: int = 0) -> int:
    """A port on loopback that is free now: the one that is wanted, or else any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Deployment:
    """One running service process.

    Args:
        folder: what the service reads, and where its events go.
        tokenizer: name of the tokenizer's file in it.
        model: of the model's.
    """

    def __init__(self, folder: Path, tokenizer: str, model: str) -> None:
        self.port = free_port()
        options = ("--port", str(self.port), "--folder", str(folder))
        files = ("--tokenizer", tokenizer, "--model", model)
        self._process = start("-m", "mlmon.demo.service", *options, *files)
        try:
            wait_for(self.port, "/healthz", self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let it flush its events and end."""
        end(self._process)


def run(*arguments: str, folder: Path | None = None) -> str:
    """Run Python with these arguments; returns what it wrote.

    Raises:
        SourceError: it failed.
    """
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, *arguments],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        command = " ".join(arguments)
        raise SourceError(f"a part of the demo failed (python {command}): {done.stderr.strip()[-2000:]}")
    return done.stdout


def start(
    *arguments: str, folder: Path | None = None, output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start Python with these arguments; errors go to the terminal where there is no output to write to."""
    return subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, *arguments],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.DEVNULL if output is None else output,
        stderr=output,
    )


def _environment() -> dict[str, str]:
    """Linear algebra on one thread, unless it is chosen: threads that wait for each other in a busy loop make
    four processes on two cores ten times slower."""
    return {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | os.environ


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process in order, or else at once."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answers(port: int, path: str) -> bool:
    """Whether a process on loopback answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_for(
    port: int, path: str, process: subprocess.Popen[bytes], patience_seconds: float = _PATIENCE_SECONDS
) -> None:
    """Wait until a process answers 200.

    Raises:
        SourceError: it ended, or does not come up.
    """
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SourceError(
                f"a process of the demo ended with code {process.returncode}; see above for why"
            )
        if answers(port, path):
            return
        time.sleep(0.1)
    raise SourceError(
        f"a process of the demo did not come up within {patience_seconds:.0f} s; is the machine very busy?"
    )
