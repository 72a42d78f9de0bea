"""List the tests that runs of pytest skipped, by reason; with CI=true, fail if there are any.

A reason says what is missing and how to get it, so the list is what to do to run everything.
"""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path


def skipped(reports: list[Path]) -> dict[str, list[str]]:
    """Tests by the reason they were skipped for; tests that are expected to fail are not among them."""
    found: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
            for skip in case.iter("skipped"):
                if skip.get("type") != "pytest.xfail":
                    found[skip.get("message", "")].append(f"{case.get('classname')}::{case.get('name')}")
    return found


def main() -> int:
    """Print the list; the exit code says whether it is a failure."""
    reports = [Path(name) for name in sys.argv[1:]]
    for report in reports:
        if not report.exists():
            print(f"{report}: no report; pytest did not come to its end")
            return 1
    found = skipped(reports)
    if not found:
        return 0
    print(f"\nNot run: {sum(map(len, found.values()))} tests")
    for reason, tests in sorted(found.items()):
        print(f"  {len(tests)} because: {reason}")
        for test in tests[:3]:
            print(f"      {test}")
        if len(tests) > 3:
            print(f"      and {len(tests) - 3} more")
    if os.environ.get("CI", "").lower() in ("1", "true"):
        print("With CI=true every test must run.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
