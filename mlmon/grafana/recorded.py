"""Series that the recording rules make of the objectives, by name.

The rules are written elsewhere and this package does not know how; a test holds these names to the rule files
that are committed. Objectives of the pipeline itself belong to the service `mlmon` and to no model, so the
scope takes them in whatever is chosen.
"""

from __future__ import annotations

__all__ = [
    "BUDGET",
    "BURN",
    "BURN_PERIOD",
    "EXHAUSTION",
    "OBJECTIVE",
    "TARGET",
    "achieved",
    "recorded",
    "target",
]

BUDGET = "mlmon_slo:budget_remaining:ratio"
BURN = "mlmon_slo:burn_rate:1h"
BURN_PERIOD = "mlmon_slo:burn_rate:period"
EXHAUSTION = "mlmon_slo:budget_exhaustion:seconds"
TARGET = "mlmon_slo:target:ratio"
#: Labels of one objective of one model.
OBJECTIVE = "service, model, slo"


def recorded(name: str, *where: str) -> str:
    """A recorded series of the services and models chosen, by objective.

    Example:
        >>> recorded("x", 'slo="availability"')
        'max by (service, model, slo) (x{service=~"$service|mlmon",model=~"$model|",slo="availability"})'
    """
    matchers = ",".join(['service=~"$service|mlmon"', 'model=~"$model|"', *where])
    return f"max by ({OBJECTIVE}) ({name}{{{matchers}}})"


def target() -> str:
    """The target of each objective of each model that has data; it is recorded by objective alone."""
    return f"0 * {recorded(BUDGET)} + on (slo) group_left () max by (slo) ({TARGET})"


def achieved() -> str:
    """Share of good events over the period: 1 less what was burnt, and a burn of 1 is all that is allowed."""
    return f"1 - {recorded(BURN_PERIOD)} * on (slo) group_left () (1 - max by (slo) ({TARGET}))"
