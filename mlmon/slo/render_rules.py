"""The rule files: one for each objective, one for mlmon's own health, one for services without objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.slo.alerting import objective_groups
from mlmon.slo.health import health_alert
from mlmon.slo.health_pipeline import pipeline_rules
from mlmon.slo.health_services import cause_recordings, past_recordings, service_rules
from mlmon.slo.promql import Alert, Group, rules_yaml
from mlmon.slo.windows import STEP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlmon.slo.health import HealthSettings, Rule
    from mlmon.slo.model import Objective
    from mlmon.slo.promql import Recording
    from mlmon.slo.windows import RuleSettings

__all__ = ["RULES", "alerts_of", "health_groups", "rule_files", "rule_groups", "slo_file"]

#: Where the rules are, from the root of the repository.
RULES = "alerts/rules"


def slo_file(objective: Objective) -> str:
    """Name of an objective's rule file."""
    return f"slo-{objective.name}.yml"


def health_groups(settings: RuleSettings, health: HealthSettings) -> dict[str, Sequence[Group]]:
    """The groups beside the objectives, by file name."""
    interval, slow = settings.duration(settings.interval_seconds), settings.duration(STEP_SECONDS)

    def alerts(rules: Iterable[Rule]) -> list[Alert]:
        return [health_alert(rule, settings, health) for rule in rules]

    services: list[Recording | Alert] = [
        *cause_recordings(settings, health),
        *alerts(service_rules(settings, health)),
    ]
    return {
        "pipeline.yml": [Group("mlmon-pipeline", interval, alerts(pipeline_rules(settings, health)))],
        "services.yml": [
            Group("mlmon-services", interval, services),
            Group("mlmon-services-long", slow, list(past_recordings(settings))),
        ],
    }


def rule_groups(
    objectives: Iterable[Objective], settings: RuleSettings, health: HealthSettings
) -> Iterator[tuple[str, str, Sequence[Group]]]:
    """File name, what it is made from, and its groups."""
    for objective in objectives:
        yield slo_file(objective), f"the objective {objective.name}", objective_groups(objective, settings)
    for name, groups in health_groups(settings, health).items():
        yield name, "mlmon's own rules", groups


def rule_files(
    objectives: Iterable[Objective], settings: RuleSettings, health: HealthSettings
) -> dict[str, str]:
    """Text of every rule file by its path from the root of the repository."""
    return {
        f"{RULES}/{name}": rules_yaml(groups, source)
        for name, source, groups in rule_groups(objectives, settings, health)
    }


def alerts_of(groups: Iterable[Group]) -> Iterator[Alert]:
    """Every alert in some groups."""
    for group in groups:
        yield from (rule for rule in group.rules if isinstance(rule, Alert))
