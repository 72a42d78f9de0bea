"""What is known of the two deployments that are compared: sums since the canary began.

Only sums, so a verdict costs the same after a minute and after a day, and sidecars' histories can be added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mlmon.stats.counts import effective_size
from mlmon.stats.sketch import QuantileSketch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Arm", "ArmPair", "Cells", "Trials"]


class Trials(NamedTuple):
    """Effective number of bad events and of events, for a test of a share."""

    bad: float
    events: float


class Cells(NamedTuple):
    """A distribution: estimated events by cell, shape (c,), of how many, and their effective number."""

    cells: NDArray[np.float64]
    weight: float
    n_eff: float


@dataclass(frozen=True, slots=True)
class Arm:
    """One deployment or version.

    Attributes:
        name: what it is called, such as `deployment=canary`.
        outcomes: n, Σw, Σw² of good and of bad events by objective, shape (2, 3).
        latency: of requests, in seconds.
        latency_events: effective number of requests in it.
        fields: distributions by "monitor/field".
        windows: closed windows that all of it is from.
    """

    name: str
    outcomes: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    latency: QuantileSketch = field(default_factory=QuantileSketch)
    latency_events: float = 0.0
    fields: Mapping[str, Cells] = field(default_factory=dict)
    windows: int = 0

    @property
    def events(self) -> int:
        """Sampled events that the objective with most of them was judged by."""
        return max((int(triples[:, 0].sum()) for triples in self.outcomes.values()), default=0)

    def trials(self, objective: str) -> Trials:
        """Effective events of an objective.

        Weights differ where errors are always kept and the rest is sampled. Then the number of bad events
        that were seen is what the evidence rests on, (Σw)²/Σw² of the bad ones; the number of events that
        goes with it is this divided by the estimated share of bad events. Without a bad event it is
        (Σw)²/Σw² of the good ones. With equal weights both are plain counts.

        Example:
            >>> import numpy as np
            >>> even = Arm("a", {"availability": np.array([[90.0, 90, 90], [10, 10, 10]])})
            >>> even.trials("availability")
            Trials(bad=10.0, events=100.0)
        """
        triples = self.outcomes.get(objective)
        if triples is None:
            return Trials(0.0, 0.0)
        good, bad = triples
        if bad[1] <= 0:
            return Trials(0.0, effective_size(good))
        share = bad[1] / (good[1] + bad[1])
        seen = effective_size(bad)
        return Trials(seen, seen / float(share))


@dataclass(frozen=True, slots=True)
class ArmPair:
    """The stable deployment and the canary, and what the objectives allow.

    Attributes:
        stable: what serves.
        canary: what is to replace it.
        budgets: 1 - target by objective.
    """

    stable: Arm
    canary: Arm
    budgets: Mapping[str, float] = field(default_factory=dict)
