"""Labels and bins of answers, learned from a reference: the first pass of the predictions monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlmon.events.batch import EventBatch
from mlmon.monitors.drift import make_parameters
from mlmon.monitors.drift_categorical import categorical_specs, categorical_state, cells_spec, rate_spec
from mlmon.monitors.drift_numeric import numeric_specs, numeric_state
from mlmon.monitors.drift_rows import carrying_rows, is_text, numbers
from mlmon.monitors.drift_sample import WEIGHT, EventSample, drawn_together
from mlmon.stats.bins import learn_bins
from mlmon.stats.categories import learn_categories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldSpec, Parameters

__all__ = [
    "CLASS",
    "TOP_LABELS",
    "LabelLists",
    "PredictionLearner",
    "PredictionsConfig",
    "label_lists",
    "read_numbers",
]

CLASS, TOP_LABELS, MARGIN = "class", "top_labels", "margin"
_NUMBERS = ("confidence", "entropy", MARGIN)
_READ = ("prediction", "confidence", "entropy", "top_labels", "top_scores")
#: Labels that are known at all.
_MOST_KNOWN = 16_384


class PredictionsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.predictions]`: how answers are turned into distributions when a baseline is built."""

    labels: Annotated[
        int,
        msgspec.Meta(
            ge=2,
            le=16_384,
            description="Labels told apart, the most frequent ones; the rest is `(other)`. Each costs 16 "
            "bytes of state for every series.",
        ),
    ] = 256
    bins: Annotated[
        int,
        msgspec.Meta(
            ge=4,
            le=512,
            description="Bins of confidence, entropy and margin, cut at quantiles of the baseline. More see "
            "finer changes of shape, and need more events.",
        ),
    ] = 64
    sample_events: Annotated[
        int,
        msgspec.Meta(
            ge=1000,
            le=1_000_000,
            description="Events that labels and bins are learned from, drawn evenly from each half of the "
            "baseline's. More cost memory while a baseline is built.",
        ),
    ] = 20_000


class PredictionLearner:
    """Learns from a bounded sample of each part; see `EventSample`.

    Memory: up to 4·`sample_events` rows.

    Args:
        config: bounds and bins.
    """

    def __init__(self, config: PredictionsConfig) -> None:
        self._config = config
        self._samples = (EventSample(config.sample_events), EventSample(config.sample_events))
        self._notes: dict[str, None] = {}

    def update(self, batch: EventBatch, part: int) -> None:
        """Take in events of one scope."""
        rows = carrying_rows(batch)
        if rows is not None:
            self._samples[part].update(batch, rows, lambda places: _columns(batch, places))

    def finish(self, parts: tuple[int, ...]) -> Parameters | None:
        """Parameters learned from these parts, or None where they carry no answer."""
        table = drawn_together([self._samples[part] for part in parts])
        specs: dict[str, FieldSpec] = {}
        values = {
            CLASS: self._classes(table, specs),
            "numeric": self._numeric(table, specs),
            TOP_LABELS: self._top_labels(table, specs),
        }
        return make_parameters(values, specs) if specs else None

    def _classes(self, table: pa.Table, specs: dict[str, FieldSpec]) -> list[Any]:
        if CLASS not in table.column_names:
            return []
        found = learn_categories(table.column(CLASS).combine_chunks(), self._config.labels, _MOST_KNOWN)
        if found is None:
            return []
        if not found.own:
            self._notes["predictions: hardly any label occurs twice, so their mix is not watched"] = None
        specs.update(categorical_specs(CLASS, found))
        return [categorical_state(CLASS, found)]

    def _numeric(self, table: pa.Table, specs: dict[str, FieldSpec]) -> list[Any]:
        states = []
        weights = table.column(WEIGHT).to_numpy()
        for name in _NUMBERS:
            if name not in table.column_names:
                continue
            bins = learn_bins(table.column(name).to_numpy(), weights, self._config.bins)
            if bins is None:
                continue
            if bins.count == 1:
                self._notes[f"predictions: {name} is constant, watched for missing values only"] = None
            specs.update(numeric_specs(name, bins, ranged=False))
            states.append(numeric_state(name, bins))
        return states

    def _top_labels(self, table: pa.Table, specs: dict[str, FieldSpec]) -> list[Any]:
        if TOP_LABELS not in table.column_names:
            return []
        lists = label_lists(table.column(TOP_LABELS).combine_chunks())
        found = None if lists is None else learn_categories(lists.values, self._config.labels, _MOST_KNOWN)
        if found is None or not found.own:
            return []
        specs[TOP_LABELS] = cells_spec(found)
        specs[f"{TOP_LABELS}:missing"] = rate_spec()
        return [categorical_state(TOP_LABELS, found)]

    def warnings(self) -> list[str]:
        """What the maker of the baseline should know."""
        return list(self._notes)


class LabelLists(NamedTuple):
    """A list column: values one after the other, and how many of them each event has (0 for null)."""

    values: pa.Array
    lengths: NDArray[np.int64]


def label_lists(column: pa.Array | None) -> LabelLists | None:
    """A list column taken apart; None where it is absent, or no list."""
    if column is None or not _is_list(column.type):
        return None
    lengths = pc.list_value_length(column).fill_null(0)
    # flatten leaves out what stands under a null
    return LabelLists(column.flatten(), lengths.to_numpy(zero_copy_only=False).astype(np.int64))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def read_numbers(batch: EventBatch, name: str) -> NDArray[np.floating] | None:
    """Confidence, entropy or margin of each event, NaN where it has none; None where no event has."""
    return margins(batch.column("top_scores")) if name == MARGIN else numbers(batch.column(name))


def margins(column: pa.Array | None) -> NDArray[np.float64] | None:
    """First less second score of each list, NaN where there are fewer.

    Example:
        >>> margins(pa.array([[0.75, 0.25], [1.0], None])).tolist()
        [0.5, nan, nan]
    """
    lists = label_lists(column)
    scores = None if lists is None else numbers(lists.values)
    if lists is None or scores is None:
        return None
    starts = np.cumsum(lists.lengths) - lists.lengths
    out = np.full(len(starts), np.nan)
    pairs = np.flatnonzero(lists.lengths >= 2)
    first = starts[pairs]
    out[pairs] = scores[first].astype(np.float64) - scores[first + 1]
    return out


def _columns(batch: EventBatch, places: pa.Array) -> dict[str, pa.Array]:
    """What is learned from, of events at these places."""
    read = [name for name in _READ if batch.has(name)]
    part = EventBatch(batch.records.select(read).take(places))
    columns: dict[str, pa.Array] = {}
    label, top = part.column("prediction"), part.column("top_labels")
    if label is not None and is_text(label.type):
        columns[CLASS] = label.cast(pa.string())
    if top is not None and _is_list(top.type) and is_text(top.type.value_type):
        columns[TOP_LABELS] = top.cast(pa.list_(pa.string()))
    for name in _NUMBERS:
        values = read_numbers(part, name)
        if values is not None:
            columns[name] = pa.array(values.astype(np.float64))
    return columns
