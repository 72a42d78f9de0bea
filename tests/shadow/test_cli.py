"""`mlmon shadow` as a program is used: once over a mirror, with a file, with mistakes, and purging."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from server_kit import sentences
from shadow_kit import JsonServer, answers_of, logged, masked, mirror_answers, place

from mlmon.attach import MirrorFiles
from mlmon.attach.mirror_spool import list_files
from mlmon.cli import cli
from mlmon.errors import ConfigError
from mlmon.testing import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = masked(sentences(40, seed=30))


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["shadow", *words], standalone_mode=False, catch_exceptions=False)
    return result.return_value or 0, result.output


def test_once_over_a_mirror_by_options_alone(tmp_path: Path, server_url: str) -> None:
    mirror_answers(tmp_path, TEXTS, answers_of(server_url, TEXTS))
    options = ["--mirror", str(tmp_path / "mirror"), "--reference", server_url, "--once"]
    out = tmp_path / "report.jsonl"
    code, said = run("run", *options, "--events", str(tmp_path / "spool"), "--report", str(out))
    assert code == 0
    assert "40 of 40 evaluated" in said
    assert "agreement, language=de" in said
    assert len(logged(tmp_path)) == 40
    assert json.loads(out.read_text())["shares"]["agreement"]["value"] == 1
    code, said = run("run", *options, "--no-events")
    assert (code, said) == (0, ""), "everything was evaluated before"


def test_a_file_and_what_is_found(tmp_path: Path, server_url: str) -> None:
    answers = answers_of(server_url, TEXTS)
    mirror_answers(tmp_path, TEXTS, answers[1:] + answers[:1])
    (tmp_path / "shadow.toml").write_text(
        f"""
        [shadow]
        self_labels = "words"
        [shadow.mirror.spool]
        directory = "{tmp_path}/mirror"
        [shadow.reference]
        url = "{server_url}"
        name = "gold"
        [shadow.production]
        url = "{server_url}"
        [shadow.events]
        kind = "none"
        """
    )
    code, said = run("run", "-c", str(tmp_path / "shadow.toml"), "--once")
    assert code == 1
    assert "beside gold" in said
    assert "found: echo" in said
    assert "masked tokens, production" in said
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--once"], "no reference"),
        (["run", "--reference", "gopher://x"], "http or https"),
        (["run", "--reference", "http://127.0.0.1:1", "--reference-kind", "oip"], "the model's name"),
        (["run", "-c", "missing.toml"], "expected a readable TOML file"),
        (["purge", "missing"], "expected the directory of a mirror"),
    ],
)
def test_mistakes_are_said(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=expected):
        run(*words)


def test_a_mistake_in_the_file_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "shadow.toml").write_text("[shadow]\ntop_q = 3\n[shadow.reference]\nconcurrency = 0\n")
    with pytest.raises(ConfigError) as caught:
        run("run", "-c", str(tmp_path / "shadow.toml"))
    assert "top_q" in str(caught.value)
    assert "concurrency" in str(caught.value)


def test_purge_removes_what_is_old(tmp_path: Path) -> None:
    for age in (0, 7200):
        files = MirrorFiles(place(tmp_path).spool, ManualClock(time.time_ns() // 1000 - age * 1_000_000))
        files.check()
        files.write(b"k", [b"{}"])
        files.close()
    code, said = run("purge", str(tmp_path / "mirror"), "--older-than", "3600")
    assert (code, said) == (0, "1 files removed\n")
    assert len(list_files(tmp_path / "mirror")) == 1


def test_it_follows_the_mirror_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """A process of its own; what is mirrored while it runs is evaluated, and SIGTERM ends it well."""
    rows = [{"token_str": "tea", "score": 0.5}]
    (tmp_path / "mirror").mkdir(mode=0o700)
    with JsonServer(lambda _path, body, _headers: (200, {}, [rows] * len(body["inputs"]))) as server:
        command = [sys.executable, "-m", "mlmon.cli", "shadow", "run", "--mirror", str(tmp_path / "mirror")]
        command += ["--reference", server.url, "--events", str(tmp_path / "spool")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
        try:
            answers = answers_of(server.url, TEXTS[:10])
            mirror_answers(tmp_path, TEXTS[:10], answers)
            deadline = time.monotonic() + 60
            while not (tmp_path / "mirror" / "evaluator.position").exists():
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            said, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert b"10 of 10 evaluated" in said
    assert len(logged(tmp_path)) == 10
