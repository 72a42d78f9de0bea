"""The server's own metrics, in a registry that is handed in. Every name comes from `mlmon.catalog.server`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Gauge, Histogram, Info

from mlmon.catalog import server as catalog
from mlmon.server.work.jobs import Lane

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from mlmon.catalog import Metric

__all__ = ["GIVEN_UP", "REFUSED", "Meters"]

#: Why requests are refused for want of room, and why accepted work is given up: all values of the labels.
REFUSED = ("requests", "jobs", "tokens", "stopping")
GIVEN_UP = ("timeout", "disconnect", "starved", "stopping")
FAILED = ("memory", "error")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = tuple(float(1 << power) for power in range(4, 19))


class _Labelled:
    """A metric with labels, each set of which the library looks up once; that takes it several microseconds.

    There are as many sets as there are series, so they are as bounded.
    """

    __slots__ = ("_known", "_metric")

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._known: dict[tuple[object, ...], Any] = {}

    def labels(self, *values: object) -> Any:
        """The series of these values."""
        known = self._known.get(values)
        if known is None:
            known = self._known[values] = self._metric.labels(*values)
        return known


def _fast(metric: Metric, made: Any) -> Any:
    return _Labelled(made) if metric.labels else made


class Meters:
    """Counters and histograms; any number of threads may use them.

    Every value of every label is there from the start, at zero, except for `code` of the requests.

    Args:
        registry: where they are registered.
        routes: values of the label `route`.
    """

    def __init__(self, registry: CollectorRegistry, routes: tuple[str, ...]) -> None:
        self.registry = registry
        self.requests = self._counter(catalog.REQUESTS)
        self.latency = self._histogram(catalog.LATENCY, _SECONDS)
        self.tokenize = self._histogram(catalog.TOKENIZE, _SECONDS)
        self.queue = self._histogram(catalog.QUEUE, _SECONDS)
        self.inference = self._histogram(catalog.INFERENCE, _SECONDS)
        self.open_requests = self._gauge(catalog.REQUESTS_OPEN)
        self.refused = self._counter(catalog.REFUSED)
        self.given_up = self._counter(catalog.GIVEN_UP)
        self.failed = self._counter(catalog.FAILED)
        self.truncated_tokens = self._counter(catalog.TRUNCATED)
        self.truncated_texts = self._counter(catalog.TRUNCATED_TEXTS)
        self.windowed_texts = self._counter(catalog.WINDOWED_TEXTS)
        self.queue_jobs = self._gauge(catalog.QUEUE_JOBS)
        self.queue_tokens = self._gauge(catalog.QUEUE_TOKENS)
        self.tokens = self._counter(catalog.TOKENS)
        self.sequences = self._counter(catalog.SEQUENCES)
        self.batches = self._counter(catalog.BATCHES)
        self.batch_tokens = self._histogram(catalog.BATCH_TOKENS, _TOKENS)
        self.budget = self._gauge(catalog.BATCH_BUDGET)
        self.starved = self._counter(catalog.STARVED)
        self.memory_splits = self._counter(catalog.MEMORY_SPLITS)
        self.busy = self._counter(catalog.BUSY)
        self.ready = self._gauge(catalog.READY)
        self.model = Info(catalog.MODEL.name, catalog.MODEL.help, registry=registry)
        self._touch(routes)

    def busy_seconds(self, lane: Lane) -> float:
        """Time the device worked for a lane."""
        (family,) = self.busy.labels(lane).collect()
        return float(next(sample.value for sample in family.samples if sample.name.endswith("_total")))

    def _counter(self, metric: Metric) -> Any:
        return _fast(metric, Counter(metric.name, metric.help, metric.labels, registry=self.registry))

    def _gauge(self, metric: Metric) -> Any:
        return _fast(metric, Gauge(metric.name, metric.help, metric.labels, registry=self.registry))

    def _histogram(self, metric: Metric, bounds: tuple[float, ...]) -> Any:
        made = Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=bounds)
        return _fast(metric, made)

    def _touch(self, routes: tuple[str, ...]) -> None:
        by_lane: tuple[Any, ...] = (self.tokenize, self.queue, self.inference, self.queue_jobs)
        for lane in Lane:
            for metric in (*by_lane, self.queue_tokens, self.tokens, self.sequences, self.busy):
                metric.labels(lane)
            for route in routes:
                self.latency.labels(route, lane)
            for counter, reasons in (
                (self.refused, REFUSED),
                (self.given_up, GIVEN_UP),
                (self.failed, FAILED),
            ):
                for reason in reasons:
                    counter.labels(lane, reason)
