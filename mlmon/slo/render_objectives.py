"""What the sidecar needs of the specs: `objectives.json`, which it reads without YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mlmon.errors import ConfigError
from mlmon.monitors.slo_objectives import JudgedObjective, JudgedVersion, ObjectivesFile
from mlmon.slo.model import Method
from mlmon.slo.windows import burn_windows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlmon.slo.model import Objective

__all__ = ["OBJECTIVES", "judged_objective", "objectives_file"]

#: Where the objectives are, from the root of the repository.
OBJECTIVES = "mlmon/monitors/objectives.json"


def objectives_file(objectives: Iterable[Objective]) -> dict[str, str]:
    """Text of the file by its path from the root of the repository.

    Raises:
        ConfigError: an objective is beyond what the sidecar judges; names what.
    """
    judged = [judged_objective(o) for o in objectives if o.current.judgement is not None]
    found = ObjectivesFile(1, tuple(one for one in judged if one is not None))
    text = msgspec.json.format(msgspec.json.encode(found), indent=2)
    try:
        # what is constructed is not held against its bounds, what is read is
        msgspec.json.decode(text, type=ObjectivesFile)
    except msgspec.ValidationError as error:
        place = str(error).rpartition("$.objectives[")[2].partition("]")[0]
        name = f"{found.objectives[int(place)].name}: " if place.isdigit() else ""
        raise ConfigError(
            f"{name}expected an objective that the sidecar can judge; {error}. Change the spec, or remove "
            "its annotation mlmon.io/judge"
        ) from None
    return {OBJECTIVES: text.decode() + "\n"}


def judged_objective(objective: Objective) -> JudgedObjective | None:
    """An objective as the sidecar judges it; None where a budget counts slices, which it does not."""
    if objective.method is not Method.OCCURRENCES:
        return None
    windows = burn_windows(objective)
    paging = [c.long_seconds for c in objective.conditions if c.severity == "page"]
    return JudgedObjective(
        name=objective.name,
        versions=tuple(_versions(objective)),
        window_seconds=objective.window_seconds,
        burn_windows_seconds=windows,
        coverage_window_seconds=max(paging, default=windows[-1]),
        label_delay_seconds=objective.label_delay_seconds,
        minimum_coverage=objective.minimum_coverage,
        confidence=objective.confidence,
    )


def _versions(objective: Objective) -> list[JudgedVersion]:
    """The newest versions that are judged alike; events before them are none of the objective's."""
    found: list[JudgedVersion] = []
    for version in reversed(objective.versions):
        rule = version.judgement
        if rule is None or (found and rule.kind.value != found[0].judge):
            break
        found.insert(0, JudgedVersion(version.target, rule.kind.value, rule.limit, version.effective_from))
    return found
