"""What monitors that only make fields have in common: summaries of field sums, and nothing to say alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from mlmon.baseline.model import no_parameters
from mlmon.monitors.drift import DriftSummary, extractors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlmon.baseline.model import FindParameters, Parameters
    from mlmon.monitors.base import Reading, Sample, SeriesKey
    from mlmon.monitors.drift import Extractor, Learner
    from mlmon.stats.sums import FieldSums
    from mlmon.windows import Window

__all__ = ["FieldMonitor"]


class FieldMonitor(ABC):
    """A monitor whose summaries are field sums, judged in `mlmon.drift` with those of all others.

    Args:
        parameters: what baselines say.
    """

    name: str
    #: Optional event fields it reads where there can be a baseline.
    reads: ClassVar[frozenset[str]]

    def __init__(self, parameters: FindParameters = no_parameters) -> None:
        self._watching = parameters is not no_parameters
        self._find = extractors(self, parameters)

    @property
    def fields(self) -> frozenset[str]:
        """What it reads; nothing where no baseline is configured."""
        return self.reads if self._watching else frozenset()

    @abstractmethod
    def learner(self) -> Learner:
        """A new first pass over a reference."""

    @abstractmethod
    def extractor(self, parameters: Parameters) -> Extractor:
        """How events become fields under these parameters."""

    def drift(self, summary: DriftSummary) -> Mapping[str, FieldSums]:
        """The field sums of a summary."""
        return summary.fields

    def summary(self) -> DriftSummary:
        """An empty summary."""
        return DriftSummary(self._find)

    def load(self, data: bytes) -> DriftSummary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: it was made with another baseline.
        """
        return self.summary().restore(data)

    def collect(self, series: SeriesKey, summary: DriftSummary) -> Iterable[Sample]:  # noqa: ARG002 - protocol
        """Nothing: drift has no counters."""
        return ()

    def read(
        self,
        window: Window,  # noqa: ARG002 - protocol
        summaries: Mapping[SeriesKey, DriftSummary],  # noqa: ARG002 - protocol
        first_seen: Mapping[SeriesKey, int],  # noqa: ARG002 - protocol
    ) -> Iterable[Reading]:
        """Nothing: `mlmon.drift` judges the fields."""
        return ()
