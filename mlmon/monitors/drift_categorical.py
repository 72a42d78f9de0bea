"""Categorical fields of a monitor: distribution over categories, share of missing and of unseen values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlmon.baseline.model import FieldSpec
from mlmon.monitors.drift_rows import add, add_share
from mlmon.stats.categories import Categories
from mlmon.stats.quadratic import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from mlmon.monitors.drift_rows import Rows
    from mlmon.stats.sums import FieldSums

__all__ = [
    "CategoricalFields",
    "cells_spec",
    "categorical_specs",
    "categorical_state",
    "rate_spec",
    "restored_categories",
]

#: Characters of a category's name that are shown; the value itself is kept whole.
_SHOWN = 100


class CategoricalFields:
    """Adds columns of strings to the sums of their fields.

    Args:
        states: what `categorical_state` made of each field.
    """

    def __init__(self, states: Sequence[Sequence[Any]]) -> None:
        self.names = [str(state[0]) for state in states]
        self._categories = [restored_categories(state) for state in states]

    def add(self, columns: Sequence[pa.Array | None], rows: Rows, into: Mapping[str, FieldSums]) -> None:
        """Add a batch.

        Args:
            columns: of the whole batch, in the order of `names`; None where it has none.
            rows: which events, and their weights.
            into: sums by name of field.
        """
        size = rows.size()
        for name, categories, column in zip(self.names, self._categories, columns, strict=True):
            missing = size[1]
            if column is not None:
                missing = _add_column(name, categories, column, rows, into)
            add_share(into[f"{name}:missing"], missing, size)


def _add_column(
    name: str, categories: Categories, column: pa.Array, rows: Rows, into: Mapping[str, FieldSums]
) -> float:
    """Add what is there to distribution and unseen; returns Σw of what is missing."""
    cells = categories.cells(column)
    if rows.places is not None:
        cells = cells[rows.places]
    counts = np.bincount(cells, rows.counting, categories.count + 1).astype(np.float64)
    if not counts[-1]:
        present = rows.size()
    elif rows.common is None:
        present = rows.sizes((cells != categories.count)[None, :])[0]
    else:
        present = rows.uniform(len(cells) - counts[-1])
    counts *= rows.scale
    if categories.own:
        add(into[name], counts[:-1], present)
        add_share(into[f"{name}:unseen"], float(counts[categories.unseen]), present)
    return float(counts[-1])


def categorical_state(name: str, categories: Categories) -> list[Any]:
    """What is stored of a field."""
    return [name, list(categories.own), list(categories.rare), categories.excess]


def restored_categories(state: Sequence[Any]) -> Categories:
    """The categories that `categorical_state` was given."""
    _, own, rare, excess = state
    return Categories(tuple(own), tuple(rare), float(excess))


def categorical_specs(name: str, categories: Categories) -> dict[str, FieldSpec]:
    """The fields made of one column of strings; only whether it is missing where no value repeats (ids)."""
    missing = {f"{name}:missing": rate_spec()}
    if not categories.own:
        return missing
    return {name: cells_spec(categories), **missing, f"{name}:unseen": rate_spec()}


def cells_spec(categories: Categories) -> FieldSpec:
    """The distribution over categories."""
    names = tuple(value[:_SHOWN] for value in categories.names)
    tolerance = DEFAULT_TOLERANCE["cells"] + categories.excess
    return FieldSpec("cells", categories.count, names, tolerance=tolerance)


def rate_spec() -> FieldSpec:
    """A share of which a rise matters."""
    return FieldSpec("rate", 1, tolerance=DEFAULT_TOLERANCE["rate"])
