"""References drawn anew from a sample: the error that any reference has is part of what is simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlmon.baseline.store import BaselineStore
from mlmon.calibration import CalibrationOptions, Origin, build
from mlmon.events.batch import EventBatch
from mlmon.monitors import Surroundings, build_monitors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import msgspec
    from numpy.typing import NDArray

    from mlmon.monitors.base import Monitor

__all__ = ["daily_tilt", "drawn_reference", "monitors_for"]

_STEP_US = 50_000
_CHUNK = 4_096
_DRIFTING = frozenset({"tokenizer", "features", "embeddings", "predictions"})


def monitors_for(
    configs: Mapping[str, msgspec.Struct], store: BaselineStore | None = None
) -> Sequence[Monitor]:
    """The monitors that make fields, with the parameters of a store."""
    drifting = {name: config for name, config in configs.items() if name in _DRIFTING}
    around = Surroundings() if store is None else Surroundings(parameters=store.parameters)
    return build_monitors(drifting, around)


def drawn_reference(
    sample: pa.Table,
    order: NDArray[np.intp],
    configs: Mapping[str, msgspec.Struct],
    segment_by: tuple[str, ...] = (),
) -> BaselineStore:
    """Calibrate a baseline from events of a sample, in this order.

    Args:
        sample: events, as `Scope.sample`.
        order: which of them, one after the other, shape (m,).
        configs: configurations of the monitors, by name.
        segment_by: keys that series are told apart by.

    Raises:
        BaselineError: no baseline can be built from so few events.
    """
    options = CalibrationOptions(segment_by=segment_by, sample_rows=200)
    batches = _batches(sample, order)
    return BaselineStore([build(batches, monitors_for(configs), options, Origin("simulation", 0))])


def _batches(sample: pa.Table, order: NDArray[np.intp]) -> Iterator[EventBatch]:
    names = [
        name for name in sample.column_names if name not in ("event_id", "event_time", "sampling_weight")
    ]
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        places = np.arange(start, start + len(rows))
        part = sample.select(names).take(pa.array(rows)).combine_chunks()
        times = pa.array(places * _STEP_US).cast(pa.timestamp("us", tz="UTC"))
        ids = pc.cast(pa.array(places), pa.string())
        part = part.append_column("event_id", ids).append_column("event_time", times)
        yield EventBatch(part.combine_chunks().to_batches()[0])


def daily_tilt(sample: pa.Table, rng: np.random.Generator) -> NDArray[np.float64]:
    """Each event's place in the day: half of the predicted classes are of the day, half of the night.

    Without predictions half of the events are.
    """
    if "prediction" not in sample.column_names:
        return rng.choice([-1.0, 1.0], len(sample))
    codes = sample["prediction"].combine_chunks().dictionary_encode().indices.fill_null(0)
    places = codes.to_numpy(zero_copy_only=False)
    sides = rng.choice([-1.0, 1.0], int(places.max(initial=0)) + 1)
    tilt: NDArray[np.float64] = sides[places]
    return tilt
