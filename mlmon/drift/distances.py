"""Distances of a field's distribution from its reference, for people: no alarm reads them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mlmon.stats.distances import corrected_psi, jensen_shannon, kolmogorov_smirnov, wasserstein

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldReference
    from mlmon.stats.sums import FieldSums

__all__ = ["distances"]


def distances(reference: FieldReference, sums: FieldSums) -> dict[str, float]:
    """Distances of a window's distribution from the reference's; of unordered cells two, of others none.

    PSI is corrected for the noise of both samples, which bursts enlarge by `trace`. Wasserstein is taken
    between the middles of the bins, with the open outer bins at their edge: a lower bound in the tails.
    """
    spec = reference.spec
    if spec.kind != "cells" or not sums.n or not reference.sums.n:
        return {}
    now, before = sums.total, reference.sums.total
    inflation = max(1.0, reference.trace)
    sizes = sums.n_eff / inflation, reference.sums.n_eff / inflation
    found = {"psi": corrected_psi(now, before, *sizes), "js": jensen_shannon(now, before)}
    if spec.edges is not None:
        found["ks"] = kolmogorov_smirnov(now, before)
        found["wasserstein"] = wasserstein(now, before, _middles(spec.edges))
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _middles(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
