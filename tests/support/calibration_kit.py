"""A small real drift monitor with a field of every kind, and events to feed it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlmon.baseline.model import FieldSpec, Parameters
from mlmon.events.batch import EventBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mlmon.stats.sums import FieldSums

START_US = 1_700_000_000_000_000
DAY_US = 86_400_000_000


class KitMonitor:
    """Tokens as a distribution over quartiles, features a and b as a whitened mean, unknown tokens as a rate.

    Whitening is the inverse root of the plain covariance, so that it overfits as much as it can.
    """

    fields = frozenset({"tokens", "unknown_tokens", "numeric_features"})

    def __init__(self, name: str = "features", width: int = 2) -> None:
        self.name = name
        self.columns = [f"x{i}" for i in range(width)]

    def learner(self) -> KitLearner:
        return KitLearner(self)

    def extractor(self, parameters: Parameters) -> KitExtractor:
        return KitExtractor(self, parameters)


class KitLearner:
    """Keeps what it sees; fine for a test."""

    def __init__(self, monitor: KitMonitor) -> None:
        self._monitor = monitor
        self.seen: list[tuple[int, EventBatch]] = []

    def update(self, batch: EventBatch, part: int) -> None:
        self.seen.append((part, batch))

    def finish(self, parts: tuple[int, ...]) -> Parameters | None:
        mine = [batch for part, batch in self.seen if part in parts and batch.has("tokens")]
        if not mine:
            return None
        tokens = np.concatenate([batch.floats("tokens") for batch in mine])
        edges = np.quantile(tokens[~np.isnan(tokens)], [0.25, 0.5, 0.75])
        fields = {
            "tokens": FieldSpec("cells", 4, ("a", "b", "c", "d"), edges=edges, tolerance=0.1),
            "unknown": FieldSpec("rate", 1, tolerance=0.25),
        }
        values: dict[str, Any] = {"count": len(tokens)}
        if all(batch.has("numeric_features") for batch in mine):
            points = np.concatenate([numbers(batch, self._monitor.columns) for batch in mine])
            points = points[~np.isnan(points).any(axis=1)]
            root = np.linalg.cholesky(np.linalg.inv(np.atleast_2d(np.cov(points.T))))
            width = points.shape[1]
            fields["mean"] = FieldSpec("vector", width, whiten=root.astype(np.float32), tolerance=0.3)
            values["centre"] = points.mean(axis=0)
        digest = hashlib.blake2b(repr((edges.tolist(), len(tokens))).encode()).hexdigest()[:32]
        return Parameters(digest, values, fields)

    def warnings(self) -> list[str]:
        return ["a warning of the kit"]


class KitExtractor:
    def __init__(self, monitor: KitMonitor, parameters: Parameters) -> None:
        self._columns = monitor.columns
        self.digest = parameters.digest
        self.fields: Mapping[str, FieldSpec] = parameters.fields

    def extract(self, batch: EventBatch, into: Mapping[str, FieldSums]) -> None:
        tokens, weights = batch.floats("tokens"), batch.weights()
        if tokens is not None:
            good = ~np.isnan(tokens)
            cells = np.searchsorted(self.fields["tokens"].edges, tokens[good], "right")
            into["tokens"].add_cells(cells, weights[good])
        unknown = batch.floats("unknown_tokens")
        if unknown is not None:
            into["unknown"].add_values((unknown > 0).astype(float), weights)
        if "mean" in into and batch.has("numeric_features"):
            points = numbers(batch, self._columns)
            good = ~np.isnan(points).any(axis=1)
            into["mean"].add_values(points[good], weights[good])


def numbers(batch: EventBatch, columns: Iterable[str]) -> NDArray[np.float64]:
    """Numeric features as an array, shape (n, d)."""
    struct = batch.column("numeric_features")
    assert struct is not None
    parts = [struct.field(name).to_numpy(zero_copy_only=False) for name in columns]
    return np.stack(parts, axis=1).astype(float)


def make_events(count: int, *, seed: int = 0, burst: int = 1, width: int = 2, **columns: Any) -> EventBatch:
    """Events a day long in order of time, alike in runs of `burst`; columns replace or add."""
    rng = np.random.default_rng(seed)
    runs = -(-count // burst)

    def alike(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, burst, axis=0)[:count]

    points = alike(rng.normal(size=(runs, width)))
    made: dict[str, Any] = {
        "event_id": pa.array([f"{seed}-{i:07d}" for i in range(count)]),
        "event_time": pa.array(
            START_US + np.arange(count, dtype=np.int64) * (DAY_US // max(1, count - 1) + 1),
            pa.timestamp("us", tz="UTC"),
        ),
        "service": pa.array(["shop"] * count),
        "model_name": pa.array(["intent"] * count),
        "model_version": pa.array(["1"] * count),
        "tokens": pa.array(alike(rng.integers(1, 100, runs)), pa.int32()),
        "unknown_tokens": pa.array(alike(rng.random(runs) < 0.05).astype(int), pa.int32()),
        "numeric_features": pa.StructArray.from_arrays(
            [pa.array(points[:, i]) for i in range(width)], [f"x{i}" for i in range(width)]
        ),
    }
    made |= columns
    return EventBatch(pa.record_batch({name: value for name, value in made.items() if value is not None}))


def cut(batch: EventBatch, sizes: Iterable[int]) -> list[EventBatch]:
    """A batch in pieces of these sizes, the last with the rest."""
    pieces, start = [], 0
    for size in sizes:
        if start < len(batch):
            pieces.append(EventBatch(batch.records.slice(start, size)))
            start += size
    if start < len(batch):
        pieces.append(EventBatch(batch.records.slice(start)))
    return pieces
