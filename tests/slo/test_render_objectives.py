"""The objectives that `mlmon render` hands to the sidecar: what it judges, as the specs say it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parent))

from rules_kit import ALL, BAD, availability

from mlmon.cli import cli
from mlmon.errors import ConfigError
from mlmon.monitors.slo import SloConfig, SloMonitor
from mlmon.monitors.slo_objectives import read_objectives
from mlmon.slo import load_specs
from mlmon.slo.model import JudgeKind, Judgement, Method, Ratio, Version
from mlmon.slo.recording import event_time
from mlmon.slo.render_objectives import OBJECTIVES, judged_objective, objectives_file
from mlmon.slo.windows import burn_windows

ROOT = Path(__file__).resolve().parents[2]
SPECS = load_specs([ROOT / "alerts" / "slos"])
UP, RIGHT = Judgement(JudgeKind.AVAILABILITY), Judgement(JudgeKind.ACCURACY)


def version(target: float, judgement: Judgement | None, day: int = 0) -> Version:
    since = datetime(2026, 8, day, tzinfo=UTC) if day else None
    return Version(since, target, Ratio(BAD, "bad", ALL), judgement)


def test_what_ships_is_what_the_specs_say() -> None:
    judged = {one.name: one for one in read_objectives().objectives}
    assert judged.keys() == {o.name for o in SPECS if o.current.judgement is not None}
    for objective in SPECS:
        if objective.current.judgement is None:
            continue
        one = judged[objective.name]
        assert one == judged_objective(objective)
        assert one.budget == objective.current.budget
        assert one.burn_windows_seconds == burn_windows(objective)
        assert one.judge == objective.current.judgement.kind
        assert one.versions[-1].limit_seconds == objective.current.judgement.limit
    accuracy = judged["task-accuracy"]
    assert accuracy.coverage_window_seconds == 21_600, "the longest window that pages"
    assert (accuracy.label_delay_seconds, accuracy.minimum_coverage) == (86_400, 0.02)
    assert judged["masked-token-accuracy"].coverage_window_seconds == 259_200, "nothing pages: the longest"


def test_every_version_goes_with_its_moment_target_and_limit() -> None:
    slow, quick = (Judgement(JudgeKind.LATENCY, limit) for limit in (0.5, 0.2))
    objective = availability(versions=(version(0.9, slow), version(0.95, quick, 1)))
    one = judged_objective(objective)
    assert one is not None
    assert [(v.target, v.limit_seconds, v.effective_from) for v in one.versions] == [
        (0.9, 0.5, None),
        (0.95, 0.2, datetime(2026, 8, 1, tzinfo=UTC)),
    ]


def test_versions_that_were_not_judged_or_otherwise_are_before_the_first() -> None:
    for older in (None, RIGHT):
        objective = availability(versions=(version(0.9, UP), version(0.9, older, 1), version(0.99, UP, 2)))
        one = judged_objective(objective)
        assert one is not None
        assert [v.effective_from for v in one.versions] == [datetime(2026, 8, 2, tzinfo=UTC)]


def test_slices_are_not_judged_by_the_sidecar_and_their_rules_do_not_wait_for_it() -> None:
    slices = availability(versions=(version(0.9, UP),), method=Method.TIMESLICES, label_delay_seconds=3600)
    assert judged_objective(slices) is None
    assert not event_time(slices)
    assert event_time(replace(slices, method=Method.OCCURRENCES))
    assert json.loads(objectives_file([slices])[OBJECTIVES])["objectives"] == []


def test_what_the_sidecar_cannot_judge_is_refused_by_name() -> None:
    long = availability(name="slow-truth", versions=(version(0.999, RIGHT),), label_delay_seconds=40 * 86_400)
    with pytest.raises(ConfigError, match=r"slow-truth: .*2592000.*mlmon.io/judge"):
        objectives_file([availability(versions=(version(0.999, UP),)), long])
    many = [availability(name=f"up-{n}", versions=(version(0.999, UP),)) for n in range(33)]
    with pytest.raises(ConfigError, match="length <= 32"):
        objectives_file(many)


def test_a_rendered_file_is_read_as_it_was_meant_and_is_the_same_every_time(tmp_path: Path) -> None:
    objective = availability(versions=(version(0.99, UP), version(0.999, UP, 3)))
    files = objectives_file([objective])
    assert objectives_file([objective]) == files
    path = tmp_path / "objectives.json"
    path.write_text(files[OBJECTIVES])
    monitor = SloMonitor(SloConfig(objectives_file=str(path)))
    assert monitor.judging.objectives == (judged_objective(objective),)
    assert monitor.judging.objectives[0].versions[1].since_us == 1_785_715_200_000_000


def test_render_says_when_the_objectives_are_stale_and_writes_them(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "alerts", tmp_path / "alerts")
    assert CliRunner().invoke(cli, ["render", "--root", str(tmp_path)]).exit_code == 0
    written = (tmp_path / OBJECTIVES).read_text()
    assert written == (ROOT / OBJECTIVES).read_text()
    (tmp_path / OBJECTIVES).write_text(written.replace("0.999", "0.99"))
    result = CliRunner().invoke(cli, ["render", "--check", "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert f"stale: {OBJECTIVES}" in result.output
    assert CliRunner().invoke(cli, ["render", "--root", str(tmp_path)]).exit_code == 0
    assert (tmp_path / OBJECTIVES).read_text() == written
    (tmp_path / OBJECTIVES).unlink()
    assert CliRunner().invoke(cli, ["render", "--check", "--root", str(tmp_path)]).exit_code == 1
