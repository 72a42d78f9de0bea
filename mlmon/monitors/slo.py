"""Which events are good and bad by the objectives, as they arrive and by the time of their requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from mlmon.catalog import slo as catalog
from mlmon.monitors.base import Sample
from mlmon.monitors.slo_objectives import read_objectives
from mlmon.monitors.slo_summary import SloSummary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlmon.monitors.base import Reading, SeriesKey
    from mlmon.windows import Window

__all__ = ["SloConfig", "SloMonitor"]

_OUTCOMES = ("good", "bad")
_LATE = ("late", "lost")


class SloConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.slo]`: which objectives are judged in event time."""

    objectives_file: Annotated[
        str,
        msgspec.Meta(
            description="Path of the objectives that `mlmon render` writes, mlmon/monitors/objectives.json "
            "below its --root. Empty for those that ship with mlmon."
        ),
    ] = ""
    time_scale: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=3600,
            description="Every window, label delay and bucket is divided by it; names stay. For rehearsals, "
            "together with the same time_scale in [rules] of alerts/config.toml.",
        ),
    ] = 1.0
    max_groups: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=2000,
            description="Most services and models whose burns are kept. Each takes some 0.2 MB of memory "
            "and of the checkpoint, 0.5 MB with labels that come a day late.",
        ),
    ] = 100


class SloMonitor:
    """Good and bad events of each series by objective.

    Reads what the objectives' judges need: `status`, `latency_seconds`, `label` with `prediction`,
    `labelled_masked_tokens` with `right_masked_tokens`, `agreement`, `echo`; and `request_time`,
    `sampling_weight`. Label events and requests that carry their label at once count alike. A latency that is
    absent, NaN, infinite or negative is no event. An event before the first version of an objective is none
    of its events.

    Emits `EVENTS` and `LATE_LABELS` as counters; burns are read from what it sums by the ledger
    (`mlmon.burn`). Cardinality of a series: 6 counters for each objective it has events of, 2 more where
    labels are judged.

    A rise of bad events means what the objective says. It cannot see requests that never reached the server,
    and of accuracy only what is labelled. A label that is sent twice counts twice: nothing is kept to tell.

    Attributes:
        judging: the objectives.
        max_groups: of the ledger.
    """

    name = "slo"
    #: Label events too are for it.
    labels = True

    def __init__(self, config: SloConfig) -> None:
        self.judging = read_objectives(config.objectives_file, config.time_scale)
        self.max_groups = config.max_groups
        self.fields = self.judging.fields

    def summary(self) -> SloSummary:
        """An empty summary."""
        return SloSummary(self.judging)

    def load(self, data: bytes) -> SloSummary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: it was judged by other objectives.
        """
        return SloSummary.restored(data, self.judging)

    def collect(self, series: SeriesKey, summary: SloSummary) -> Iterable[Sample]:
        """Outcomes since the process started."""
        for objective, outcomes, late in zip(
            self.judging.objectives, summary.totals.tolist(), summary.late.tolist(), strict=True
        ):
            if not outcomes[0][0] and not outcomes[1][0]:
                continue
            for outcome, (n, weight, squared) in zip(_OUTCOMES, outcomes, strict=True):
                labels = (*series, objective.name, outcome)
                yield Sample(catalog.EVENTS.sampled, labels, n)
                yield Sample(catalog.EVENTS.estimated, labels, weight)
                yield Sample(catalog.EVENTS.weight_squared, labels, squared)
            if objective.labelled:
                for kind, count in zip(_LATE, (late[0] - late[1], late[1]), strict=True):
                    yield Sample(catalog.LATE_LABELS, (*series, objective.name, kind), float(count))

    def read(
        self,
        window: Window,  # noqa: ARG002 - protocol
        summaries: Mapping[SeriesKey, SloSummary],  # noqa: ARG002 - protocol
        first_seen: Mapping[SeriesKey, int],  # noqa: ARG002 - protocol
    ) -> Iterable[Reading]:
        """Nothing: a burn needs more than one window."""
        return ()
