"""Numeric fields of a monitor: distribution over bins, share of missing values, share out of range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlmon.baseline.model import FieldSpec
from mlmon.monitors.drift_rows import add, add_share
from mlmon.stats.bins import Bins, BinTable, bin_names
from mlmon.stats.quadratic import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mlmon.monitors.drift_rows import Rows
    from mlmon.stats.sums import FieldSums

__all__ = ["NumericFields", "numeric_specs", "numeric_state"]


class NumericFields:
    """Adds columns of numbers to the sums of their fields.

    Args:
        states: what `numeric_state` made of each field.
        ranged: whether the share out of range is a field.
    """

    def __init__(self, states: Sequence[Sequence[Any]], *, ranged: bool) -> None:
        self.names = [str(state[0]) for state in states]
        bins = [_bins(state) for state in states]
        self._table = BinTable([one.ranged_edges for one in bins])
        self._ranged = ranged
        self._fields = [(name, f"{name}:missing", f"{name}:range") for name in self.names]
        # the cells of a field: below the range, its bins, above the range, missing
        self._first, self._last = self._table.offsets[:-1], self._table.offsets[1:] - 2
        self._inner = list(zip((self._first + 1).tolist(), self._last.tolist(), strict=True))

    def add(
        self, columns: Sequence[NDArray[np.floating] | None], rows: Rows, into: Mapping[str, FieldSums]
    ) -> None:
        """Add a batch.

        Args:
            columns: of the whole batch, in the order of `names`; None where it has none.
            rows: which events, and their weights.
            into: sums by name of field.
        """
        if not self.names:
            return
        values = _stacked(columns, rows)
        counts = self._table.count(values, rows.counting)
        missing = counts[self._last + 1]
        size = rows.size()
        carried = self._carried(values, missing, size, rows)
        counts *= rows.scale
        below, above = counts[self._first], counts[self._last]
        counts[self._first + 1] += below
        counts[self._last - 1] += above
        shares = np.stack([counts[self._last + 1], below + above]).tolist()
        for field, (start, stop) in enumerate(self._inner):
            name, absent, beyond = self._fields[field]
            present = size if carried is None else carried[field]
            if stop - start > 1:
                add(into[name], counts[start:stop], present)
            add_share(into[absent], shares[0][field], size)
            if self._ranged:
                add_share(into[beyond], shares[1][field], present)

    @staticmethod
    def _carried(
        values: NDArray[np.float64], missing: NDArray[np.float64], size: NDArray[np.float64], rows: Rows
    ) -> NDArray[np.float64] | None:
        """n, Σw, Σw² of the events that carry each field; None where all do."""
        if not missing.any():
            return None
        if rows.common is None:
            return rows.sizes(np.isfinite(values))
        return np.outer(size[0] - missing, rows.uniform(1))


def _stacked(columns: Sequence[NDArray[np.floating] | None], rows: Rows) -> NDArray[np.float64]:
    """The columns as one array, NaN where there is none, shape (fields, n)."""
    values = np.empty((len(columns), len(rows.weights)))
    for row, column in zip(values, columns, strict=True):
        if column is None:
            row[:] = np.nan
        else:
            row[:] = column if rows.places is None else column[rows.places]
    return values


def numeric_state(name: str, bins: Bins) -> list[Any]:
    """What is stored of a field."""
    return [name, bins.edges, bins.low, bins.high, bins.centres]


def _bins(state: Sequence[Any]) -> Bins:
    _, edges, low, high, centres = state
    return Bins(np.asarray(edges, np.float64), float(low), float(high), np.asarray(centres, np.float64))


def numeric_specs(name: str, bins: Bins, *, ranged: bool) -> dict[str, FieldSpec]:
    """The fields made of one column of numbers; a constant one has no distribution to watch."""
    rate = FieldSpec("rate", 1, tolerance=DEFAULT_TOLERANCE["rate"])
    specs = {}
    if bins.count > 1:
        names, tolerance = bin_names(bins.edges), DEFAULT_TOLERANCE["cells"]
        specs[name] = FieldSpec("cells", bins.count, names, bins.edges, tolerance=tolerance)
    specs[f"{name}:missing"] = rate
    if ranged:
        specs[f"{name}:range"] = rate
    return specs
