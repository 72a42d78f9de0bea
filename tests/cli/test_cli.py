"""The commands on real files, a real spool and real processes."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from mlmon.cli import cli, exit_code, main
from mlmon.config import default_toml
from mlmon.errors import CheckpointError, ConfigError, FencedError, MlmonError, SourceError
from mlmon.events.encode import encode_json
from mlmon.events.event import Event

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.slow


def mlmon(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command as a user types it."""
    command = [sys.executable, "-m", "mlmon.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=cwd)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`here("status", cwd=folder)`: the program in this process, where another would prove no more."""

    def call(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["mlmon", *words])
        with pytest.raises(SystemExit) as left:
            main()
        output, errors = capsys.readouterr()
        return subprocess.CompletedProcess(words, left.value.code, output, errors)  # type: ignore[arg-type]

    return call


def write_events(path: Path, count: int, bad: int = 0) -> None:
    now = time.time_ns() // 1000
    events = [
        Event(
            event_id=f"{i:x}",
            event_time=now - 60_000_000 + i,
            service="shop",
            model_name="intent-classifier-base",
            model_version="1",
            latency_seconds=0.02,
            tokens=10,
            unknown_tokens=i % 2,
        )
        for i in range(count)
    ]
    lines = [encode_json(event) for event in events] + [b'{"service": 7}'] * bad
    path.write_bytes(b"\n".join(lines) + b"\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a configuration and 500 events, 3 of them bad."""
    text = (
        default_toml()
        .replace("port = 9477", "port = 0")
        .replace("checkpoint_interval_seconds = 2.0", "checkpoint_interval_seconds = 0.1")
    )
    (tmp_path / "mlmon.toml").write_text(text)
    write_events(tmp_path / "events.jsonl", 497, bad=3)
    return tmp_path


def test_from_events_to_metrics_status_and_dead_letters(folder: Path) -> None:
    emitted = mlmon("emit", "events.jsonl", cwd=folder)
    assert emitted.returncode == 1
    assert "wrote 497 events, refused 3" in emitted.stdout
    assert "record 497" in emitted.stderr

    command = [sys.executable, "-m", "mlmon.cli", "run"]
    running = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        line = running.stderr.readline()
        port = int(re.search(r":(\d+)/metrics", line)[1])  # type: ignore[index]
        deadline = time.monotonic() + 120
        text = ""
        while "mlmon_sampled_requests_total{" not in text and time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            time.sleep(0.1)
        assert re.search(r'mlmon_sampled_requests_total\{[^}]*status="ok"\} 497', text)
        assert re.search(r"mlmon_sampled_unknown_tokens_total\{[^}]*\} 248", text)
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
        running.stderr.close()

    status = json.loads(mlmon("status", "--json", cwd=folder).stdout)
    (partition,) = status["partitions"]
    assert (partition["events"], partition["rejects"], partition["late"]) == (497, 0, 0)
    assert status["series"][0]["service"] == "shop"
    assert "497" in mlmon("status", cwd=folder).stdout


def test_replay_counts_and_leaves_nothing_behind(folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = mlmon("replay", "events.jsonl", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (partition,) = json.loads(done.stdout)["partitions"]
    assert (partition["records"], partition["events"], partition["rejects"]) == (500, 497, 3)
    assert sorted(folder.iterdir()) == before


def test_dead_letters_are_shown_and_replayed_once_they_can_be_decoded(folder: Path, here: Any) -> None:
    """A limit that was too low made letters; raised, they decode, and `dlq replay` sends them again."""
    config = folder / "mlmon.toml"
    small = re.sub(r"max_label_length = \d+", "max_label_length = 16", config.read_text())
    assert here("emit", "events.jsonl", cwd=folder).returncode == 1
    roomy = config.read_text()
    config.write_text(small)
    running = subprocess.Popen(
        [sys.executable, "-m", "mlmon.cli", "run"], cwd=folder, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        shown = ""
        while '"reason":"bad_value"' not in shown and time.monotonic() < deadline:
            shown = here("dlq", "show", "--json", cwd=folder).stdout
            time.sleep(0.1)
    finally:
        running.terminate()
        running.wait(60)
    assert "bad_value" in here("dlq", "show", "-n", "3", cwd=folder).stdout
    config.write_text(roomy)
    assert "would send 497 events" in here("dlq", "replay", "--dry-run", cwd=folder).stdout
    sent = mlmon("dlq", "replay", cwd=folder)
    assert (sent.returncode, sent.stdout) == (0, "sent 497 events, 0 letters cannot be decoded\n")


def test_tail_shows_events_that_arrive_after_it_started(folder: Path, here: Any) -> None:
    here("emit", "events.jsonl", cwd=folder)
    command = [sys.executable, "-m", "mlmon.cli", "tail", "-n", "2", "--json"]
    tail = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        write_events(folder / "more.jsonl", 20)
        deadline = time.monotonic() + 120
        while tail.poll() is None and time.monotonic() < deadline:
            here("emit", "more.jsonl", cwd=folder)
            time.sleep(0.1)
        assert tail.returncode == 0
        assert tail.stdout is not None
        rows = [json.loads(line) for line in tail.stdout]
    finally:
        tail.kill()
        tail.wait()
        if tail.stdout is not None:
            tail.stdout.close()
    assert [row["service"] for row in rows] == ["shop", "shop"]


def test_init_writes_a_configuration_that_check_accepts(tmp_path: Path, here: Any) -> None:
    assert here("init", cwd=tmp_path).returncode == 0
    again = here("init", cwd=tmp_path)
    assert (again.returncode, "--force" in again.stderr) == (2, True)
    checked = here("check", cwd=tmp_path)
    assert checked.returncode == 1
    assert "fix   the spool mlmon-data/spool does not exist yet" in checked.stdout
    (tmp_path / "mlmon-data" / "spool").mkdir(parents=True)
    assert here("check", cwd=tmp_path).returncode == 0


def test_check_names_an_unreachable_broker(tmp_path: Path) -> None:
    kafka = 'bootstrap_servers = ["127.0.0.1:1"]\nconnect_timeout_seconds = 1.0\n'
    text = f'[source]\nkind = "kafka"\n[source.kafka]\n{kafka}[http]\nport = 0\n'
    (tmp_path / "mlmon.toml").write_text(text)
    checked = mlmon("check", cwd=tmp_path)
    assert checked.returncode == 1
    assert "127.0.0.1:1" in checked.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[windows]\nsize_secnds = 5", ("windows.size_secnds", "size_seconds")),
        ('[windows]\nsize_seconds = "60s"', ("windows.size_seconds", "60")),
        ("[windows]\nsize_seconds = 0", ("windows.size_seconds = 0",)),
        ("[windows", ("not valid TOML",)),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path, text: str, words: tuple[str, ...], here: Any
) -> None:
    (tmp_path / "mlmon.toml").write_text(text)
    for command in ("run", "status"):
        done = here(command, cwd=tmp_path)
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr


def test_a_second_sidecar_on_one_checkpoint_is_not_ready_and_says_why(folder: Path, here: Any) -> None:
    here("emit", "events.jsonl", cwd=folder)
    command = [sys.executable, "-m", "mlmon.cli", "run"]
    first = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    second = None
    try:
        deadline = time.monotonic() + 120
        while '"owner"' not in here("status", "--json", cwd=folder).stdout and time.monotonic() < deadline:
            time.sleep(0.1)
        second = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        assert second.stderr is not None
        port = int(re.search(r":(\d+)/metrics", second.stderr.readline())[1])  # type: ignore[index]
        reason = ""
        while str(first.pid) not in reason and time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            reason = response.read().decode()
            assert response.status == 503
            time.sleep(0.1)
        assert str(first.pid) in reason, "the message names the holder"
    finally:
        for process in (first, second):
            if process is not None:
                process.terminate()
                process.wait(60)
        if second is not None and second.stderr is not None:
            second.stderr.close()


def test_exit_codes() -> None:
    codes = [
        exit_code(kind("x")) for kind in (ConfigError, SourceError, CheckpointError, FencedError, MlmonError)
    ]
    assert codes == [2, 3, 4, 4, 1]


@pytest.mark.parametrize("command", [[], *([name] for name in cli.commands)])
def test_every_command_explains_itself(command: list[str]) -> None:
    result: Result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4
