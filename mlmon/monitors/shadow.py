"""Do the answers agree with those of a reference: sums of what the shadow evaluator found, by series."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import numpy as np
from scipy.special import stdtrit

from mlmon.catalog import shadow as catalog
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.base import Reading, Sample
from mlmon.monitors.histogram import WeightedHistogram, check_buckets
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mlmon.catalog.base import Metric
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import SeriesKey
    from mlmon.windows import Window

__all__ = ["ShadowConfig", "ShadowMonitor", "ShadowSummary", "mean_interval"]

_FORM = 1
_NORMAL_95 = NormalDist().inv_cdf(0.975)
#: Longest name of a reference that is kept.
_NAME = 120


class _Measure(NamedTuple):
    """One quantity of an evaluation: its field, its value of the label `measure`, its bounds, its reading."""

    field: str
    label: str
    low: float
    high: float
    reading: Metric


_MEASURES = (
    _Measure("agreement", "agreement", 0.0, 1.0, catalog.AGREEMENT),
    _Measure("topk_overlap", "topk_overlap", 0.0, 1.0, catalog.TOPK_OVERLAP),
    _Measure("rank_biased_overlap", "rank_biased_overlap", 0.0, 1.0, catalog.RANK_BIASED_OVERLAP),
    _Measure("probability_difference", "probability_difference", 0.0, 1.0, catalog.MEAN_DIFFERENCE),
    _Measure("kl_divergence", "kl_divergence", 0.0, np.inf, catalog.KL_DIVERGENCE),
    _Measure("echo", "echo", 0.0, 1.0, catalog.ECHO),
    _Measure("embedding_cosine", "embedding_distance", -1.0, 1.0, catalog.EMBEDDING_COSINE),
)
_SHARES = ("agreement", "echo")
_DIFFERENCE = 3
_COSINE = 6
#: Of a measure: n, Σw, Σw², Σwx, Σw²x, Σw²x².
_WIDTH = 6


class ShadowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.shadow]`: what is told apart of evaluations."""

    difference_buckets: Annotated[
        tuple[float, ...],
        msgspec.Meta(
            min_length=1,
            max_length=20,
            description="Upper bounds of the buckets of the largest difference of probabilities, increasing. "
            "Each bound adds 3 samples to every series that is evaluated.",
        ),
    ] = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5)

    def __post_init__(self) -> None:
        check_buckets("difference_buckets", self.difference_buckets)


class ShadowSummary:
    """Sums of one series over evaluations; see `ShadowMonitor`.

    Merging adds: exact for counts at integer weights, else to rounding. Of the reference's names that of the
    newest evaluation is kept, the greater of two of one time. Memory: 600 bytes.

    Attributes:
        sums: for each measure n, Σw, Σw², Σwx, Σw²x, Σw²x², shape (7, 6).
        differences: histogram of the largest difference of probabilities.
        reference: time of the newest evaluation, µs, and the reference it names.
    """

    __slots__ = ("differences", "reference", "sums")

    def __init__(self, bounds: NDArray[np.float64]) -> None:
        self.sums = np.zeros((len(_MEASURES), _WIDTH))
        self.differences = WeightedHistogram(bounds)
        self.reference: tuple[int, str] = (0, "")

    def update(self, batch: EventBatch) -> None:
        """Take in a batch."""
        if not len(batch):
            return
        weights = batch.weights()
        for index, measure in enumerate(_MEASURES):
            values = batch.floats(measure.field)
            if values is None:
                continue
            known = np.flatnonzero((values >= measure.low) & (values <= measure.high) & (values < np.inf))
            if len(known):
                found, weight = values[known], weights[known]
                self.sums[index] += _sums(found, weight)
                if index == _DIFFERENCE:
                    self.differences.add(found, weight)
        self._name(batch)

    def _name(self, batch: EventBatch) -> None:
        if not batch.has("reference"):
            return
        codes, names = batch.codes("reference")
        named = np.array([bool(name) for name in names])[codes]
        if named.any():
            times = np.where(named, batch.times(), np.iinfo(np.int64).min)
            newest = int(times.max())
            there = np.unique(codes[named & (times == newest)]).tolist()
            name = max(names[code] for code in there)[:_NAME]
            self.reference = max(self.reference, (newest, name))

    def merge(self, other: ShadowSummary) -> None:
        """Take in another summary.

        Raises:
            IncompatibleStateError: its buckets are others.
        """
        self.differences.check("shadow: difference_buckets", other.differences)
        self.sums += other.sums
        self.differences.merge(other.differences)
        self.reference = max(self.reference, other.reference)

    def copy(self) -> ShadowSummary:
        """An independent copy."""
        twin = ShadowSummary.__new__(ShadowSummary)
        twin.sums = self.sums.copy()
        twin.differences = self.differences.copy()
        twin.reference = self.reference
        return twin

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint."""
        return pack([_FORM, self.sums, self.differences.state(), list(self.reference)])


class ShadowMonitor:
    """Agreement of each series with a reference.

    Reads `agreement`, `topk_overlap`, `rank_biased_overlap`, `probability_difference`, `kl_divergence`,
    `echo`, `embedding_cosine`, `reference`, `sampling_weight` of evaluations (`mlmon shadow`). A value that
    is absent, not finite or out of range counts as none.

    Emits, for each measure that any evaluation has, its counters and sum, and at window close its weighted
    mean with a 95 % interval: Wilson's for the shares (`agreement`, `echo`), Student's for means. Cardinality
    of a series: at most 28 counters, 3 (buckets + 3) of the histogram and one name of a reference.

    Low agreement means that the model that answers is not the one it should be, or is not served as it was
    evaluated: other weights, another tokenizer, damaged numerics, answers of other requests. Low `echo` means
    the last of these and nothing else. It cannot see what the reference does wrong too, and says nothing of
    requests that were not mirrored.
    """

    name = "shadow"
    #: Evaluations come as label events.
    labels = True
    fields = frozenset({*(measure.field for measure in _MEASURES), "reference", "sampling_weight"})

    def __init__(self, config: ShadowConfig) -> None:
        self._bounds = np.array(config.difference_buckets)

    def summary(self) -> ShadowSummary:
        """An empty summary."""
        return ShadowSummary(self._bounds)

    def load(self, data: bytes) -> ShadowSummary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: the buckets are not those of the configuration.
        """
        form, *fields = unpack(data)
        if form != _FORM:
            raise IncompatibleStateError(f"shadow: stored summary has form {form}, expected {_FORM}")
        summary = self.summary()
        sums, differences, (time_us, name) = fields
        if sums.shape != summary.sums.shape:
            raise IncompatibleStateError(f"shadow: stored summary has shape {sums.shape}")
        summary.sums = sums
        summary.differences = summary.differences.restored("shadow: difference_buckets", differences)
        summary.reference = (time_us, name)
        return summary

    def collect(self, series: SeriesKey, summary: ShadowSummary) -> Iterable[Sample]:
        """Counts, sums and the histogram since the process started."""
        for index, (measure, row) in enumerate(zip(_MEASURES, summary.sums.tolist(), strict=True)):
            if not row[0]:
                continue
            labels = (*series, measure.label)
            yield Sample(catalog.EVALUATIONS.sampled, labels, row[0])
            yield Sample(catalog.EVALUATIONS.estimated, labels, row[1])
            yield Sample(catalog.EVALUATIONS.weight_squared, labels, row[2])
            # a counter must not fall, so of the cosine its distance from 1 is counted
            total = max(row[1] - row[3], 0.0) if index == _COSINE else row[3]
            yield Sample(catalog.MEASURE_SUM, labels, total)
        if summary.differences.count:
            yield from summary.differences.samples(catalog.PROBABILITY_DIFFERENCE, tuple(series))
        if summary.reference[1]:
            yield Sample(catalog.REFERENCE, (*series, summary.reference[1]), 1.0)

    def read(
        self,
        window: Window,
        summaries: Mapping[SeriesKey, ShadowSummary],
        first_seen: Mapping[SeriesKey, int],  # noqa: ARG002 - protocol
    ) -> Iterable[Reading]:
        """The weighted mean of each measure that the window has."""
        for series, summary in summaries.items():
            for measure, row in zip(_MEASURES, summary.sums, strict=True):
                if row[0]:
                    mean, n_eff, interval = mean_interval(row, shares=measure.field in _SHARES)
                    if interval is not None:
                        interval = (max(interval[0], measure.low), min(interval[1], measure.high))
                    yield Reading(
                        measure.reading,
                        tuple(series),
                        mean,
                        window,
                        int(row[0]),
                        n_eff,
                        interval=interval,
                        attributes={"reference": summary.reference[1]},
                    )


def _sums(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """A row of `ShadowSummary.sums`."""
    weighted = values * weights
    return np.array(
        [
            len(values),
            weights.sum(),
            np.dot(weights, weights),
            weighted.sum(),
            np.dot(weighted, weights),
            np.dot(weighted, weighted),
        ]
    )


def mean_interval(
    row: NDArray[np.float64], *, shares: bool
) -> tuple[float, float, tuple[float, float] | None]:
    """Weighted mean m = Σwx/Σw, n_eff = (Σw)²/Σw², and a 95 % interval.

    For shares the interval is Wilson's at n_eff (Wilson 1927; Korn and Graubard 1998 for weights). For means
    it is m ± t(n_eff - 1) √(Σw²(x - m)² / (Σw)² · n_eff / (n_eff - 1)) (Cochran 1977, 2.9), None below two
    effective events.

    Args:
        row: n, Σw, Σw², Σwx, Σw²x, Σw²x², with n above 0.
        shares: whether values are 0 or 1.

    Example:
        >>> mean, n_eff, (low, high) = mean_interval(np.array([10.0, 10, 10, 9, 9, 9]), shares=True)
        >>> mean, n_eff, round(low, 4), round(high, 4)
        (0.9, 10.0, 0.5958, 0.9821)
    """
    _, weight, squared, total, crossed, spread = row.tolist()
    mean, n_eff = total / weight, weight**2 / squared
    if shares:
        z2 = _NORMAL_95**2
        middle = (mean + z2 / (2 * n_eff)) / (1 + z2 / n_eff)
        half = _NORMAL_95 / (1 + z2 / n_eff) * np.sqrt(mean * (1 - mean) / n_eff + z2 / (4 * n_eff**2))
        return mean, n_eff, (max(0.0, middle - float(half)), min(1.0, middle + float(half)))
    if n_eff < 2:
        return mean, n_eff, None
    variance = max(spread - 2 * mean * crossed + mean**2 * squared, 0.0) / weight**2
    half = float(stdtrit(n_eff - 1, 0.975) * np.sqrt(variance * n_eff / (n_eff - 1)))
    return mean, n_eff, (mean - half, mean + half)
