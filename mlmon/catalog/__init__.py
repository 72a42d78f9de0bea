"""Every metric there is, declared once.

`base` says what a metric is, `requests` declares what is said of the watched services, `drift` what is said
of their drift, `shadow` what is said of shadow evaluations, `slo` what is said of objectives in event time,
`release` what is said of planned releases, `sidecar` what the sidecar says of itself, `attach` what the
emitter in a model server says, `server` what the reference server says of itself. Importing this package
declares them all.
"""

from __future__ import annotations

from mlmon.catalog import attach, drift, release, requests, server, shadow, sidecar, slo
from mlmon.catalog.base import METRICS, SERIES_LABELS, CounterTriple, Metric

__all__ = [
    "METRICS",
    "SERIES_LABELS",
    "CounterTriple",
    "Metric",
    "attach",
    "drift",
    "release",
    "requests",
    "server",
    "shadow",
    "sidecar",
    "slo",
]
