"""The whole study of a scope: false pages by pattern of traffic, and the delay of every shift."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mlmon.drift.config import MONTH_SECONDS
from mlmon.errors import BaselineError
from mlmon.simulate.population import population
from mlmon.simulate.reference import daily_tilt, drawn_reference, monitors_for
from mlmon.simulate.run import Delay, Rules, detection_delay, false_pages
from mlmon.simulate.shifts import SHIFTS
from mlmon.simulate.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from mlmon.baseline.model import Scope
    from mlmon.baseline.store import BaselineStore
    from mlmon.simulate.population import Population
    from mlmon.simulate.run import FalsePages
    from mlmon.simulate.shifts import Shift
    from mlmon.simulate.traffic import Pattern

__all__ = ["Study", "StudyOptions", "as_json"]

#: Events that delays are found with: those before a shift, those after it and those of the reference are the
#: same, so that nothing has moved but what the shift moves.
_SHIFTED = 1_000
_FEWEST = 500


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """What is simulated.

    Attributes:
        events: mean number of sampled events to a window.
        burst: mean length of a burst, for the bursty pattern.
        reference_events: events of each reference that is drawn.
        months: of traffic without change, for each pattern.
        runs: for each shift, over all references.
        references: that the delays are averaged over; each costs a calibration.
        limit_windows: windows after a shift; a run that has not paged by then has not found it.
        seed: of everything that is drawn.
    """

    events: float
    burst: float
    reference_events: int
    months: float = 1.0
    runs: int = 9
    references: int = 3
    limit_windows: int = 240
    seed: int = 1


class Study:
    """Simulates one scope of a baseline under a configuration.

    Args:
        scope: has the sample that traffic is drawn from.
        rules: the configuration.
        configs: of the monitors, by name.
        options: what is simulated.
        segment_by: keys that series are told apart by.
        advance: told what was done: a window of a pattern, or one of the shifts.

    Raises:
        BaselineError: the scope has no sample, or too small a one.
    """

    def __init__(
        self,
        scope: Scope,
        rules: Rules,
        configs: Mapping[str, Any],
        options: StudyOptions,
        segment_by: tuple[str, ...] = (),
        advance: Callable[[str], object] = lambda _what: None,
    ) -> None:
        if scope.sample is None or len(scope.sample) < _FEWEST:
            size = 0 if scope.sample is None else len(scope.sample)
            raise BaselineError(
                f"the baseline's sample has {size} events, expected {_FEWEST} at least: build the baseline "
                "from more events, or with a larger sample"
            )
        self._sample = scope.sample
        self._few = scope.sample.slice(0, _SHIFTED)
        self._rules = Rules(
            rules.alerts, msgspec.structs.replace(rules.drift, top_fields=1), rules.window_seconds
        )
        self._configs = configs
        self._options = options
        self._segment_by = segment_by
        self._advance = advance
        self._drawn: list[tuple[BaselineStore, Population]] = []

    @property
    def month_windows(self) -> int:
        """Windows in the months that are simulated for each pattern."""
        return round(self._options.months * MONTH_SECONDS / self._rules.window_seconds)

    def _traffic(self, sample: pa.Table, pattern: Pattern) -> Traffic:
        """How events of a sample arrive."""
        tilt = daily_tilt(sample, np.random.default_rng(self._options.seed))
        return Traffic(
            len(sample),
            self._options.events,
            pattern,
            burst=max(1.5, self._options.burst),
            tilt=tilt,
            window_seconds=self._rules.window_seconds,
        )

    def false_pages(self, pattern: Pattern) -> FalsePages:
        """Pages in traffic of this pattern that does not change, against a reference of the same pattern."""
        traffic = self._traffic(self._sample, pattern)
        store = self._reference(self._sample, traffic, self._options.seed)
        drawn = self._population(self._sample, store)
        length = (self.month_windows, self._options.seed)
        return false_pages(drawn, store, traffic, self._rules, length, lambda: self._advance(pattern))

    def delays(self, shifts: Sequence[Shift] = SHIFTS) -> list[Delay]:
        """Delays of the shifts that the events can show, in independent traffic."""
        traffic = self._traffic(self._few, "independent")
        found = []
        for shift in shifts:
            changed = shift.change(self._few)
            if changed is not None and len(changed):
                found.append(self._delay(shift, changed, traffic))
            self._advance("shifts")
        return found

    def _delay(self, shift: Shift, changed: pa.Table, traffic: Traffic) -> Delay:
        if not self._drawn:
            seeds = range(self._options.seed + 100, self._options.seed + 100 + self._options.references)
            stores = [self._reference(self._few, traffic, seed) for seed in seeds]
            self._drawn = [(store, self._population(self._few, store)) for store in stores]
        delays: list[int] = []
        causes: Counter[str] = Counter()
        runs = max(1, self._options.runs // self._options.references)
        for number, (store, before) in enumerate(self._drawn):
            after = self._population(changed, store)
            limits = (runs, self._options.limit_windows)
            one = detection_delay(
                (before, after), store, traffic, self._rules, shift.share, (*limits, number)
            )
            delays.extend(one.windows)
            causes.update(one.causes)
        return Delay(shift.name, delays, runs * len(self._drawn), causes)

    def _reference(self, sample: pa.Table, traffic: Traffic, seed: int) -> BaselineStore:
        order = traffic.order(self._options.reference_events, np.random.default_rng(seed))
        return drawn_reference(sample, order, self._configs, self._segment_by)

    def _population(self, events: pa.Table, store: BaselineStore) -> Population:
        return population(monitors_for(self._configs, store), events, self._segment_by)


def as_json(pages: Mapping[str, FalsePages], delays: Sequence[Delay], rules: Rules) -> dict[str, Any]:
    """Everything a study found, for `--json`. Delays are in windows and in seconds."""
    return {
        "false_pages_per_month_declared": rules.alerts.false_pages_per_month,
        "window_seconds": rules.window_seconds,
        "false_pages": {
            pattern: {
                "windows": found.windows,
                "pages": found.pages.total(),
                "per_month": found.per_month,
                "interval_95": list(found.interval),
                "causes": dict(found.pages),
                "closest_to_a_page": max(found.closest, default=0.0),
            }
            for pattern, found in pages.items()
        },
        "delays": [
            {
                "shift": delay.name,
                "runs": delay.runs,
                "found": len(delay.windows),
                "median_windows": delay.quantile(0.5),
                "p90_windows": delay.quantile(0.9),
                "median_seconds": _seconds(delay.quantile(0.5), rules),
                "causes": dict(delay.causes),
            }
            for delay in delays
        ],
    }


def _seconds(windows: float | None, rules: Rules) -> float | None:
    return None if windows is None else windows * rules.window_seconds
