"""The demo as a user runs it, shortened."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from mlmon.demo.corpus import docstring_sentences, labelled_queries, queries
from mlmon.demo.story import run_demo
from mlmon.errors import MissingExtraError


def test_the_demo_sees_the_wrong_tokenizer_and_no_healthy_request_fails() -> None:
    command = [sys.executable, "-m", "mlmon.cli", "demo", "--seconds", "8", "--port", "0", "--no-stay"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the wrong tokenizer was seen" in done.stdout
    summary = re.search(
        r"unknown tokens ([\d.]+) % -> ([\d.]+) %.*errors (\d+), dead letters (\d+)", done.stdout
    )
    assert summary is not None, done.stdout
    before, after, errors, letters = map(float, summary.groups())
    assert before < 1 < after
    assert (errors, letters) == (0, 0)
    assert re.search(r"metrics at http://127\.0\.0\.1:\d+/metrics", done.stdout)


def test_without_the_extra_the_demo_names_the_line_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(MissingExtraError, match=r'pip install "mlmon\[server\]"'):
        run_demo(1, 0, stay=False)


def test_traffic_is_the_same_for_the_same_seed_and_mixes_both_kinds_of_text() -> None:
    first = [text for text, _ in zip(queries(3), range(200), strict=False)]
    assert first == [text for text, _ in zip(queries(3), range(200), strict=False)]
    templates = {text for _, text in labelled_queries()}
    share = sum(text in templates for text in first) / len(first)
    assert 0.5 < share < 0.8
    assert len(docstring_sentences()) > 1000
