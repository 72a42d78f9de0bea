"""What a reference says of embeddings: mean, whitening, spread, lengths, and golden probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlmon.baseline.model import FieldSpec
from mlmon.errors import BaselineError
from mlmon.monitors.drift import make_parameters
from mlmon.monitors.drift_rows import Rows as Kept
from mlmon.monitors.drift_sample import EventSample, drawn_together
from mlmon.monitors.embedding_fields import (
    FAR,
    INVALID,
    NORM,
    PROBE,
    PROBE_DISTANCE,
    PROBES,
    SHIFT,
    TYPICALITY,
    triangular,
    whitened_squares,
)
from mlmon.monitors.embedding_probes import ProbeSums
from mlmon.monitors.embedding_vectors import blocks, select, traffic, usual_dimension, vectors
from mlmon.stats.counts import count_total, effective_size
from mlmon.stats.quadratic import DEFAULT_TOLERANCE
from mlmon.stats.whitening import ScatterSums, whitening

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.baseline.model import Parameters
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.embedding_probes import ProbeReference
    from mlmon.monitors.embedding_vectors import Rows
    from mlmon.monitors.embeddings import EmbeddingsConfig
    from mlmon.stats.whitening import Whitening

__all__ = ["MAX_DIMENSION", "EmbeddingLearner", "add_centred", "principal"]

#: Sums of products take 16·d² bytes: half a gigabyte at this dimension. Larger embeddings are refused.
MAX_DIMENSION = 4096
#: Most vectors kept of each part, and bytes they may take: lengths and spread come from them.
_SAMPLE, _SAMPLE_BYTES = 8192, 1 << 25
_COLUMN = "embedding"
#: Share of the reference's typicality that counts in full; what is above counts as this.
_CLIP = 0.99
#: A length varies by at least this share of itself, so that rounding is no drift; and counts up to so many.
_LENGTH_FLOOR, _LENGTH_CLIP = 0.01, 8.0
#: Rise of the mean distance of probes that is not worth a page, as a share of what counts as moved.
_DISTANCE_TOLERANCE = 0.1
#: Below so many events a dimension, the whitening is mostly noise.
_EVENTS_PER_DIMENSION = 25


class _Part:
    """One half of the reference: sums over its vectors, and a uniform sample of them."""

    def __init__(self, dimension: int, origin: NDArray[np.float32]) -> None:
        self.scatter = ScatterSums(dimension, origin.astype(np.float64))
        self.sample = EventSample(max(64, min(_SAMPLE, _SAMPLE_BYTES // (2 * dimension))))


class EmbeddingLearner:
    """Learns mean, Ledoit-Wolf whitening, spread and probes of a reference, in one pass.

    Memory: 16·d² bytes for the sums of both parts, a bounded sample of vectors (64 MiB a part at most), and
    16·d bytes for each probe. Time: d² multiplications in float32 for each vector, then some 10·d³ at the
    end.

    Args:
        config: tolerances, bounds.
    """

    def __init__(self, config: EmbeddingsConfig) -> None:
        self._config = config
        self._dimension: int | None = None
        self._origin: NDArray[np.float32] | None = None
        self._parts: dict[int, _Part] = {}
        self._probes = ProbeSums(config.max_probes)
        self._counts = dict.fromkeys(("large", "wrong", "broken"), 0)
        self._largest = 0
        self._noticed: list[str] = []

    def update(self, batch: EventBatch, part: int) -> None:
        """Take in events of one scope."""
        column = batch.column("embedding")
        if column is None:
            return
        if self._dimension is None and not self._settle(column):
            return
        assert self._dimension is not None  # noqa: S101 - settled
        chosen, probes = traffic(batch)
        rows = select(column, chosen, self._dimension)
        self._counts["wrong"] += len(rows.wrong)
        good = self._add(rows, batch.weights(), part)
        if len(good):
            kept = Kept(good, batch.weights()[good], None)
            self._parts[part].sample.update(batch, kept, lambda at: {_COLUMN: _octets(rows, at)})
        if probes is not None:
            self._probes.add(batch, select(column, probes, self._dimension), part)

    def _add(self, rows: Rows, weights: NDArray[np.float64], part: int) -> NDArray[np.intp]:
        """Add vectors to the sums of a part; returns the events whose vectors are finite."""
        kept = []
        for piece in blocks(*rows.bits.shape):
            values, squares = vectors(rows.bits[piece])
            good = squares < np.inf
            events = rows.events[piece][good]
            if len(events):
                values = values[good]
                if self._origin is None:
                    self._origin = values.mean(axis=0)
                if part not in self._parts:
                    self._parts[part] = _Part(rows.bits.shape[1], self._origin)
                np.subtract(values, self._origin, out=values)
                add_centred(self._parts[part].scatter, values, weights[events])
            kept.append(events)
        finite = np.concatenate(kept) if kept else rows.events
        self._counts["broken"] += len(rows.events) - len(finite)
        return finite

    def _settle(self, column: pa.ListArray) -> bool:
        """Fix the dimension: the one most vectors of the first batch have. False where there is none."""
        dimension = usual_dimension(column)
        if dimension is not None and dimension > MAX_DIMENSION:
            self._largest = max(self._largest, dimension)
            self._counts["large"] += len(column)
            return False
        self._dimension = dimension
        return dimension is not None

    def finish(self, parts: tuple[int, ...]) -> Parameters | None:
        """Parameters from these parts, or None where there is no embedding or none varies."""
        found = [self._parts[part] for part in parts if part in self._parts]
        if self._dimension is None or not found:
            return None
        scatter = found[0].scatter.copy()
        for other in found[1:]:
            scatter.merge(other.scatter)
        try:
            made = whitening(scatter)
        except BaselineError as error:
            self._notice(f"{error}")
            return None
        n_eff = effective_size(scatter.size)
        if len(found) == len(self._parts):
            self._judge_size(made, n_eff)
        sample = self._drawn(found)
        whiten = principal(made.matrix)
        expected, clip, spread = _typicality(sample, made, whiten, n_eff)
        probes = self._probes.finish(parts, self._config.probe_tolerance)
        fields = {
            SHIFT: FieldSpec(
                "vector", self._dimension, whiten=whiten, tolerance=self._config.shift_tolerance
            ),
            TYPICALITY: _scalar(spread, self._config.typicality_tolerance, (0.0, clip)),
            NORM: _norm(sample, self._config.norm_tolerance),
            INVALID: FieldSpec("rate", 1, tolerance=DEFAULT_TOLERANCE["rate"]),
            **_probe_fields(probes, self._config.probe_tolerance),
        }
        values: dict[str, Any] = {
            "mean": made.mean.astype(np.float32),
            "expected_typicality": expected,
            "shrinkage": float(made.shrinkage),
            "constant": np.setdiff1d(np.arange(self._dimension), made.kept),
            "probes": list(probes.names),
            "probe_means": probes.means.reshape(len(probes.names), self._dimension),
            "probe_limits": probes.limits,
        }
        return make_parameters(values, fields)

    def warnings(self) -> list[str]:
        """What the maker of the baseline should know."""
        told = list(self._noticed)
        if self._counts["large"]:
            told.append(
                f"{self._counts['large']} events with up to {self._largest} dimensions are not "
                f"watched: expected at most {MAX_DIMENSION}; send a projection"
            )
        if self._counts["wrong"]:
            told.append(
                f"{self._counts['wrong']} events have not the {self._dimension} dimensions that "
                "most have; they count as invalid"
            )
        if self._counts["broken"]:
            told.append(f"{self._counts['broken']} events hold what is not finite; they count as invalid")
        return told + self._probes.warnings()

    def _drawn(self, parts: list[_Part]) -> NDArray[np.uint16]:
        """Vectors of a uniform sample of the events of some parts, as bits, shape (k, d)."""
        column = drawn_together([part.sample for part in parts]).column(_COLUMN).combine_chunks()
        start = column.offset * column.type.byte_width
        octets = np.frombuffer(column.buffers()[1], np.uint8, len(column) * column.type.byte_width, start)
        return octets.view(np.uint16).reshape(len(column), -1)

    def _judge_size(self, made: Whitening, n_eff: float) -> None:
        if len(made.constant):
            dimensions = ", ".join(map(str, np.asarray(made.constant)[:8].tolist()))
            self._notice(f"{len(made.constant)} dimensions are constant and left out: {dimensions}")
        needed = _EVENTS_PER_DIMENSION * len(made.kept)
        if n_eff < needed:
            self._notice(
                f"{n_eff:.0f} effective events for {len(made.kept)} dimensions: at least "
                f"{needed} are needed for full power"
            )

    def _notice(self, text: str) -> None:
        if text not in self._noticed:
            self._noticed.append(text)


def _octets(rows: Rows, places: pa.Array) -> pa.Array:
    """Vectors of some events as binary values, which Arrow copies some ten times faster than lists."""
    bits = rows.bits[np.searchsorted(rows.events, places.to_numpy())]
    kind = pa.binary(2 * bits.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(bits), [None, pa.py_buffer(bits)])


def add_centred(sums: ScatterSums, values: NDArray[np.float32], weights: NDArray[np.float64]) -> None:
    """Add vectors less the sums' origin, some hundred of them: products in float32, sums in float64.

    A sixth of the time of `ScatterSums.add`; the sums of a block are off by some 1e-7 of themselves.
    """
    squares = np.vecdot(values, values).astype(np.float64)
    even = bool((weights == weights[0]).all())
    scaled = values if even else values * np.sqrt(weights).astype(np.float32)[:, None]
    times = float(weights[0]) if even else 1.0
    sums.size += count_total(weights)
    sums.first += weights.astype(np.float32) @ values
    sums.second += times * (scaled.T @ scaled).astype(np.float64)
    sums.third += (weights * squares).astype(np.float32) @ values
    sums.fourth += float(weights @ squares**2)


def principal(whiten: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a whitening W, shape (d, r), so that column j whitens the j-th principal direction.

    The metric W Wᵀ stays. Directions go from the most to the least variance; of the two signs the one that
    makes a direction's largest number positive is taken.

    Example:
        >>> turned = principal(np.array([[0.5, -0.5], [2.0, 2.0]], np.float32))
        >>> np.abs(turned).astype(float).round(3).tolist()
        [[0.707, 0.0], [0.0, 2.828]]
    """
    kept = np.flatnonzero(whiten.any(1))
    rows = whiten[kept].astype(np.float64)
    precisions, directions = np.linalg.eigh(rows @ rows.T)
    largest = np.abs(directions).argmax(0)
    directions *= np.sign(directions[largest, np.arange(len(kept))])
    turned = np.zeros((len(whiten), len(kept)), np.float32)
    turned[kept] = directions * np.sqrt(np.maximum(precisions, 0.0))
    return turned


def _typicality(
    sample: NDArray[np.uint16], made: Whitening, whiten: NDArray[np.float32], n_eff: float
) -> tuple[float, float, float]:
    """The mean |Wᵀ(x - μ)|² of events that W was not learned from; where it is cut, and its spread, over it.

    The events that W was learned from lie closer: mean Σ λ/λ*, for the eigenvalues λ of their covariance and
    λ* of the shrunk one. One of them, left out of the covariance, would lie at t/(1 - (1-s)t/n) instead of t
    (Sherman-Morrison); s is the shrinkage.
    """
    factor = triangular(whiten)
    inside = np.empty(len(sample))
    for part in blocks(len(sample), sample.shape[1]):
        values, _ = vectors(sample[part])
        inside[part] = whitened_squares(values - made.mean.astype(np.float32), factor)
    kept = 1 - made.shrinkage
    outside = inside / np.maximum(1 - kept * inside / n_eff, 0.05)
    shrunk = 1 / np.square(whiten.astype(np.float64)).sum(0)
    plain = (shrunk - made.shrinkage * shrunk.mean()) / kept if kept > 0 else shrunk
    expected = float((plain / shrunk).sum() * outside.mean() / max(inside.mean(), 1e-300))
    relative = outside / expected
    clip = float(np.quantile(relative, _CLIP))
    return expected, clip, float(np.minimum(relative, clip).std())


def _norm(sample: NDArray[np.uint16], tolerance: float) -> FieldSpec:
    lengths = np.sqrt(vectors(sample)[1].astype(np.float64))
    middle = float(np.median(lengths))
    spread = max(float(lengths.std()), _LENGTH_FLOOR * middle)
    reach = _LENGTH_CLIP * spread
    return _scalar(spread, tolerance, (max(0.0, middle - reach), middle + reach))


def _probe_fields(probes: ProbeReference, tolerance: float) -> dict[str, FieldSpec]:
    """Shares of repeats that moved, and their distance in units of what counts as moved."""
    if not probes.names:
        return {}
    rate = FieldSpec("rate", 1, tolerance=DEFAULT_TOLERANCE["rate"])
    distance = _scalar(1.0, _DISTANCE_TOLERANCE, (0.0, FAR / tolerance))
    return {PROBES: rate, PROBE_DISTANCE: distance, **{PROBE + name: rate for name in probes.names}}


def _scalar(unit: float, tolerance: float, clip: tuple[float, float]) -> FieldSpec:
    """A mean whose effect is told in units of `unit`."""
    whiten = np.array([[1 / max(unit, 1e-12)]], np.float32)
    return FieldSpec("vector", 1, whiten=whiten, tolerance=tolerance, clip=clip)
