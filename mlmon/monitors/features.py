"""Have the features moved: numbers and categories that a service sends with its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mlmon.baseline.model import no_parameters
from mlmon.monitors.drift_categorical import CategoricalFields
from mlmon.monitors.drift_monitor import FieldMonitor
from mlmon.monitors.drift_numeric import NumericFields
from mlmon.monitors.drift_rows import ROW_FIELDS, carrying_rows, children, numbers
from mlmon.monitors.feature_learner import FeatureLearner, FeaturesConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.baseline.model import FieldSpec, FindParameters, Parameters
    from mlmon.events.batch import EventBatch
    from mlmon.stats.sums import FieldSums

__all__ = ["FeatureExtractor", "FeaturesConfig", "FeaturesMonitor"]


class FeaturesMonitor(FieldMonitor):
    """Distribution, missing, unseen and out-of-range values of each feature.

    Reads `numeric_features`, `categorical_features`, `status`, `probe_id` and `sampling_weight`, of events
    answered well that are no golden probes. Null and non-finite values are missing.

    Fields of feature NAME, which a baseline fixes: `NAME` (cells: its distribution), `NAME:missing` (rate);
    of a number also `NAME:range` (rate: beyond the least and greatest value of the baseline's sample), of a
    category `NAME:unseen` (rate: values the baseline hardly ever had). A constant number has no distribution,
    and of a category whose values hardly repeat (an id) only `NAME:missing` is watched. In names `%`, `:` and
    control characters are escaped as %XX; a category that has the name of a number is called `NAME:text`.

    Features that the baseline has not met are not watched. It cannot see a change that keeps the
    distribution of each feature (of their correlation, say).

    Args:
        config: bounds and bins, for `learner`.
        parameters: what baselines say.
    """

    name = "features"
    reads: ClassVar[frozenset[str]] = ROW_FIELDS | {
        "numeric_features",
        "categorical_features",
        "model_version",
    }

    def __init__(self, config: FeaturesConfig, parameters: FindParameters = no_parameters) -> None:
        super().__init__(parameters)
        self._config = config

    def learner(self) -> FeatureLearner:
        """A new first pass over a reference."""
        return FeatureLearner(self._config)

    def extractor(self, parameters: Parameters) -> FeatureExtractor:
        """How events become fields under these parameters."""
        return FeatureExtractor(parameters)


class FeatureExtractor:
    """Turns features into field sums.

    Memory: 64 kB a numeric feature. Time: some 10 ns a number, 20 ns a category of an event.

    Args:
        parameters: from `FeatureLearner`.

    Attributes:
        digest: of the parameters.
        fields: by name.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.digest = parameters.digest
        self.fields: Mapping[str, FieldSpec] = parameters.fields
        numeric, categorical = parameters.values["numeric"], parameters.values["categorical"]
        self._numeric = NumericFields([state for _, state in numeric], ranged=True)
        self._categorical = CategoricalFields([state for _, state in categorical])
        self._numbers = [str(name) for name, _ in numeric]
        self._texts = [str(name) for name, _ in categorical]

    def extract(self, batch: EventBatch, into: Mapping[str, FieldSums]) -> None:
        """Add a batch of one series to the sums."""
        rows = carrying_rows(batch)
        if rows is None:
            return
        found = children(batch.column("numeric_features"))
        self._numeric.add([numbers(found.get(name)) for name in self._numbers], rows, into)
        found = children(batch.column("categorical_features"))
        self._categorical.add([found.get(name) for name in self._texts], rows, into)
