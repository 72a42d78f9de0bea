"""A month of traffic without any change, and what a change would take to be found.

Every run starts with a reference of its own, drawn from the population and calibrated as any baseline is, so
that the error of a reference is part of what is simulated. Then windows are drawn and judged by the same code
that runs in the sidecar.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import chi2

from mlmon.catalog.drift import PAGER_EVIDENCE
from mlmon.drift.config import MONTH_SECONDS
from mlmon.drift.judge import Judge
from mlmon.simulate.population import added
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlmon.drift.config import AlertsConfig, DriftConfig
    from mlmon.drift.group import GroupKey
    from mlmon.drift.judge import FieldTable, References
    from mlmon.monitors.base import SeriesKey
    from mlmon.simulate.population import Population
    from mlmon.simulate.traffic import Traffic

__all__ = ["Delay", "FalsePages", "Rules", "detection_delay", "false_pages", "poisson_interval"]

_START_US = 1_700_000_000_000_000 - 1_700_000_000_000_000 % (86_400 * 1_000_000)


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about pages: the configuration that is tried out."""

    alerts: AlertsConfig
    drift: DriftConfig
    window_seconds: int


@dataclass(slots=True)
class FalsePages:
    """Pages in traffic that did not change.

    Attributes:
        pages: how many, and for what cause.
        windows: windows simulated.
        months: the time that they are.
        closest: largest evidence over threshold in each of up to 200 equal parts of the time.
    """

    windows: int
    months: float
    pages: Counter[str] = field(default_factory=Counter)
    closest: list[float] = field(default_factory=list)

    @property
    def per_month(self) -> float:
        """Pages in 30 days."""
        return self.pages.total() / self.months

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate (Garwood 1936)."""
        low, high = poisson_interval(self.pages.total())
        return low / self.months, high / self.months


@dataclass(frozen=True, slots=True)
class Delay:
    """How long a shift takes to be paged.

    Attributes:
        name: of the shift.
        windows: windows from its start to the page, of the runs that found it.
        runs: runs made.
        causes: what the pages were blamed on.
    """

    name: str
    windows: Sequence[int]
    runs: int
    causes: Counter[str]

    def quantile(self, q: float) -> float | None:
        """Windows by which the share q of all runs had paged; None where fewer did."""
        ranked = sorted(self.windows)
        rank = max(0, int(np.ceil(q * self.runs)) - 1)
        return float(ranked[rank]) if rank < len(ranked) else None


def poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a Poisson mean (Garwood 1936).

    Example:
        >>> [round(bound, 2) for bound in poisson_interval(0)], [round(b, 2) for b in poisson_interval(3)]
        ([0.0, 3.69], [0.62, 8.77])
    """
    tail = (1 - confidence) / 2
    low = chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    return float(low), float(chi2.ppf(1 - tail, 2 * count + 2) / 2)


class _Run:
    """One judge over consecutive windows."""

    def __init__(self, references: References, rules: Rules) -> None:
        self._judge = Judge(references, rules.alerts, rules.drift, rules.window_seconds)
        self._size_us = rules.window_seconds * 1_000_000
        self._closed = 0
        self._pages: Counter[GroupKey] = Counter()

    def close(self, tables: Mapping[SeriesKey, FieldTable]) -> tuple[float, list[str]]:
        """Judge the next window; returns the largest evidence over threshold, and the causes of new pages."""
        start = _START_US + self._closed * self._size_us
        self._closed += 1
        said = self._judge.close(Window(start, start + self._size_us), tables, ())
        closest = max(
            (r.value / r.threshold for r in said if r.metric is PAGER_EVIDENCE and r.threshold), default=0.0
        )
        causes = []
        for key, group in self._judge.groups.items():
            new = group.pager.pages - self._pages[key]
            if new and group.pager.alarm is not None:
                causes.append(group.pager.alarm.cause)
            self._pages[key] = group.pager.pages
        return closest, causes


def false_pages(
    population: Population,
    references: References,
    traffic: Traffic,
    rules: Rules,
    length: tuple[int, int],
    advance: Callable[[], object] = lambda: None,
) -> FalsePages:
    """Judge windows of traffic that does not change.

    Args:
        population: what is drawn from.
        references: the reference to judge by.
        traffic: how events arrive.
        rules: the configuration.
        length: number of windows, and the seed.
        advance: called once for each window, for a progress bar.
    """
    windows, seed = length
    rng = np.random.default_rng(seed)
    run = _Run(references, rules)
    found = FalsePages(windows, windows * rules.window_seconds / MONTH_SECONDS)
    part = max(1, windows // 200)
    for index in range(windows):
        closest, causes = run.close(population.window(traffic.draw(index, rng)))
        found.pages.update(causes)
        if index % part == 0:
            found.closest.append(closest)
        found.closest[-1] = max(found.closest[-1], closest)
        advance()
    return found


def detection_delay(
    populations: tuple[Population, Population],
    references: References,
    traffic: Traffic,
    rules: Rules,
    share: float,
    runs: tuple[int, int, int],
) -> Delay:
    """Windows from a shift to its page.

    Args:
        populations: events before the shift, and those that replace a share of them.
        references: the reference to judge by.
        traffic: how events arrive; its size is that of the first population.
        rules: the configuration.
        share: of the traffic that is replaced.
        runs: how many, most windows in a run, and the seed.
    """
    before, after = populations
    count, windows, seed = runs
    delays: list[int] = []
    causes: Counter[str] = Counter()
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        run = _Run(references, rules)
        for index in range(windows):
            counts = traffic.draw(index, rng)
            moved = rng.binomial(counts.astype(np.int64), share)
            chosen = rng.integers(0, len(after), int(moved.sum()))
            replaced = np.bincount(chosen, minlength=len(after)).astype(np.float64)
            _, paged = run.close(added(before.window(counts - moved), after.window(replaced)))
            if paged:
                delays.append(index + 1)
                causes.update(paged[:1])
                break
    return Delay("", delays, count, causes)
