"""Weighted counts: for each cell the triple (n, Σw, Σw²), which adds exactly and carries its own error bar.

With sampling weights w = 1/inclusion probability, Σw is the Horvitz-Thompson estimate of the total and
Σw² bounds its variance; the effective sample size is (Σw)²/Σw² (Kish 1965).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["count_cells", "count_total", "effective_size"]


def count_cells(cells: NDArray[np.intp], weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Count events by cell.

    Args:
        cells: cell of each event, 0 <= cell < size, shape (n,).
        weights: sampling weights, shape (n,).
        size: number of cells.

    Returns:
        Array of shape (size, 3): n, Σw, Σw² by cell. Merging is addition. Counts stay exact up to 2**53.

    Example:
        >>> count_cells(np.array([0, 2, 2]), np.array([1.0, 2.0, 3.0]), 3).tolist()
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [2.0, 5.0, 13.0]]
    """
    out = np.empty((size, 3))
    out[:, 0] = np.bincount(cells, minlength=size)
    out[:, 1] = np.bincount(cells, weights, size)
    out[:, 2] = np.bincount(cells, weights * weights, size)
    return out


def count_total(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The triple (n, Σw, Σw²) of all events, shape (3,)."""
    return np.array([len(weights), weights.sum(), np.dot(weights, weights)])


def effective_size(triple: NDArray[np.float64]) -> float:
    """Kish's effective sample size (Σw)²/Σw², 0 where there is nothing.

    Example:
        >>> effective_size(np.array([4.0, 40.0, 400.0]))
        4.0
    """
    return float(triple[1] ** 2 / triple[2]) if triple[2] > 0 else 0.0
