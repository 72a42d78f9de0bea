"""A third party's server that mixes up requests and answers 200 to all of them is found; in order it is not.

MLServer 1.7.1 with its HuggingFace runtime batches requests adaptively. With the input named `args` several
requests at a time get each other's answers; with `inputs` each gets its own. Not part of `make test`: the
environment is several hundred megabytes of packages of another age, made once below ~/.cache/mlmon. Run it
with `make thirdparty`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from server_kit import configured, listening, sentences
from shadow_kit import burn_of, configuration, logged, masked, mirror_answers

from mlmon.server.app import build_server
from mlmon.server.model import load_model
from mlmon.shadow import build_shadow
from mlmon.shadow.clients import Answer
from mlmon.shadow.config import EndpointConfig
from mlmon.shadow.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.shadow import WindowReport

pytestmark = [pytest.mark.thirdparty, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "mlmon" / "demo" / "model"
HOME = Path.home() / ".cache" / "mlmon" / "mlserver-1.7.1"
WHEELS = ROOT.parent / "shared" / "wheels"
PACKAGES = (
    "mlserver==1.7.1",
    "mlserver-huggingface==1.7.1",
    "transformers==4.41.2",
    "optimum==1.21.4",
    "numpy<2",
    "torch>=2.2,<3",
)
TEXTS = masked(sentences(200, seed=21))


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of an environment with MLServer."""
    program = HOME / "bin" / "python"
    if not (HOME / "made").exists():
        subprocess.run([os.environ.get("PYTHON311", "python3.11"), "-m", "venv", HOME], check=True)
        links = ["--find-links", str(WHEELS)] if WHEELS.is_dir() else []
        command = [
            program,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *links,
            *PACKAGES,
        ]
        subprocess.run(command, check=True)
        (HOME / "made").write_text("\n".join(PACKAGES))
    return program


@pytest.fixture(scope="module")
def mlserver(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLServer with the demo's model and adaptive batching, on ports of its own."""
    root = tmp_path_factory.mktemp("mlserver")
    ports = [_free_port() for _ in range(3)]
    names = ("http_port", "grpc_port", "metrics_port")
    settings = dict(zip(names, ports, strict=True)) | {
        "host": "127.0.0.1",
        "parallel_workers": 0,
        "debug": False,
    }
    (root / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "words",
        "implementation": "mlserver_huggingface.HuggingFaceRuntime",
        "max_batch_size": 8,
        "max_batch_time": 0.05,
        "parameters": {"extra": {"task": "fill-mask", "pretrained_model": str(MODEL)}},
    }
    (root / "model-settings.json").write_text(json.dumps(model))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [python.with_name("mlserver"), "start", str(root)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        try:
            url = f"http://127.0.0.1:{ports[0]}"
            _await_ready(process, f"{url}/v2/models/words/ready", root / "log")
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-4000:])


def shadowed(root: Path, mlserver: str, input_name: str) -> WindowReport:
    """200 requests at concurrency 8, mirrored with their answers, and evaluated."""
    served = Replay(
        EndpointConfig(
            url=mlserver, kind="oip", model="words", input_name=input_name, concurrency=8, batch=1, retries=0
        )
    )
    answers = served.ask(TEXTS, "fill-mask", 5)
    served.close()
    # every request is answered 200; some answers have nothing in them, which a tap could not read either
    assert all(isinstance(answer, Answer) or answer.reason == "unreadable" for answer in answers), answers
    mirror_answers(root, TEXTS, [a if isinstance(a, Answer) else Answer() for a in answers])
    reports: list[WindowReport] = []
    with listening(build_server(load_model(MODEL), configured())) as url:
        shadow = build_shadow(configuration(root, url), tell=reports.append)
        while shadow.step(0.0):
            pass
        shadow.finish()
        shadow.close()
    (report,) = reports
    print(f"\n{input_name}: {report.shares}\n{report.void} {report.findings}")
    return report


def test_requests_that_are_mixed_up_are_found_within_two_hundred(tmp_path: Path, mlserver: str) -> None:
    report = shadowed(tmp_path, mlserver, "args")
    assert report.replayed == 200
    assert {finding.partition(":")[0] for finding in report.findings} >= {"echo"}
    assert report.shares["echo"].value < 0.95
    assert report.shares["agreement"].value < 0.95
    rows = logged(tmp_path)
    assert sum(row["echo"] == 0 for row in rows) > 10
    # what pages: the burn's lower bound over an hour
    assert burn_of(tmp_path, "answer-echo") > 14.4


def test_the_same_server_in_order_is_left_alone(tmp_path: Path, mlserver: str) -> None:
    report = shadowed(tmp_path, mlserver, "inputs")
    assert (report.evaluated, report.findings) == (200, ())
    assert report.shares["echo"].value == 1
    assert report.shares["agreement"].value > 0.98  # float16 weights, two kernels
    assert burn_of(tmp_path, "answer-echo") == 0
    assert burn_of(tmp_path, "reference-agreement") < 1
