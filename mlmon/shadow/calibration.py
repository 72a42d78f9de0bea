"""How honest confidences are: expected calibration error over bins of equal mass, less its bias.

Why bins of equal mass: with equal widths nearly all answers of a sharp model fall into one bin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LEAST", "calibration_error"]

#: Events below which nothing is said.
LEAST = 40
_BIN = 20


def calibration_error(
    confidences: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 15
) -> float | None:
    """Debiased expected calibration error, √max(0, Σ_b n_b/n · ((c_b - a_b)² - a_b(1 - a_b)/(n_b - 1))).

    c_b and a_b are mean confidence and share of right answers of the n_b events of bin b; the last term is
    the variance that a share of so few events has by chance, which would make a perfect model look
    miscalibrated. Bins hold equally many events, at least 20; equal confidences may be parted, in the order
    given.

    Args:
        confidences: probability of each answer, shape (n,).
        right: whether it was right, shape (n,).
        bins: most bins.

    Returns:
        Root mean square error, 0 to 1; None below 40 events.

    Source:
        Kumar, Liang and Ma, Verified uncertainty calibration, NeurIPS 2019, def. 5.1 (debiased estimator);
        Nixon et al., Measuring calibration in deep learning, 2019 (adaptive bins).

    Example:
        >>> calibration_error(np.full(100, 0.9), np.arange(100) % 10 != 0)
        0.0
    """
    count = len(confidences)
    if count < LEAST:
        return None
    order = np.argsort(confidences, kind="stable")
    edges = np.linspace(0, count, max(1, min(bins, count // _BIN)) + 1).astype(np.intp)[:-1]
    sizes = np.diff(np.append(edges, count))
    mean = np.add.reduceat(np.asarray(confidences, float)[order], edges) / sizes
    share = np.add.reduceat(np.asarray(right, float)[order], edges) / sizes
    squares = (mean - share) ** 2 - share * (1 - share) / (sizes - 1)
    return float(np.sqrt(max(0.0, float(np.dot(sizes, squares)) / count)))
