"""Alerting rules of an objective: its burn conditions, and a ticket where data stopped.

A page tests the lower confidence bound of the long window, a ticket its point estimate; the short window, a
point estimate too, only says that it goes on. Nothing is compared where nothing was counted, so an idle
service is silent. Which labels and annotations an alert has, and how it finds its root cause, is here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.slo.promql import Alert, Group, by, number, on
from mlmon.slo.recording import event_time, fast_recordings, series_of, slow_recordings, weighted
from mlmon.slo.windows import STEP_SECONDS, is_fast, window_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlmon.slo.model import BurnCondition, Objective, Severity
    from mlmon.slo.windows import RuleSettings

__all__ = [
    "NO_DATA",
    "ROOT_CAUSES",
    "alert_name",
    "notes",
    "objective_alerts",
    "objective_groups",
    "root_cause",
]

NO_DATA = "MlmonSloNoData"
#: Recorded for each service and model whose trouble has a known cause.
ROOT_CAUSES = "mlmon:root_cause:info"
_COVERAGE = "mlmon_slo_label_coverage_ratio"
_DAY = 86_400
#: Longest time a burn alert is kept firing beyond its burn.
_MOST_KEPT = 3600


def alert_name(condition: BurnCondition) -> str:
    """The alert of a condition.

    Example:
        >>> from mlmon.slo.model import STANDARD
        >>> alert_name(STANDARD[0])
        'MlmonErrorBudgetBurnFast'
    """
    words = "".join(c if c.isalnum() else " " for c in condition.name).split()
    return "MlmonErrorBudgetBurn" + "".join(word[:1].upper() + word[1:] for word in words)


def root_cause(otherwise: str, group_by: Sequence[str] = ("service", "model")) -> str:
    """The label `root_cause`: the known cause of the alert's service and model, else what is given.

    It is a template, not a join: an expression with a join would have to be written twice to have an
    alternative.
    """
    if not {"service", "model"} <= set(group_by):
        return otherwise
    query = f'printf "{ROOT_CAUSES}{{service=%q,model=%q}}" $labels.service $labels.model | query'
    found = '{{ . | first | label "root_cause" }}'
    return f"{{{{ with {query} }}}}{found}{{{{ else }}}}{otherwise}{{{{ end }}}}"


def notes(
    settings: RuleSettings,
    alert: str,
    summary: str,
    description: str,
    dashboard: str = "mlmon-oncall",
    *,
    of_service: bool = True,
) -> dict[str, str]:
    """The annotations of every alert; those of a watched service link to the explorer too.

    That link says no time, since annotations are made anew at every evaluation: notifications add when the
    alert began.
    """
    base = settings.dashboard_url.replace("{uid}", dashboard)
    join = "&" if "?" in base else "?"
    query = "var-service={{ $labels.service | urlquery }}&var-model={{ $labels.model | urlquery }}"
    made = {
        "summary": summary,
        "description": description,
        "runbook_url": settings.runbook_url.replace("{alert}", alert),
        "dashboard_url": f"{base}{join}{query}",
    }
    if settings.explorer_url and of_service:
        page = f"{settings.explorer_url.rstrip('/')}/incident?alert={alert}&span=6h"
        made["explorer_url"] = f"{page}&{query.replace('var-', '')}"
    return made


def objective_groups(objective: Objective, settings: RuleSettings) -> tuple[Group, Group]:
    """Everything about one objective: the group of short windows, and the group of long ones."""
    alerts = list(objective_alerts(objective, settings))
    fast = [alert for alert, is_quick in alerts if is_quick]
    slow = [alert for alert, is_quick in alerts if not is_quick]
    return (
        Group(
            f"mlmon-slo-{objective.name}",
            settings.duration(settings.interval_seconds),
            [*fast_recordings(objective, settings), *fast],
        ),
        Group(
            f"mlmon-slo-{objective.name}-long",
            settings.duration(STEP_SECONDS),
            [*slow_recordings(objective, settings), *slow],
        ),
    )


def objective_alerts(objective: Objective, settings: RuleSettings) -> Iterator[tuple[Alert, bool]]:
    """The alerts of an objective, and whether each belongs to the group of short windows."""
    for condition in objective.conditions:
        expression = burn_expression(objective, condition)
        fast = is_fast(condition.long_seconds)
        if condition.severity == "ticket" or objective.minimum_coverage <= 0:
            yield _burn(objective, condition, settings, expression, condition.severity), fast
            continue
        low = (
            f'{on(objective.group_by)} (max {by(objective.group_by)} ({_COVERAGE}{{slo="{objective.name}"}})'
            f" < {number(objective.minimum_coverage)})"
        )
        yield _burn(objective, condition, settings, f"{expression}\nunless {low}", "page"), fast
        yield _burn(objective, condition, settings, f"{expression}\nand {low}", "ticket"), fast
    if any(condition.no_data for condition in objective.conditions):
        yield _no_data(objective, settings), False


def burn_expression(objective: Objective, condition: BurnCondition) -> str:
    """When a condition is met."""
    series = series_of(objective)
    long, short = window_name(condition.long_seconds), window_name(condition.short_seconds)
    counted = weighted(objective)
    bound = "burn_rate_lower" if condition.confident and counted else "burn_rate"
    limit = number(condition.threshold)
    parts = [
        f"{series.named(f'mlmon_slo:{bound}:{long}')} > {limit}",
        f"{series.named(f'mlmon_slo:burn_rate:{short}')} > {limit}",
    ]
    if counted and objective.minimum_events > 0:
        parts.append(f"{series.named(f'mlmon_slo:events:{long}')} >= {objective.minimum_events}")
    return "\nand\n".join(parts)


def _labels(objective: Objective, severity: Severity) -> dict[str, str]:
    labels: dict[str, str] = {"severity": severity}
    if "service" not in objective.group_by:
        labels["service"] = objective.service
    labels["root_cause"] = root_cause(objective.root_cause or "unknown", objective.group_by)
    labels["team"] = objective.team or "none"
    return labels


def _title(objective: Objective) -> str:
    return objective.display_name or objective.name


def _burn(
    objective: Objective,
    condition: BurnCondition,
    settings: RuleSettings,
    expression: str,
    severity: Severity,
) -> Alert:
    name = alert_name(condition)
    long, short = window_name(condition.long_seconds), window_name(condition.short_seconds)
    limit = number(condition.threshold)
    bound = " (lower confidence bound)" if condition.confident and weighted(objective) else ""
    clock = ", in event time" if event_time(objective) else ""
    summary = f"{_title(objective)} of {_whose(objective)} burns its error budget"
    description = (
        f"The error budget of {objective.name} burns {{{{ $value | humanize }}}} times as fast as it may"
        f"{bound} over {long}{clock}, and above {limit} over {short} too. The objective is "
        f"{number(round(100 * objective.target, 6))} % over {window_name(objective.window_seconds)}."
    )
    keep = min(max(settings.keep_firing_seconds, condition.short_seconds), _MOST_KEPT)
    labels = _labels(objective, severity)
    labels["burn_window"] = f"{long}/{short}"
    return Alert(
        name,
        expression,
        labels,
        notes(settings, name, summary, description, of_service="service" in objective.group_by),
        settings.duration(_held(condition, settings)) if _held(condition, settings) else "",
        settings.duration(keep) if keep else "",
        f"The burn is above {limit} over {long}{bound} and over {short}.",
    )


def _held(condition: BurnCondition, settings: RuleSettings) -> int:
    """How long a burn must hold, in seconds: over two evaluations at least where these follow closely.

    The known root cause of a service is recorded by another group, up to an interval later. An alert that
    fired at once would have the default cause, and the known one a moment later: two pages of one cause.
    """
    least = settings.interval_seconds if is_fast(condition.long_seconds) else 0
    return max(condition.for_seconds, least)


def _whose(objective: Objective) -> str:
    names = [f"{{{{ $labels.{label} }}}}" for label in objective.group_by if label in ("service", "model")]
    return "/".join(names) if "service" in objective.group_by else objective.service


def _no_data(objective: Objective, settings: RuleSettings) -> Alert:
    """Events a day ago, none now: a service that is idle at night was so yesterday too.

    A service that never sent anything, or whose metrics need something that was never switched on, has no
    yesterday; a day after the data ended the ticket ends as well, since it was written.
    """
    series = series_of(objective)
    span = settings.duration(3600 + objective.label_delay_seconds)
    total = series.named("mlmon_slo:total:increase5m")
    expected = max(objective.minimum_events, 1) if weighted(objective) else 0
    compare = f">= {expected}" if expected else "> 0"
    expression = (
        f"sum_over_time({total}[{span}] offset {settings.duration(_DAY)}) {compare}\n"
        f"unless\nsum_over_time({total}[{span}]) > 0"
    )
    hint = f" It needs: {objective.requires}." if objective.requires else ""
    spell = window_name(3600 + objective.label_delay_seconds)
    summary = f"No data for {_title(objective)} of {_whose(objective)}"
    description = (
        f"Nothing was counted for {objective.name} during {spell}, and a day ago at this time there was. "
        f"Whether the objective holds is not known.{hint}"
    )
    return Alert(
        NO_DATA,
        expression,
        _labels(objective, "ticket"),
        notes(settings, NO_DATA, summary, description, of_service="service" in objective.group_by),
        settings.duration(2 * STEP_SECONDS),
        "",
        "What the objective counts was there a day ago and is not now; it says neither good nor bad.",
    )
