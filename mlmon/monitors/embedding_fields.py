"""From embeddings to the fields of drift: how far they lie from the reference, and in which spread.

For each block of rows: widen, measure lengths, subtract the reference mean, add up, then whiten in place and
measure again. The product with the whitening is nearly all of the time; a triangular factor halves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.blas import strmm

from mlmon.monitors.embedding_vectors import blocks, select, traffic, vectors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldSpec, Parameters
    from mlmon.events.batch import EventBatch
    from mlmon.stats.sums import FieldSums

__all__ = [
    "FAR",
    "INVALID",
    "NORM",
    "PROBE",
    "PROBES",
    "PROBE_DISTANCE",
    "SHIFT",
    "TYPICALITY",
    "EmbeddingExtractor",
    "triangular",
]

SHIFT, TYPICALITY, NORM, INVALID, PROBES, PROBE_DISTANCE, PROBE = (
    "shift",
    "typicality",
    "norm",
    "invalid",
    "probes",
    "probe_distance",
    "probe:",
)
#: No relative distance of a probe counts more; what cannot be measured counts as this.
FAR = 2.0


class EmbeddingExtractor:
    """Embeddings of one scope to field sums.

    Time per vector of dimension d: d² multiplications in float32 (half of a full product) and some ten passes
    over its d numbers. Memory: 4d² bytes, and a megabyte while it works. See `EmbeddingsMonitor` for the
    fields.

    Args:
        parameters: what `EmbeddingLearner.finish` made.

    Attributes:
        digest: of the parameters.
        fields: what it makes, by name.
    """

    __slots__ = ("_dimension", "_expected", "_factor", "_mean", "_probes", "_wide_mean", "digest", "fields")

    def __init__(self, parameters: Parameters) -> None:
        self.digest = parameters.digest
        self.fields: Mapping[str, FieldSpec] = parameters.fields
        values = parameters.values
        self._mean: NDArray[np.float32] = values["mean"]
        self._wide_mean = self._mean.astype(np.float64)
        self._dimension = len(self._mean)
        self._expected = float(values["expected_typicality"])
        whiten = self.fields[SHIFT].whiten
        if whiten is None:
            raise ValueError(f"embeddings: the field {SHIFT!r} has no whitening: rebuild the baseline")
        self._factor = triangular(whiten)
        self._probes = _Probes(values)

    def extract(self, batch: EventBatch, into: Mapping[str, FieldSums]) -> None:
        """Add a batch to the sums."""
        column = batch.column("embedding")
        if column is None:
            return
        chosen, probes = traffic(batch)
        self._extract_traffic(column, chosen, batch.weights(), into)
        if probes is not None:
            self._probes.extract(batch, column, probes, into)

    def _extract_traffic(
        self,
        column: pa.ListArray,
        chosen: NDArray[np.bool_],
        weights: NDArray[np.float64],
        into: Mapping[str, FieldSums],
    ) -> None:
        rows = select(column, chosen, self._dimension)
        faults = [rows.wrong]
        for part in blocks(len(rows.events), self._dimension):
            values, squares = vectors(rows.bits[part])
            index = rows.events[part]
            good = squares < np.inf
            if not good.all():
                faults.append(index[~good])
                values, squares, index = values[good], squares[good], index[good]
            if len(index):
                self._add(values, squares, weights[index], into)
        bad = weights[np.concatenate(faults)]
        known = np.concatenate([weights[rows.events], weights[rows.wrong]])
        if len(known):
            into[INVALID].add_total(np.array([bad.sum()]), known)

    def _add(
        self,
        values: NDArray[np.float32],
        squares: NDArray[np.float32],
        weights: NDArray[np.float64],
        into: Mapping[str, FieldSums],
    ) -> None:
        """Add vectors, which are overwritten."""
        into[NORM].add_values(_clipped(np.sqrt(squares), self.fields[NORM]), weights)
        np.subtract(values, self._mean, out=values)
        total = (weights.astype(np.float32) @ values).astype(np.float64)
        into[SHIFT].add_total(total + weights.sum() * self._wide_mean, weights)
        lengths = whitened_squares(values, self._factor) / self._expected
        into[TYPICALITY].add_values(_clipped(lengths, self.fields[TYPICALITY]), weights)


class _Probes:
    """Golden probes: each one's distance from its embedding in the reference."""

    __slots__ = ("_lengths", "_limits", "_means", "_places", "_probes")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._probes: list[str] = list(values["probes"])
        self._places = {name: place for place, name in enumerate(self._probes)}
        self._means: NDArray[np.float32] = values["probe_means"]
        self._limits: NDArray[np.float64] = values["probe_limits"]
        self._lengths = np.linalg.norm(self._means.astype(np.float64), axis=1)

    def extract(
        self,
        batch: EventBatch,
        column: pa.ListArray,
        chosen: NDArray[np.bool_],
        into: Mapping[str, FieldSums],
    ) -> None:
        """Add the probes among a batch that the reference knows."""
        codes, names = batch.codes("probe_id")
        places = np.array([self._places.get(name, -1) for name in names], np.intp)[codes]
        chosen = chosen & (places >= 0)
        rows = select(column, chosen, self._means.shape[1])
        values, squares = vectors(rows.bits)
        at = places[rows.events]
        distances = np.linalg.norm(values - self._means[at], axis=1) / self._lengths[at]
        distances = np.where(squares < np.inf, np.minimum(distances, FAR), FAR)
        index = np.concatenate([rows.events, rows.wrong])
        if not len(index):
            return
        distances = np.concatenate([distances, np.full(len(rows.wrong), FAR)])
        at, weights = places[index], batch.weights()[index]
        relative = distances / self._limits[at]
        into[PROBE_DISTANCE].add_values(relative, weights)
        moved = (relative > 1.0).astype(np.float64)
        into[PROBES].add_values(moved, weights)
        for place in np.unique(at).tolist():
            mine = at == place
            into[PROBE + self._probes[place]].add_values(moved[mine], weights[mine])


def triangular(whiten: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lower triangular L with L Lᵀ = W Wᵀ, shape (d, d): |xᵀL| = |xᵀW| at half the multiplications.

    Dimensions whose row of W is 0 stay 0.

    Raises:
        numpy.linalg.LinAlgError: W has fewer independent columns than rows that are not 0.
    """
    kept = np.flatnonzero(whiten.any(1))
    rows = whiten[kept].astype(np.float64)
    factor = np.zeros((len(whiten), len(whiten)), np.float32)
    factor[np.ix_(kept, kept)] = np.linalg.cholesky(rows @ rows.T)
    return factor


def whitened_squares(values: NDArray[np.float32], factor: NDArray[np.float32]) -> NDArray[np.float32]:
    """|xᵀL|² of each row, shape (n,). The rows, shape (n, d) and C order, are overwritten by xᵀL."""
    # BLAS counts columns first: it is given Lᵀ and the transpose of the rows, neither of them copied
    product = strmm(1.0, factor.T, values.T, lower=0, overwrite_b=1).T
    squares: NDArray[np.float32] = np.vecdot(product, product)
    return squares


def _clipped(values: NDArray[np.float32], spec: FieldSpec) -> NDArray[np.float64]:
    low, high = spec.clip if spec.clip is not None else (-np.inf, np.inf)
    return np.clip(values, low, high).astype(np.float64)
