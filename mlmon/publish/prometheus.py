"""What a scrape sees: an immutable snapshot, swapped whole, rendered when somebody asks.

The loop publishes after each commit and never waits for a scrape; a scrape renders the snapshot it found
and never waits for the loop. Counters start at zero with the process and hold only what is checkpointed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar as FamilyExemplar
from prometheus_client.samples import Timestamp

from mlmon.catalog import METRICS, SERIES_LABELS
from mlmon.monitors.base import Histogram
from mlmon.publish.text import bucket_bounds, has_unit, in_order, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlmon.catalog.base import Metric
    from mlmon.monitors.base import Monitor, Reading, Sample, SeriesKey, Summary
    from mlmon.publish.text import Families

__all__ = ["Snapshot", "SnapshotCollector"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything published at one moment. Whoever makes it changes nothing in it afterwards.

    Attributes:
        counters: summaries since the process started, by monitor name and series.
        readings: of the newest closed windows, one for each metric and labels (`ReadingBoard.current`).
        own: what mlmon says of itself.
        not_ready: why the sidecar is not ready, in words; empty when it is.
        taken_at: monotonic time at which the loop made it, seconds.
    """

    counters: Mapping[str, Mapping[SeriesKey, Summary]] = field(default_factory=dict)
    readings: Sequence[Reading] = ()
    own: Sequence[Sample] = ()
    not_ready: tuple[str, ...] = ()
    taken_at: float = 0.0


class SnapshotCollector(Collector):
    """Renders the latest snapshot; safe to scrape from any thread while the loop publishes.

    It is registered in a registry of its own (`registry`), never in the library's global one. `render` writes
    the text directly; `collect` gives the library's objects, for whoever wants to combine registries.

    Samples that do not tell series apart are made one for each set of labels: counters are added up over the
    series, of the rest the last one stays.

    Args:
        monitors: those whose summaries are in the snapshots.
        live: asked at each scrape for samples that age by themselves, such as the time since the last commit,
            which must go on rising when the loop hangs. Must not block.
    """

    def __init__(
        self, monitors: Sequence[Monitor], live: Sequence[Callable[[], Iterable[Sample]]] = ()
    ) -> None:
        self._monitors = {monitor.name: monitor for monitor in monitors}
        self._live = tuple(live)
        self._snapshot: Snapshot | None = None
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    @property
    def snapshot(self) -> Snapshot | None:
        """The latest snapshot, None before the first."""
        return self._snapshot

    def publish(self, snapshot: Snapshot) -> None:
        """Swap in a snapshot; one assignment, never waits."""
        self._snapshot = snapshot

    def describe(self) -> Iterable[Family]:
        """Nothing: registering does not collect."""
        return ()

    def collect(self) -> Iterator[Family]:
        """The families of the latest snapshot as the library's objects."""
        for metric, samples in self.families().items():
            yield _family(metric, samples)

    def render(self, *, openmetrics: bool) -> bytes:
        """The latest snapshot as OpenMetrics 1.0 or classic 0.0.4 text."""
        return render(self.families(), openmetrics=openmetrics)

    def families(self) -> Families:
        """Samples by metric, in the order of the catalog."""
        snapshot = self._snapshot or Snapshot()
        families: Families = {}
        loose: dict[Metric, dict[tuple[str, ...], float | Histogram]] = {}
        for metric, labels, value in self._samples(snapshot):
            if metric.labels[: len(SERIES_LABELS)] == SERIES_LABELS:
                samples = families.get(metric)
                if samples is None:
                    samples = families[metric] = []
                samples.append((labels, value))
            else:
                _combine(loose.setdefault(metric, {}), metric, labels, value)
        for metric, values in loose.items():
            families[metric] = list(values.items())
        return in_order(families, METRICS)

    def _samples(self, snapshot: Snapshot) -> Iterator[tuple[Metric, tuple[str, ...], float | Histogram]]:
        for name, summaries in snapshot.counters.items():
            monitor = self._monitors[name]
            for series, summary in summaries.items():
                yield from monitor.collect(series, summary)
        for reading in snapshot.readings:
            yield reading.metric, reading.labels, reading.value
        yield from snapshot.own
        for ask in self._live:
            yield from ask()


def _combine(
    into: dict[tuple[str, ...], float | Histogram],
    metric: Metric,
    labels: tuple[str, ...],
    value: float | Histogram,
) -> None:
    kept = into.get(labels)
    if metric.kind == "counter" and isinstance(kept, float | int) and isinstance(value, float | int):
        into[labels] = kept + value
    else:
        into[labels] = value


def _family(metric: Metric, samples: Iterable[tuple[tuple[str, ...], float | Histogram]]) -> Family:
    family = Family(metric.name, metric.help, metric.kind, metric.unit if has_unit(metric) else "")
    suffix = {"counter": "_total", "info": "_info"}.get(metric.kind, "")
    for values, value in samples:
        labels = dict(zip(metric.labels, values, strict=True))
        if isinstance(value, Histogram):
            _add_histogram(family, labels, value)
        else:
            family.add_sample(metric.name + suffix, labels, float(value))
    return family


def _add_histogram(family: Family, labels: dict[str, str], value: Histogram) -> None:
    exemplars = value.exemplars or [None] * len(value.counts)
    bounds = bucket_bounds(tuple(value.bounds))
    for bound, count, exemplar in zip(bounds, value.counts, exemplars, strict=True):
        shown = exemplar and FamilyExemplar(
            {"trace_id": exemplar.trace_id},
            exemplar.value,
            Timestamp(*divmod(exemplar.time_us * 1000, 10**9)),
        )
        family.add_sample(family.name + "_bucket", {**labels, "le": bound}, round(count), exemplar=shown)
    family.add_sample(family.name + "_count", labels, round(value.counts[-1]))
    family.add_sample(family.name + "_sum", labels, value.total)
