"""Events of a reference on disk, by scope, to be read several times in the order of event time.

Events arrive in any order and in batches of any size. Each scope's are gathered, sorted, and written as runs
(Arrow IPC files); reading merges the runs and cuts batches of one size. So what is learned from a stage
depends on the events alone, not on how they came. Events of one time are in the order of a hash of their id.

Memory: the events gathered (`_GATHERED_BYTES` over all scopes), or when reading one batch of 4,096 events for
each run that overlaps others in time. Disk: the events once, removed with the stage.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from mlmon.baseline.model import ScopeKey
from mlmon.calibration.merge import PLACE, Run, merged
from mlmon.engine.series import series_codes
from mlmon.errors import BaselineError
from mlmon.events.batch import EventBatch, distinct_rows
from mlmon.stats.hashing import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["BATCH_ROWS", "Stage", "StagedScope", "event_places"]

#: Events to a batch when a stage is read.
BATCH_ROWS = 4096
_RUN_ROWS = 65_536
_GATHERED_BYTES = 96 << 20
#: Distinct segments counted for a scope; those beyond are counted together, as `other` is.
_COUNTED_SEGMENTS = 100_000
_SEED = 0x6D6C6D6F6E


@dataclass(slots=True)
class StagedScope:
    """Events of one (service, model, version).

    Attributes:
        key: which.
        events: their number, probes not counted.
        probes: events that are golden probes.
        first_us: event time of the first that is no probe, µs.
        last_us: of the last.
        segments: events by segment, as in `SeriesKey`.
        uncounted: events of segments that are too many to count one by one.
    """

    key: ScopeKey
    events: int = 0
    probes: int = 0
    first_us: int = 2**63 - 1
    last_us: int = -(2**63)
    segments: Counter[str] = field(default_factory=Counter)
    uncounted: int = 0
    _runs: list[Run] = field(default_factory=list)
    _gathered: list[EventBatch] = field(default_factory=list)
    _bytes: int = 0
    _rows: int = 0

    def batches(self) -> Iterator[EventBatch]:
        """All events in the order of time, `BATCH_ROWS` at a time."""
        held: list[EventBatch] = []
        rows = 0
        for piece in merged(self._runs):
            held.append(piece)
            rows += len(piece)
            if rows < BATCH_ROWS:
                continue
            whole = EventBatch.concat(held)
            cut = rows - rows % BATCH_ROWS
            for start in range(0, cut, BATCH_ROWS):
                yield EventBatch(whole.records.slice(start, BATCH_ROWS))
            held = [EventBatch(whole.records.slice(cut))] if cut < rows else []
            rows -= cut
        if held:
            yield EventBatch.concat(held)


class Stage:
    """Takes events in; a context manager that removes its files.

    Args:
        segment_by: keys of the segments map that make a segment.
        max_scopes: most scopes taken; events of further ones are left out and counted.
        directory: where the temporary files go; None: where the system has them.

    Attributes:
        scopes: what was taken in.
        left_out: events of scopes beyond the bound.
    """

    def __init__(self, segment_by: tuple[str, ...], max_scopes: int, directory: str | None = None) -> None:
        self._segment_by = segment_by
        self._max_scopes = max_scopes
        self._parent = directory
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._written = 0
        self.scopes: dict[ScopeKey, StagedScope] = {}
        self.left_out = 0

    def __enter__(self) -> Self:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="mlmon-baseline-", dir=self._parent)
        except OSError as error:
            raise BaselineError(
                f"temporary files cannot be written ({error}): name another directory for them"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, batch: EventBatch) -> None:
        """Take events in. Label events are no requests: they are left out.

        Raises:
            BaselineError: there is no room for the temporary files.
        """
        batch = batch.requests()
        if not len(batch):
            return
        columns = [batch.codes(name) for name in ("service", "model_name", "model_version")]
        cells, rows = distinct_rows(columns, len(batch))
        keys = [ScopeKey(*row) for row in rows]
        for key in dict.fromkeys(keys):
            members = np.isin(cells, [place for place, one in enumerate(keys) if one == key])
            part = batch if bool(members.all()) else batch.take(np.flatnonzero(members))
            self._take(key, part)
        while sum(scope._bytes for scope in self.scopes.values()) > _GATHERED_BYTES:
            self._write(max(self.scopes.values(), key=lambda scope: scope._bytes))

    def finish(self) -> None:
        """Write what is gathered; after this the scopes can be read."""
        for scope in self.scopes.values():
            self._write(scope)

    def _take(self, key: ScopeKey, batch: EventBatch) -> None:
        scope = self.scopes.get(key)
        if scope is None:
            if len(self.scopes) >= self._max_scopes:
                self.left_out += len(batch)
                return
            scope = self.scopes[key] = StagedScope(key)
        self._note(scope, batch)
        scope._gathered.append(batch)
        scope._bytes += batch.records.nbytes
        scope._rows += len(batch)
        if scope._rows >= _RUN_ROWS:
            self._write(scope)

    def _note(self, scope: StagedScope, batch: EventBatch) -> None:
        """Count a batch: events, times, segments."""
        probe = batch.column("probe_id")
        probes = len(batch) - probe.null_count if probe is not None else 0
        scope.probes += probes
        if probes == len(batch):
            return
        if probe is not None and probes:
            batch = batch.take(np.flatnonzero(probe.is_null().to_numpy(zero_copy_only=False)))
        scope.events += len(batch)
        times = batch.times()
        scope.first_us = min(scope.first_us, int(times.min()))
        scope.last_us = max(scope.last_us, int(times.max()))
        if not self._segment_by:
            return
        codes, keys = series_codes(batch, self._segment_by)
        for series, count in zip(keys, np.bincount(codes, minlength=len(keys)).tolist(), strict=True):
            if series.segment in scope.segments or len(scope.segments) < _COUNTED_SEGMENTS:
                scope.segments[series.segment] += count
            else:
                scope.uncounted += count

    def _write(self, scope: StagedScope) -> None:
        """Sort what a scope has gathered and write it as a run."""
        if not scope._gathered:
            return
        whole = EventBatch.concat(scope._gathered)
        scope._gathered, scope._bytes, scope._rows = [], 0, 0
        places = event_places(whole.records.column("event_id"))
        times = whole.times()
        order = np.lexsort((places, times))
        records = whole.records
        if np.any(order[1:] < order[:-1]):
            records, times, places = records.take(pa.array(order)), times[order], places[order]
        if self._folder is None:
            raise BaselineError("a stage takes events inside `with` only")
        path = Path(self._folder.name) / f"{self._written}.arrow"
        self._written += 1
        try:
            scope._runs.append(Run.write(path, records.append_column(PLACE, pa.array(places)), times))
        except OSError as error:
            raise BaselineError(
                f"temporary files cannot be written ({error}): make room or name another directory for them"
            ) from error


def event_places(ids: pa.Array, seed: int = _SEED) -> NDArray[np.uint64]:
    """A hash of each string of a column without nulls, shape (n,)."""
    _, offsets, data = ids.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(ids) + 1, 4 * ids.offset)
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return hash_bytes(bounds, content, seed)
