"""Rules beside the objectives: whether mlmon itself sees, and what is wrong without an objective.

`pipeline` (in `health_pipeline`) speaks of mlmon: a sidecar that is dead or behind makes everything else
blind, so its alerts page under the service `mlmon`. `services` (in `health_services`) speaks of the watched
services: versions, tokenizer, drift, latency, GPU. No budget has a say in these.

Cost has an objective. Some rest on the exporters of others; docs/alerting.md says which.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from mlmon.slo.alerting import notes, root_cause
from mlmon.slo.promql import Alert

if TYPE_CHECKING:
    from mlmon.slo.model import Severity
    from mlmon.slo.windows import RuleSettings

__all__ = ["MINUTE", "HealthSettings", "Rule", "health_alert"]

MINUTE = 60
#: How long a health page goes on firing after its cause or its data ended, in seconds.
_KEEP = 600

_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class HealthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[health]`: where the alerts about mlmon and about services without an objective begin.

    Attributes:
        job: pattern of the scrape jobs that are sidecars.
        team: owner of mlmon, the label `team`.
        lag_seconds: age of the record last read.
        watermark_age_seconds: wall clock less event time.
        checkpoint_age_seconds: time since the last commit.
        dead_letter_ratio: dead letters among all events.
        dropped_ratio: events dropped by emitters among all.
        latency_p99_seconds: of all requests of a service, over ten minutes.
        latency_minimum_requests: sampled requests in ten minutes below which a p99 says nothing.
        unknown_token_factor: unknown tokens over 15 minutes as a multiple of the day before.
        unknown_token_rise: and at least this much above it.
        minimum_tokens: sampled tokens in 15 minutes below which the ratio says nothing.
        drift_near_share: share of the pager's threshold at which a ticket says that a page is near.
        gpu_memory_ratio: GPU memory in use.
        oom_restarts: restarts of a server in an hour for want of memory.
        gpu_container_label: label of dcgm-exporter's series that names the container: `container` where it is
            scraped with `honor_labels`.
        container_pattern: regular expression of a container's whole name; its first group is the service.
    """

    job: str = "mlmon"
    team: str = "platform"
    lag_seconds: _Seconds = 600.0
    watermark_age_seconds: _Seconds = 900.0
    checkpoint_age_seconds: _Seconds = 300.0
    dead_letter_ratio: _Share = 0.01
    dropped_ratio: _Share = 0.01
    latency_p99_seconds: _Seconds = 1.0
    latency_minimum_requests: Annotated[int, msgspec.Meta(ge=1)] = 500
    unknown_token_factor: Annotated[float, msgspec.Meta(gt=1)] = 3.0
    unknown_token_rise: _Share = 0.005
    minimum_tokens: Annotated[int, msgspec.Meta(ge=1)] = 2000
    drift_near_share: _Share = 0.3
    gpu_memory_ratio: _Share = 0.95
    oom_restarts: Annotated[int, msgspec.Meta(ge=1)] = 2
    gpu_container_label: Annotated[str, msgspec.Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_]*$")] = (
        "exported_container"
    )
    container_pattern: str = "(.+)"

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.container_pattern).groups
        except re.error as error:
            raise ValueError(f"container_pattern: expected a regular expression: {error}") from error
        if groups == 0:
            raise ValueError(
                "container_pattern: expected a group that is the service, such as (.+)-server; got "
                f"{self.container_pattern!r}"
            )


class Rule(NamedTuple):
    """An alert before it has its labels.

    Attributes:
        alert: its name.
        severity: page or ticket.
        expr: what fires it.
        summary: for the notification.
        description: what it means.
        meaning: one sentence for the catalogue of alerts.
        minutes: how long it must hold.
        cause: the label `root_cause` where no better cause is known.
        service: the label `service`; empty where the series say it.
        team: the label `team`; empty: the team of the settings.
        dashboard: uid of the dashboard to look at.
        symptom: whether the known cause of the service's trouble is this one's too.
    """

    alert: str
    severity: Severity
    expr: str
    summary: str
    description: str
    meaning: str
    minutes: float = 0
    cause: str = "pipeline"
    service: str = "mlmon"
    team: str = ""
    dashboard: str = "mlmon-oncall"
    symptom: bool = False


def health_alert(rule: Rule, settings: RuleSettings, health: HealthSettings) -> Alert:
    """The rule with everything that every alert has."""
    labels = {
        "severity": rule.severity,
        **({"service": rule.service} if rule.service else {}),
        "slo": "none",
        "root_cause": root_cause(rule.cause) if rule.symptom else rule.cause,
        "team": rule.team or health.team,
    }
    return Alert(
        rule.alert,
        rule.expr,
        labels,
        notes(
            settings, rule.alert, rule.summary, rule.description, rule.dashboard, of_service=not rule.service
        ),
        settings.duration(rule.minutes * MINUTE) if rule.minutes else "",
        settings.duration(_KEEP) if rule.severity == "page" else "",
        rule.meaning,
    )
