"""Run all tests in lanes: pytest several times side by side, each test in one of them.

    python .ci/lanes.py LANES FOLDER [pytest's arguments]

runs as many lanes (`auto`: as are good here), shows what they print, every line behind its lane's number, and
puts their reports (`junit-1.xml`, ...) into the folder. It fails if a lane fails or a test was run by none.

Few tests that failed are run once more when all lanes have ended, alone: lanes share the machine, and what
fails only beside others is no defect of what is tested. Both are told in the last lines: tests that failed
twice, and tests that need patience taught.

Every lane collects the tests, and then takes one unit after the other until none is left. A unit is a file,
or all that share the Kafka broker, which takes seconds to start; it is taken by making a file of its name,
which only one lane can do. What waits (for a broker, a window to end, a process to come back) and what takes
long comes first, so that it overlaps with what computes and nothing long is left for the end; the last lane
begins at the other end, so that from the first minute on one lane computes. Hence more lanes than cores.

Collecting costs as much as many tests do, so the lanes share that too: each begins at another folder, and
finds what another has compiled; and what imports PyTorch is collected by the last lane alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

#: Markers of what comes first, in this order.
FIRST = ("kafka", "fire", "slow", "prometheus")
#: Collected, and hence run, by the last lane alone.
LAST = ("tests/server", "tests/shadow", "mlmon/server")
STOP_SECONDS = 60
#: With more, each would collect longer than it runs, and the longest unit ends as late.
MOST_LANES = 6
#: More failures than these are no accident.
MOST_AGAIN = 8


def rank(item: pytest.Item) -> int:
    """When a test is due: what waits first."""
    marked = (place for place, name in enumerate(FIRST) if item.get_closest_marker(name))
    return min(marked, default=len(FIRST))


def unit(item: pytest.Item) -> str:
    """What a test is run together with: the same in every lane that collects it."""
    kafka = item.get_closest_marker("kafka") or "kafka_broker" in getattr(item, "fixturenames", ())
    return "the Kafka broker" if kafka and not of_last_lane(item.path) else str(item.path)


def of_last_lane(path: Path) -> bool:
    """Whether a file or folder is the last lane's own."""
    return any(path.is_relative_to(Path.cwd() / folder) for folder in LAST)


def units(items: list[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """All tests by unit, in the order in which units are due; a unit is due with the first of its tests."""
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        found.setdefault(unit(item), []).append(item)
    return dict(sorted(found.items(), key=lambda entry: (min(map(rank, entry[1])), entry[0])))


class Lane:
    """The plugin that makes a pytest a lane: it runs what it can take.

    Args:
        number, count: which it is, of how many; from 1.
        folder: that all lanes share; its `taken` has a file for each unit taken.
    """

    def __init__(self, number: int, count: int, folder: Path) -> None:
        self._folder = folder
        self._number, self._count = number, count

    def _take(self, name: str) -> bool:
        try:
            (self._folder / "taken" / hashlib.sha256(name.encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _mine(self, items: list[pytest.Item]) -> Iterator[pytest.Item]:
        entries = list(units(items).items())
        if self._number == self._count:
            entries.reverse()
            entries.sort(key=lambda entry: not of_last_lane(entry[1][0].path))
        for name, tests in entries:
            if self._take(name):
                yield from tests

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave to the last lane what is its own."""
        return None if self._number == self._count or not of_last_lane(collection_path) else True

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Begin each folder at another place than other lanes do."""
        report = yield
        if isinstance(collector, pytest.Directory):
            at = (self._number - 1) * len(report.result) // self._count
            report.result = [*report.result[at:], *report.result[:at]]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what failed, in its set-up or tear-down too."""
        if report.failed:
            with (self._folder / "failed").open("a", encoding="utf-8") as file:
                file.write(f"{report.nodeid}\n")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own loop over all tests."""
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        if session.config.option.collectonly:
            return True
        if self._number == self._count:
            (self._folder / "collected").write_text(str(len(session.items)), encoding="ascii")
        mine = self._mine(session.items)
        item = next(mine, None)
        while item is not None:
            # The next test is taken now: this one's end says which fixtures the next one does not need.
            following = next(mine, None)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail or session.shouldstop:
                raise session.Interrupted(session.shouldfail or session.shouldstop)
            item = following
        return True


def good_number() -> int:
    """One lane more than there are cores for this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # a container's share, or "max"
        share, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split())
        cores = min(cores, math.ceil(share / period))
    return min(cores + 1, MOST_LANES)


def run_lane(number: int, count: int, folder: Path, arguments: list[str]) -> int:
    """Be a lane."""
    sys.path[0] = str(Path.cwd())  # as `python -m pytest` has it
    # The lanes would overwrite each other's cache.
    own = ["-p", "no:cacheprovider", f"--junitxml={folder / f'junit-{number}.xml'}"]
    return pytest.main([*own, *arguments], plugins=[Lane(number, count, folder)])


def show(number: int, lane: subprocess.Popen[str]) -> None:
    """Print a lane's lines as they come."""
    assert lane.stdout is not None  # noqa: S101
    for line in lane.stdout:
        # what DuckDB's binding says of interpreters that end with objects alive drowns what matters
        if not line.startswith(("nanobind:", " - leaked ", " - ... skipped", "See https://nanobind")):
            print(f"{number}| {line}", end="", flush=True)


def run_lanes(count: int, folder: Path, arguments: list[str]) -> int:
    """Run all lanes; the exit code of the first that failed, or of `missed`, or of what was run `again`."""
    (folder / "taken").mkdir(parents=True)
    lanes = [
        subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, __file__, "lane", str(number), str(count), str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        for number in range(1, count + 1)
    ]
    shown = [threading.Thread(target=show, args=entry, daemon=True) for entry in enumerate(lanes, 1)]
    try:
        for thread in shown:
            thread.start()
        codes = [lane.wait() for lane in lanes]
        for thread in shown:
            thread.join(STOP_SECONDS)
    finally:
        stop(lanes)
    stopped = next((code for code in codes if code > 1 or code < 0), 0) or missed(folder)
    code = stopped or (again(folder, arguments) if any(codes) else 0)
    tell(folder)
    return code


def again(folder: Path, arguments: list[str]) -> int:
    """Run what failed once more, alone; 0 if all of it passes."""
    failed = names_of(folder / "failed")
    if not 0 < len(failed) <= MOST_AGAIN:
        return 1
    print(f"{len(failed)} tests failed; once more, alone:")
    options = [argument for argument in arguments if not Path(argument.split("::")[0]).exists()]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *failed]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)  # noqa: S603 - pytest
    if not done.returncode:
        (folder / "failed").rename(folder / "failed-once")
    return int(done.returncode != 0)


def names_of(file: Path) -> list[str]:
    """Tests that a file names, each once."""
    return list(dict.fromkeys(file.read_text(encoding="utf-8").splitlines())) if file.exists() else []


def tell(folder: Path) -> None:
    """The last lines: how many tests passed, and which did not, or not at once."""
    reports = [ElementTree.parse(report) for report in folder.glob("junit-*.xml")]  # noqa: S314 - pytest's own
    cases = [case for report in reports for case in report.iter("testcase")]
    skipped = sum(case.find("skipped") is not None for case in cases)
    failed, once = names_of(folder / "failed"), names_of(folder / "failed-once")
    for name in once:
        print(f"failed beside others, passed alone: {name}")
    for name in failed:
        print(f"FAILED {name}")
    print(f"{len(cases) - len(failed) - skipped} passed, {len(failed)} failed, {skipped} skipped")


def missed(folder: Path) -> int:
    """After lanes that all passed: 1 unless as many tests were run as there are."""
    there = int((folder / "collected").read_text(encoding="ascii"))
    reports = [ElementTree.parse(report) for report in folder.glob("junit-*.xml")]  # noqa: S314 - pytest's own
    run = sum(1 for report in reports for _ in report.iter("testcase"))
    if run != there:
        print(f"{there} tests were collected and {run} were run: lanes did not collect the same")
    return int(run != there)


def stop(lanes: list[subprocess.Popen[str]]) -> None:
    """Let lanes that still run end what they have started."""
    for lane in lanes:
        if lane.poll() is None:
            lane.send_signal(signal.SIGINT)
    for lane in lanes:
        try:
            lane.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            lane.kill()


def main(arguments: list[str]) -> int:
    """Start the lanes, or be one of them."""
    if arguments[0] == "lane":
        return run_lane(int(arguments[1]), int(arguments[2]), Path(arguments[3]), arguments[4:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        # a dozen processes with as many threads as cores wait for each other in busy loops
        os.environ.setdefault(name, "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs that tests start compile once, not each time
    count = good_number() if arguments[0] == "auto" else int(arguments[0])
    return run_lanes(count, Path(arguments[1]), arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
