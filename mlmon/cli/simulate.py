"""`mlmon simulate`: what a configuration will do before it pages anyone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mlmon.cli.common import print_table, read_config
from mlmon.config import Config
from mlmon.drift.config import MONTH_SECONDS
from mlmon.errors import BaselineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlmon.baseline.model import Scope, ScopeKey
    from mlmon.simulate.run import Delay, FalsePages, Rules
    from mlmon.simulate.traffic import Pattern

__all__ = ["COMMANDS"]

_PATTERNS: tuple[Pattern, ...] = ("independent", "bursty", "daily")
_BARS = " ▁▂▃▄▅▆▇█"
#: The plot of evidence begins at this share of the threshold.
_FLOOR = 1e-6
_WIDTH = 60
#: Windows of a pattern that are simulated where nothing else is asked for: a month of minutes.
_MOST_WINDOWS = 43_200
#: A reference is drawn with as many events as the baseline has, up to this.
_MOST_REFERENCE = 20_000


@click.command()
@click.argument("baseline")
@click.option(
    "-c", "--config", "config_path", metavar="FILE", help="The configuration to try; else the defaults."
)
@click.option("--scope", metavar="SERVICE/MODEL/VERSION", help="Which part, where the baseline has several.")
@click.option(
    "--pattern", "patterns", multiple=True, type=click.Choice(_PATTERNS), help="Of traffic; else all."
)
@click.option(
    "--months", type=click.FloatRange(0.0001, 120), help="Of 30 days; else one, or what 43,200 windows are."
)
@click.option("--events", type=click.FloatRange(20), help="Sampled events a window; else the baseline's.")
@click.option(
    "--burst", default=5.0, show_default=True, type=click.FloatRange(1.5, 1000), help="Mean length."
)
@click.option("--runs", default=9, show_default=True, type=click.IntRange(0), help="A shift; 0: no shifts.")
@click.option("--limit", default=240, show_default=True, type=click.IntRange(1), help="Windows of a run.")
@click.option("--seed", default=1, show_default=True, help="Of everything that is drawn.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Write all figures here as well.")
def simulate(baseline: str, config_path: str | None, json_path: str | None, **options: Any) -> int:
    """Draw traffic from BASELINE, see how often it would page, and how soon a shift would be found.

    Every run has a reference of its own, drawn and calibrated anew, so that the error of a reference is in
    the figures. Exit code 1 when false pages are more than declared, beyond what chance explains.
    """
    from mlmon.baseline.file import load_baseline
    from mlmon.simulate.run import Rules
    from mlmon.simulate.study import as_json

    config = Config() if config_path is None else read_config(config_path)
    key, scope = _scope(load_baseline(baseline).scopes, options["scope"])
    rules = Rules(config.alerts, config.drift, config.windows.size_seconds)
    click.echo(f"{' / '.join(key)}: {_said(scope, rules, options)}", err=True)
    pages, delays = _study(scope, rules, config, options)
    _show_pages(pages, rules)
    if delays:
        _show_delays(delays, rules)
    if json_path is not None:
        Path(json_path).write_bytes(msgspec.json.format(msgspec.json.encode(as_json(pages, delays, rules))))
    declared = config.alerts.false_pages_per_month
    kept = all(found.interval[0] <= declared for found in pages.values())
    click.echo(
        f"the budget of {declared:g} false pages a month is kept"
        if kept
        else f"MORE false pages than the {declared:g} a month that are declared: build the baseline from "
        "more events or a longer time, or raise alerts.false_pages_per_month",
        err=not kept,
    )
    return 0 if kept else 1


def _scope(scopes: Mapping[ScopeKey, Scope], wanted: str | None) -> tuple[ScopeKey, Scope]:
    names = {"/".join(key): key for key in scopes}
    if wanted is None and len(names) == 1:
        wanted = next(iter(names))
    if wanted is None or wanted not in names:
        got = "none" if wanted is None else repr(wanted)
        raise BaselineError(f"--scope: expected one of {', '.join(sorted(names))}; got {got}")
    return names[wanted], scopes[names[wanted]]


def _events(scope: Scope, rules: Rules, given: float | None) -> float:
    """Sampled events to a window: what was asked for, else the rate of the baseline."""
    if given is not None:
        return given
    seconds = max(1.0, (scope.last_us - scope.first_us) / 1e6)
    return max(20.0, scope.segments[""].events / seconds * rules.window_seconds)


def _said(scope: Scope, rules: Rules, options: Mapping[str, Any]) -> str:
    events = _events(scope, rules, options["events"])
    return (
        f"windows of {rules.window_seconds} s with {events:,.0f} events on average, reference of "
        f"{min(scope.segments[''].events, _MOST_REFERENCE):,} events"
    )


def _study(
    scope: Scope, rules: Rules, config: Config, options: Mapping[str, Any]
) -> tuple[dict[str, FalsePages], list[Delay]]:
    from mlmon.simulate.shifts import SHIFTS
    from mlmon.simulate.study import Study, StudyOptions

    chosen = StudyOptions(
        events=_events(scope, rules, options["events"]),
        burst=options["burst"],
        reference_events=min(scope.segments[""].events, _MOST_REFERENCE),
        months=options["months"] or min(1.0, _MOST_WINDOWS * rules.window_seconds / MONTH_SECONDS),
        runs=options["runs"],
        limit_windows=options["limit"],
        seed=options["seed"],
    )
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}
        study = Study(
            scope,
            rules,
            config.monitor_configs,
            chosen,
            config.series.segment_by,
            lambda what: bar.advance(tasks[what]),
        )
        patterns: Sequence[Pattern] = options["patterns"] or _PATTERNS
        tasks.update({p: bar.add_task(p, total=study.month_windows) for p in patterns})
        tasks["shifts"] = bar.add_task("shifts", total=len(SHIFTS) if chosen.runs else 0)
        pages: dict[str, FalsePages] = {pattern: study.false_pages(pattern) for pattern in patterns}
        return pages, study.delays() if chosen.runs else []


def _show_pages(pages: Mapping[str, FalsePages], rules: Rules) -> None:
    rows = []
    for pattern, found in pages.items():
        low, high = found.interval
        causes = ", ".join(f"{cause} {count}" for cause, count in found.pages.most_common())
        rate = f"{found.per_month:.2f}"
        rows.append(
            (pattern, found.windows, found.pages.total(), rate, f"{low:.2f} to {high:.2f}", causes or "-")
        )
    columns = ("traffic", "windows", "pages", "a month", "95 % interval", "blamed on")
    print_table(
        f"False pages: {rules.alerts.false_pages_per_month:g} a month declared, nothing has changed",
        columns,
        rows,
    )
    for pattern, found in pages.items():
        click.echo(f"  {pattern:<12}{_plot(found.closest)} closest {max(found.closest, default=0.0):.1e}")
    click.echo(f"  evidence over its threshold, blank at {_FLOOR:g} or less, full at a page\n")


def _plot(closest: Sequence[float]) -> str:
    """A line of bars on a log scale."""
    step = max(1, math.ceil(len(closest) / _WIDTH))
    parts = [max(closest[start : start + step]) for start in range(0, len(closest), step)]
    top = len(_BARS) - 1
    return "".join(_BARS[_height(value, top)] for value in parts)


def _height(value: float, top: int) -> int:
    if value <= _FLOOR:
        return 0
    return min(top, 1 + int((top - 1) * (1 - math.log(min(1.0, value)) / math.log(_FLOOR))))


def _show_delays(delays: Sequence[Delay], rules: Rules) -> None:
    rows = []
    for delay in delays:
        causes = ", ".join(f"{cause} {count}" for cause, count in delay.causes.most_common())
        found = f"{len(delay.windows)} of {delay.runs}"
        median, late = (_time(delay.quantile(q), rules) for q in (0.5, 0.9))
        rows.append((delay.name, found, median, late, causes or "-"))
    columns = ("shift", "found", "median delay", "9 of 10 by", "blamed on")
    print_table("How soon a shift is found, in independent traffic", columns, rows)


def _time(windows: float | None, rules: Rules) -> str:
    if windows is None:
        return "not found"
    seconds = windows * rules.window_seconds
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


COMMANDS = (simulate,)
