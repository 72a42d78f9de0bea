"""The generated tests are no tests unless a weaker rule fails them: every part of a rule is weakened once."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

sys.path.append(str(Path(__file__).parent))

from rules_kit import SETTINGS, availability, needs_promtool, promtool, run_promtool, some_tests

from mlmon.slo import load_specs
from mlmon.slo.health import HealthSettings
from mlmon.slo.model import CRITICAL_ACCURACY, STANDARD
from mlmon.slo.promtest_objective import PACES, objective_scenarios
from mlmon.slo.render_rules import alerts_of, health_groups, rule_files
from mlmon.slo.render_tests import rule_tests

if TYPE_CHECKING:
    from mlmon.slo.model import BurnCondition

ROOT = Path(__file__).resolve().parents[2]
pytestmark = needs_promtool
FAST, SLOW, DAY, STEADY = STANDARD

#: Condition, name of the mutation, pattern, replacement.
MUTATIONS = [
    (FAST, "half the threshold", r"> 14\.4", "> 7.2"),
    (FAST, "twice the threshold", r"> 14\.4", "> 28.8"),
    (FAST, "a shorter long window", r"\[1h\]", "[5m]"),
    (FAST, "a longer long window", r"\[1h\]", "[2h]"),
    (FAST, "no short window", r"mlmon_slo:burn_rate:5m(.* > 14\.4)", r"mlmon_slo:burn_rate:1h\1"),
    (FAST, "no confidence", r"mlmon_slo:burn_rate_lower:1h(.* > 14\.4)", r"mlmon_slo:burn_rate:1h\1"),
    (FAST, "weights taken for events", "mlmon_requests_weight_squared_total", "mlmon_requests_total"),
    (FAST, "no minimum of events", r">= 20\n", ">= 0\n"),
    (FAST, "no keep_firing_for", r" +keep_firing_for: .*\n", ""),
    (FAST, "another severity", "severity: page", "severity: ticket"),
    (FAST, "no known cause", r"mlmon:root_cause:info", "mlmon:nothing"),
    (SLOW, "half the threshold", r"> 6\n", "> 3\n"),
    (SLOW, "a shorter long window", r"\[6h\]", "[30m]"),
    (SLOW, "no confidence", r"mlmon_slo:burn_rate_lower:6h(.* > 6)", r"mlmon_slo:burn_rate:6h\1"),
    (DAY, "half the threshold", r"> 3\n", "> 1.5\n"),
    (DAY, "a longer long window", r"\[1d\]", "[2d]"),
    (DAY, "no short window", r"mlmon_slo:burn_rate:2h(.* > 3)", r"mlmon_slo:burn_rate:1d\1"),
    (STEADY, "half the threshold", r"> 1\n", "> 0.5\n"),
    (STEADY, "a shorter long window", r"\[3d\]", "[6h]"),
]


@pytest.mark.parametrize(
    ("condition", "name", "pattern", "replacement"),
    MUTATIONS,
    ids=[f"{c.name}: {n}" for c, n, *_ in MUTATIONS],
)
def test_a_weaker_rule_fails_a_generated_test(
    condition: BurnCondition, name: str, pattern: str, replacement: str, tmp_path: Path
) -> None:
    objective = availability(conditions=(replace(condition, no_data=False),))
    (pace,) = (pace for pace in PACES if pace.has(condition))
    scenarios = objective_scenarios(objective, SETTINGS, pace)
    changed = []

    def mutate(text: str) -> str:
        mutated, count = re.subn(pattern, replacement, text)
        changed.append(count)
        return mutated

    seconds = pace.evaluation_seconds or SETTINGS.interval_seconds
    result = run_promtool(tmp_path, objective, scenarios, seconds, mutate)
    assert changed[0] > 0, "the mutation changes nothing"
    assert result.returncode == 1, result.stdout
    assert "exp:" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [(r"\n +unless\n +sum_over_time.*", ""), (r" offset 1d", ""), ("severity: ticket", "severity: page")],
    ids=["no end of data", "no yesterday", "a page"],
)
def test_a_weaker_no_data_alert_fails_a_generated_test(
    pattern: str, replacement: str, tmp_path: Path
) -> None:
    objective = availability(conditions=(FAST,))
    scenarios = objective_scenarios(objective, SETTINGS, PACES[-1])
    assert len(scenarios) == 4
    result = run_promtool(
        tmp_path, objective, scenarios, 1800, lambda text: re.sub(pattern, replacement, text)
    )
    assert result.returncode == 1, result.stdout


def test_a_page_in_spite_of_few_labels_fails_a_generated_test(tmp_path: Path) -> None:
    objective = availability(conditions=(CRITICAL_ACCURACY,), minimum_coverage=0.02)
    scenarios = objective_scenarios(objective, SETTINGS, PACES[0])
    assert run_promtool(tmp_path, objective, scenarios).returncode == 0
    result = run_promtool(
        tmp_path,
        objective,
        scenarios,
        60,
        lambda text: re.sub(r"\n +unless on \(service, model\) \(max.*", "", text),
    )
    assert result.returncode == 1


HEALTH = {
    alert.alert: name
    for name, groups in health_groups(SETTINGS, HealthSettings()).items()
    for alert in alerts_of(groups)
}


def expects(test: dict[str, Any]) -> bool:
    """Whether an alert has to fire in a test."""
    return any(check["exp_samples"] for check in test["promql_expr_test"])


@pytest.fixture(scope="module")
def health_output(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What promtool says of health rules that never fire, and of rules that always do.

    Only tests in which an alert fires can fail rules that never do, and only tests in which it is silent can
    fail rules that always do: the others are left out.
    """
    found = {}
    for mutation, expression, fires in (("never", "vector(0) > 1", True), ("always", "vector(1)", False)):
        root = tmp_path_factory.mktemp(mutation)
        for name, text in (
            rule_files([], SETTINGS, HealthSettings()) | rule_tests([], SETTINGS, HealthSettings())
        ).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if "/rules/" in name:
                text = re.sub(
                    r"(- alert: .*\n        expr:).*\n(?:          .*\n)*", rf'\1 "{expression}"\n', text
                )
            else:
                text = some_tests(text, lambda test, fires=fires: expects(test) is fires)
            path.write_text(text, encoding="utf-8")
        with ThreadPoolExecutor(2) as pool:
            files = sorted((root / "alerts/tests").glob("*.yml"))
            results = pool.map(lambda file: promtool("test", "rules", file), files)
        found[mutation] = "".join(result.stdout + result.stderr for result in results)
    return found


@pytest.mark.parametrize("alert", HEALTH)
def test_a_health_alert_that_never_or_always_fires_fails_a_test(
    alert: str, health_output: dict[str, str]
) -> None:
    for mutation in ("never", "always"):
        assert re.search(rf'ALERTS{{alertname=\\?"{alert}\\?"', health_output[mutation]), mutation


def changed_alerts(rules: str, mutated: str) -> set[str]:
    """Alerts that a mutation changes, or all where it changes what is recorded for them."""
    before, after = (
        [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
        for text in (rules, mutated)
    )
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    concerned = before if any("record" in rule for rule in changed) else changed
    return {rule["alert"] for rule in concerned if "alert" in rule}


@pytest.mark.parametrize(
    ("file", "pattern", "replacement"),
    [
        ("pipeline", r"> 600", "> 500"),
        ("pipeline", r"> 900", "> 1100"),
        ("pipeline", r"> 300", "> 250"),
        ("pipeline", r"> 0\.01 \*", "> 0.005 *"),
        ("pipeline", 'kind="error"', 'kind!="none"'),
        ("pipeline", r"keep_firing_for: 10m", "keep_firing_for: 1m"),
        ("services", r"> 3 \*", "> 1.5 *"),
        ("services", r" >= 2000", " >= 2"),
        ("services", r" > 0\.005 \+", " > 0 +"),
        ("services", r">= 500", ">= 5"),
        ("services", r"0\.99,", "0.9,"),
        ("services", r"> 0\.3 \*", "> 0.1 *"),
        ("services", r"for: 6m", "for: 1m"),
        ("services", r"OOMKilled", "Error"),
    ],
)
def test_a_weaker_health_rule_fails_a_test_of_its_own(
    file: str, pattern: str, replacement: str, tmp_path: Path
) -> None:
    texts = rule_files([], SETTINGS, HealthSettings()) | rule_tests([], SETTINGS, HealthSettings())
    rules, tests = texts[f"alerts/rules/{file}.yml"], texts[f"alerts/tests/{file}_test.yml"]
    mutated, count = re.subn(pattern, replacement, rules)
    assert count > 0, "the mutation changes nothing"
    alerts = changed_alerts(rules, mutated)
    own = some_tests(tests, lambda test: test["name"].split(":")[0] in alerts)
    for name, text in (("rules", mutated), ("tests", own)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{file}.yml").write_text(text, encoding="utf-8")
    result = promtool("test", "rules", tmp_path / "tests" / f"{file}.yml")
    assert result.returncode == 1, result.stdout


def test_shipped_objectives_have_a_firing_and_a_silent_test_of_each_alert() -> None:
    for objective in load_specs([ROOT / "alerts" / "slos"]):
        fires: dict[str, set[bool]] = {}
        for pace in PACES:
            for scenario in objective_scenarios(objective, SETTINGS, pace):
                for check in scenario.checks:
                    fires.setdefault(check.alert, set()).add(bool(check.firing))
        assert all(found == {True, False} for found in fires.values()), (objective.name, fires)
