"""Objectives in event time: what was good and bad, how fast budgets burn, and how far the truth has come.

The counters go by arrival. The gauges go by the time of the requests: each window ends at the watermark less
the objective's label delay, and is absent where it has no events. `window` is named as the rules name it.
"""

from __future__ import annotations

from mlmon.catalog.base import SERIES_LABELS, counter_triple, declare

_SLO = ("service", "model", "slo")
_WINDOW = (*_SLO, "window")

EVENTS = counter_triple(
    "slo_events",
    "",
    (*SERIES_LABELS, "slo", "outcome"),
    "Events judged by an objective, at their arrival (outcome: good, bad)",
)
LATE_LABELS = declare(
    "mlmon_slo_late_labels",
    "counter",
    "",
    (*SERIES_LABELS, "slo", "kind"),
    "Label events later than the label delay (kind: late, seen by longer windows only; lost, older than any "
    "window).",
)
BURN = declare(
    "mlmon_slo_burn_rate",
    "gauge",
    "",
    _WINDOW,
    "Share of bad events over the window of request time, divided by the share that may be bad.",
)
BURN_LOWER = declare(
    "mlmon_slo_burn_rate_lower",
    "gauge",
    "",
    _WINDOW,
    "Lower confidence bound of the burn over the window of request time.",
)
EFFECTIVE_EVENTS = declare(
    "mlmon_slo_effective_events",
    "gauge",
    "events",
    _WINDOW,
    "Effective number of events in the window of request time, (Σw)²/Σw².",
)
COVERAGE = declare(
    "mlmon_slo_label_coverage_ratio",
    "gauge",
    "ratio",
    _SLO,
    "Labelled requests among all requests, over the longest window that pages; only where labels ever came.",
)
BUDGET_REMAINING = declare(
    "mlmon_slo_budget_remaining_ratio",
    "gauge",
    "ratio",
    _SLO,
    "What is left of the period's error budget, in event time; below 0 it is overspent.",
)
PERIOD_BURN = declare(
    "mlmon_slo_period_burn_rate", "gauge", "", _SLO, "Burn over the period of the objective, in event time."
)
HORIZON = declare(
    "mlmon_slo_horizon_timestamp_seconds",
    "gauge",
    "seconds",
    _SLO,
    "Request time up to which is judged: the watermark less the label delay, in whole buckets.",
)
GROUPS = declare("mlmon_slo_groups", "gauge", "", (), "Services and models whose burns are kept.")
GROUPS_LEFT_OUT = declare(
    "mlmon_slo_left_out_groups",
    "gauge",
    "",
    (),
    "Services and models of the newest window that have no burns because [monitors.slo] max_groups are kept.",
)
