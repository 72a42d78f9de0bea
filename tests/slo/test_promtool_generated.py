"""The rendered rules and their generated tests, in promtool itself."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parent))

from rules_kit import needs_promtool, promtool

from mlmon.cli.render import rendered
from mlmon.slo.render_rules import RULES
from mlmon.slo.render_tests import TESTS

if TYPE_CHECKING:
    import subprocess

ROOT = Path(__file__).resolve().parents[2]
FILES = rendered(ROOT)
RULE_FILES = sorted(name for name in FILES if name.startswith(RULES))
TEST_FILES = sorted(name for name in FILES if name.startswith(TESTS))

pytestmark = needs_promtool


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    root = tmp_path_factory.mktemp("rendered")
    for name in (*RULE_FILES, *TEST_FILES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(FILES[name], encoding="utf-8")

    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = (
            ["check", "rules", "--lint=all", "--lint-fatal"] if name in RULE_FILES else ["test", "rules"]
        )
        return promtool(*command, root / name)

    # The largest first, so that both threads are busy to the end.
    names = sorted([*TEST_FILES, *RULE_FILES], key=lambda name: -len(FILES[name]))
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))


@pytest.mark.parametrize("name", RULE_FILES)
def test_promtool_accepts_the_rules(name: str, results: dict[str, subprocess.CompletedProcess[str]]) -> None:
    assert results[name].returncode == 0, results[name].stdout + results[name].stderr


@pytest.mark.parametrize("name", TEST_FILES)
def test_every_alert_fires_when_it_should_and_only_then(
    name: str, results: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    assert results[name].returncode == 0, results[name].stdout + results[name].stderr


def test_what_is_committed_is_what_is_rendered() -> None:
    from mlmon.cli.render import stale

    assert list(stale(ROOT, FILES)) == [], "run  mlmon render  and commit"
