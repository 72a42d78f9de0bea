"""Traffic with good and bad events, as the series that an objective reads.

Three ways, as the objective asks: raw counters (events are counted), the recorded shares (a threshold or a
slice, whose own expression can be anything), or the sidecar's gauges (labels that come late).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlmon.slo.feasible import lower_bound
from mlmon.slo.model import Ratio
from mlmon.slo.promtest import counter, gauge, labels_text, matching_labels
from mlmon.slo.recording import event_time, series_of, weighted
from mlmon.slo.windows import burn_windows, window_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlmon.slo.model import Counters, Objective, Selector

__all__ = ["GONE", "RESET", "Phase", "group_labels", "traffic_series"]

_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in which nothing changes.

    Attributes:
        seconds: how long.
        rate: sampled events per second.
        bad: share of bad events.
        weight: of each event.
        gone: whether the exporter cannot be scraped.
        reset: whether it starts again, its counters at 0.
    """

    seconds: int
    rate: float = 0.0
    bad: float = 0.0
    weight: float = 1.0
    gone: bool = False
    reset: bool = False


RESET = Phase(0, reset=True)


def GONE(seconds: int) -> Phase:  # noqa: N802 - reads as a constant beside RESET
    """The exporter cannot be scraped."""
    return Phase(seconds, gone=True)


def group_labels(objective: Objective) -> dict[str, str]:
    """Labels of the one series that tests of an objective have."""
    known = {"service": "checkout", "model": "encoder"}
    return {label: known.get(label, "x") for label in objective.group_by}


def traffic_series(objective: Objective, phases: Sequence[Phase], step: int, unit: int) -> dict[str, str]:
    """The series of an objective under some traffic, in promtool's notation.

    Args:
        objective: whose.
        phases: the traffic.
        step: seconds between samples.
        unit: seconds of which every phase is a multiple, but a reset, which takes one step.
    """
    if not weighted(objective):
        return _shares(objective, phases, step)
    series = _counters(objective, phases, step)
    if event_time(objective):
        series |= _gauges(objective, phases, step, unit)
    return series


def _shares(objective: Objective, phases: Sequence[Phase], step: int) -> dict[str, str]:
    names = series_of(objective)
    labels = labels_text({**group_labels(objective), "slo": objective.name})
    present = [(p.seconds // step, None if p.gone or not p.rate else p) for p in phases]
    return {
        names.rate("total") + labels: gauge((n, None if p is None else 1.0) for n, p in present),
        names.rate("bad") + labels: gauge((n, None if p is None else p.bad) for n, p in present),
    }


def _counters(objective: Objective, phases: Sequence[Phase], step: int) -> dict[str, str]:
    sli = objective.current.sli
    assert isinstance(sli, Ratio)  # noqa: S101 - `weighted` asked
    part_is_bad = sli.part_is == "bad"
    own = group_labels(objective)

    def add(series: dict[str, str], counters: Counters, labels: dict[str, str], what: str) -> None:
        for selector, power in ((counters.estimated, 1), (counters.weight_squared, 2)):
            if selector is not None:
                text = selector.metric + labels_text({**own, **labels})
                series[text] = counter(_increments(phases, step, what, power))

    series: dict[str, str] = {}
    part, rest = ("bad", "good") if part_is_bad else ("good", "bad")
    if sli.part.estimated.metric != sli.total.estimated.metric:
        add(series, sli.part, _only(sli.part.estimated), part)
        add(series, sli.total, _only(sli.total.estimated), "total")
    else:
        both = matching_labels([sli.part.estimated, sli.total.estimated])
        other = matching_labels([sli.total.estimated], sli.part.estimated)
        add(series, sli.part, both, part)
        add(series, sli.total, other, rest)
    return series


def _only(selector: Selector) -> dict[str, str]:
    return matching_labels([selector])


def _increments(
    phases: Sequence[Phase], step: int, what: str, power: int
) -> Iterator[tuple[int, float | None]]:
    for phase in phases:
        if phase.reset:
            yield 1, _NAN
        elif phase.gone:
            yield phase.seconds // step, None
        else:
            share = {"bad": phase.bad, "good": 1 - phase.bad, "total": 1.0}[what]
            yield phase.seconds // step, phase.rate * share * phase.weight**power * step


def _gauges(objective: Objective, phases: Sequence[Phase], step: int, unit: int) -> dict[str, str]:
    """What the sidecar would say, at the end of each unit of time, of the window before."""
    steps = [phase for phase in phases for _ in range(max(0, phase.seconds) // unit)]
    sums = [(0.0, 0.0, 0.0)]
    for phase in steps:
        total = 0.0 if phase.gone else phase.rate * unit
        bad, weighted_total, squared = sums[-1]
        sums.append(
            (
                bad + total * phase.bad * phase.weight,
                weighted_total + total * phase.weight,
                squared + total * phase.weight**2,
            )
        )
    series: dict[str, str] = {}
    for window in burn_windows(objective):
        labels = labels_text(
            {**group_labels(objective), "slo": objective.name, "window": window_name(window)}
        )
        values = [_judged(objective, sums, end, max(1, window // unit)) for end in range(len(sums))]
        gone = [False, *(phase.gone for phase in steps)]
        for index, name in enumerate(("burn_rate", "burn_rate_lower", "effective_events")):
            shown = [None if off or v is None else v[index] for v, off in zip(values, gone, strict=True)]
            series[f"mlmon_slo_{name}{labels}"] = gauge((unit // step, value) for value in shown)
    return series


def _judged(
    objective: Objective, sums: Sequence[tuple[float, float, float]], end: int, units: int
) -> tuple[float, float, float] | None:
    start = sums[max(0, end - units)]
    bad, total, squared = (after - before for after, before in zip(sums[end], start, strict=True))
    if total <= 0:
        return None
    n, budget = total**2 / squared, objective.current.budget
    lower = lower_bound(min(bad / total, 1.0), n, objective.confidence)
    return round(bad / total / budget, 4), round(lower / budget, 4), round(n, 1)
