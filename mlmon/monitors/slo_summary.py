"""Outcomes of a series by objective: in all, for the counters, and by bucket of request time, for burns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmon.errors import IncompatibleStateError
from mlmon.monitors.slo_judge import WIDTH, Cells, judge_batch, merge_cells
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch
    from mlmon.monitors.slo_objectives import Judging

__all__ = ["SloSummary"]

_FORM = 1


class SloSummary:
    """Outcomes of one series; see `SloMonitor`.

    Merging adds, so it is exact up to the rounding of sums. Memory: 250 bytes, and 56 for each objective and
    bucket
    met: of requests one or two a window; of labels at most as many as are held, some 3,700 for a delay of a
        day.

    Attributes:
        totals: n, Σw, Σw² of good and bad events by objective, shape (objectives, 2, 3).
        late: label events beyond the label delay, and those older than any window, shape (objectives, 2).
        cells: sums by objective, tier and bucket.
    """

    __slots__ = ("_judging", "cells", "late", "totals")

    def __init__(self, judging: Judging) -> None:
        self._judging = judging
        self.totals = np.zeros((len(judging.objectives), 2, 3))
        self.late = np.zeros((len(judging.objectives), 2), np.int64)
        self.cells = Cells.none()

    def update(self, batch: EventBatch) -> None:
        """Take in a batch."""
        if not len(batch):
            return
        outcomes, cells = judge_batch(self._judging, batch)
        for index, outcome in enumerate(outcomes):
            if outcome is not None:
                self.totals[index] += outcome.totals
                self.late[index] += outcome.late
        self.cells = merge_cells(self.cells, cells)

    def merge(self, other: SloSummary) -> None:
        """Take in another summary.

        Raises:
            IncompatibleStateError: it was judged by other objectives.
        """
        mine, theirs = self._judging, other._judging
        if (mine.digest, mine.base_us) != (theirs.digest, theirs.base_us):
            raise IncompatibleStateError(f"slo: cannot add outcomes of {theirs} to outcomes of {mine}")
        self.totals += other.totals
        self.late += other.late
        self.cells = merge_cells(self.cells, other.cells)

    def counted(self) -> SloSummary:
        """What counters are made of: all but the buckets, which only a window needs."""
        twin = SloSummary(self._judging)
        twin.totals = self.totals.copy()
        twin.late = self.late.copy()
        return twin

    def outcomes(self) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Objectives that met events: name, and n, Σw, Σw² of good and bad ones, shape (2, 3)."""
        for objective, totals in zip(self._judging.objectives, self.totals, strict=True):
            if totals[:, 0].any():
                yield objective.name, totals

    def copy(self) -> SloSummary:
        """An independent copy. Cells are shared, since they are replaced and never changed."""
        twin = self.counted()
        twin.cells = self.cells
        return twin

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint."""
        judging = self._judging
        return pack(
            [
                _FORM,
                [judging.digest, judging.time_scale, judging.base_us],
                self.totals,
                self.late,
                self.cells.keys,
                self.cells.sums,
            ]
        )

    @staticmethod
    def restored(data: bytes, judging: Judging) -> SloSummary:
        """The summary that `to_bytes` stored.

        Raises:
            IncompatibleStateError: it is damaged, of another form, or was judged by other objectives.
        """
        form, *fields = unpack(data)
        if form != _FORM:
            raise IncompatibleStateError(f"slo: stored summary has form {form}, expected {_FORM}")
        (digest, scale, base_us), totals, late, keys, sums = fields
        if (digest, base_us) != (judging.digest, judging.base_us):
            raise IncompatibleStateError(
                f"slo: stored outcomes were judged by objectives ({digest}) at time scale {scale:g}, "
                f"these are {judging}"
            )
        summary = SloSummary(judging)
        if totals.shape != summary.totals.shape or sums.shape != (len(keys), WIDTH):
            raise IncompatibleStateError(f"slo: stored summary has shapes {totals.shape} and {sums.shape}")
        summary.totals, summary.late, summary.cells = totals, late, Cells(keys, sums)
        return summary
