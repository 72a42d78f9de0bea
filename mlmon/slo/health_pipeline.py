"""Alerts about mlmon itself: dead, behind, refusing, losing, unable to keep its state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.slo.health import MINUTE, Rule
from mlmon.slo.promql import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.slo.health import HealthSettings
    from mlmon.slo.windows import RuleSettings

__all__ = ["pipeline_rules"]

_WHERE = "{{ $labels.instance }}"


def pipeline_rules(settings: RuleSettings, health: HealthSettings) -> Iterator[Rule]:
    """All of them."""
    yield from _dead(health)
    yield from _behind(settings, health)
    yield from _state(settings, health)
    yield from _intake(settings, health)
    yield from _capacity(settings)


def _increase(metric: str, minutes: float, settings: RuleSettings, by: str = "instance") -> str:
    return f"sum by ({by}) (increase({metric}[{settings.duration(minutes * MINUTE)}]))"


def _dead(health: HealthSettings) -> Iterator[Rule]:
    up = f'up{{job=~"{health.job}"}}'
    yield Rule(
        "MlmonSidecarDown",
        "page",
        f"max by (job) ({up}) == 0\nor\nabsent({up})",
        "No sidecar of mlmon answers",
        "Prometheus cannot scrape any sidecar: no objective is measured and no drift is seen. Events stay in "
        "the log, and are read when a sidecar is back.",
        "No sidecar can be scraped.",
        minutes=2,
    )
    yield Rule(
        "MlmonSidecarReplicaDown",
        "ticket",
        f"{up} == 0\nand on (job)\nmax by (job) ({up}) == 1",
        f"Sidecar {_WHERE} does not answer",
        "One sidecar of several cannot be scraped. The others read its partitions.",
        "One of several sidecars cannot be scraped.",
        minutes=5,
    )


def _behind(settings: RuleSettings, health: HealthSettings) -> Iterator[Rule]:
    yield Rule(
        "MlmonSourceFailing",
        "page",
        f"{_increase('mlmon_source_errors_total', 5, settings)} > 0",
        f"Sidecar {_WHERE} cannot read the log",
        "Polls of the log have failed for minutes and are retried. Nothing is lost while the log keeps it.",
        "Polls of the log go on failing.",
        minutes=5,
    )
    yield Rule(
        "MlmonPipelineLagging",
        "page",
        f"max by (instance) (mlmon_consumer_lag_seconds) > {number(health.lag_seconds)}",
        f"Sidecar {_WHERE} is {{{{ $value | humanizeDuration }}}} behind",
        "The sidecar reads events that are old: every alert is late by as much.",
        "The record last read is too old while more are waiting.",
        minutes=5,
    )
    yield Rule(
        "MlmonWatermarkStuck",
        "page",
        f"max by (instance) (mlmon_watermark_age_seconds) > {number(health.watermark_age_seconds)}",
        f"Event time of sidecar {_WHERE} stands {{{{ $value | humanizeDuration }}}} back",
        "Windows do not close: readings and drift are frozen at what they were. An idle service does not do "
        "this, since the clock takes over when all partitions are idle.",
        "The watermark does not move.",
        minutes=5,
    )


def _state(settings: RuleSettings, health: HealthSettings) -> Iterator[Rule]:
    failures = _increase('mlmon_checkpoint_failures_total{kind="error"}', 10, settings)
    yield Rule(
        "MlmonCheckpointFailing",
        "page",
        f"max by (instance) (mlmon_checkpoint_age_seconds) > {number(health.checkpoint_age_seconds)}\n"
        f"or\n{failures} > 3",
        f"Sidecar {_WHERE} does not commit",
        "Nothing new is published, since only what is committed is; after a restart it is read again.",
        "No commit for minutes, or one failure after the other.",
        minutes=2,
    )
    yield Rule(
        "MlmonHistoryFailing",
        "ticket",
        f"{_increase('mlmon_history_failures_total', 15, settings)} > 0",
        f"Sidecar {_WHERE} cannot write its history",
        "Closed windows wait in the checkpoint until they can be written; reports miss them until then.",
        "Writes to the history go on failing.",
        minutes=15,
    )


def _intake(settings: RuleSettings, health: HealthSettings) -> Iterator[Rule]:
    dead = _increase("mlmon_dead_letters_total", 60, settings)
    yield Rule(
        "MlmonDeadLetters",
        "ticket",
        f"{dead}\n> {number(health.dead_letter_ratio)} *\n"
        f"({dead} + ({_increase('mlmon_events_total', 60, settings)} or 0 * {dead}))",
        f"Sidecar {_WHERE} refuses events",
        f"More than {number(100 * health.dead_letter_ratio)} % of the last hour's records and rows are dead "
        "letters ({{ $value | humanize }} of them). `mlmon dlq show` lists them with their reasons.",
        "Too many records and rows are no events.",
        minutes=5,
    )
    yield Rule(
        "MlmonEventsLost",
        "ticket",
        f"{_increase('mlmon_lost_records_total', 30, settings)} > 0",
        f"The log removed records before sidecar {_WHERE} read them",
        "Retention is shorter than the sidecar was behind. What was removed is in no count.",
        "Retention removed records that were not read.",
    )
    dropped = _increase("mlmon_dropped_events_total", 15, settings)
    yield Rule(
        "MlmonEventsDropped",
        "ticket",
        f"{dropped}\n> {number(health.dropped_ratio)} *\n"
        f"({dropped} + ({_increase('mlmon_events_total', 15, settings)} or 0 * {dropped}))",
        f"Emitters drop events that sidecar {_WHERE} reads",
        f"More than {number(100 * health.dropped_ratio)} % of the events were dropped in the model servers, "
        "because the emitter's queue was full. Estimates are too low by as much.",
        "Emitters drop events.",
        minutes=5,
    )


def _capacity(settings: RuleSettings) -> Iterator[Rule]:
    overflow = _increase("mlmon_label_overflow_total", 60, settings, "instance, kind")
    yield Rule(
        "MlmonLabelOverflow",
        "ticket",
        f"{overflow} > 0",
        f"Sidecar {_WHERE} ran into its cap on {{{{ $labels.kind }}}}",
        "Events of what came too late are counted under `other`, or windows were closed early.",
        "A cap on series, segments, features, windows or partitions was reached.",
    )
    yield Rule(
        "MlmonSplitSeries",
        "ticket",
        "max by (instance) (mlmon_split_series) > 0",
        f"Series of sidecar {_WHERE} arrive at another one too",
        "Somebody produces with another key than service and model: counters stay exact, but each sidecar "
        "sees a part of the window only, and drift is judged on parts.",
        "A series is split between sidecars.",
        minutes=15,
    )
    refused = _increase('mlmon_registry_reloads_total{outcome="refused"}', 15, settings)
    yield Rule(
        "MlmonRegistryRefused",
        "ticket",
        f"{refused} > 0",
        f"Sidecar {_WHERE} refuses the version registry's file",
        "The file is broken; the one before it stays in force, so new versions will look wrong.",
        "A change of the version registry was refused.",
        cause="version",
    )
