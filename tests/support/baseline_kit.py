"""A baseline with everything a baseline can hold; nothing in it was calibrated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mlmon.baseline import FieldReference, FieldSpec, Parameters, Scope, ScopeKey, Segment
from mlmon.stats.sums import FieldSums

KEY = ScopeKey("shop", "intent", "1")


def sums_of(total: list[float], n: float = 10.0) -> FieldSums:
    sums = FieldSums(len(total))
    sums.size += [n, 2 * n, 4 * n]
    sums.total += total
    return sums


def make_scope(last_us: int = 99, *, monitors: tuple[str, ...] = ("features", "embeddings")) -> Scope:
    rng = np.random.default_rng(5)
    whiten = rng.normal(size=(4, 3)).astype(np.float32)
    specs = {
        "language": FieldSpec("cells", 3, ("de", "en", "other"), tolerance=0.1),
        "amount": FieldSpec("cells", 2, ("low", "high"), edges=np.array([0.5]), tolerance=0.1),
        "mean": FieldSpec("vector", 4, whiten=whiten, tolerance=0.3, clip=(-3.0, float("inf"))),
        "missing": FieldSpec("rate", 1),
    }
    values: dict[str, Any] = {
        "ids": np.arange(4, dtype=np.int32),
        "empty": np.zeros((0, 2)),
        "flags": np.array([True, False]),
        "nested": {"z": [1, 2.5, "ä", None, True], "a": {}},
        "odd": [float("nan"), float("-inf")],
        "$array": {"$float": "kept as it is"},
    }
    parameters = {name: Parameters(f"{name}-digest", values, specs) for name in monitors}

    def segment(scale: float) -> Segment:
        fields = {
            f"{monitor}/{name}": FieldReference(
                spec, sums_of([scale + i for i in range(spec.width)]), 1.5 * scale, 2.5, 0.01, 64
            )
            for monitor in monitors
            for name, spec in specs.items()
        }
        return Segment(fields, int(10 * scale), {"features/missing": "too few"})

    table = pa.table({"event_id": ["a", "b"], "tokens": pa.array([1, None], pa.int32())})
    segments = {"language=de": segment(1.0), "": segment(3.0)}
    return Scope(parameters, segments, 5, last_us, burst=1.25, block=25, sample=table)
