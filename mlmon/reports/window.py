"""The window's events: which of all that is read belong to what is reported, their field sums and a sample.

Reading is a single pass in bounded memory, whatever the length of the window.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.monitors.drift_rows import carrying_rows
from mlmon.reports.rows import RowSample
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from mlmon.baseline.model import ScopeKey
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.drift import Extractor

__all__ = ["Chosen", "Gathered", "Seen", "WindowEvents", "parse_segment", "plain_rows"]

#: Combinations of service, model, version and deployment remembered to tell what there was instead.
_SEEN_MOST = 50


class Chosen(NamedTuple):
    """Which events are wanted.

    Attributes:
        scope: their service, model and version.
        deployment: as in the contract; absent ones are stable.
        segment: as in `SeriesKey`, such as "language=de,tenant=a"; "" is all.
        start_us: first event time, µs.
        end_us: event time after the last, µs.
    """

    scope: ScopeKey
    deployment: str = "stable"
    segment: str = ""
    start_us: int = -(2**62)
    end_us: int = 2**62


class Seen:
    """What passed by, to be named when nothing of it was wanted. Bounded.

    Attributes:
        counts: events within the time by (service, model, version, deployment); a None stands for the rest.
        first_us: least event time of all, whatever was wanted; infinite before the first.
        last_us: greatest.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...] | None] = Counter()
        self.first_us = math.inf
        self.last_us = -math.inf

    def times(self, times: NDArray[np.int64]) -> None:
        """Take in event times."""
        if len(times):
            self.first_us = min(self.first_us, int(times.min()))
            self.last_us = max(self.last_us, int(times.max()))

    def add(self, batch: EventBatch) -> None:
        """Take in events within the time."""
        columns = [
            batch.codes(name, "stable" if name == "deployment" else "")
            for name in ("service", "model_name", "model_version", "deployment")
        ]
        places = np.stack([codes for codes, _ in columns], axis=1)
        rows, counts = np.unique(places, axis=0, return_counts=True)
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            key = tuple(values[code] for code, (_, values) in zip(row, columns, strict=True))
            known = key in self.counts or len(self.counts) < _SEEN_MOST
            self.counts[key if known else None] += count


class Gathered(NamedTuple):
    """The window, read.

    Attributes:
        sums: by "monitor/field".
        sample: events, uniform over traffic.
        events: sampled events of it that carry fields.
        weight: Σw of them.
        first_us: event time of the first, µs.
        last_us: of the last.
    """

    sums: dict[str, FieldSums]
    sample: pa.Table
    events: int
    weight: float
    first_us: int
    last_us: int


class WindowEvents:
    """Takes events in and keeps of the wanted ones their field sums and a sample.

    Args:
        chosen: which are wanted.
        extractors: by monitor.
        sample_rows: size of the sample.

    Attributes:
        seen: what passed by.
    """

    def __init__(self, chosen: Chosen, extractors: Mapping[str, Extractor], sample_rows: int) -> None:
        self._chosen = chosen
        self._wanted_segment = parse_segment(chosen.segment)
        self._extractors = extractors
        self._sums = {
            monitor: {name: FieldSums(spec.width) for name, spec in extractor.fields.items()}
            for monitor, extractor in extractors.items()
        }
        self._sample = RowSample(sample_rows)
        self._times = Seen()
        self.seen = Seen()

    def add(self, batch: EventBatch) -> None:
        """Take in any events, in any order."""
        times = batch.times()
        self.seen.times(times)
        batch = _kept(batch, (times >= self._chosen.start_us) & (times < self._chosen.end_us))
        if not len(batch):
            return
        self.seen.add(batch)
        batch = _kept(batch, self._mask(batch))
        if not len(batch):
            return
        for monitor, extractor in self._extractors.items():
            extractor.extract(batch, self._sums[monitor])
        plain = plain_rows(batch)
        if len(plain):
            self._times.times(plain.times())
            self._sample.add(plain, plain.weights())

    def _mask(self, batch: EventBatch) -> NDArray[np.bool_]:
        scope = self._chosen.scope
        wanted = [
            (batch.codes("service"), scope.service),
            (batch.codes("model_name"), scope.model),
            (batch.codes("model_version"), scope.version),
            (batch.codes("deployment", "stable"), self._chosen.deployment),
            *((batch.segment(name), value) for name, value in self._wanted_segment.items()),
        ]
        mask = np.ones(len(batch), np.bool_)
        for (codes, values), value in wanted:
            mask &= np.array([one == value for one in values], np.bool_)[codes]
        return mask

    def gathered(self) -> Gathered | None:
        """What came together, or None where nothing was wanted."""
        if not self._sample.events:
            return None
        sums = {
            f"{monitor}/{name}": one for monitor, fields in self._sums.items() for name, one in fields.items()
        }
        return Gathered(
            sums,
            self._sample.table(),
            self._sample.events,
            self._sample.weight,
            int(self._times.first_us),
            int(self._times.last_us),
        )


def parse_segment(segment: str) -> dict[str, str]:
    """The keys and values of a segment's name.

    Example:
        >>> parse_segment("language=de,tenant=a")
        {'language': 'de', 'tenant': 'a'}
        >>> parse_segment("")
        {}
    """
    parts = (part.partition("=") for part in segment.split(",") if part)
    return {key: value for key, _, value in parts}


def plain_rows(batch: EventBatch) -> EventBatch:
    """The events that speak of traffic: answered well, and no golden probes."""
    rows = carrying_rows(batch)
    if rows is None:
        return batch.slice(0, 0)
    return batch if rows.places is None else batch.take(rows.places)


def _kept(batch: EventBatch, mask: NDArray[np.bool_]) -> EventBatch:
    return batch if mask.all() else batch.take(np.flatnonzero(mask))
