"""A cross-fitted reference of a drift monitor's fields, as a baseline has it, from blocks in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlmon.baseline.model import FieldReference
from mlmon.drift.fields import judge_fields
from mlmon.events.batch import EventBatch
from mlmon.stats.blocks import block_traces, block_wander, combine_traces
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mlmon.baseline.model import Parameters
    from mlmon.drift.fields import FieldVerdict
    from mlmon.monitors.drift import DriftMonitor, Extractor

START_US = 1_700_000_000_000_000
#: ln of the evidence at which one detector alone pages: hourly windows, one false page in 30 days.
PAGE = float(np.log(720))


def vector_batch(vectors: Any, **columns: Any) -> EventBatch:
    """Events of one model version with these embeddings, shape (n, d) or a list with None and odd lengths."""
    if isinstance(vectors, np.ndarray):
        flat = pa.array(vectors.astype(np.float16).reshape(-1))
        offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1])
        lists = pa.ListArray.from_arrays(offsets, flat)
    else:
        halves = [None if row is None else [np.float16(x) for x in row] for row in vectors]
        lists = pa.array(halves, pa.list_(pa.float16()))
    return event_batch(len(vectors), embedding=lists, **columns)


def event_batch(count: int, **columns: Any) -> EventBatch:
    """`count` events of one model version with these columns."""
    same = {"service": "search", "model_name": "encoder", "model_version": "1"}
    made = {name: pa.array([value] * count, pa.string()) for name, value in same.items()}
    made["event_id"] = pa.array([f"e{i}" for i in range(count)], pa.string())
    made["event_time"] = pa.array(np.arange(count) + START_US, pa.timestamp("us", tz="UTC"))
    return EventBatch(pa.record_batch({**made, **columns}))


def sums_of(extractor: Extractor, *batches: EventBatch) -> dict[str, FieldSums]:
    """Field sums of some batches."""
    into = {name: FieldSums(spec.width) for name, spec in extractor.fields.items()}
    for batch in batches:
        extractor.extract(batch, into)
    return into


def learned(monitor: DriftMonitor, *parts: Sequence[EventBatch]) -> Parameters:
    """Parameters from all of these parts."""
    learner = monitor.learner()
    for part, blocks in enumerate(parts):
        for block in blocks:
            learner.update(block, part)
    made = learner.finish(tuple(range(len(parts))))
    assert made is not None
    return made


class Reference:
    """What a monitor's fields are judged by, from blocks of events of two parts.

    Attributes:
        extractor: of the final parameters.
        fields: references by name.
    """

    def __init__(self, monitor: DriftMonitor, *parts: Sequence[EventBatch]) -> None:
        learner = monitor.learner()
        for part, blocks in enumerate(parts):
            for block in blocks:
                learner.update(block, part)
        made = [learner.finish(which) for which in ((0, 1), (1,), (0,))]
        final, *crossed = [monitor.extractor(one) for one in made if one is not None]
        self.extractor = final
        tables = [[sums_of(one, block) for block in part] for one, part in zip(crossed, parts, strict=True)]
        whole = sums_of(final, *(block for part in parts for block in part))
        self.fields: dict[str, FieldReference] = {}
        for name, spec in final.fields.items():
            found, wander, outside = [], 0.0, FieldSums(spec.width)
            for one, table in zip(crossed, tables, strict=True):
                totals = np.stack([sums[name].total for sums in table])
                sizes = np.stack([sums[name].size for sums in table])
                found.append(block_traces(spec.kind, totals, sizes, one.fields[name].whiten))
                wander = max(wander, block_wander(spec.kind, totals, sizes, one.fields[name].whiten))
                for sums in table:
                    outside.merge(sums[name])
            held = whole[name] if spec.kind == "cells" else outside
            traces = combine_traces(found)
            self.fields[name] = FieldReference(spec, held, traces.trace, traces.trace2, wander, traces.blocks)

    def judge(self, *batches: EventBatch) -> dict[str, FieldVerdict]:
        """Verdicts of one window by field."""
        sums = sums_of(self.extractor, *batches)
        names = [name for name in self.fields if sums[name].n]
        return dict(zip(names, judge_fields([(self.fields[n], sums[n]) for n in names]), strict=True))


def evidence(windows: Sequence[Mapping[str, FieldVerdict]]) -> dict[str, NDArray[np.float64]]:
    """ln e of each field over some windows."""
    names = sorted({name for window in windows for name in window})
    return {name: np.array([window[name].log_e for window in windows if name in window]) for name in names}
