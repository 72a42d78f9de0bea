"""Which events of a batch carry fields, what they weigh, and their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch
    from mlmon.stats.sums import FieldSums

__all__ = [
    "ROW_FIELDS",
    "Rows",
    "add",
    "add_share",
    "carrying_rows",
    "children",
    "is_number",
    "is_text",
    "numbers",
]

#: Optional event fields that `carrying_rows` reads.
ROW_FIELDS = frozenset(("status", "probe_id", "sampling_weight"))

#: Types that NumPy reads as they are; comparing ids is some ten times faster than asking `pa.types`.
_PLAIN = frozenset((pa.float32().id, pa.float64().id))


class Rows(NamedTuple):
    """The events of a batch that carry fields.

    Attributes:
        places: their places in the batch, increasing; None: all of them.
        weights: their sampling weights, shape (n,).
        common: the weight, where all weigh the same: then counting is of integers.
    """

    places: NDArray[np.intp] | None
    weights: NDArray[np.float64]
    common: float | None

    @property
    def counting(self) -> NDArray[np.float64] | None:
        """What to give `bincount`: None where rows weigh the same, and counts times `common` are the sums."""
        return self.weights if self.common is None else None

    @property
    def scale(self) -> float:
        """What to multiply by what was counted with `counting`."""
        return 1.0 if self.common is None else self.common

    def size(self) -> NDArray[np.float64]:
        """n, Σw, Σw² of all rows, shape (3,)."""
        if self.common is not None:
            return self.uniform(len(self.weights))
        return np.array([len(self.weights), self.weights.sum(), np.dot(self.weights, self.weights)])

    def uniform(self, count: float) -> NDArray[np.float64]:
        """n, Σw, Σw² of some rows that weigh `common`, shape (3,)."""
        weight = self.scale
        return np.array([count, count * weight, count * weight * weight])

    def sizes(self, carried: NDArray[np.bool_]) -> NDArray[np.float64]:
        """n, Σw, Σw² of the rows that carry each field, shape (fields, 3); `carried` is (fields, n)."""
        powers = np.stack([np.ones_like(self.weights), self.weights, self.weights * self.weights], axis=1)
        return carried.astype(np.float64) @ powers


def carrying_rows(batch: EventBatch) -> Rows | None:
    """The events answered well (`status` ok or absent) that are no golden probes; None without any."""
    places = _places(batch)
    count = len(batch) if places is None else len(places)
    if not count:
        return None
    if not batch.has("sampling_weight"):
        return Rows(places, np.ones(count), 1.0)
    weights = batch.weights() if places is None else batch.weights()[places]
    same = bool((weights == weights[0]).all())
    return Rows(places, weights, float(weights[0]) if same else None)


def _places(batch: EventBatch) -> NDArray[np.intp] | None:
    kept: NDArray[np.bool_] | None = None
    if batch.has("status"):
        codes, values = batch.codes("status", "ok")
        if any(value != "ok" for value in values):
            kept = np.array([value == "ok" for value in values])[codes]
    probes = batch.column("probe_id")
    if probes is not None and probes.null_count < len(probes):
        traffic = probes.is_null().to_numpy(zero_copy_only=False)
        kept = traffic if kept is None else kept & traffic
    return None if kept is None or kept.all() else np.flatnonzero(kept)


def children(column: pa.Array | None) -> dict[str, pa.Array]:
    """The features of a struct column by name; of two of one name the first. Null structs hand null down."""
    if column is None or not pa.types.is_struct(column.type):
        return {}
    found: dict[str, pa.Array] = {}
    for part, field in zip(column.flatten(), column.type, strict=True):
        found.setdefault(field.name, part)
    return found


def numbers(column: pa.Array | None) -> NDArray[np.floating] | None:
    """A column as floats, null as NaN, shape (n,); no copy where it is float32 or float64 without null.

    None where it is absent, or no number.
    """
    if column is None:
        return None
    kind = column.type
    if kind.id not in _PLAIN:
        if not is_number(kind):
            return None
        column = column.cast(pa.float64(), safe=False)
    values: NDArray[np.floating] = column.to_numpy(zero_copy_only=False)
    return values


def is_number(kind: pa.DataType) -> bool:
    """Whether `numbers` can read a column of this type."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type has strings, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def add(sums: FieldSums, total: NDArray[np.float64] | float, size: NDArray[np.float64]) -> None:
    """Add events whose Σwφ and (n, Σw, Σw²) are already summed."""
    sums.total += total
    sums.size += size


def add_share(sums: FieldSums, weight: float, size: NDArray[np.float64]) -> None:
    """Add events to a rate, a weight of which have what it counts: as a rule none."""
    if weight:
        sums.total += weight
    sums.size += size
