"""The unit tests of the rules, for promtool: for each objective up to three files, and those beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.slo.alerting import objective_groups
from mlmon.slo.promtest import Rules, promtool_yaml
from mlmon.slo.promtest_health import STEP, pipeline_scenarios, service_scenarios
from mlmon.slo.promtest_objective import PACES, objective_scenarios
from mlmon.slo.render_rules import slo_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlmon.slo.health import HealthSettings
    from mlmon.slo.model import Objective
    from mlmon.slo.windows import RuleSettings

__all__ = ["TESTS", "objective_tests", "rule_tests"]

#: Where the tests are, from the root of the repository.
TESTS = "alerts/tests"


def objective_tests(objective: Objective, settings: RuleSettings) -> dict[str, str]:
    """The test files of one objective, by name."""
    groups = [group.name for group in objective_groups(objective, settings)]
    files = {}
    for pace in PACES:
        scenarios = objective_scenarios(objective, settings, pace)
        if scenarios:
            seconds = pace.evaluation_seconds or settings.interval_seconds
            rules = Rules(f"../rules/{slo_file(objective)}", groups, seconds)
            files[f"slo-{objective.name}{pace.suffix}_test.yml"] = promtool_yaml(rules, scenarios)
    return files


def rule_tests(
    objectives: Iterable[Objective], settings: RuleSettings, health: HealthSettings
) -> dict[str, str]:
    """Text of every test file by its path from the root of the repository.

    Scaled rules have no tests: promtool's moments are whole intervals of the unscaled ones.
    """
    if settings.time_scale != 1:
        return {}
    files: dict[str, str] = {}
    for objective in objectives:
        files |= objective_tests(objective, settings)
    pipeline = Rules("../rules/pipeline.yml", ["mlmon-pipeline"], STEP)
    files["pipeline_test.yml"] = promtool_yaml(pipeline, pipeline_scenarios(health))
    services = Rules("../rules/services.yml", ["mlmon-services-long", "mlmon-services"], STEP)
    files["services_test.yml"] = promtool_yaml(services, service_scenarios(health))
    return {f"{TESTS}/{name}": text for name, text in files.items()}
