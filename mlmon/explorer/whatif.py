"""What another setting would do: expected false pages and detection delays, and the configuration for it.

`mlmon simulate` with fewer windows, events and references, so that it takes seconds. Few windows say little
of rare pages, which the interval shows; a setting that is meant to be kept deserves `mlmon simulate` itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import pandas as pd

from mlmon.config import Config
from mlmon.drift.config import MONTH_SECONDS
from mlmon.errors import BaselineError
from mlmon.simulate.run import Rules
from mlmon.simulate.shifts import SHIFTS
from mlmon.simulate.study import Study, StudyOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlmon.baseline.model import Scope
    from mlmon.simulate.run import Delay, FalsePages
    from mlmon.simulate.traffic import Pattern

__all__ = [
    "BUDGETS",
    "RANGES",
    "SAMPLINGS",
    "TOLERANCES",
    "WINDOWS",
    "Found",
    "Setting",
    "events_of",
    "is_choice",
    "present",
    "simulate",
    "toml_of",
]

#: Choices: false pages a month; seconds; standard deviations; share of the baseline's sampled events.
BUDGETS = ("0.1", "0.25", "0.5", "1", "2", "5", "10", "30")
WINDOWS = ("60", "120", "300", "600", "900", "1800", "3600")
TOLERANCES = ("0.02", "0.05", "0.1", "0.2", "0.3", "0.5", "1")
SAMPLINGS = ("0.01", "0.05", "0.1", "0.25", "0.5", "1", "2", "4")
_LIMITS = {
    "budget": (0.01, 1000.0),
    "window": (10, 86_400),
    "tolerance": (0.0, 100.0),
    "sampling": (0.001, 10.0),
}
#: What an address may say, in words.
RANGES = {name: f"a number from {low:g} to {high:g}" for name, (low, high) in _LIMITS.items()}
#: Windows without a shift, and most windows of a run with one; runs of each shift.
_WINDOWS, _LIMIT, _RUNS = 120, 20, 3
#: Events of the reference that is drawn, and of the sample that it is drawn from: with more of them it takes
#: longer than a person waits.
_REFERENCE, _EVENTS = 3_000, 600
#: Fewest and most events of a window that are simulated.
_FEWEST, _MOST = 20.0, 20_000.0
_PATTERN: Pattern = "independent"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tried out.

    Attributes:
        budget: false pages in 30 days.
        window_seconds: length of a window.
        tolerance: of embedding mean and spread, standard deviations.
        sampling: sampled events as a share of the baseline's.
    """

    budget: float
    window_seconds: int
    tolerance: float
    sampling: float


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Attributes:
        windows: simulated without a shift.
        pages: among them.
        per_month: pages in 30 days.
        interval: 95 % interval of it.
        closest: largest evidence over threshold in each of up to 200 parts of the time.
        delays: shift, found, runs, median_seconds (None: not found in `limit_seconds`), cause.
        limit_seconds: after which a shift counts as not found.
        events: sampled events to a window.
    """

    windows: int
    pages: int
    per_month: float
    interval: tuple[float, float]
    closest: tuple[float, ...]
    delays: pd.DataFrame
    limit_seconds: int
    events: float


def events_of(scope: Scope, setting: Setting) -> float:
    """Mean number of sampled events to a window: the baseline's rate, as it would be sampled."""
    seconds = max(1.0, (scope.last_us - scope.first_us) / 1e6)
    rate = scope.segments[""].events / seconds
    return min(_MOST, max(_FEWEST, rate * setting.window_seconds * setting.sampling))


def simulate(
    scope: Scope, config: Config | None, setting: Setting, advance: Callable[[float], object]
) -> Found:
    """Simulate traffic that does not change, then every shift that the events can show.

    Args:
        scope: of a baseline, with a sample.
        config: whose other settings hold; None: the defaults.
        setting: what is tried out.
        advance: told what share of all is done.

    Raises:
        BaselineError: the scope has no sample, or too small a one.
    """
    config = changed(config, setting)
    if scope.sample is None:
        raise BaselineError("the baseline has no sample of events to draw from: build it again")
    scope = replace(scope, sample=scope.sample.slice(0, _EVENTS))
    rules = Rules(config.alerts, config.drift, config.windows.size_seconds)
    events = events_of(scope, setting)
    options = StudyOptions(
        events=events,
        burst=5.0,
        reference_events=min(scope.segments[""].events, _REFERENCE),
        months=_WINDOWS * setting.window_seconds / MONTH_SECONDS,
        runs=_RUNS,
        references=1,
        limit_windows=_LIMIT,
    )
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        # a shift takes about as long as all windows without one
        done += _WINDOWS if what == "shifts" else 1
        advance(min(1.0, done / (_WINDOWS * (1 + len(SHIFTS)))))

    study = Study(scope, rules, config.monitor_configs, options, config.series.segment_by, tell)
    pages = study.false_pages(_PATTERN)
    return _found(pages, study.delays(SHIFTS), setting, events)


def _found(pages: FalsePages, delays: list[Delay], setting: Setting, events: float) -> Found:
    rows = []
    for delay in delays:
        median = delay.quantile(0.5)
        seconds = None if median is None else median * setting.window_seconds
        cause = delay.causes.most_common(1)[0][0] if delay.causes else ""
        rows.append((delay.name, len(delay.windows), delay.runs, seconds, cause))
    frame = pd.DataFrame(rows, columns=["shift", "found", "runs", "median_seconds", "cause"])
    return Found(
        pages.windows,
        pages.pages.total(),
        pages.per_month,
        pages.interval,
        tuple(pages.closest),
        frame.sort_values("median_seconds", na_position="last", ignore_index=True),
        _LIMIT * setting.window_seconds,
        events,
    )


def present(config: Config | None) -> Setting:
    """What the configuration says now."""
    config = config or Config()
    return Setting(
        config.alerts.false_pages_per_month,
        config.windows.size_seconds,
        config.monitors.embeddings.shift_tolerance,
        1.0,
    )


def is_choice(name: str, text: str) -> bool:
    """Whether a text of an address is a value that can be tried out.

    Example:
        >>> is_choice("window", "90"), is_choice("window", "1.5"), is_choice("budget", "many")
        (True, False, False)
    """
    try:
        value = int(text) if name == "window" else float(text)
    except ValueError:
        return False
    low, high = _LIMITS[name]
    return low <= value <= high


def changed(config: Config | None, setting: Setting) -> Config:
    """A configuration with the setting in it."""
    config = config or Config()
    put = msgspec.structs.replace
    embeddings = put(
        config.monitors.embeddings,
        shift_tolerance=setting.tolerance,
        typicality_tolerance=setting.tolerance,
        norm_tolerance=setting.tolerance,
    )
    return put(
        config,
        alerts=put(config.alerts, false_pages_per_month=setting.budget),
        windows=put(config.windows, size_seconds=setting.window_seconds),
        monitors=put(config.monitors, embeddings=embeddings),
    )


def toml_of(setting: Setting) -> str:
    """The setting as tables of the configuration, and what the service's tap must be told.

    Example:
        >>> print(toml_of(Setting(1.0, 60, 0.1, 1.0)).splitlines()[:2])
        ['[alerts]', 'false_pages_per_month = 1']
    """
    tables: Mapping[str, Mapping[str, float]] = {
        "alerts": {"false_pages_per_month": setting.budget},
        "windows": {"size_seconds": setting.window_seconds},
        "monitors.embeddings": {
            "shift_tolerance": setting.tolerance,
            "typicality_tolerance": setting.tolerance,
            "norm_tolerance": setting.tolerance,
        },
    }
    parts = []
    for name, values in tables.items():
        parts.append("\n".join([f"[{name}]", *(f"{key} = {value:g}" for key, value in values.items())]))
    text = "\n\n".join(parts)
    if setting.sampling != 1:
        text += (
            f"\n\n# In the service, not here: its tap's sample_rate times {setting.sampling:g} (1 at most)."
        )
    return text + "\n\n# Tolerances of embeddings count from the next baseline on: build it again.\n"
