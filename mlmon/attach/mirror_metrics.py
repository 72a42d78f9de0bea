"""The mirror's counts as a Prometheus collector, for the model server's own /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mlmon.catalog import shadow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric as Family

    from mlmon.attach.mirror import Mirror

__all__ = ["MirrorCollector"]

_OUTCOMES = ("written", "passed_over", "full", "too_long", "redacted", "failed")


class MirrorCollector(Collector):
    """Reads `mirror.stats()` at every scrape; each worker process answers for itself.

    Example:
        prometheus_client.REGISTRY.register(MirrorCollector(mirror))
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def collect(self) -> Iterable[Family]:
        """What became of the requests that were offered, and how many wait."""
        stats = self._mirror.stats()
        metric = shadow.MIRRORED
        counts = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        for outcome in _OUTCOMES:
            counts.add_metric([outcome], getattr(stats, outcome))
        yield counts
        yield GaugeMetricFamily(shadow.MIRROR_QUEUE.name, shadow.MIRROR_QUEUE.help, value=stats.queued)
