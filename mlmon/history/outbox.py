"""A closed window as rows for the history. Pure: what the engine calls through an `encode` it is given.

Rows are bounded whatever comes: cells of a field, numbers of an embedding's mean, attributes of a reading and
their length; so a row always fits a chunk, and the history's size is known from the number of series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from mlmon.baseline.model import ScopeKey
from mlmon.history.directions import Directions
from mlmon.history.tables import MAX_CHUNK_BYTES, NAMED_LABELS, QUANTILES, TABLES, Parcel, chunks_of
from mlmon.monitors.sample_rows import unpack_row
from mlmon.monitors.samples import SamplesSummary
from mlmon.monitors.slo_summary import SloSummary
from mlmon.monitors.traffic import LATENCY_PARTS, TrafficSummary
from mlmon.stats.counts import effective_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from mlmon.baseline.model import FindParameters
    from mlmon.monitors.base import Monitor, Reading, SeriesKey
    from mlmon.stats.sums import FieldSums
    from mlmon.windows import Window

__all__ = [
    "MAX_CELLS",
    "MAX_CHUNK_BYTES",
    "FieldRow",
    "FieldsOf",
    "drift_fields",
    "encode_window",
    "no_fields",
]

#: Most cells of a field that are kept; those beyond it are added to the last.
MAX_CELLS = 1_024
#: Longer means than this are kept as their coordinates along the leading directions of the reference.
_MAX_VECTOR = 32
#: Bounds of a reading's attributes: how many, and characters of each.
_ATTRIBUTES, _CHARACTERS = 64, 512

_Columns = dict[str, list[Any]]


class FieldRow(NamedTuple):
    """One drift field in compact form: Σwφ by cell, or along directions."""

    name: str
    kind: str
    cells: NDArray[np.float64]
    sums: FieldSums


#: (monitor, series, its summary) to the drift fields in it.
FieldsOf: TypeAlias = "Callable[[str, SeriesKey, Any], Iterable[FieldRow]]"


def no_fields(_monitor: str, _series: SeriesKey, _summary: Any) -> Iterable[FieldRow]:
    """Nothing is watched for drift."""
    return ()


def drift_fields(monitors: Sequence[Monitor], parameters: FindParameters) -> FieldsOf:
    """Where the drift fields of a summary come from: monitors with a method `drift`, and their parameters.

    A mean of more than 32 numbers (an embedding's) is kept as coordinates along the leading directions of its
    reference (`Directions`); without a whitening matrix it is left out.
    """
    drifts = {monitor.name: monitor.drift for monitor in monitors if hasattr(monitor, "drift")}
    directions = Directions()

    def fields(monitor: str, series: SeriesKey, summary: Any) -> Iterable[FieldRow]:
        drift = drifts.get(monitor)
        found = None if drift is None else parameters(monitor, ScopeKey(*series[:3]))
        if drift is None or found is None:
            return
        for name, sums in drift(summary).items():
            spec = found.fields.get(name)
            if spec is None or not sums.n:
                continue
            if spec.kind == "vector" and len(sums.total) > _MAX_VECTOR:
                if spec.whiten is not None:
                    yield FieldRow(name, "directions", sums.total @ directions.of(spec.whiten), sums)
            else:
                yield FieldRow(name, spec.kind, _bounded(sums.total), sums)

    return fields


def _bounded(total: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(total) <= MAX_CELLS:
        return total
    return np.append(total[: MAX_CELLS - 1], total[MAX_CELLS - 1 :].sum())


def encode_window(
    window: Window,
    readings: Sequence[Reading],
    summaries: Mapping[str, Mapping[SeriesKey, Any]],
    fields: FieldsOf = no_fields,
) -> list[bytes]:
    """Write a closed window as chunks for `History.write`.

    Args:
        window: the window.
        readings: all of its readings.
        summaries: by monitor and series; they stay as they are.
        fields: the drift fields of a summary.

    Returns:
        Chunks of at most `MAX_CHUNK_BYTES`; none where there is nothing to keep.
    """
    columns = {
        "readings": _readings(readings),
        "distributions": _distributions(summaries, fields),
        "latency": _latency(summaries),
        "outcomes": _outcomes(summaries),
        "events": _events(summaries),
    }
    return chunks_of(Parcel(window, {name: _table(name, window, rows) for name, rows in columns.items()}))


def _table(name: str, window: Window, columns: _Columns) -> pa.Table:
    """Columns as a table of the history; the window's are filled in, and absent ones are null."""
    schema = TABLES[name]
    length = len(next(iter(columns.values()), ()))
    filled = {"window_start": [window.start_us] * length, "window_end": [window.end_us] * length, **columns}
    return pa.Table.from_arrays([pa.array(filled[field.name], field.type) for field in schema], schema=schema)


def _readings(readings: Sequence[Reading]) -> _Columns:
    named: _Columns = {name: [] for name in NAMED_LABELS}
    rest = []
    for reading in readings:
        labels = dict(zip(reading.metric.labels, reading.labels, strict=True))
        for name in NAMED_LABELS:
            named[name].append(labels.pop(name, None))
        rest.append(list(labels.items()))
    return {
        "metric": [reading.metric.name for reading in readings],
        **named,
        "labels": rest,
        "value": [reading.value for reading in readings],
        "n": [reading.n for reading in readings],
        "n_eff": [reading.n_eff for reading in readings],
        "threshold": [reading.threshold for reading in readings],
        "p_value": [reading.p_value for reading in readings],
        "lower": [None if r.interval is None else r.interval[0] for r in readings],
        "upper": [None if r.interval is None else r.interval[1] for r in readings],
        "attributes": [_attributes(reading.attributes) for reading in readings],
    }


def _attributes(attributes: Mapping[str, str]) -> list[tuple[str, str]]:
    pairs = list(attributes.items())[:_ATTRIBUTES]
    return [(str(name)[:_CHARACTERS], str(value)[:_CHARACTERS]) for name, value in pairs]


def _series(keys: Sequence[SeriesKey]) -> _Columns:
    names = ("service", "model", "version", "deployment", "segment")
    return {name: [key[index] for key in keys] for index, name in enumerate(names)}


def _distributions(summaries: Mapping[str, Mapping[SeriesKey, Any]], fields: FieldsOf) -> _Columns:
    rows = [
        (monitor, series, row)
        for monitor, by_series in summaries.items()
        for series, summary in by_series.items()
        for row in fields(monitor, series, summary)
    ]
    return {
        **_series([series for _, series, _ in rows]),
        "monitor": [monitor for monitor, _, _ in rows],
        "field": [row.name for _, _, row in rows],
        "kind": [row.kind for _, _, row in rows],
        "cells": [row.cells for _, _, row in rows],
        "n": [row.sums.n for _, _, row in rows],
        "weight": [row.sums.weight for _, _, row in rows],
        "n_eff": [row.sums.n_eff for _, _, row in rows],
    }


def _latency(summaries: Mapping[str, Mapping[SeriesKey, Any]]) -> _Columns:
    rows = [
        (series, part, sketch, histogram.cells.sum(axis=0))
        for by_series in summaries.values()
        for series, summary in by_series.items()
        if isinstance(summary, TrafficSummary)
        for part, sketch, histogram in zip(LATENCY_PARTS, summary.sketches, summary.parts, strict=True)
        if len(sketch.bins)
    ]
    quantiles = [sketch.quantiles(tuple(QUANTILES.values())) for _, _, sketch, _ in rows]
    return {
        **_series([series for series, _, _, _ in rows]),
        "part": [part for _, part, _, _ in rows],
        "sketch": [sketch.to_bytes() for _, _, sketch, _ in rows],
        "n": [int(size[0]) for _, _, _, size in rows],
        "weight": [float(size[1]) for _, _, _, size in rows],
        "n_eff": [effective_size(size) for _, _, _, size in rows],
        **{name: [values[index] for values in quantiles] for index, name in enumerate(QUANTILES)},
    }


def _outcomes(summaries: Mapping[str, Mapping[SeriesKey, Any]]) -> _Columns:
    """Good and bad events of the window by objective, in the window in which they, or their labels, came."""
    rows = [
        (series, slo, outcome, triple)
        for by_series in summaries.values()
        for series, summary in by_series.items()
        if isinstance(summary, SloSummary)
        for slo, totals in summary.outcomes()
        for outcome, triple in zip(("good", "bad"), totals.tolist(), strict=True)
        if triple[0]
    ]
    return {
        **_series([series for series, _, _, _ in rows]),
        "slo": [slo for _, slo, _, _ in rows],
        "outcome": [outcome for _, _, outcome, _ in rows],
        "n": [int(triple[0]) for _, _, _, triple in rows],
        "weight": [triple[1] for _, _, _, triple in rows],
        "weight_squared": [triple[2] for _, _, _, triple in rows],
    }


def _events(summaries: Mapping[str, Mapping[SeriesKey, Any]]) -> _Columns:
    """One sample for each service, model, version and deployment: that of its segments together."""
    merged: dict[SeriesKey, SamplesSummary] = {}
    for by_series in summaries.values():
        for series, summary in by_series.items():
            if isinstance(summary, SamplesSummary):
                whole = series._replace(segment="")
                if whole in merged:
                    merged[whole].merge(summary)
                else:
                    merged[whole] = summary.copy()
    found = [
        (series, rank, summary.size, unpack_row(packed))
        for series, summary in merged.items()
        for rank, packed in summary.rows()
    ]
    columns = _series([series for series, _, _, _ in found])
    del columns["segment"]
    rows = [row for _, _, _, row in found]
    plain = [field.name for field in TABLES["events"]]
    plain = plain[plain.index("prediction") : plain.index("segments")]
    return {
        **columns,
        "rank": [rank for _, rank, _, _ in found],
        "window_events": [int(size[0]) for _, _, size, _ in found],
        "window_weight": [float(size[1]) for _, _, size, _ in found],
        "event_time": [row.time_us for row in rows],
        **{name: [row.plain.get(name) for row in rows] for name in plain},
        "segments": [list(row.segments.items()) for row in rows],
        "numeric_features": [list(row.numeric.items()) for row in rows],
        "categorical_features": [list(row.categorical.items()) for row in rows],
        "embedding": [row.vector() for row in rows],
    }
