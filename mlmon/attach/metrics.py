"""The emitter's counts as a Prometheus collector, for the model server's own /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mlmon.catalog import attach

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric as Family

    from mlmon.attach.emitter import Emitter

__all__ = ["EmitterCollector"]

_FIELDS = (
    (attach.EMITTED, "emitted"),
    (attach.DROPPED, "dropped"),
    (attach.SENT, "sent_events"),
    (attach.RECORDS, "sent_records"),
    (attach.SINK_ERRORS, "sink_errors"),
    (attach.ERRORS, "tap_errors"),
    (attach.TRUNCATED, "truncated_bodies"),
    (attach.UNPARSED, "unparsed_bodies"),
    (attach.QUEUE, "queue_items"),
    (attach.QUEUE_BYTES, "queue_bytes"),
)


class EmitterCollector(Collector):
    """Reads `emitter.stats()` at every scrape; each worker process answers for itself.

    Example:
        prometheus_client.REGISTRY.register(EmitterCollector(emitter))
    """

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def collect(self) -> Iterable[Family]:
        """The metrics of `mlmon.catalog.attach`."""
        stats = self._emitter.stats()
        for metric, field in _FIELDS:
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            yield family(metric.name, metric.help, value=getattr(stats, field))
