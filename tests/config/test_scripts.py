"""The scripts that make environments and run tests: what they choose, what they say, when they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def program(folder: Path, name: str, text: str) -> None:
    """Put a program into a folder that stands on the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def run(script: Path, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script that sees only the programs of `path` (and what every system has)."""
    path.mkdir(exist_ok=True)
    for name in ("bash", "sh", "dirname", "sed", "cat", "printf", "chmod", "rm", "env", "touch"):
        found = shutil.which(name)
        if found is not None and not (path / name).exists():
            (path / name).symlink_to(found)
    return subprocess.run(
        ["bash", str(script)],
        env={"PATH": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_first_python_that_is_new_enough_is_found(tmp_path: Path) -> None:
    program(tmp_path / "bin", "python3", "exit 1")
    program(tmp_path / "bin", "python3.12", f'exec {sys.executable} "$@"')
    done = run(ROOT / ".ci/find-python", tmp_path / "bin")
    assert done.stdout.strip() == str(tmp_path / "bin/python3.12")


def test_without_a_python_that_is_new_enough_it_is_said_what_to_install(tmp_path: Path) -> None:
    program(tmp_path / "bin", "python3", "exit 1")
    done = run(ROOT / ".ci/find-python", tmp_path / "bin")
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "python3-venv" in done.stderr


def test_a_python_that_was_chosen_is_taken_or_refused(tmp_path: Path) -> None:
    program(tmp_path / "bin", "old", "exit 1")
    good = run(ROOT / ".ci/find-python", tmp_path / "bin", PYTHON=sys.executable)
    assert good.stdout.strip() == sys.executable
    bad = run(ROOT / ".ci/find-python", tmp_path / "bin", PYTHON=str(tmp_path / "bin/old"))
    assert bad.returncode == 1
    assert "expected Python 3.11 or newer" in bad.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the script alone, and a PATH without Prometheus, Java and Maven."""
    (tmp_path / "repo/.ci").mkdir(parents=True)
    shutil.copy2(ROOT / ".ci/setup-system", tmp_path / "repo/.ci/setup-system")
    program(tmp_path / "bin", "docker", "exit 1")
    return tmp_path


def test_a_plain_user_is_told_what_is_missing(checkout: Path) -> None:
    program(checkout / "bin", "id", "echo 1000")
    program(checkout / "bin", "java", "echo 'openjdk version \"11.0.2\"' >&2")
    done = run(checkout / "repo/.ci/setup-system", checkout / "bin")
    assert done.returncode == 0
    assert "not here: prometheus prometheus-alertmanager chromium default-jre-headless maven" in done.stderr
    assert "apt-get install prometheus" in done.stderr


def test_in_ci_what_is_missing_is_a_failure(checkout: Path) -> None:
    program(checkout / "bin", "id", "echo 1000")
    assert run(checkout / "repo/.ci/setup-system", checkout / "bin", CI="true").returncode == 1


def test_a_broker_that_is_there_needs_neither_java_nor_maven(checkout: Path) -> None:
    program(checkout / "bin", "id", "echo 1000")
    done = run(checkout / "repo/.ci/setup-system", checkout / "bin", MLMON_TEST_KAFKA="127.0.0.1:9092")
    assert "not here: prometheus prometheus-alertmanager chromium (" in done.stderr


def test_root_installs_what_is_missing_and_nothing_else(checkout: Path) -> None:
    binaries = checkout / "bin"
    for name in ("prometheus", "promtool", "amtool", "chromium"):
        program(binaries, name, "exit 0")
    program(binaries, "java", "echo 'openjdk version \"17.0.15\"' >&2")
    program(binaries, "id", "echo 0")
    log = checkout / "apt.log"
    maven = binaries / "mvn"
    program(
        binaries,
        "apt-get",
        f'echo "$@" >>{log}; case "$1" in install) printf "#!/bin/sh\\n" >{maven}; chmod 755 {maven};; esac',
    )
    # A policy that is there already stays; one is there on this machine or the test may not write it.
    if os.geteuid() != 0 and not Path("/usr/sbin/policy-rc.d").exists():
        pytest.skip("writing /usr/sbin/policy-rc.d needs root: run the tests as root")
    before = Path("/usr/sbin/policy-rc.d").exists()
    done = run(checkout / "repo/.ci/setup-system", binaries, CI="true")
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines() == ["update -qq", "install -y -qq --no-install-recommends maven"]
    assert Path("/usr/sbin/policy-rc.d").exists() is before


REPORT = """<testsuites><testsuite>
<testcase classname="a" name="ok"/>
<testcase classname="a" name="known"><skipped type="pytest.xfail" message="x"/></testcase>
{skips}</testsuite></testsuites>"""


def not_run(folder: Path, skips: int, **environment: str) -> subprocess.CompletedProcess[str]:
    case = (
        '<testcase classname="b" name="t{}"><skipped type="pytest.skip" message="install maven"/></testcase>'
    )
    report = folder / "junit.xml"
    report.write_text(REPORT.format(skips="".join(map(case.format, range(skips)))), encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(ROOT / ".ci/not_run.py"), str(report)],
        env={**{k: v for k, v in os.environ.items() if k != "CI"}, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_was_not_run_is_listed_by_reason_and_fails_in_ci_only(tmp_path: Path) -> None:
    done = not_run(tmp_path, 5)
    assert done.returncode == 0
    assert "Not run: 5 tests" in done.stdout
    assert "5 because: install maven" in done.stdout
    assert "b::t0" in done.stdout
    assert "and 2 more" in done.stdout
    assert not_run(tmp_path, 1, CI="true").returncode == 1


def test_nothing_is_said_when_everything_ran(tmp_path: Path) -> None:
    done = not_run(tmp_path, 0, CI="true")
    assert (done.returncode, done.stdout) == (0, "")


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    for line in lines:
        name = line.split(";")[0].split("[")[0]
        for sign in "<>=!~":
            name = name.partition(sign)[0]
        if name.strip() != project["name"]:
            assert name.strip().lower().replace("_", "-") in pinned, line


def test_constraints_name_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or line.count("==") == 1, line
        assert not any(sign in line for sign in ("@", "//", "-e ", "--")), line
