"""The rendered rules and their generated tests, in promtool itself."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlmon.cli.render import rendered
from mlmon.slo.render_rules import RULES
from mlmon.slo.render_tests import TESTS

ROOT = Path(__file__).resolve().parents[2]
FILES = rendered(ROOT)
RULE_FILES = sorted(name for name in FILES if name.startswith(RULES))
TEST_FILES = sorted(name for name in FILES if name.startswith(TESTS))

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed"),
]


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
        return subprocess.run(
            ["promtool", *command, str(root / name)], capture_output=True, text=True, check=False, timeout=250
        )

    names = [*TEST_FILES, *RULE_FILES]
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
