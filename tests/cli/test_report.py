"""`mlmon report drift` as a user types it, and what it says when it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mlmon.baseline import Baseline
from mlmon.baseline.file import save_baseline
from mlmon.cli import cli, exit_code
from mlmon.errors import MlmonError
from mlmon.reports import DriftReport

if TYPE_CHECKING:
    from click.testing import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from report_kit import HOUR_US, START_US, calibrated, events

pytestmark = pytest.mark.slow

DAY_US = 24 * HOUR_US


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline, a quiet hour a day later and a moved one after it."""
    path = tmp_path_factory.mktemp("report")
    save_baseline(calibrated(), str(path / "b.safetensors"))
    pq.write_table(events(2000, 5, start_us=START_US + DAY_US), path / "quiet.parquet")
    pq.write_table(events(2000, 6, moved=True, start_us=START_US + DAY_US + HOUR_US), path / "moved.parquet")
    return path


def drift(folder: Path, *words: str, baseline: str = "b.safetensors") -> Result:
    page = str(folder / "report.html")
    command = ["report", "drift", "--baseline", str(folder / baseline), "--output", page, "--sample", "500"]
    return CliRunner().invoke(cli, [*command, *words])


def refused(result: Result, code: int) -> str:
    assert isinstance(result.exception, MlmonError), result.output
    assert exit_code(result.exception) == code
    return str(result.exception)


def test_a_moved_hour_among_quiet_ones_is_found(folder: Path) -> None:
    """Two files, the last hour of them: page and JSON say the same as the terminal."""
    files = [str(folder / name) for name in ("quiet.parquet", "moved.parquet")]
    out = str(folder / "report.json")
    result = drift(folder, "--events", *files, "--last", "30m", "--json", out)
    assert result.exit_code == 0, result.output
    said = json.loads(Path(out).read_text())
    assert said["window"]["events"] == 2000
    assert said["window"]["first_us"] == START_US + DAY_US + HOUR_US
    named = [row["field"] for row in said["ours"]["fields"] if row["state"] == "drifted"]
    assert {"features/amount", "predictions/class", "embeddings/shift"} <= set(named)
    assert f"{len(named)} of {said['ours']['judged']} fields drifted; Evidently: " in result.output
    assert f"  {named[0]}: effect " in result.output
    assert f"wrote {folder}/report.html and {out}" in result.output
    page = (folder / "report.html").read_text()
    assert f"{len(named)} of {said['ours']['judged']} fields drifted" in page
    assert set(said) == set(DriftReport.__struct_fields__)


def test_the_quiet_hour_has_no_drift_of_ours(folder: Path) -> None:
    end = "2026-05-29T20:40+00:00"
    words = ("--from", "2026-05-29", "--to", end, "--segment", "language=de")
    result = drift(folder, "--events", str(folder / "*.parquet"), *words)
    assert result.exit_code == 0, result.output
    assert "\n0 of " in result.output
    page = (folder / "report.html").read_text()
    assert "No field drifted" in page
    assert "segment language=de" in page


def test_events_of_another_version_are_named(folder: Path) -> None:
    text = refused(drift(folder, "--events", str(folder / "quiet.parquet"), "--version", "9"), 2)
    assert "no events of bank / intent / 9 / stable in " in text
    assert "there are events of bank / intent / 7 / stable: 2,000" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "got neither --history and --events: expected one of them"),
        (("--history", "x", "--events", "y"), 2, "got both --history and --events"),
        (("--history", "nowhere"), 2, "the history nowhere does not exist"),
        (("--events", "nothing*.parquet"), 3, "no file matches nothing"),
        (
            ("--events", "{}", "--service", "shop"),
            4,
            "has nothing for --service shop: it covers bank / intent / 7",
        ),
        (("--events", "{}", "--segment", "language=fr"), 2, "no segment 'language=fr'"),
        (("--events", "{}", "--last", "1 hour"), 2, "expected a length of time such as 30m, 1h or 7d"),
        (("--events", "{}", "--last", "1h", "--to", "2026-05-29"), 2, "got --last beside --from or --to"),
        (("--events", "{}", "--from", "yesterday"), 2, "'yesterday' is no time: expected such as 2026-11-20"),
        (
            ("--events", "{}", "--from", "2026-05-02", "--to", "2026-05-01"),
            2,
            "is not before --to 2026-05-01",
        ),
        (
            ("--events", "{}", "--to", "2020-01-01"),
            2,
            "its events are from 2026-05-29 20:26:40 to 2026-05-29",
        ),
        (
            ("--events", "{}", "--deployment", "canary"),
            2,
            "there are events of bank / intent / 7 / stable: 2,000",
        ),
        (("--events", "{}", "--output", "/nowhere/r.html"), 2, "/nowhere/r.html cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_said(
    folder: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    filled = [word.format(folder / "quiet.parquet") for word in words]
    assert message in refused(drift(folder, *filled), code)


def test_a_baseline_without_events_to_show_is_refused(folder: Path) -> None:
    whole = calibrated()
    (key,) = whole.scopes
    parts = {name: getattr(whole.scopes[key], name) for name in whole.scopes[key].__slots__}
    bare = Baseline({key: type(whole.scopes[key])(**parts | {"sample": None})}, 0, "nothing")
    save_baseline(bare, str(folder / "bare.safetensors"))
    result = drift(folder, "--events", str(folder / "quiet.parquet"), baseline="bare.safetensors")
    assert "has no sample of events of bank / intent / 7" in refused(result, 4)


def test_of_several_models_one_must_be_chosen(folder: Path) -> None:
    whole = calibrated()
    (key,) = whole.scopes
    two = {key: whole.scopes[key], key._replace(model="other"): whole.scopes[key]}
    save_baseline(Baseline(two, 0, "both"), str(folder / "two.safetensors"))
    files = ("--events", str(folder / "quiet.parquet"))
    text = refused(drift(folder, *files, baseline="two.safetensors"), 2)
    assert text == "the baseline covers bank / intent / 7, bank / other / 7: choose with --model"
    text = refused(drift(folder, *files, "--model", "other", baseline="two.safetensors"), 2)
    assert "there are events of bank / intent / 7 / stable: 2,000" in text


def test_files_without_events_say_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n' * 3)
    text = refused(drift(folder, "--events", str(tmp_path / "bad.jsonl")), 2)
    assert text.endswith("bad.jsonl: 3 records in it are no events")
    assert "has no events" in refused(
        drift(folder, "--events", str(tmp_path / "bad.jsonl"), "--last", "1h"), 2
    )
