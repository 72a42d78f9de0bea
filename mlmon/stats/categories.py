"""Frozen categories of a string field, learnt from a reference, and the coding of Arrow columns by them.

The most frequent values have a cell each; what the reference knows beside them is "other", what it hardly
ever had is "unseen".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OTHER", "UNSEEN", "Categories", "learn_categories"]

OTHER, UNSEEN = "(other)", "(unseen)"

#: Times that a value must occur in the sample to be known.
_KNOWN = 3


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """Cells of a string field: one for each of `own`, then other, unseen, and missing for null.

    Memory: some 100 bytes a known value. Time of `cells`: hashing each value once, and one look-up for each
    distinct value of the column.

    Attributes:
        own: values with a cell of their own, the most frequent first.
        rare: further known values, which share the cell "other".
        excess: tolerance to add for unseen values, in the unit of the chi-square distance. Of new events a
            greater share is unseen than of those learned from, by k·f(k)/n (Good 1953), where f(k) values
            occurred k times and k times make a value known; over the root of the share in the sample.

    Example:
        >>> known = Categories(("de", "en"), ("fr",))
        >>> known.cells(pa.array(["en", "fr", "tlh", None])).tolist()
        [1, 2, 3, 4]
        >>> known.names
        ('de', 'en', '(other)', '(unseen)')
    """

    own: tuple[str, ...]
    rare: tuple[str, ...] = ()
    excess: float = 0.0
    _cells: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cells = dict.fromkeys(self.rare, len(self.own))
        cells.update((value, cell) for cell, value in enumerate(self.own))
        object.__setattr__(self, "_cells", cells)

    @property
    def count(self) -> int:
        """Number of cells, other and unseen among them, missing not."""
        return len(self.own) + 2

    @property
    def unseen(self) -> int:
        """The cell of unseen values."""
        return len(self.own) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """The cells for people."""
        return (*self.own, OTHER, UNSEEN)

    def cells(self, column: pa.Array) -> NDArray[np.intp]:
        """The cell of each value of a string or dictionary column, shape (n,); null is `count`.

        A column of another type has no values that could be told: all of it is missing.
        """
        if pa.types.is_dictionary(column.type):
            encoded = column
        elif _is_text(column.type):
            encoded = pc.dictionary_encode(column)
        else:
            return np.full(len(column), self.count, np.intp)
        values = encoded.dictionary.to_pylist()
        find, unseen, missing = self._cells.get, self.unseen, self.count
        table = np.array([missing if v is None else find(v, unseen) for v in values] + [missing], np.intp)
        indices = encoded.indices
        if indices.null_count:
            # -1 is the last place of the table
            indices = indices.cast(pa.int64()).fill_null(-1)
        cells: NDArray[np.intp] = table[indices.to_numpy(zero_copy_only=False)]
        return cells


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def learn_categories(column: pa.Array, limit: int, known: int) -> Categories | None:
    """Choose categories from a sample of the reference.

    A value is known once it occurs three times: what a sample holds only once or twice stands for much that
    it does not hold, so new events would seem to have more unseen values than the reference.

    Args:
        column: strings of the sample; null is left out.
        limit: most values with a cell of their own.
        known: most values known at all.

    Returns:
        The categories, the same for any order of the sample; None where there is no value.

    Example:
        >>> chosen = learn_categories(pa.array(["b", "a", "c"] * 3 + ["b", "x"]), limit=2, known=10)
        >>> chosen.own, chosen.rare
        (('b', 'a'), ('c',))
    """
    column = column.drop_null()
    if not len(column):
        return None
    counted = pc.value_counts(column)
    values: list[str] = counted.field("values").to_pylist()
    counts: list[int] = counted.field("counts").to_pylist()
    ranked = sorted(zip(values, counts, strict=True), key=lambda pair: (-pair[1], pair[0]))
    often = [value for value, count in ranked[:known] if count >= _KNOWN]
    return Categories(tuple(often[:limit]), tuple(often[limit:]), _excess(counts, len(column)))


def _excess(counts: list[int], total: int) -> float:
    more = _KNOWN * counts.count(_KNOWN) / total
    unseen = sum(count for count in counts if count < _KNOWN) / total
    return float(more / np.sqrt(max(unseen, more))) if more else 0.0
