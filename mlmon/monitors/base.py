"""What a monitor is: a mergeable summary of events, and the samples and readings made from it.

A monitor is pure: it reads columns, keeps arrays, and knows neither clock nor network. Its summaries are
kept per input partition, series and window; counters are the same summaries accumulated over the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlmon.catalog.base import Metric
    from mlmon.events.batch import EventBatch
    from mlmon.windows import Window

__all__ = ["Exemplar", "Histogram", "Monitor", "Reading", "Sample", "SeriesKey", "Summary"]


class SeriesKey(NamedTuple):
    """What a series is kept for. Its order is that of `catalog.SERIES_LABELS`."""

    service: str
    model: str
    version: str
    deployment: str
    segment: str


class Exemplar(NamedTuple):
    """One event that fell into a histogram bucket."""

    value: float
    trace_id: str
    time_us: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """A cumulative Prometheus histogram.

    Attributes:
        bounds: upper bounds without the last, +Inf.
        counts: cumulative counts, one more than bounds; the last is the total.
        total: sum of the observed values.
        exemplars: by bucket, None where there is none; empty or as long as counts.
    """

    bounds: Sequence[float]
    counts: Sequence[float]
    total: float
    exemplars: Sequence[Exemplar | None] = ()


class Sample(NamedTuple):
    """One value for Prometheus: labels in the order of `metric.labels`."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Histogram


@dataclass(frozen=True, slots=True)
class Reading:
    """What one closed window says.

    Attributes:
        metric: a gauge of the catalog.
        labels: values in the order of `metric.labels`.
        value: the reading.
        window: the window of event time it speaks of.
        n: sampled events behind it.
        n_eff: effective sample size behind it, (Σw)²/Σw².
        threshold: the value it is compared with, where it has one.
        p_value: evidence against no change, where it has one.
        interval: confidence interval, where it has one.
        attributes: what carries the reading (fields, token ids), for the history.
    """

    metric: Metric
    labels: tuple[str, ...]
    value: float
    window: Window
    n: int
    n_eff: float
    threshold: float | None = None
    p_value: float | None = None
    interval: tuple[float, float] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


class Summary(Protocol):
    """Mergeable state. `merge` is associative and commutative; exact for counts, to rounding for sums."""

    def update(self, batch: EventBatch) -> None:
        """Take in a batch of one series. Vectorised; never raises for any content the contract allows."""
        ...

    def merge(self, other: Self) -> None:
        """Take in another summary, which stays as it is.

        Raises:
            IncompatibleStateError: the two were made with different parameters; the message names both.
        """
        ...

    def copy(self) -> Self:
        """An independent copy."""
        ...

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint (`stats.pack`)."""
        ...


class Monitor(Protocol):
    """Makes summaries, and says what they mean.

    Attributes:
        name: its place in the configuration, the state and the documentation.
    """

    name: str

    @property
    def fields(self) -> frozenset[str]:
        """Optional event fields it reads; what no monitor reads is not decoded."""
        ...

    def summary(self) -> Summary:
        """An empty summary with this monitor's parameters."""
        ...

    def load(self, data: bytes) -> Summary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: it was made with other parameters (the configuration changed).
        """
        ...

    def collect(self, series: SeriesKey, summary: Summary) -> Iterable[Sample]:
        """Counters and histograms of one series, accumulated since the process started."""
        ...

    def read(
        self, window: Window, summaries: Mapping[SeriesKey, Summary], first_seen: Mapping[SeriesKey, int]
    ) -> Iterable[Reading]:
        """Readings of a closed window over all its series. No data, no reading.

        Args:
            window: the window.
            summaries: its summaries by series.
            first_seen: event time (µs) at which each series was first seen, over restarts.
        """
        ...
