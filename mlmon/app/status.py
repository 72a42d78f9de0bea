"""Exact totals by partition, read from the checkpoint: what `mlmon status` shows.

Needs no running sidecar and takes no lock. Everything is as of each partition's last commit.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from mlmon.engine.state import META_KEY, PartitionMeta
from mlmon.windows import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlmon.checkpoint.base import Stored

__all__ = ["PartitionStatus", "SeriesStatus", "StatusReport", "report"]


class SeriesStatus(msgspec.Struct, frozen=True):
    """A series: its labels, sampled events, first and newest event time (µs), and where it is carried."""

    service: str
    model: str
    version: str
    deployment: str
    segment: str
    events: int
    first_us: int
    last_us: int
    partitions: tuple[str, ...]
    owners: tuple[str, ...]


class PartitionStatus(msgspec.Struct, frozen=True):
    """A partition: its position and totals since its first commit.

    `records` were read; of them and their rows `rejects` went to the dead letters; `events` were counted,
    `late` of them into no window. `windows` counts events by window start (µs), the most recent windows.
    """

    partition: str
    owner: str
    written_us: int
    next_offset: int
    records: int
    events: int
    late: int
    rejects: int
    dropped: int
    lost: int
    newest_event_us: int | None
    windows: dict[int, int]


class StatusReport(msgspec.Struct, frozen=True):
    """All partitions, all series, and the series carried in partitions of more than one sidecar."""

    partitions: list[PartitionStatus]
    series: list[SeriesStatus]
    split: list[SeriesStatus]


def report(stored: Iterable[tuple[str, Stored]]) -> StatusReport:
    """Sum up what a checkpoint holds.

    Args:
        stored: `Checkpoint.scan()`.

    Raises:
        IncompatibleStateError: it was written by a newer mlmon, or is damaged.
    """
    partitions: list[PartitionStatus] = []
    carried: defaultdict[tuple[str, ...], list[tuple[str, str, int, int, int]]] = defaultdict(list)
    for name, held in sorted(stored, key=lambda item: item[0]):
        if META_KEY not in held.records:
            continue
        meta = PartitionMeta.from_bytes(held.records[META_KEY])
        partitions.append(_partition(name, held.next_offset, meta))
        for key, seen in meta.series:
            carried[tuple(key)].append((name, meta.owner, seen.events, seen.first_us, seen.last_us))
    series = [_series(key, rows) for key, rows in sorted(carried.items())]
    return StatusReport(partitions, series, [s for s in series if len(s.owners) > 1])


def _partition(name: str, next_offset: int, meta: PartitionMeta) -> PartitionStatus:
    return PartitionStatus(
        partition=name,
        owner=meta.owner,
        written_us=meta.written_us,
        next_offset=next_offset,
        records=meta.records,
        events=meta.events,
        late=meta.late,
        rejects=meta.rejects,
        dropped=meta.dropped,
        lost=meta.lost,
        newest_event_us=None if meta.seen_us == NEVER else meta.seen_us,
        windows=dict(sorted(meta.windows.items())),
    )


def _series(key: tuple[str, ...], rows: list[tuple[str, str, int, int, int]]) -> SeriesStatus:
    service, model, version, deployment, segment = key
    return SeriesStatus(
        service=service,
        model=model,
        version=version,
        deployment=deployment,
        segment=segment,
        events=sum(row[2] for row in rows),
        first_us=min(row[3] for row in rows),
        last_us=max(row[4] for row in rows),
        partitions=tuple(row[0] for row in rows),
        owners=tuple(sorted({row[1] for row in rows})),
    )
