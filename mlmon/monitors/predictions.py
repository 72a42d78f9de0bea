"""Have the answers moved: predicted labels, how sure the model is, and which labels come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlmon.baseline.model import no_parameters
from mlmon.monitors.drift_categorical import CategoricalFields, restored_categories
from mlmon.monitors.drift_monitor import FieldMonitor
from mlmon.monitors.drift_numeric import NumericFields
from mlmon.monitors.drift_rows import ROW_FIELDS, add, add_share, carrying_rows
from mlmon.monitors.prediction_learner import (
    CLASS,
    TOP_LABELS,
    PredictionLearner,
    PredictionsConfig,
    label_lists,
    read_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from mlmon.baseline.model import FieldSpec, FindParameters, Parameters
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.drift_rows import Rows
    from mlmon.stats.categories import Categories
    from mlmon.stats.sums import FieldSums

__all__ = ["PredictionExtractor", "PredictionsConfig", "PredictionsMonitor"]


class PredictionsMonitor(FieldMonitor):
    """Labels and scores of each series.

    Reads `prediction`, `confidence`, `entropy`, `top_labels`, `top_scores`, `status`, `probe_id` and
    `sampling_weight`, of events answered well that are no golden probes.

    Fields, of what the baseline's events carry: `class` (cells: the mix of labels, with cells for other and
    unseen ones), `class:unseen` (rate), `confidence` and `entropy` (cells), `margin` (cells: first less
    second of `top_scores`), `top_labels` (cells: how often a label is among the best), and of each
    `NAME:missing` (rate).

    Labels can be as many as a vocabulary has tokens: the most frequent `labels` are told apart. A shift of
    `class` may be a change of the world and not of the model; of `margin` or `entropy` alone it is so less
    often.
    It cannot see answers that are wrong with the usual mix and the usual confidence.

    Args:
        config: bounds and bins, for `learner`.
        parameters: what baselines say.
    """

    name = "predictions"
    reads: ClassVar[frozenset[str]] = ROW_FIELDS | {
        "prediction",
        "confidence",
        "entropy",
        "top_labels",
        "top_scores",
        "model_version",
    }

    def __init__(self, config: PredictionsConfig, parameters: FindParameters = no_parameters) -> None:
        super().__init__(parameters)
        self._config = config

    def learner(self) -> PredictionLearner:
        """A new first pass over a reference."""
        return PredictionLearner(self._config)

    def extractor(self, parameters: Parameters) -> PredictionExtractor:
        """How events become fields under these parameters."""
        return PredictionExtractor(parameters)


class PredictionExtractor:
    """Turns answers into field sums.

    Time: some 60 ns an event without `top_labels`, and 20 ns for each of these.

    Args:
        parameters: from `PredictionLearner`.

    Attributes:
        digest: of the parameters.
        fields: by name.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.digest = parameters.digest
        self.fields: Mapping[str, FieldSpec] = parameters.fields
        values = parameters.values
        self._numeric = NumericFields(values["numeric"], ranged=False)
        self._class = CategoricalFields(values[CLASS])
        self._top = [restored_categories(state) for state in values[TOP_LABELS]]

    def extract(self, batch: EventBatch, into: Mapping[str, FieldSums]) -> None:
        """Add a batch of one series to the sums."""
        rows = carrying_rows(batch)
        if rows is None:
            return
        self._numeric.add([read_numbers(batch, name) for name in self._numeric.names], rows, into)
        self._class.add([batch.column("prediction") for _ in self._class.names], rows, into)
        for categories in self._top:
            _add_lists(categories, batch.column("top_labels"), rows, into)


def _add_lists(
    categories: Categories, column: pa.Array | None, rows: Rows, into: Mapping[str, FieldSums]
) -> None:
    """Add how often each label is among the best."""
    size = rows.size()
    missing = into[f"{TOP_LABELS}:missing"]
    lists = label_lists(column)
    if lists is None or column is None:
        add_share(missing, size[1], size)
        return
    carried = (lists.lengths > 0) if rows.places is None else (lists.lengths > 0)[rows.places]
    cells = categories.cells(lists.values)
    if rows.common is not None and len(carried) == len(column) and carried.all():
        counted, present = np.bincount(cells, minlength=categories.count + 1), size
        total = counted * np.array(rows.common)
    else:
        weights = np.zeros(len(column))
        weights[slice(None) if rows.places is None else rows.places] = rows.weights * carried
        total = np.bincount(cells, np.repeat(weights, lists.lengths), categories.count + 1)
        present = rows.sizes(carried[None, :])[0]
    add(into[TOP_LABELS], total[:-1], present)
    add_share(missing, rows.weights[~carried].sum(), size)
