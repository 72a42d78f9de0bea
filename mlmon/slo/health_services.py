"""Alerts about watched services that rest on no objective, and the root cause that other alerts name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.slo.alerting import ROOT_CAUSES
from mlmon.slo.health import MINUTE, Rule
from mlmon.slo.promql import Recording, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.slo.health import HealthSettings
    from mlmon.slo.windows import RuleSettings

__all__ = ["cause_recordings", "past_recordings", "service_rules"]

_LIVE = 'deployment!="shadow"'
_WHO = "{{ $labels.service }}/{{ $labels.model }}"
_ALARM = "max by (service, model) (mlmon_pager_alarm) == 1"
_JUMP = "mlmon:unknown_tokens:jump"
_UNKNOWN_NOW = "mlmon:unknown_token_ratio:15m"
_UNKNOWN_PAST = "mlmon:unknown_token_ratio:1d"
#: Causes that the pager may name, first match first; see `mlmon.drift.pager.PRECEDENCE`.
_CAUSES = ("version", "tokenizer", "embeddings", "features", "predictions")
#: How long a cause is remembered after it ended, so that what it caused still names it.
_REMEMBERED = 15 * MINUTE


def _sum(metric: str, seconds: float, settings: RuleSettings, offset: float = 0, kind: str = "") -> str:
    back = f" offset {settings.duration(offset)}" if offset else ""
    matchers = f'{_LIVE},kind=~"{kind}"' if kind else _LIVE
    span = settings.duration(seconds)
    return f"sum by (service, model) (increase({metric}{{{matchers}}}[{span}]{back}) >= 0)"


def past_recordings(settings: RuleSettings) -> Iterator[Recording]:
    """The share of unknown tokens over a day, without the newest hour; for the group of long windows."""
    unknown, tokens = (
        _sum(f"mlmon_{name}_total", 86_400, settings, 3600) for name in ("unknown_tokens", "tokens")
    )
    yield Recording(_UNKNOWN_PAST, f"{unknown}\n/ ({tokens} > 0)")


def cause_recordings(settings: RuleSettings, health: HealthSettings) -> Iterator[Recording]:
    """Unknown tokens now, whether they jumped, and the root cause of each service and model in trouble."""
    unknown, tokens, sampled = (
        _sum(f"mlmon_{name}_total", 15 * MINUTE, settings)
        for name in ("unknown_tokens", "tokens", "sampled_tokens")
    )
    yield Recording(_UNKNOWN_NOW, f"{unknown}\n/ ({tokens} > 0)\nand {sampled} >= {health.minimum_tokens}")
    yield Recording(
        _JUMP,
        f"{_UNKNOWN_NOW} > {number(health.unknown_token_factor)} * {_UNKNOWN_PAST}\n"
        f"and {_UNKNOWN_NOW} > {number(health.unknown_token_rise)} + {_UNKNOWN_PAST}",
    )
    yield Recording(ROOT_CAUSES, _causes(settings))


def _causes(settings: RuleSettings) -> str:
    """One cause for each service and model: `or` leaves out those that have one already.

    A tokenizer that the registry does not expect, under a model that it does, is the tokenizer's fault. That
    goes before what the pager says: to the pager anything unexpected is a wrong version.
    """
    span = settings.duration(_REMEMBERED)
    parts = []
    for cause, kind in (("version", "model_.*"), ("tokenizer", "tokenizer_.*")):
        differs = _sum("mlmon_sampled_version_mismatches_total", _REMEMBERED, settings, kind=kind)
        parts.append(_named(cause, f"({differs} > bool 0) == 1"))
    for cause in _CAUSES:
        open_page = f'max_over_time(mlmon_pager_cause{{cause="{cause}"}}[{span}])'
        parts.append(_named(cause, f"max by (service, model) ({open_page})"))
    jumped = _named("tokenizer", f"max_over_time({_JUMP}[{span}]) >= bool 0")
    return "\nor on (service, model)\n".join([*parts[:3], jumped, *parts[3:]])


def _named(cause: str, expression: str) -> str:
    return f'label_replace({expression}, "root_cause", "{cause}", "", "")'


def service_rules(settings: RuleSettings, health: HealthSettings) -> Iterator[Rule]:
    """All alerts about services."""
    yield _version_mismatch(settings)
    yield _unknown_tokens()
    yield _drift_page()
    yield _drift_near(health)
    yield _drift_reference()
    yield _training()
    yield _latency(settings, health)
    yield from _memory(settings, health)


def _version_mismatch(settings: RuleSettings) -> Rule:
    mismatched = _sum("mlmon_sampled_version_mismatched_requests_total", 5 * MINUTE, settings)
    return Rule(
        "MlmonVersionMismatch",
        "page",
        f"{mismatched} > 0",
        f"{_WHO} is answered by a version that is not the expected one",
        "Requests go on being answered by a model or tokenizer that the registry does not expect. "
        "`mlmon_version_mismatches_total` says which part differs, `mlmon_version_traffic_ratio` who serves.",
        "Requests go on being answered by a version that the registry does not expect; one stray does not.",
        minutes=6,
        cause="version",
        service="",
        symptom=True,
        team="ml",
    )


def _unknown_tokens() -> Rule:
    return Rule(
        "MlmonUnknownTokenJump",
        "page",
        f"{_JUMP} > 0",
        f"Unknown tokens of {_WHO} jumped to {{{{ $value | humanizePercentage }}}}",
        "The share of unknown tokens over 15 minutes is several times that of the day before: most likely "
        "another tokenizer, or another kind of input.",
        "Unknown tokens are several times as frequent as the day before.",
        minutes=5,
        cause="tokenizer",
        service="",
        symptom=True,
        team="ml",
    )


def _drift_page() -> Rule:
    cause = "max by (service, model, version, segment, cause, field) (mlmon_pager_cause)"
    return Rule(
        "MlmonDriftPage",
        "page",
        f"{cause}\n* on (service, model) group_left ()\n({_ALARM})\nor on (service, model)\n{_ALARM}",
        f"{_WHO} drifted: {{{{ $labels.field }}}}",
        "The evidence of all drift detectors together crossed the pager's threshold. Most of it is carried "
        "by the field {{ $labels.field }} of version {{ $labels.version }}"
        "{{ with $labels.segment }}, segment {{ . }}{{ end }}; likely cause: {{ $labels.cause }}.",
        "The drift pager pages; labels `cause` and `field` say why.",
        cause='{{ or $labels.cause "unknown" }}',
        service="",
        symptom=True,
        team="ml",
        dashboard="mlmon-drift",
    )


def _drift_near(health: HealthSettings) -> Rule:
    return Rule(
        "MlmonDriftNear",
        "ticket",
        "max by (service, model) (mlmon_pager_evidence)\n"
        f"> {number(health.drift_near_share)} * max by (service, model) (mlmon_pager_threshold)\n"
        f"unless on (service, model) {_ALARM}",
        f"Evidence of drift of {_WHO} comes near a page",
        "The pager's evidence is at {{ $value | humanize }}; it pages at `mlmon_pager_threshold`. By chance "
        f"alone this is {number(round(1 / health.drift_near_share, 1))} times as frequent as a false page.",
        "Evidence of drift is near the pager's threshold.",
        minutes=5,
        cause="drift",
        service="",
        symptom=True,
        team="ml",
        dashboard="mlmon-drift",
    )


def _drift_reference() -> Rule:
    return Rule(
        "MlmonDriftReferenceMissing",
        "ticket",
        "sum by (service, model, version, monitor) "
        '(mlmon_drift_fields{state="insufficient_reference",segment=""}) > 0',
        f"{_WHO} {{{{ $labels.version }}}} is watched without a reference",
        "{{ $value }} fields of the monitor {{ $labels.monitor }} have no reference in the loaded baselines, "
        "or too small a one: their drift is not seen. Build a baseline of this version.",
        "Fields have no reference to be compared with.",
        minutes=60,
        cause="baseline",
        service="",
        team="ml",
        dashboard="mlmon-drift",
    )


def _training() -> Rule:
    return Rule(
        "MlmonTrainingFailed",
        "ticket",
        "max by (service, model) (mlmon_training_failed) == 1",
        f"The last training of {_WHO} failed",
        "What serves is the model before it, and grows old. The version registry's file says when it was: "
        "`mlmon_training_timestamp_seconds`.",
        "The last training of a model failed.",
        minutes=5,
        cause="training",
        service="",
        team="ml",
        dashboard="mlmon-executive",
    )


def _latency(settings: RuleSettings, health: HealthSettings) -> Rule:
    matchers, span = f'part="total",{_LIVE}', settings.duration(10 * MINUTE)
    buckets = f"rate(mlmon_request_latency_seconds_bucket{{{matchers}}}[{span}])"
    sampled = f"increase(mlmon_sampled_request_latency_seconds_count{{{matchers}}}[{span}])"
    return Rule(
        "MlmonLatencyP99High",
        "ticket",
        f"histogram_quantile(0.99, sum by (service, model, le) ({buckets})) "
        f"> {number(health.latency_p99_seconds)}\n"
        f"and\nsum by (service, model) ({sampled}) >= {health.latency_minimum_requests}",
        f"p99 of {_WHO} stays at {{{{ $value | humanizeDuration }}}}",
        "One request in a hundred has taken this long for a quarter of an hour.",
        "The 99th percentile of latency stays high.",
        minutes=15,
        cause="latency",
        service="",
        symptom=True,
    )


def _service_of(expression: str, label: str, health: HealthSettings) -> str:
    pattern = health.container_pattern.replace("\\", r"\\").replace('"', r"\"")
    return f'label_replace({expression}, "service", "$1", "{label}", "{pattern}")'


def _memory(settings: RuleSettings, health: HealthSettings) -> Iterator[Rule]:
    """Exporters of others are read where they are there; without them their part is silent."""
    watched = "and on (service)\ncount by (service) (mlmon_requests_total)"
    used, free = "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"
    ours = "max by (service, model) (mlmon_gpu_memory_used_last_bytes / (mlmon_gpu_memory_total_bytes > 0))"
    container = health.gpu_container_label
    theirs = _service_of(f"max by ({container}) ({used} / ({used} + {free} > 0))", container, health)
    limit = number(health.gpu_memory_ratio)
    yield Rule(
        "MlmonGpuMemoryNearFull",
        "ticket",
        f"{ours} > {limit}\nor on (service)\n(max by (service) ({theirs}) > {limit}\n{watched})",
        f"GPU memory of {_WHO} is {{{{ $value | humanizePercentage }}}} full",
        "A longer input or a larger batch will end in an out-of-memory error.",
        "GPU memory is nearly full.",
        minutes=10,
        cause="memory",
        service="",
        dashboard="mlmon-debug",
    )
    span = settings.duration(60 * MINUTE)
    restarted = f"increase(kube_pod_container_status_restarts_total[{span}])"
    killed = 'kube_pod_container_status_last_terminated_reason{reason="OOMKilled"} == 1'
    named = _service_of(f"{restarted}\nand on (namespace, pod, container)\n{killed}", "container", health)
    yield Rule(
        "MlmonOomRestarts",
        "page",
        f"sum by (service) ({named}) >= {health.oom_restarts}\n{watched}",
        "{{ $labels.service }} is restarted for want of memory",
        "Containers of this name were killed for memory {{ $value | humanize }} times in an hour (of "
        "kube-state-metrics; silent where it is not scraped).",
        "A server's containers go on being killed for memory.",
        cause="memory",
        service="",
        dashboard="mlmon-debug",
    )
