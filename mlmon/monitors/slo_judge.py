"""Events to outcomes: which are good and bad by an objective, and in which bucket of request time they are.

Vectorised over a batch. An event is judged by the version of the objective in force at its request time; its
bad weight is put into the currency of the newest version (times newest budget / its budget), so that sums
over a change of the target are the burn of each event under what was promised then, as the recording rules
have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

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
_Any = TypeVar("_Any", bound=np.generic)
_Columns: TypeAlias = "Sequence[NDArray[np.float64] | None]"
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
    """Rows that are events of an objective: how many each counts for, and how many of these are bad.

    `rows` are all of the batch where it is None, `events` are one each where it is None.
    """

    rows: NDArray[np.intp] | None
    events: NDArray[np.float64] | None
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
        self.requests = None if labels is None else np.flatnonzero(~labels)


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
        By objective what it says of it, None where none of its events are; and the cells of all, with the
        requests by base bucket where an objective rests on labels.
    """
    scene = _Scene(batch, judging.base_us)
    found = [
        _outcome(judging, index, scene, _JUDGES[objective.judge](scene, objective))
        for index, objective in enumerate(judging.objectives)
    ]
    cells = [outcome.cells for outcome in found if outcome is not None]
    if any(objective.labelled for objective in judging.objectives):
        units, weights = _take(scene.units, scene.requests), _take(scene.weights, scene.requests)
        cells.append(_cells(len(judging.objectives), 0, units, (None, weights)))
    return found, _joined(cells)


def _outcome(judging: Judging, index: int, scene: _Scene, judged: _Judged | None) -> Outcome | None:
    objective, tiers = judging.objectives[index], judging.tiers[index]
    if judged is None or not len(judged.bad):
        return None
    (rows, events, bad), scale = _in_force(objective, scene, judged)
    if not len(bad):
        return None
    weights, units = _take(scene.weights, rows), _take(scene.units, rows)
    squares = weights * weights
    spoilt, spoilt_squares = weights * bad, squares * bad
    of_all = (events, weights, squares) if events is None else (events, weights * events, squares * events)
    lost = np.array([bad.sum(), spoilt.sum(), spoilt_squares.sum()])
    whole = np.array([len(bad) if column is None else column.sum() for column in of_all])
    columns = (
        *of_all,
        spoilt * scale,
        spoilt_squares * scale**2,
        *((weights,) if objective.labelled else ()),
    )
    late = np.zeros(2, np.int64)
    if scene.age_us is None:
        cells = _cells(index, 0, units // tiers.lengths[0], columns)
    else:
        age = _take(scene.age_us, rows)
        reach = [most * judging.base_us for most in tiers.reach]
        late[0] = np.count_nonzero(age > judging.delay_us(objective)) if objective.labelled else 0
        late[1] = np.count_nonzero(age > reach[2])
        cells = _by_age(index, tiers, np.searchsorted(reach, age), units, columns)
    return Outcome(np.stack([whole - lost, lost]), late, cells)


def _take(values: NDArray[_Any], rows: NDArray[np.intp] | None) -> NDArray[_Any]:
    return values if rows is None else values[rows]


def _by_age(
    index: int, tiers: Tiers, held: NDArray[np.intp], units: NDArray[np.int64], columns: _Columns
) -> Cells:
    """Old events go into long buckets only; what is older than all of them goes nowhere."""
    found = []
    for tier, length in enumerate(tiers.lengths):
        here = np.flatnonzero(held == tier)
        if len(here):
            part = tuple(None if column is None else column[here] for column in columns)
            found.append(_cells(index, tier, units[here] // length, part))
    return _joined(found)


def _in_force(
    objective: JudgedObjective, scene: _Scene, judged: _Judged
) -> tuple[_Judged, NDArray[np.float64] | float]:
    """Events that any version speaks of, and what a bad one is worth in the newest version's currency."""
    versions = objective.versions
    if len(versions) == 1 and versions[0].since_us is None:
        return judged, 1.0
    which = _version(objective, _take(scene.times, judged.rows))
    known = np.flatnonzero(which >= 0)
    scales = np.array([versions[-1].budget / version.budget for version in versions])
    rows = known if judged.rows is None else judged.rows[known]
    events = None if judged.events is None else judged.events[known]
    return _Judged(rows, events, judged.bad[known]), scales[which[known]]


def _version(objective: JudgedObjective, times: NDArray[np.int64]) -> NDArray[np.intp]:
    """Index of the version in force; -1 before the first."""
    least = np.iinfo(np.int64).min
    starts = [least if version.since_us is None else version.since_us for version in objective.versions]
    return np.searchsorted(np.array(starts, np.int64), times, side="right") - 1


# --- judges: rows, how many events each is, how many of these are bad


def _availability(scene: _Scene, _objective: JudgedObjective) -> _Judged | None:
    codes, values = scene.batch.codes("status", "ok")
    failed = np.array([value in _FAULTS for value in values], float)
    return _Judged(scene.requests, None, failed[_take(codes, scene.requests)])


def _latency(scene: _Scene, objective: JudgedObjective) -> _Judged | None:
    values = scene.batch.floats("latency_seconds")
    if values is None:
        return None
    there = (values >= 0) & (values < np.inf)
    rows = scene.requests
    if rows is not None:
        rows = rows[there[rows]]
    elif not there.all():
        rows = np.flatnonzero(there)
    limits = np.array([version.limit_seconds for version in objective.versions], float)
    limit: NDArray[np.float64] | float = limits[0]
    if len(limits) > 1:
        limit = limits[np.maximum(_version(objective, _take(scene.times, rows)), 0)]
    return _Judged(rows, None, (_take(values, rows) > limit).astype(float))


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
    return _Judged(rows, None, (sides[0] != sides[1]).astype(float))


def _masked_accuracy(scene: _Scene, _objective: JudgedObjective) -> _Judged | None:
    labelled = scene.batch.floats("labelled_masked_tokens")
    right = scene.batch.floats("right_masked_tokens")
    if labelled is None or right is None:
        return None
    rows = np.flatnonzero((labelled > 0) & (right >= 0))
    count = labelled[rows]
    return _Judged(rows, count, np.maximum(count - right[rows], 0.0))


def _flag(field: str) -> Callable[[_Scene, JudgedObjective], _Judged | None]:
    """Bad where a field that says 1 or 0 says 0."""

    def judge(scene: _Scene, _objective: JudgedObjective) -> _Judged | None:
        values = scene.batch.floats(field)
        if values is None:
            return None
        rows = np.flatnonzero(~np.isnan(values))
        return _Judged(rows, None, (values[rows] < 1).astype(float))

    return judge


_JUDGES: dict[str, Callable[[_Scene, JudgedObjective], _Judged | None]] = {
    "availability": _availability,
    "latency": _latency,
    "accuracy": _accuracy,
    "masked-accuracy": _masked_accuracy,
    "agreement": _flag("agreement"),
    "echo": _flag("echo"),
}


def _present(batch: EventBatch, fields: Sequence[str]) -> NDArray[np.intp] | None:
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


def _cells(place: int, tier: int, buckets: NDArray[np.int64], columns: _Columns) -> Cells:
    """Add up columns by bucket; those not given are 0, and None is 1 for each row."""
    if not len(buckets):
        return Cells.none()
    first, last = int(buckets.min()), int(buckets.max())
    if first == last:
        sums = np.zeros((1, WIDTH))
        sums[0, : len(columns)] = [len(buckets) if column is None else column.sum() for column in columns]
        return Cells(_keys(place, tier, np.array([first])), sums)
    if last - first < _DENSE:
        codes = buckets - first
        sums = _added(codes, columns, last - first + 1)
        there = np.flatnonzero(np.bincount(codes))
        return Cells(_keys(place, tier, there + first), sums[there])
    names, codes = np.unique(buckets, return_inverse=True)
    return Cells(_keys(place, tier, names), _added(codes, columns, len(names)))


def _added(codes: NDArray[np.intp], columns: _Columns, size: int) -> NDArray[np.float64]:
    out = np.zeros((size, WIDTH))
    for index, column in enumerate(columns):
        out[:, index] = np.bincount(codes, column, size)
    return out


def _joined(parts: Sequence[Cells]) -> Cells:
    """Cells whose keys follow each other, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    return Cells(
        np.concatenate([np.zeros(0, np.int64), *(part.keys for part in parts)]),
        np.concatenate([np.zeros((0, WIDTH)), *(part.sums for part in parts)]),
    )


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
    sums = np.concatenate([a.sums, b.sums])
    names, codes = np.unique(np.concatenate([a.keys, b.keys]), return_inverse=True)
    return Cells(names, _added(codes, tuple(sums.T), len(names)))
