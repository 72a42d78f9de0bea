"""Which series an event belongs to, and how many series there may be.

Every event belongs to exactly one series, so sums over series are totals. Two caps bound them: distinct
segments per (service, model, version, deployment), and series in all. What goes over a cap is counted under
`other`, never dropped.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

from mlmon.events.batch import distinct_rows
from mlmon.monitors.base import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch

__all__ = ["OTHER", "OTHER_SERIES", "SeriesConfig", "SeriesTable", "cut", "series_codes"]

OTHER = "other"
OTHER_SERIES = SeriesKey(OTHER, OTHER, OTHER, OTHER, OTHER)


class SeriesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[series]`: what events are told apart by."""

    segment_by: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            max_length=4,
            description="Keys of the events' segments map that split a series, such as language or tenant. "
            "Every value met becomes a label value of its own, up to max_segments.",
        ),
    ] = ()
    max_series: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=20_000,
            description="Most series kept at once, in series. Each costs some 300 Prometheus samples and "
            "about 20 kB of memory.",
        ),
    ] = 500
    max_segments: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=10_000,
            description="Most segments kept for one service, model, version and deployment, in segments.",
        ),
    ] = 50
    expiry_seconds: Annotated[
        int,
        msgspec.Meta(
            ge=60,
            description="A series without events for this long, in event time, makes room for others.",
        ),
    ] = 86_400


def series_codes(batch: EventBatch, segment_by: tuple[str, ...]) -> tuple[NDArray[np.intp], list[SeriesKey]]:
    """Tell the series of a batch apart.

    Returns:
        (codes, keys): event i belongs to series `keys[codes[i]]`; keys are distinct.
    """
    columns = [
        batch.codes("service"),
        batch.codes("model_name"),
        batch.codes("model_version"),
        batch.codes("deployment", "stable"),
        *(batch.segment(name) for name in segment_by),
    ]
    codes, rows = distinct_rows(columns, len(batch))
    keys = [_key(row, segment_by) for row in rows]
    position = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    if len(position) == len(keys):
        return codes, keys
    return np.array([position[key] for key in keys], np.intp)[codes], list(position)


def _key(row: list[str], segment_by: tuple[str, ...]) -> SeriesKey:
    segment = ",".join(f"{name}={value}" for name, value in zip(segment_by, row[4:], strict=True))
    return SeriesKey(row[0], row[1], row[2], row[3], segment)


def cut(
    batch: EventBatch, starts: NDArray[np.int64], codes: NDArray[np.intp], keys: list[SeriesKey]
) -> Iterator[tuple[int, SeriesKey, EventBatch]]:
    """Cut a batch into its windows and series; a batch that is one group is not copied."""
    windows, window_codes = np.unique(starts, return_inverse=True)
    groups = window_codes * len(keys) + codes
    if np.any(groups[1:] < groups[:-1]):
        order = np.argsort(groups, kind="stable")
        batch, groups = batch.take(order), groups[order]
    cuts = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    edges = [0, *cuts.tolist(), len(groups)]
    for first, stop in pairwise(edges):
        window, series = divmod(int(groups[first]), len(keys))
        yield int(windows[window]), keys[series], batch.slice(first, stop - first)


class SeriesTable:
    """The series kept at present, within the caps.

    Memory: one entry a series, at most `max_series` plus one `other` for each service seen within them.
    """

    def __init__(self, config: SeriesConfig) -> None:
        self._config = config
        self._last_us: dict[SeriesKey, int] = {}
        self._segments: Counter[SeriesKey] = Counter()

    def __len__(self) -> int:
        return len(self._last_us)

    def __contains__(self, key: SeriesKey) -> bool:
        return key in self._last_us

    def admit(self, key: SeriesKey) -> tuple[SeriesKey, str]:
        """The key to count an event of `key` under, and which cap changed it (`segment`, `series` or "")."""
        if key in self._last_us:
            return key, ""
        kind = ""
        base = key._replace(segment="")
        if key.segment and self._segments[base] >= self._config.max_segments:
            key, kind = key._replace(segment=OTHER), "segment"
        if key not in self._last_us and len(self._last_us) >= self._config.max_series:
            key, kind = OTHER_SERIES, "series"
        self.keep(key)
        return key, kind

    def keep(self, key: SeriesKey) -> None:
        """Keep a series that is already in the state, whatever the caps say."""
        if key not in self._last_us:
            self._last_us[key] = 0
            if key.segment and key.segment != OTHER:
                self._segments[key._replace(segment="")] += 1

    def touch(self, key: SeriesKey, last_us: int) -> None:
        """Note the newest event time of a series."""
        self._last_us[key] = max(self._last_us[key], last_us)

    def expire(self, before_us: int, held: Iterable[SeriesKey]) -> list[SeriesKey]:
        """Let go of series whose newest event is older, except those still held in windows; returns them."""
        keep = set(held)
        gone = [key for key, last in self._last_us.items() if last < before_us and key not in keep]
        for key in gone:
            del self._last_us[key]
            if key.segment and key.segment != OTHER:
                self._segments[key._replace(segment="")] -= 1
        return gone
