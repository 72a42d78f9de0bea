"""Events of a made-up service with every kind of field, and references calibrated from them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mlmon.monitors import MONITORS
from mlmon.simulate.reference import drawn_reference

if TYPE_CHECKING:
    from mlmon.baseline.store import BaselineStore

CONFIGS = {name: entry.config() for name, entry in MONITORS.items()}
DIMENSIONS = 16


def sample(n: int = 2_000, seed: int = 0) -> pa.Table:
    """Independent events: two classes of input, heavy tails, rare unknown tokens, embeddings by class."""
    rng = np.random.default_rng(seed)
    kind = rng.random(n) < 0.4
    centres = np.random.default_rng(99).normal(size=(2, DIMENSIONS))
    embedding = (centres[kind.astype(int)] + rng.normal(size=(n, DIMENSIONS))).astype(np.float16)
    words = rng.poisson(8, n) + 1
    pieces = rng.binomial(words, 0.2)
    offsets = np.arange(0, n * DIMENSIONS + 1, DIMENSIONS, dtype=np.int32)
    return pa.table(
        {
            "service": pa.array(["shop"] * n),
            "model_name": pa.array(["intent"] * n),
            "model_version": pa.array(["1"] * n),
            "prediction": pa.array(np.where(kind, "refund", "order")),
            "confidence": pa.array(rng.beta(8, 2, n)),
            "entropy": pa.array(rng.gamma(2.0, 0.3, n)),
            "words": pa.array(words.astype(np.int32)),
            "tokens": pa.array((words + pieces).astype(np.int32)),
            "continuation_tokens": pa.array(pieces.astype(np.int32)),
            "characters": pa.array((5 * words + rng.poisson(4, n)).astype(np.int32)),
            "unknown_tokens": pa.array((rng.random(n) < 0.004).astype(np.int32)),
            "embedding": pa.ListArray.from_arrays(offsets, pa.array(embedding.ravel())),
            "numeric_features": pa.StructArray.from_arrays(
                [
                    pa.array(rng.lognormal(size=n)),
                    pa.array(rng.standard_t(2, n)),
                    pa.array(np.round(rng.gamma(2, 5, n))),
                ],
                ["amount", "heavy", "items"],
            ),
            "categorical_features": pa.StructArray.from_arrays(
                [
                    pa.array(rng.choice(["web", "app", "phone"], n, p=[0.6, 0.35, 0.05])),
                    pa.array([f"shop-{i}" for i in np.minimum(rng.zipf(1.5, n), 40)]),
                ],
                ["channel", "shop"],
            ),
        }
    )


@cache
def events(n: int = 2_000, seed: int = 0) -> pa.Table:
    """A sample, made once."""
    return sample(n, seed)


@cache
def reference(size: int = 8_000, seed: int = 1) -> BaselineStore:
    """A reference drawn from `events()`, calibrated once."""
    order = np.random.default_rng(seed).integers(0, len(events()), size)
    return drawn_reference(events(), order, CONFIGS)
