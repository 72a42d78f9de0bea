"""`mlmon check` and what drift needs: baselines that can be read, a history that can be written."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import drift_kit

from mlmon.app.check import check
from mlmon.baseline.file import save_baseline
from mlmon.config import parse_config

TEXT = """
[history]
directory = "{folder}/history"
[baseline]
files = {files}
[checkpoint.sqlite]
path = "{folder}/checkpoint.sqlite"
[dead_letters]
directory = "{folder}/letters"
[http]
port = 0
"""


def findings(folder: Path, files: list[str]) -> dict[str, str]:
    return {one.what: one.remedy for one in check(parse_config(TEXT.format(folder=folder, files=files)))}


def said(folder: Path, files: list[str]) -> dict[str, str]:
    found = findings(folder, files)
    return {what: found[what] for what in found if what.startswith(("a baseline", "baseline", "no baseline"))}


def test_a_baseline_that_can_be_used_is_named_with_what_it_covers(tmp_path: Path) -> None:
    path = tmp_path / "shop.baseline.safetensors"
    save_baseline(drift_kit.reference().baselines[0], str(path))
    fields = drift_kit.reference().baselines[0].scopes
    assert len(fields) == 1
    (text,) = said(tmp_path, [str(path)])
    assert text.startswith("baseline of shop / intent / 1: ")


def test_a_baseline_that_is_not_there_or_damaged_says_so(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.baseline.safetensors")
    ((text, remedy),) = said(tmp_path, [missing]).items()
    assert text == "a baseline cannot be used"
    assert missing in remedy
    (tmp_path / "bad.baseline.safetensors").write_bytes(b"x" * 100)
    ((text, remedy),) = said(tmp_path, [str(tmp_path / "bad.baseline.safetensors")]).items()
    assert text == "a baseline cannot be used"


def test_without_a_baseline_it_says_that_drift_is_not_judged(tmp_path: Path) -> None:
    (text,) = said(tmp_path, [])
    assert "drift is not judged" in text


def test_a_history_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    good = findings(tmp_path, [])
    assert f"history {tmp_path}/history can be written" in good
    (tmp_path / "history").write_text("a file in the way")
    bad = [what for what in findings(tmp_path, []) if "history" in what and "cannot be written" in what]
    assert len(bad) == 1
