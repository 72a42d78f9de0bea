"""How much traffic, how fast, how often it fails: requests, latency, batch size, GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlmon.catalog import requests as catalog
from mlmon.errors import IncompatibleStateError
from mlmon.events.schema import STATUSES
from mlmon.monitors.base import Exemplar, Reading, Sample
from mlmon.monitors.histogram import WeightedHistogram, check_buckets
from mlmon.stats.counts import count_cells, count_total, effective_size
from mlmon.stats.pack import pack, unpack
from mlmon.stats.sketch import QuantileSketch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mlmon.catalog.base import Metric
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import SeriesKey
    from mlmon.windows import Window

__all__ = ["BATCH_SIZE_BUCKETS", "LATENCY_PARTS", "TrafficConfig", "TrafficMonitor", "TrafficSummary"]

#: Batches grow in powers of two on every accelerator.
BATCH_SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_STATUS_CODE = {status: code for code, status in enumerate(STATUSES)}
#: Where a status the contract does not know is counted.
_OTHER = len(STATUSES)
#: Parts of a request's latency, in the order of `TrafficSummary.parts` and `.sketches`.
LATENCY_PARTS = ("total", "queue", "tokenize", "inference")
_PART_FIELDS = ("latency_seconds", "queue_seconds", "tokenize_seconds", "inference_seconds")
_GPU_FIELDS = ("gpu_utilization_ratio", "gpu_memory_used_bytes", "gpu_memory_total_bytes")
#: Form of the stored state; form 1 had no sketches.
_FORM = 2
#: Longest trace id shown: an exemplar may have 128 characters with its label's name.
_TRACE_ID_BYTES = 64


class TrafficConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.traffic]`: how latency is told apart."""

    latency_buckets_seconds: Annotated[
        tuple[float, ...],
        msgspec.Meta(
            min_length=1,
            max_length=40,
            description="Upper bounds of the latency histogram's buckets, in seconds, increasing. Put a "
            "bound at each latency an SLO speaks of. Each bound adds up to 12 samples to every series.",
        ),
    ] = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __post_init__(self) -> None:
        check_buckets("latency_buckets_seconds", self.latency_buckets_seconds)


class TrafficSummary:
    """Counts and sums of requests; see `TrafficMonitor`.

    Merging adds the counts and keeps the later of two exemplars and of two last values (ties by the larger),
    so it is associative and commutative. Memory: about 3 kB at the default buckets, and for each part of
    latency seen a sketch of some 2 kB, 10 kB at most.

    Attributes:
        statuses: n, Σw, Σw² by status and `other`, shape (5, 3).
        parts: latency by part.
        sketches: the same values as quantile sketches, for the history.
        batch: batch size, each request counted with the size of the batch it was in.
        gpu: for each GPU field n, Σw, Σw², Σwx, time of the last value (µs), last value; shape (3, 6).
        exemplars: by latency bucket (time µs, trace id, latency), None where there is none.
    """

    __slots__ = ("batch", "exemplars", "gpu", "parts", "sketches", "statuses")

    def __init__(self, bounds: NDArray[np.float64]) -> None:
        self.statuses = np.zeros((_OTHER + 1, 3))
        self.parts = [WeightedHistogram(bounds) for _ in LATENCY_PARTS]
        self.sketches = [QuantileSketch() for _ in LATENCY_PARTS]
        self.batch = WeightedHistogram(np.array(BATCH_SIZE_BUCKETS))
        self.gpu = np.zeros((len(_GPU_FIELDS), 6))
        self.exemplars: list[tuple[int, str, float] | None] = [None] * (len(bounds) + 1)

    def update(self, batch: EventBatch) -> None:
        """Take in a batch."""
        if not len(batch):
            return
        weights = batch.weights()
        codes, values = batch.codes("status", "ok")
        known = np.array([_STATUS_CODE.get(value, _OTHER) for value in values])
        self.statuses += count_cells(known[codes], weights, _OTHER + 1)
        for index, name in enumerate(_PART_FIELDS):
            found = _observed(batch, name, weights)
            if found is not None:
                buckets = self.parts[index].add(found[1], found[2])
                self.sketches[index].add(found[1], found[2])
                if index == 0:
                    self._note_exemplars(batch, found[0], buckets, found[1])
        found = _observed(batch, "batch_size", weights)
        if found is not None:
            self.batch.add(found[1], found[2])
        for index, name in enumerate(_GPU_FIELDS):
            found = _observed(batch, name, weights)
            if found is not None:
                self._note_gpu(index, batch.times()[found[0]], found[1], found[2])

    def _note_gpu(
        self,
        index: int,
        times: NDArray[np.int64],
        values: NDArray[np.float64],
        weights: NDArray[np.float64],
    ) -> None:
        newest = times.max()
        row = np.empty(6)
        row[:3] = count_total(weights)
        row[3] = np.dot(values, weights)
        row[4:] = newest, values[times == newest].max()
        _merge_gpu(self.gpu[index], row)

    def _note_exemplars(
        self,
        batch: EventBatch,
        rows: NDArray[np.intp],
        buckets: NDArray[np.intp],
        values: NDArray[np.float64],
    ) -> None:
        """Keep the latest traced event of each bucket: at most one row of each is looked at in Python."""
        column = batch.column("trace_id")
        if column is None or column.null_count == len(column):
            return
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        length = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)[rows]
        traced = (length > 0) & (length <= _TRACE_ID_BYTES)
        rows, buckets, values = rows[traced], buckets[traced], values[traced]
        times = batch.times()[rows]
        newest = np.full(len(self.exemplars), np.iinfo(np.int64).min)
        np.maximum.at(newest, buckets, times)
        winners = np.flatnonzero(times == newest[buckets])
        traces = column.take(pa.array(rows[winners]))
        rank = pc.rank(traces, tiebreaker="min").to_numpy()
        order = np.lexsort((values[winners], rank, buckets[winners]))
        of = buckets[winners][order]
        best = order[np.flatnonzero(np.diff(of, append=len(self.exemplars)))]
        won = winners[best]
        for bucket, time, trace, value in zip(
            buckets[won].tolist(),
            times[won].tolist(),
            traces.take(pa.array(best)).to_pylist(),
            values[won].tolist(),
            strict=True,
        ):
            self._offer(bucket, (time, trace, value))

    def _offer(self, bucket: int, candidate: tuple[int, str, float]) -> None:
        kept = self.exemplars[bucket]
        if kept is None or candidate > kept:
            self.exemplars[bucket] = candidate

    def merge(self, other: TrafficSummary) -> None:
        """Take in another summary."""
        self.parts[0].check("traffic: latency_buckets_seconds", other.parts[0])
        self.statuses += other.statuses
        for part, more in zip(self.parts, other.parts, strict=True):
            part.merge(more)
        for sketch, added in zip(self.sketches, other.sketches, strict=True):
            sketch.merge(added)
        self.batch.merge(other.batch)
        for row, last in zip(self.gpu, other.gpu, strict=True):
            _merge_gpu(row, last)
        for bucket, candidate in enumerate(other.exemplars):
            if candidate is not None:
                self._offer(bucket, candidate)

    def copy(self) -> TrafficSummary:
        """An independent copy."""
        twin = TrafficSummary(self.parts[0].bounds)
        twin.statuses = self.statuses.copy()
        twin.parts = [part.copy() for part in self.parts]
        twin.sketches = [sketch.copy() for sketch in self.sketches]
        twin.batch = self.batch.copy()
        twin.gpu = self.gpu.copy()
        twin.exemplars = list(self.exemplars)
        return twin

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint."""
        return pack(
            [
                _FORM,
                self.statuses,
                [part.state() for part in self.parts],
                self.batch.state(),
                self.gpu,
                self.exemplars,
                [sketch.state() for sketch in self.sketches],
            ]
        )


class TrafficMonitor:
    """Requests by status, latency, batch size and GPU of each series.

    Reads `status` (absent means ok), `latency_seconds` and its parts, `batch_size`, the `gpu_*` fields,
    `trace_id` for exemplars, `sampling_weight`. A value that is absent, NaN, infinite or negative is in no
    histogram; the request is counted all the same.

    Emits `REQUESTS`, `LATENCY`, `BATCH_SIZE` as counters and, at window close, the `GPU_*` gauges.
    Cardinality of a series: 15 counters, and for each latency part seen 3 (buckets + 3) samples.

    A rise in status error or timeout means failing requests; a rise of the queue part against the inference
    part means too little capacity, not a slower model. It cannot see requests that never reached the server,
    nor an answer that is wrong but on time. GPU figures are those of the moments at which requests ran.
    """

    name = "traffic"
    fields = frozenset(("status", "batch_size", "trace_id", "sampling_weight", *_PART_FIELDS, *_GPU_FIELDS))

    def __init__(self, config: TrafficConfig) -> None:
        self._bounds = np.array(config.latency_buckets_seconds)

    def summary(self) -> TrafficSummary:
        """An empty summary."""
        return TrafficSummary(self._bounds)

    def load(self, data: bytes) -> TrafficSummary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: the latency buckets are not those of the configuration.
        """
        form, *fields = unpack(data)
        if form not in (1, _FORM):
            raise IncompatibleStateError(f"traffic: stored summary has form {form}, expected {_FORM}")
        summary = self.summary()
        summary.statuses, parts, batch, summary.gpu, exemplars, *rest = fields
        empty = summary.parts[0]
        summary.parts = [empty.restored("traffic: latency_buckets_seconds", part) for part in parts]
        summary.batch = summary.batch.restored("traffic: batch size", batch)
        summary.exemplars = [None if item is None else (item[0], item[1], item[2]) for item in exemplars]
        if rest:
            summary.sketches = [QuantileSketch(*state) for state in rest[0]]
        return summary

    def collect(self, series: SeriesKey, summary: TrafficSummary) -> Iterable[Sample]:
        """Requests, latency and batch size since the process started."""
        for code, triple in enumerate(summary.statuses.tolist()):
            if code < _OTHER or triple[0]:
                labels = (*series, STATUSES[code] if code < _OTHER else "other")
                yield Sample(catalog.REQUESTS.sampled, labels, triple[0])
                yield Sample(catalog.REQUESTS.estimated, labels, triple[1])
                yield Sample(catalog.REQUESTS.weight_squared, labels, triple[2])
        shown = [None if item is None else Exemplar(item[2], item[1], item[0]) for item in summary.exemplars]
        for name, part in zip(LATENCY_PARTS, summary.parts, strict=True):
            if part.count:
                yield from part.samples(catalog.LATENCY, (*series, name), shown if name == "total" else ())
        if summary.batch.count:
            yield from summary.batch.samples(catalog.BATCH_SIZE, tuple(series))

    def read(
        self,
        window: Window,
        summaries: Mapping[SeriesKey, TrafficSummary],
        first_seen: Mapping[SeriesKey, int],  # noqa: ARG002 - protocol
    ) -> Iterable[Reading]:
        """GPU gauges of the window, for each series whose events carried them."""
        for series, summary in summaries.items():
            for metric, row, value in _gpu_values(summary.gpu):
                yield Reading(metric, tuple(series), value, window, int(row[0]), effective_size(row[:3]))


def _gpu_values(gpu: NDArray[np.float64]) -> Iterable[tuple[Metric, NDArray[np.float64], float]]:
    shown = (
        (catalog.GPU_UTILIZATION, catalog.GPU_UTILIZATION_LAST),
        (catalog.GPU_MEMORY_USED, catalog.GPU_MEMORY_USED_LAST),
        (None, catalog.GPU_MEMORY_TOTAL),
    )
    for row, (mean, last) in zip(gpu, shown, strict=True):
        if row[1] > 0:
            if mean is not None:
                yield mean, row, float(row[3] / row[1])
            yield last, row, float(row[5])


def _merge_gpu(into: NDArray[np.float64], row: NDArray[np.float64]) -> None:
    later = row[0] and (not into[0] or (row[4], row[5]) > (into[4], into[5]))
    into[:4] += row[:4]
    if later:
        into[4:] = row[4:]


def _observed(
    batch: EventBatch, name: str, weights: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]] | None:
    """Rows, values and weights of the events that carry a finite value >= 0; None where there are none."""
    values = batch.floats(name)
    if values is None:
        return None
    rows = np.flatnonzero((values >= 0) & (values < np.inf))
    return (rows, values[rows], weights[rows]) if len(rows) else None
