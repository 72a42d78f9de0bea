"""Tests in lanes: each is run once, in the order that is best, and no failure is lost."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

LANES = Path(__file__).resolve().parents[2] / ".ci/lanes.py"

PROJECT = {
    "pytest.ini": "[pytest]\nmarkers =\n  kafka\n  fire\n  slow\n  prometheus\n",
    "test_a.py": "import pytest\n@pytest.mark.kafka\ndef test_broker(): pass\ndef test_plain(): pass\n",
    "test_b.py": "import pytest\n@pytest.mark.kafka\ndef test_broker(): pass\n",
    "test_c.py": "import pytest\n@pytest.mark.parametrize('n', range(3))\ndef test_many(n): pass\n",
    "test_d.py": "def test_bad(): assert 1 == 2\n",
    "test_e.py": "import pytest\ndef test_skipped(): pytest.skip('no')\n",
    "tests/server/test_f.py": "import pytest\n@pytest.mark.kafka\ndef test_served(): pass\n",
}

#: Fails the first time only.
ONCE = """
from pathlib import Path
def test_once():
    path = Path("seen")
    seen = path.exists()
    path.touch()
    assert seen
"""
MANY = "import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_many(n): assert n < 0\n"


def run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[Counter[str]]]:
    """Run the project's tests in two lanes; how often each was run, by lane."""
    for name, text in PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(LANES), "2", "reports", "-p", "no:hypothesispytest", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    counts: list[Counter[str]] = []
    for lane in (1, 2):
        report = ElementTree.parse(folder / f"reports/junit-{lane}.xml")  # noqa: S314 - pytest wrote it
        names = [f"{case.get('classname')}.{case.get('name')}" for case in report.iter("testcase")]
        counts.append(Counter(names))
    return done, counts


def test_every_test_is_run_once_and_a_failure_in_a_lane_is_one_of_all(tmp_path: Path) -> None:
    done, (first, second) = run(tmp_path)
    assert first + second == {
        "test_a.test_broker": 1,
        "test_a.test_plain": 1,
        "test_b.test_broker": 1,
        "test_c.test_many[0]": 1,
        "test_c.test_many[1]": 1,
        "test_c.test_many[2]": 1,
        "test_d.test_bad": 1,
        "test_e.test_skipped": 1,
        "tests.server.test_f.test_served": 1,
    }
    assert "tests.server.test_f.test_served" in second, "the last lane alone collects it"
    assert any({"test_a.test_broker", "test_b.test_broker"} <= set(lane) for lane in (first, second))
    assert done.returncode == 1
    assert done.stdout.count("assert 1 == 2") >= 2, "it was run once more"
    assert done.stdout.splitlines()[-2:] == ["FAILED test_d.py::test_bad", "7 passed, 1 failed, 1 skipped"]


def test_what_fails_beside_others_alone_is_told_but_no_failure(tmp_path: Path) -> None:
    (tmp_path / "test_once.py").write_text(ONCE, encoding="utf-8")
    done, _ = run(tmp_path, "--deselect=test_d.py::test_bad")
    assert done.returncode == 0, done.stdout
    told = ["failed beside others, passed alone: test_once.py::test_once", "8 passed, 0 failed, 1 skipped"]
    assert done.stdout.splitlines()[-2:] == told


def test_many_failures_are_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text(MANY, encoding="utf-8")
    done, _ = run(tmp_path)
    assert done.returncode == 1
    assert "once more" not in done.stdout
    assert done.stdout.splitlines()[-1] == "7 passed, 21 failed, 1 skipped"


def test_lanes_that_pass_pass_and_a_lane_that_cannot_collect_fails(tmp_path: Path) -> None:
    done, _ = run(tmp_path / "good", "--deselect=test_d.py::test_bad")
    assert done.returncode == 0, done.stdout
    done, lanes = run(tmp_path / "bad", "test_a.py", "not_there.py")
    assert done.returncode == 4, done.stdout
    assert sum(lanes, Counter()) == {}


def test_a_test_that_no_lane_ran_is_missed(
    lanes: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lane in (1, 2):
        (tmp_path / f"junit-{lane}.xml").write_text("<testsuites><testcase/></testsuites>", encoding="utf-8")
    (tmp_path / "collected").write_text("2", encoding="ascii")
    assert lanes.missed(tmp_path) == 0
    (tmp_path / "collected").write_text("3", encoding="ascii")
    assert lanes.missed(tmp_path) == 1
    assert "3 tests were collected and 2 were run" in capsys.readouterr().out


@pytest.fixture(scope="module")
def lanes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlmon_ci_lanes", LANES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_waits_for_others_or_long_comes_first(lanes: ModuleType) -> None:
    def item(path: str, *markers: str, **more: Any) -> SimpleNamespace:
        mark = lambda name: name if name in markers else None  # noqa: E731
        return SimpleNamespace(path=Path(path), get_closest_marker=mark, **more)

    plain = item("a.py", fixturenames=["tmp_path"])
    by_fixture = item("a.py", fixturenames=["kafka_broker"])
    scrapes, long = item("b.py", "prometheus"), item("c.py", "slow")
    fire, both = item("d.py", "fire"), item("e.py", "fire", "kafka")
    own = item(str(Path.cwd() / "tests/server/z.py"), "kafka")
    items = [plain, own, scrapes, long, fire, item("d.py"), both, by_fixture]
    found = lanes.units(items)
    assert list(found) == [str(own.path), "the Kafka broker", "d.py", "c.py", "b.py", "a.py"]
    assert found["the Kafka broker"] == [both, by_fixture]
    assert found["d.py"] == [fire, items[5]]
    assert found["a.py"] == [plain]
