"""A few events of each window, so that a person can look at what the figures speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from mlmon.errors import IncompatibleStateError
from mlmon.monitors.sample_rows import COLUMNS, pack_rows
from mlmon.stats.counts import count_total
from mlmon.stats.hashing import hash_bytes, mix, unit_interval
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import Reading, Sample, SeriesKey
    from mlmon.windows import Window

__all__ = ["SamplesConfig", "SamplesMonitor", "SamplesSummary", "event_ranks"]

#: Form of the stored state.
_FORM = 1
#: Key of the hash that ranks events: not that of sampling before the log, so the two are independent.
_SEED = 0x6D6C6D6F6E51
#: Rows held before the lowest are picked out, as a multiple of those wanted.
_SLACK = 4


class SamplesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.samples]`: the sample of events that the history keeps."""

    rows: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=1_000,
            description="Events kept of each series and window, in rows. A row takes some 200 bytes, and 2 "
            "bytes for each number of its embedding, in the checkpoint and in the history. 0 keeps none.",
        ),
    ] = 32
    embeddings: Annotated[bool, msgspec.Meta(description="Keep the embedding of each row, as float16.")] = (
        True
    )


class _Fresh(NamedTuple):
    """Rows of one batch that compete for a place, not packed yet: most will lose it again."""

    ranks: NDArray[np.float64]
    records: pa.RecordBatch


def event_ranks(batch: EventBatch) -> NDArray[np.float64]:
    """The rank of each event: exponential with rate w, from a hash of what identifies it, shape (n,).

    With u uniform, -ln(u)/w is exponential with rate w, and the k lowest ranks are a sample without
    replacement in which each draw is in proportion to w (Efraimidis, Spirakis 2006). With w = 1/inclusion
    probability that undoes the sampling before the log: the rows stand for all traffic alike.

    Id, time and latency go into the hash, so that an id that repeats does not bring its rows in together.
    """
    ids = batch.records.column("event_id")
    _, offsets, data = ids.buffers()
    places = np.frombuffer(offsets, np.int32, len(ids) + 1, 4 * ids.offset)
    octets = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    hashes = mix(hash_bytes(places, octets, _SEED), batch.times().view(np.uint64))
    latency = batch.floats("latency_seconds")
    # an absent one counts as 0 even where the whole column is absent: the rest of a batch must not matter
    known = np.zeros(len(ids)) if latency is None else np.where(latency > 0, latency, 0.0)
    hashes = mix(hashes, known.view(np.uint64))
    # mixed once more, since the last values taken in reach only half of the bits
    uniform = unit_interval(mix(hashes, hashes >> np.uint64(29)))
    return np.asarray(-np.log(uniform) / batch.weights())


class SamplesSummary:
    """The k events of lowest rank; see `event_ranks`.

    The k lowest of all are among the k lowest of each part, so merging is exact, associative and commutative;
    rows of equal rank are told apart by their bytes. Memory: at most 4 k rows between commits, k in the
    checkpoint, each within the bounds of `sample_rows`. Time of an update: about 60 ns an event for the
    ranks, 0.1 ms where rows enter, and some 15 µs for each row that stays until a commit.

    Attributes:
        size: n, Σw, Σw² of the events that the sample is of, shape (3,).
    """

    __slots__ = ("_config", "_fresh", "_limit", "_rows", "size")

    def __init__(self, config: SamplesConfig) -> None:
        self._config = config
        #: (rank, packed row), in order.
        self._rows: list[tuple[float, bytes]] = []
        self._fresh: list[_Fresh] = []
        #: Rank above which no row can enter any more.
        self._limit = np.inf
        self.size = np.zeros(3)

    def update(self, batch: EventBatch) -> None:
        """Take in a batch; golden probes are no traffic and are left out."""
        if not self._config.rows or not len(batch):
            return
        ranks, weights = event_ranks(batch), batch.weights()
        probes = batch.column("probe_id")
        if probes is not None and probes.null_count < len(probes):
            traffic = probes.is_null().to_numpy(zero_copy_only=False)
            ranks, weights = np.where(traffic, ranks, np.inf), weights[traffic]
        self.size += count_total(weights)
        rows = np.flatnonzero((ranks <= self._limit) & (ranks < np.inf))
        rows = rows[ranks[rows] <= _kth_lowest(ranks[rows], self._config.rows)]
        if len(rows):
            kept = [name for name in COLUMNS if batch.has(name)]
            if not self._config.embeddings and "embedding" in kept:
                kept.remove("embedding")
            records = batch.records.select(kept).take(pa.array(rows))
            self._enter([_Fresh(ranks[rows], records)])

    def _enter(self, fresh: list[_Fresh]) -> None:
        self._fresh.extend(fresh)
        ranks = self._ranks()
        self._limit = _kth_lowest(ranks, self._config.rows)
        if len(ranks) > _SLACK * self._config.rows:
            self._settle()

    def _ranks(self) -> NDArray[np.float64]:
        return np.concatenate([[rank for rank, _ in self._rows], *(part.ranks for part in self._fresh)])

    def _settle(self) -> None:
        """Pack the fresh rows that are among the lowest, and let go of all others."""
        for ranks, records in self._fresh:
            chosen = np.flatnonzero(ranks <= self._limit)
            if len(chosen):
                packed = pack_rows(records.take(pa.array(chosen)))
                self._rows.extend(zip(ranks[chosen].tolist(), packed, strict=True))
        self._fresh = []
        self._rows = sorted(self._rows)[: self._config.rows]

    def rows(self) -> list[tuple[float, bytes]]:
        """The sample: ranks and packed rows (`sample_rows.unpack_row`), the lowest rank first."""
        self._settle()
        return self._rows

    def merge(self, other: SamplesSummary) -> None:
        """Take in another summary."""
        if self._config != other._config:
            raise IncompatibleStateError(
                f"samples: expected a summary of {_described(self._config)}, got {_described(other._config)}"
            )
        self.size += other.size
        self._rows = [*self._rows, *other._rows]
        self._enter(other._fresh)

    def copy(self) -> SamplesSummary:
        """An independent copy; the rows themselves are never changed, so both share them."""
        twin = SamplesSummary(self._config)
        twin._rows, twin._fresh = list(self._rows), list(self._fresh)
        twin._limit, twin.size = self._limit, self.size.copy()
        return twin

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint: at most `rows` rows."""
        return pack([_FORM, self._config.rows, self._config.embeddings, self.size, self.rows()])


class SamplesMonitor:
    """A uniform sample of events by window, for the history; it says nothing by itself.

    Reads the fields of `sample_rows.COLUMNS`, `probe_id` and `sampling_weight`. Emits no samples and no
    readings, so it adds nothing to any label set. No text is kept: an event has none, and `input_hash` is
    keyed.
    """

    name = "samples"
    #: Counters over the life of the process are of no use for rows.
    counts = False

    def __init__(self, config: SamplesConfig) -> None:
        self._config = config

    @property
    def fields(self) -> frozenset[str]:
        """Optional event fields it reads."""
        if not self._config.rows:
            return frozenset()
        left_out = () if self._config.embeddings else ("embedding",)
        return frozenset(COLUMNS).union(("probe_id",)).difference(left_out)

    def summary(self) -> SamplesSummary:
        """An empty summary."""
        return SamplesSummary(self._config)

    def load(self, data: bytes) -> SamplesSummary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: it has other columns or another number of rows.
        """
        form, *fields = unpack(data)
        if form != _FORM:
            raise IncompatibleStateError(f"samples: stored summary has form {form}, expected {_FORM}")
        wanted, embeddings, size, rows = fields
        summary = SamplesSummary(SamplesConfig(rows=wanted, embeddings=embeddings))
        summary.size = size
        summary._rows = [(rank, row) for rank, row in rows]
        loaded = self.summary()
        loaded.merge(summary)
        return loaded

    def collect(
        self,
        series: SeriesKey,  # noqa: ARG002 - protocol
        summary: SamplesSummary,  # noqa: ARG002 - protocol
    ) -> Iterable[Sample]:
        """Nothing."""
        return ()

    def read(
        self,
        window: Window,  # noqa: ARG002 - protocol
        summaries: Mapping[SeriesKey, SamplesSummary],  # noqa: ARG002 - protocol
        first_seen: Mapping[SeriesKey, int],  # noqa: ARG002 - protocol
    ) -> Iterable[Reading]:
        """Nothing: the history takes the rows themselves."""
        return ()


def _kth_lowest(ranks: NDArray[np.float64], k: int) -> float:
    """The k-th lowest rank, infinite where there are fewer."""
    return float(np.partition(ranks, k - 1)[k - 1]) if len(ranks) >= k > 0 else np.inf


def _described(config: SamplesConfig) -> str:
    return f"{config.rows} rows {'with' if config.embeddings else 'without'} embeddings"
