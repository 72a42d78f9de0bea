"""Events to outcomes: which are good and bad by an objective, and in which bucket of request time they are.

Vectorised over a batch. An event is judged by the version of the objective in force at its request time; its
bad weight is put into the currency of the newest version (times newest budget / its budget), so that sums
over a change of the target are the burn of each event under what was promised then, as the recording rules
have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch
    from mlmon.monitors.slo_objectives import JudgedObjective, Judging, Tiers

__all__ = ["COLUMNS", "WIDTH", "Cells", "Outcome", "judge_batch", "merge_cells", "split_key"]

#: Of a cell: sampled events, Σw, Σw², bad Σw and bad Σw² in the newest version's currency, Σw of labelled
#: requests.
COLUMNS = ("n", "weight", "weight_squared", "bad", "bad_squared", "labelled")
WIDTH = len(COLUMNS)
_FAULTS = ("error", "timeout")
#: A key is (objective, tier, bucket) in 64 bits; a bucket may be before 1970.
_BITS = 52
_ZERO = 1 << (_BITS - 1)
_MASK = (1 << _BITS) - 1
#: Buckets so close together are counted without sorting.
_DENSE = 8_192


class Cells(NamedTuple):
    """Sums by key: keys rise, shape (m,); sums have the `COLUMNS`, shape (m, 6)."""

    keys: NDArray[np.int64]
    sums: NDArray[np.float64]

    @staticmethod
    def none() -> Cells:
        """No events."""
        return Cells(np.zeros(0, np.int64), np.zeros((0, WIDTH)))


class Outcome(NamedTuple):
    """What a batch says of one objective.

    Attributes:
        totals: n, Σw, Σw² of good and of bad events, shape (2, 3), as they are.
        late: label events beyond the label delay, and those of them older than any window, shape (2,).
        cells: what is in the buckets.
    """

    totals: NDArray[np.float64]
    late: NDArray[np.int64]
    cells: Cells


class _Judged(NamedTuple):
    """Rows that are events of an objective: how many each counts for, and how many of these are bad."""

    rows: NDArray[np.intp]
    events: NDArray[np.float64]
    bad: NDArray[np.float64]


class _Scene:
    """What all objectives need of a batch."""

    def __init__(self, batch: EventBatch, base_us: int) -> None:
        self.batch = batch
        self.weights = batch.weights()
        self.times = batch.request_times()
        self.units = self.times // base_us
        labels = batch.label_rows()
        self.age_us = None if labels is None else batch.times() - self.times
        self.requests = np.arange(len(batch)) if labels is None else np.flatnonzero(~labels)


def split_key(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Objective, tier and bucket of keys; the objective after the last stands for requests of any kind.

    Example:
        >>> [part.tolist() for part in split_key(_keys(2, 1, np.array([-3, 7])))]
        [[2, 2], [1, 1], [-3, 7]]
    """
    place = keys >> _BITS
    return place >> 2, place & 3, (keys & _MASK) - _ZERO


def _keys(objective: int, tier: int, buckets: NDArray[np.int64]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = (((objective << 2) | tier) << _BITS) + (buckets + _ZERO)
    return keys


def judge_batch(judging: Judging, batch: EventBatch) -> tuple[list[Outcome | None], Cells]:
    """Judge a batch by every objective.

    Returns:
        By objective what it says of it, None where none of its events are; and the requests there are, by
        base bucket, which only objectives with labels need.
    """
    scene = _Scene(batch, judging.base_us)
    found = [
        _outcome(judging, index, scene, _JUDGES[objective.judge](scene, objective))
        for index, objective in enumerate(judging.objectives)
    ]
    requests = Cells.none()
    if len(scene.requests) and any(objective.labelled for objective in judging.objectives):
        sums = np.zeros((len(scene.requests), WIDTH))
        sums[:, 0] = 1
        sums[:, 1] = scene.weights[scene.requests]
        place = len(judging.objectives)
        requests = _gather(_keys(place, 0, scene.units[scene.requests]), sums)
    return found, requests


def _outcome(judging: Judging, index: int, scene: _Scene, judged: _Judged | None) -> Outcome | None:
    objective, tiers = judging.objectives[index], judging.tiers[index]
    if judged is None:
        return None
    judged, scale = _in_force(objective, scene, judged)
    if not len(judged.rows):
        return None
    rows, count, bad = judged
    weights = scene.weights[rows]
    squares = weights * weights
    spoilt = np.array([bad.sum(), np.dot(weights, bad), np.dot(squares, bad)])
    whole = np.array([count.sum(), np.dot(weights, count), np.dot(squares, count)])
    sums = np.empty((len(rows), WIDTH))
    sums[:, 0] = count
    sums[:, 1] = weights * count
    sums[:, 2] = squares * count
    sums[:, 3] = weights * bad * scale
    sums[:, 4] = squares * bad * (scale * scale)
    sums[:, 5] = weights if objective.labelled else 0.0
    units = scene.units[rows]
    late = np.zeros(2, np.int64)
    if scene.age_us is None:
        cells = _gather(_keys(index, 0, units // tiers.lengths[0]), sums)
    else:
        age = scene.age_us[rows]
        reach = [units_us * judging.base_us for units_us in tiers.reach]
        late[0] = np.count_nonzero(age > judging.delay_us(objective)) if objective.labelled else 0
        late[1] = np.count_nonzero(age > reach[2])
        cells = _by_age(index, tiers, np.searchsorted(reach, age), units, sums)
    return Outcome(np.stack([whole - spoilt, spoilt]), late, cells)


def _by_age(
    index: int, tiers: Tiers, held: NDArray[np.intp], units: NDArray[np.int64], sums: NDArray[np.float64]
) -> Cells:
    """Old events go into long buckets only; what is older than all of them goes nowhere."""
    cells = Cells.none()
    for tier, length in enumerate(tiers.lengths):
        here = held == tier
        if here.any():
            cells = merge_cells(cells, _gather(_keys(index, tier, units[here] // length), sums[here]))
    return cells


def _in_force(
    objective: JudgedObjective, scene: _Scene, judged: _Judged
) -> tuple[_Judged, NDArray[np.float64] | float]:
    """Events that any version speaks of, and what a bad one is worth in the newest version's currency."""
    versions = objective.versions
    if len(versions) == 1 and versions[0].since_us is None:
        return judged, 1.0
    which = _version(objective, scene.times[judged.rows])
    known = which >= 0
    scales = np.array([versions[-1].budget / version.budget for version in versions])
    there = _Judged(judged.rows[known], judged.events[known], judged.bad[known])
    return there, scales[which[known]]


def _version(objective: JudgedObjective, times: NDArray[np.int64]) -> NDArray[np.intp]:
    """Index of the version in force; -1 before the first."""
    least = np.iinfo(np.int64).min
    starts = [least if version.since_us is None else version.since_us for version in objective.versions]
    return np.searchsorted(np.array(starts, np.int64), times, side="right") - 1


# --- judges: rows, how many events each is, how many of these are bad


def _availability(scene: _Scene, _objective: JudgedObjective) -> _Judged | None:
    codes, values = scene.batch.codes("status", "ok")
    failed = np.array([value in _FAULTS for value in values], float)
    rows = scene.requests
    return _Judged(rows, np.ones(len(rows)), failed[codes[rows]])


def _latency(scene: _Scene, objective: JudgedObjective) -> _Judged | None:
    values = scene.batch.floats("latency_seconds")
    if values is None:
        return None
    rows = scene.requests[(values[scene.requests] >= 0) & (values[scene.requests] < np.inf)]
    limits = np.array([version.limit_seconds for version in objective.versions], float)
    limit = limits[np.maximum(_version(objective, scene.times[rows]), 0)] if len(limits) > 1 else limits[0]
    return _Judged(rows, np.ones(len(rows)), (values[rows] > limit).astype(float))


def _accuracy(scene: _Scene, _objective: JudgedObjective) -> _Judged | None:
    rows = _present(scene.batch, ("label", "prediction"))
    if rows is None:
        return None
    sides = []
    names: dict[str, int] = {}
    for field in ("label", "prediction"):
        codes, values = scene.batch.codes(field)
        numbers = np.array([names.setdefault(value, len(names)) for value in values])
        sides.append(numbers[codes[rows]])
    return _Judged(rows, np.ones(len(rows)), (sides[0] != sides[1]).astype(float))


def _masked_accuracy(scene: _Scene, _objective: JudgedObjective) -> _Judged | None:
    labelled = scene.batch.floats("labelled_masked_tokens")
    right = scene.batch.floats("right_masked_tokens")
    if labelled is None or right is None:
        return None
    rows = np.flatnonzero((labelled > 0) & (right >= 0))
    count = labelled[rows]
    return _Judged(rows, count, np.maximum(count - right[rows], 0.0))


_JUDGES: dict[str, Callable[[_Scene, JudgedObjective], _Judged | None]] = {
    "availability": _availability,
    "latency": _latency,
    "accuracy": _accuracy,
    "masked-accuracy": _masked_accuracy,
}

_Names: TypeAlias = "Sequence[str]"


def _present(batch: EventBatch, fields: _Names) -> NDArray[np.intp] | None:
    """Rows in which none of these is null; None where there are none."""
    there = np.ones(len(batch), bool)
    for field in fields:
        column = batch.column(field)
        if column is None or column.null_count == len(column):
            return None
        if column.null_count:
            there &= column.is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(there)
    return rows if len(rows) else None


# --- sums by key


def _gather(keys: NDArray[np.int64], sums: NDArray[np.float64]) -> Cells:
    """Add up the rows of each key."""
    first, last = int(keys.min()), int(keys.max())
    if first == last:
        return Cells(np.array([first]), sums.sum(axis=0, keepdims=True))
    if last - first < _DENSE:
        codes = keys - first
        there = np.flatnonzero(np.bincount(codes))
        return Cells(there + first, _added(codes, sums, last - first + 1)[there])
    names, codes = np.unique(keys, return_inverse=True)
    return Cells(names, _added(codes, sums, len(names)))


def _added(codes: NDArray[np.intp], sums: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    out = np.empty((size, sums.shape[1]))
    for column in range(sums.shape[1]):
        out[:, column] = np.bincount(codes, sums[:, column], size)
    return out


def merge_cells(a: Cells, b: Cells) -> Cells:
    """Add two up; neither is changed.

    Example:
        >>> one = Cells(np.array([1, 2]), np.ones((2, WIDTH)))
        >>> merge_cells(one, Cells(np.array([2, 5]), np.ones((2, WIDTH)))).sums[:, 0].tolist()
        [1.0, 2.0, 1.0]
    """
    if not len(a.keys) or not len(b.keys):
        return a if len(a.keys) else b
    if np.array_equal(a.keys, b.keys):
        return Cells(a.keys, a.sums + b.sums)
    return _gather(np.concatenate([a.keys, b.keys]), np.concatenate([a.sums, b.sums]))
