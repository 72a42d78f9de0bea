"""Objectives for tests, and rules with tests run by promtool."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mlmon.slo.alerting import objective_groups
from mlmon.slo.model import STANDARD, Counters, Matcher, Method, Objective, Ratio, Selector, Version
from mlmon.slo.promql import rules_yaml
from mlmon.slo.promtest import Rules, promtool_yaml
from mlmon.slo.windows import RuleSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mlmon.slo.promtest import Scenario

SETTINGS = RuleSettings()
NAMES = {"estimated": "mlmon_requests_total", "sampled": "mlmon_sampled_requests_total"}
NAMES["weight_squared"] = "mlmon_requests_weight_squared_total"

needs_promtool = [
    pytest.mark.prometheus,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed"),
]


def counters(*matchers: Matcher) -> Counters:
    return Counters(**{field: Selector(name, matchers) for field, name in NAMES.items()})


BAD = counters(Matcher("status", "=~", "error|timeout"))
ALL = counters()


def availability(**changes: object) -> Objective:
    plain = Objective(
        name="availability",
        service="all",
        display_name="Availability",
        description="",
        window_seconds=30 * 86_400,
        method=Method.OCCURRENCES,
        versions=(Version(None, 0.999, Ratio(BAD, "bad", ALL)),),
        conditions=STANDARD,
        group_by=("service", "model"),
        minimum_events=20,
        root_cause="errors",
        team="platform",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def run_promtool(
    directory: Path,
    objective: Objective,
    scenarios: Iterable[Scenario],
    evaluation_seconds: int = 60,
    mutate: Callable[[str], str] = lambda text: text,
) -> subprocess.CompletedProcess[str]:
    """Test the objective's rules, after a mutation of their text, with some scenarios."""
    groups = objective_groups(objective, SETTINGS)
    text = rules_yaml(groups, "a test")
    mutated = mutate(text)
    (directory / "rules.yml").write_text(mutated, encoding="utf-8")
    names = [group.name for group in groups]
    tests = promtool_yaml(Rules("rules.yml", names, evaluation_seconds), scenarios)
    (directory / "test.yml").write_text(tests, encoding="utf-8")
    return promtool("test", "rules", directory / "test.yml")


def promtool(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    """Run promtool. It throws away much more than it keeps, so garbage is collected less often than usual."""
    return subprocess.run(
        ["promtool", *map(str, arguments)],
        env={**os.environ, "GOGC": "400"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def some_tests(text: str, wanted: Callable[[dict[str, Any]], bool]) -> str:
    """A test file for promtool with those of another's tests that are wanted."""
    file = yaml.load(text, yaml.CSafeLoader)
    file["tests"] = [test for test in file["tests"] if wanted(test)]
    return yaml.dump(file, Dumper=yaml.CSafeDumper)
