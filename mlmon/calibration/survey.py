"""A first look at a scope's events: how bursty they are, which columns have gaps, and a sample of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlmon.calibration.stage import event_places
from mlmon.events.batch import EventBatch
from mlmon.stats.blocks import block_length, burst_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlmon.calibration.stage import StagedScope

__all__ = ["Bursts", "Coverage", "Sampler", "Survey", "plain_events", "survey"]

#: Events whose scalars are looked at; of more, stretches of `BATCH_ROWS` in equal distances.
_LOOKED_AT = 262_144
_FEATURE = "feature "
_FEATURES = 16
_PROJECTIONS = 8
_NUMBERS = ("tokens", "characters", "unknown_tokens", "confidence", "entropy")
_LABELS = ("prediction", "language", "input_hash")
#: Columns whose gaps are told.
_COVERED = ("tokens", "token_ids", "embedding", "prediction", "confidence", "entropy")
_SEED = 0x73616D706C65


def plain_events(batch: EventBatch) -> tuple[EventBatch, EventBatch | None]:
    """Traffic and golden probes apart; None where there are no probes."""
    probe = batch.column("probe_id")
    if probe is None or probe.null_count == len(probe):
        return batch, None
    traffic = probe.is_null().to_numpy(zero_copy_only=False)
    return batch.take(np.flatnonzero(traffic)), batch.take(np.flatnonzero(~traffic))


class Bursts:
    """Scalars of events in the order of time, of which the autocorrelation tells how long bursts are.

    Numbers as they are, labels as the hash of their value, embeddings as projections on a few fixed random
    directions. Memory: 8 bytes a scalar of at most `_LOOKED_AT` events.
    """

    def __init__(self) -> None:
        self._stretches: list[dict[str, NDArray[np.float64]]] = []
        self._directions: dict[int, NDArray[np.float32]] = {}
        self._segments: list[NDArray[np.int64]] = []

    def add(self, batch: EventBatch, segments: NDArray[np.int64]) -> None:
        """Take in a stretch of events and the segment of each, shape (n,)."""
        found: dict[str, NDArray[np.float64]] = {}
        for name in _NUMBERS:
            values = batch.floats(name)
            if values is not None:
                found[name] = values
        for name in _LABELS:
            if batch.has(name):
                found[name] = _hashed(batch.column(name))
        found |= _features(batch)
        found |= self._projected(batch)
        self._stretches.append(found)
        self._segments.append(segments)

    def seen(self, segment: int) -> int:
        """Events of a segment among those looked at."""
        return sum(int((part == segment).sum()) for part in self._segments)

    def length(self, events: int, segment: int | None = None) -> tuple[float, list[str]]:
        """Length of bursts, in events.

        A feature whose bursts are too long for blocks of them, such as a counter, is left out and named: it
        says nothing of the other fields.

        Args:
            events: how many there are to make blocks of.
            segment: place of the only segment that counts; None: all.

        Returns:
            (length, features left out). The longest over all scalars; 1 where they are independent or few.
        """
        burst, slow = 1.0, []
        for name in sorted({name for stretch in self._stretches for name in stretch}):
            series = self._series(name, segment)
            if not len(series) or np.ptp(series) == 0:
                continue
            found = burst_length(series)
            if name.startswith(_FEATURE) and block_length(events, found) is None:
                slow.append(name.removeprefix(_FEATURE))
            else:
                burst = max(burst, found)
        return burst, slow

    def _series(self, name: str, segment: int | None) -> NDArray[np.float64]:
        parts = []
        for stretch, segments in zip(self._stretches, self._segments, strict=True):
            if name in stretch:
                values = stretch[name] if segment is None else stretch[name][segments == segment]
                parts.append(values[np.isfinite(values)])
        return np.concatenate(parts)

    def _projected(self, batch: EventBatch) -> dict[str, NDArray[np.float64]]:
        """Projections of the embeddings; events without one, or of another width than the first, have NaN."""
        column = batch.column("embedding")
        if column is None or column.null_count == len(column):
            return {}
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        width = int(lengths.max())
        rows = np.flatnonzero(lengths == width)
        if not width:
            return {}
        flat = column.take(pa.array(rows)).flatten().to_numpy(zero_copy_only=False)
        values = flat.reshape(len(rows), width).astype(np.float32)
        if width not in self._directions:
            rng = np.random.default_rng(width)
            self._directions[width] = rng.normal(size=(width, _PROJECTIONS)).astype(np.float32)
        out = np.full((len(batch), _PROJECTIONS), np.nan)
        out[rows] = values @ self._directions[width]
        return {f"embedding {i} of {width}": out[:, i] for i in range(_PROJECTIONS)}


def _hashed(column: pa.Array) -> NDArray[np.float64]:
    """Strings as numbers in 0 to 1 that tell them apart; null as NaN."""
    encoded = pc.dictionary_encode(column)
    values = [0.0] * len(encoded.dictionary)
    if len(values):
        places = event_places(encoded.dictionary, _SEED)
        values = (places.astype(np.float64) / 2.0**64).tolist()
    codes = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    numbers: NDArray[np.float64] = np.array([*values, np.nan])[codes.astype(np.intp)]
    return numbers


def _features(batch: EventBatch) -> dict[str, NDArray[np.float64]]:
    """The first features by name, numeric and categorical."""
    found: dict[str, NDArray[np.float64]] = {}
    for kind in ("numeric_features", "categorical_features"):
        struct = batch.column(kind)
        if struct is None:
            continue
        for name in sorted(child.name for child in struct.type)[:_FEATURES]:
            child = pc.struct_field(struct, name)
            if kind == "numeric_features":
                found[f"{_FEATURE}{name}"] = child.cast(pa.float64()).to_numpy(zero_copy_only=False)
            else:
                found[f"{_FEATURE}{name}"] = _hashed(child)
    return found


class Sampler:
    """A uniform sample of events: those with the smallest hashes of their ids, whatever their order.

    Memory: at most three times the rows asked for.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._kept: list[tuple[NDArray[np.uint64], pa.RecordBatch]] = []
        self._held = 0
        self._limit = np.uint64(2**64 - 1)

    def add(self, batch: EventBatch) -> None:
        """Take in events."""
        places = event_places(batch.records.column("event_id"), _SEED)
        rows = np.flatnonzero(places <= self._limit)
        if not len(rows) or not self._rows:
            return
        self._kept.append((places[rows], batch.records.take(pa.array(rows))))
        self._held += len(rows)
        if self._held > 2 * self._rows:
            self._cut()

    def table(self) -> pa.Table | None:
        """The sample in the order of the events, or None where there is nothing."""
        if self._held > self._rows:
            self._cut()
        if not self._kept:
            return None
        return pa.Table.from_batches([EventBatch.concat([EventBatch(r) for _, r in self._kept]).records])

    def _cut(self) -> None:
        places = np.concatenate([places for places, _ in self._kept])
        whole = EventBatch.concat([EventBatch(records) for _, records in self._kept]).records
        keep = np.sort(np.argpartition(places, self._rows - 1)[: self._rows])
        self._kept = [(places[keep], whole.take(pa.array(keep)))]
        self._held = len(keep)
        self._limit = places[keep].max()


@dataclass(slots=True)
class Coverage:
    """How many events carry a column.

    Attributes:
        carried: events by column.
        silent: events in whole batches without any, by column.
        events: all of them.
    """

    carried: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COVERED, 0))
    silent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COVERED, 0))
    events: int = 0

    def add(self, batch: EventBatch) -> None:
        """Count a batch."""
        self.events += len(batch)
        for name in _COVERED:
            column = batch.column(name)
            carried = 0 if column is None else len(column) - column.null_count
            self.carried[name] += carried
            if not carried:
                self.silent[name] += len(batch)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first look found.

    Attributes:
        bursts: how events follow each other.
        coverage: which columns have gaps.
        sample: a uniform sample of events.
        weight: Σw, Σw² of all events.
    """

    bursts: Bursts
    coverage: Coverage
    sample: pa.Table | None
    weight: tuple[float, float]


def survey(
    scope: StagedScope,
    segment_of: Callable[[EventBatch], NDArray[np.int64]],
    sample_rows: int,
    progress: Callable[[int], Any],
) -> Survey:
    """Read a scope once.

    Args:
        scope: the events.
        segment_of: the place of each event's segment.
        sample_rows: size of the sample.
        progress: is told how many events were read, batch by batch.
    """
    bursts, coverage, sampler = Bursts(), Coverage(), Sampler(sample_rows)
    every = max(1, -(-scope.events // _LOOKED_AT))
    weight = np.zeros(2)
    for index, batch in enumerate(scope.batches()):
        traffic, _ = plain_events(batch)
        if len(traffic):
            coverage.add(traffic)
            sampler.add(traffic)
            weights = traffic.weights()
            weight += [weights.sum(), weights @ weights]
            if index % every == 0:
                bursts.add(traffic, segment_of(traffic))
        progress(len(batch))
    return Survey(bursts, coverage, sampler.table(), (float(weight[0]), float(weight[1])))
