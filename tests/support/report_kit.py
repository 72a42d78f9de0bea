"""Events of a bank's intent service, quiet or moved, and a baseline that was really calibrated from them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mlmon.baseline.model import ScopeKey
from mlmon.calibration import CalibrationOptions, Origin, build
from mlmon.events.batch import EventBatch
from mlmon.monitors import MONITORS, Surroundings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.baseline.model import Baseline

KEY = ScopeKey("bank", "intent", "7")
START_US = 1_780_000_000_000_000
HOUR_US = 3_600_000_000
DIMENSION = 6
_LABELS = np.array(["balance", "card", "transfer", "fees", "</script><b>x"])
_QUIET, _MOVED = [0.3, 0.3, 0.2, 0.15, 0.05], [0.2, 0.2, 0.35, 0.15, 0.1]


def events(count: int, seed: int, *, moved: bool = False, start_us: int = START_US) -> pa.Table:
    """Events, four a second. Moved: more transfers, larger amounts, another topic in the embeddings."""
    rng = np.random.default_rng(seed)
    tokens = rng.poisson(18, count) + 2
    vectors = rng.normal(0.4 * moved, 1.0, (count, DIMENSION)).astype(np.float16)
    languages = rng.choice(["en", "de"], count, p=[0.8, 0.2])
    return pa.table(
        {
            "event_id": [f"{seed:x}-{i:x}" for i in range(count)],
            "event_time": pa.array(start_us + np.arange(count) * 250_000, pa.timestamp("us", "UTC")),
            "service": pa.repeat(KEY.service, count),
            "model_name": pa.repeat(KEY.model, count),
            "model_version": pa.repeat(KEY.version, count),
            "tokens": pa.array(tokens, pa.int32()),
            "words": pa.array(np.maximum(1, tokens - rng.poisson(4, count)), pa.int32()),
            "unknown_tokens": pa.array(rng.binomial(1, 0.02, count), pa.int32()),
            "prediction": _LABELS[rng.choice(5, count, p=_MOVED if moved else _QUIET)].tolist(),
            "confidence": rng.beta(8, 2, count),
            "language": languages.tolist(),
            "embedding": lists(vectors),
            "numeric_features": pa.StructArray.from_arrays(
                [
                    pa.array(rng.lognormal(3.4 if moved else 3.0, 1, count)),
                    pa.array(rng.normal(40, 12, count)),
                ],
                names=["amount", "age"],
            ),
            "categorical_features": pa.StructArray.from_arrays(
                [pa.array(rng.choice(["app", "web"], count, p=[0.6, 0.4]).tolist())], names=["channel"]
            ),
            "segments": pa.array(
                [[("language", one)] for one in languages.tolist()], pa.map_(pa.string(), pa.string())
            ),
            "sampling_weight": pa.array(np.full(count, 20.0)),
        }
    )


def lists(vectors: NDArray[np.float16]) -> pa.ListArray:
    """Embeddings as a column."""
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel(), pa.float16()))


def batches(table: pa.Table) -> list[EventBatch]:
    return [EventBatch(records) for records in table.combine_chunks().to_batches(max_chunksize=1000)]


@cache
def calibrated() -> Baseline:
    """A baseline of 8000 quiet events, with segments by language."""
    monitors = [entry.build(entry.config(), Surroundings()) for entry in MONITORS.values()]
    options = CalibrationOptions(segment_by=("language",), sample_rows=1500)
    return build(iter(batches(events(8000, 1))), monitors, options, Origin("8000 quiet events", START_US))
