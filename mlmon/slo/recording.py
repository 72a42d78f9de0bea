"""Recording rules of an objective: what was good and bad, burns over the windows, what is left of the budget.

Counters are read once, over five minutes, summed over everything but `group_by` and divided only then. What
is NaN is left out before it is summed, and nothing is divided by zero: where nothing happened a ratio is
absent. Everything later is made from these four series, so a restart of an exporter concerns them alone.

A threshold or a slice is an occurrence that is bad or not: `bad` is then 0 or 1 and `total` 1 wherever there
is data, and all that follows is the same.

Versions. Where the objective in force changes, the bad events of an older version are multiplied by the
ratio of the budgets, which turns them into the newest version's currency: a window over the change then gives
the burn of each event under the objective that it met. This leans on `time()`, so up to five minutes of
events around the change are judged by the newer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlmon.slo.model import Method, Ratio
from mlmon.slo.promql import Recording, by, effective_events, number, on, wilson_lower
from mlmon.slo.windows import (
    CURRENT_SECONDS,
    STEP_SECONDS,
    burn_windows,
    is_fast,
    long_windows,
    window_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlmon.slo.model import Counters, Objective, Selector, Threshold, Version
    from mlmon.slo.windows import RuleSettings

__all__ = ["RELEASE_END", "Series", "event_time", "fast_recordings", "series_of", "slow_recordings"]

#: Gauges of a planned release of a service: 1 until somebody stops it, and when it ends by itself.
RELEASE_ACTIVE = "mlmon_release_active"
RELEASE_END = "mlmon_release_end_timestamp_seconds"
_COMPLEMENT = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


class Series(NamedTuple):
    """Names of the recorded series of one objective, with its label."""

    slo: str
    base: str

    def named(self, name: str) -> str:
        """A selector of this objective's series."""
        return f'{name}{{slo="{self.slo}"}}'

    def rate(self, what: str) -> str:
        """Name of a rate of the fast tier: bad, total, bad_weight_squared, total_weight_squared."""
        return f"mlmon_slo:{what}:rate{self.base}"


def series_of(objective: Objective) -> Series:
    """Names of an objective's series."""
    return Series(objective.name, window_name(_base_seconds(objective)))


def _base_seconds(objective: Objective) -> int:
    return min(STEP_SECONDS, *burn_windows(objective))


def weighted(objective: Objective) -> bool:
    """Whether the sample size is known: events are counted, so confidence applies."""
    return objective.method is Method.OCCURRENCES and all(
        isinstance(v.sli, Ratio) for v in objective.versions
    )


def event_time(objective: Objective) -> bool:
    """Whether the sidecar judges it in event time: labels come late, and counters would spike with them."""
    judged = objective.method is Method.OCCURRENCES and objective.current.judgement is not None
    return judged and objective.label_delay_seconds > 0


def fast_recordings(objective: Objective, settings: RuleSettings) -> Iterator[Recording]:
    """Rates of good and bad, and burns over windows of up to an hour."""
    labels = {"slo": objective.name}
    yield Recording("mlmon_slo:target:ratio", _target(objective), labels)
    series = series_of(objective)
    for what, expression in _base(objective, series, settings):
        yield Recording(series.rate(what), expression, labels)
    yield from _burns(objective, settings, fast=True)


def slow_recordings(objective: Objective, settings: RuleSettings) -> Iterator[Recording]:
    """Sums over five minutes, burns over longer windows, and the budget of the period."""
    labels = {"slo": objective.name}
    series = series_of(objective)
    step = settings.duration(STEP_SECONDS)
    seconds = number(settings.seconds(STEP_SECONDS))
    for what in _quantities(objective):
        expression = f"avg_over_time({series.named(series.rate(what))}[{step}]) * {seconds}"
        yield Recording(f"mlmon_slo:{what}:increase5m", expression, labels)
    yield from _burns(objective, settings, fast=False)
    period = settings.duration(objective.window_seconds)
    budget = number(objective.current.budget)
    yield Recording("mlmon_slo:burn_rate:period", _slow_ratio(series, period) + f" / {budget}", labels)
    yield Recording(
        "mlmon_slo:budget_remaining:ratio", f"1 - {series.named('mlmon_slo:burn_rate:period')}", labels
    )
    left = f"clamp_min({series.named('mlmon_slo:budget_remaining:ratio')}, 0)"
    current = series.named(f"mlmon_slo:burn_rate:{window_name(CURRENT_SECONDS)}")
    length = number(settings.seconds(objective.window_seconds))
    yield Recording("mlmon_slo:budget_exhaustion:seconds", f"{left} * {length} / ({current} > 0)", labels)


def _quantities(objective: Objective) -> tuple[str, ...]:
    squared = ("total_weight_squared", "bad_weight_squared") if weighted(objective) else ()
    return ("total", *squared[:1], "bad", *squared[1:])


def _target(objective: Objective) -> str:
    return _in_force(objective, lambda version: f"vector({number(version.target)})")


def _in_force(objective: Objective, expression: Callable[[Version], str]) -> str:
    """The expression of whichever version is in force now."""
    parts = []
    versions = objective.versions
    for version, following in zip(versions, (*versions[1:], None), strict=True):
        text = expression(version)
        if len(versions) > 1:
            since = "" if version.effective_from is None else f" >= {_epoch(version)}"
            until = "" if following is None else f" < {_epoch(following)}"
            text = f"({text}) and on () (vector(time()){since}{until})"
        parts.append(text)
    return "\nor\n".join(parts)


def _epoch(version: Version) -> str:
    assert version.effective_from is not None  # noqa: S101 - only the first version has none
    return number(version.effective_from.timestamp())


# --- the four series that everything is made from


def _base(objective: Objective, series: Series, settings: RuleSettings) -> Iterator[tuple[str, str]]:
    span = settings.duration(_base_seconds(objective))
    reader = _Reader(objective, series, span, settings)
    spared = ""
    if not objective.burns_in_release and "service" in objective.group_by:
        spared = f"\nunless on (service) {RELEASE_END} > time()"
    for what in _quantities(objective):
        expression = _in_force(objective, reader.of(what))
        if what == "total":
            expression = f"({expression}){spared}" if spared else expression
        elif len(objective.versions) > 1 or spared:
            # without a total there is no data, whatever the other version or a release makes of it
            total = series.named(series.rate("total"))
            expression = f"({expression})\nand {on(objective.group_by)} {total}"
        yield what, expression


class _Reader(NamedTuple):
    """Writes the expressions of one objective's versions."""

    objective: Objective
    series: Series
    span: str
    settings: RuleSettings

    def of(self, what: str) -> Callable[[Version], str]:
        """The expression of a quantity, by version."""
        return {
            "total": self.total,
            "bad": lambda version: self._scaled(self.bad(version), version, 1),
            "total_weight_squared": lambda version: self._sum(_squared(self._ratio(version).total)),
            "bad_weight_squared": lambda version: self._scaled(self.bad_squared(version), version, 2),
        }[what]

    def total(self, version: Version) -> str:
        """Events per second, or 1 where a value or slice is there to be judged."""
        if not isinstance(version.sli, Ratio):
            return f"(({version.sli.expression.text}) >= bool -Inf) == 1"
        if version.slice_seconds is None:
            return self._sum(version.sli.total.estimated)
        return f"({self._sum(version.sli.total.estimated, self._slice(version))} > bool 0) == 1"

    def bad(self, version: Version) -> str:
        """Bad events per second, or the badness of a value or slice, 0 to 1."""
        sli = version.sli
        if not isinstance(sli, Ratio):
            return self._bad_threshold(sli, version)
        if version.slice_seconds is None:
            return self._events(
                sli, sli.part.estimated, self.series.named(self.series.rate("total")), self.span
            )
        return self._bad_slice(sli, version)

    def bad_squared(self, version: Version) -> str:
        """Σw² of bad events per second."""
        sli = self._ratio(version)
        total = self.series.named(self.series.rate("total_weight_squared"))
        return self._events(sli, _squared(sli.part), total, self.span)

    def _ratio(self, version: Version) -> Ratio:
        assert isinstance(version.sli, Ratio)  # noqa: S101 - `weighted` asked
        return version.sli

    def _events(self, sli: Ratio, part: Selector, total: str, span: str) -> str:
        """Bad out of good or bad events; a part never counted is nothing, but an absent bucket is unknown."""
        match = on(self.objective.group_by)
        read = self._sum(part, span)
        if sli.part_is == "bad":
            return f"{read}\nor {match} 0 * {total}"
        bad = f"clamp_min({total} - {match} {read}, 0)"
        # no such bucket: nobody knows how many were good
        return bad if part.metric.endswith("_bucket") else f"{bad}\nor {match} {total}"

    def _bad_slice(self, sli: Ratio, version: Version) -> str:
        match, span = on(self.objective.group_by), self._slice(version)
        total = f"({self._sum(sli.total.estimated, span)} > 0)"
        share = f"{self._sum(sli.part.estimated, span)}\n/ {match} {total}"
        here = f"({self.total(version)})"
        if sli.part_is == "good":
            share = f"clamp_min(1 - ({share}), 0)"
            if not sli.part.estimated.metric.endswith("_bucket"):
                share = f"{share}\nor {match} {here}"
        else:
            share = f"{share}\nor {match} 0 * {here}"
        if self.objective.method is Method.TIMESLICES and version.slice_target is not None:
            return f"({share}) > bool {number(round(1 - version.slice_target, 12))}"
        return share

    def _bad_threshold(self, sli: Threshold, version: Version) -> str:
        match, here = on(self.objective.group_by), self.series.named(self.series.rate("total"))
        bad = f"({sli.expression.text}) {_COMPLEMENT[sli.op]} bool {number(sli.limit)}"
        if version.slice_seconds is not None:
            step = self.settings.duration(self.settings.interval_seconds)
            bad = f"avg_over_time(({bad})[{self._slice(version)}:{step}])"
            if self.objective.method is Method.TIMESLICES:
                bad = f"{bad} > bool {number(round(1 - (version.slice_target or 1), 12))}"
        return f"({bad})\nand {match} {here}"

    def _sum(self, selector: Selector, span: str = "") -> str:
        return f"sum {by(self.objective.group_by)} (rate({selector.over(span or self.span)}) >= 0)"

    def _slice(self, version: Version) -> str:
        return self.settings.duration(version.slice_seconds or 0)

    def _scaled(self, expression: str, version: Version, power: int) -> str:
        """In the currency of the newest version."""
        factor = round((self.objective.current.budget / version.budget) ** power, 9)
        return expression if factor == 1 else f"({expression}) * {number(factor)}"


def _squared(counters: Counters) -> Selector:
    return counters.weight_squared or counters.estimated


# --- windows


def _burns(objective: Objective, settings: RuleSettings, *, fast: bool) -> Iterator[Recording]:
    labels = {"slo": objective.name}
    series = series_of(objective)
    windows = [w for w in burn_windows(objective) if is_fast(w) is fast]
    judged = event_time(objective)
    for window in windows:
        name = window_name(window)
        if judged:
            burn = _from_sidecar(objective, "mlmon_slo_burn_rate", name)
        else:
            burn = f"{_window_ratio(objective, window, settings)} / {number(objective.current.budget)}"
        yield Recording(f"mlmon_slo:burn_rate:{name}", burn, labels)
    if not weighted(objective):
        return
    for window, confident in long_windows(objective.conditions):
        if window in windows:
            yield from _bounds(objective, window, settings, series, confident=confident)


def _from_sidecar(objective: Objective, metric: str, window: str) -> str:
    return f'max {by(objective.group_by)} ({metric}{{slo="{objective.name}",window="{window}"}})'


def _window_ratio(objective: Objective, window: int, settings: RuleSettings) -> str:
    series, span = series_of(objective), settings.duration(window)
    if not is_fast(window):
        return _slow_ratio(series, span)
    bad, total = series.named(series.rate("bad")), series.named(series.rate("total"))
    if window == _base_seconds(objective):
        return f"{bad} / ({total} > 0)"
    return f"avg_over_time({bad}[{span}]) / (avg_over_time({total}[{span}]) > 0)"


def _slow_ratio(series: Series, span: str) -> str:
    bad, total = (series.named(f"mlmon_slo:{what}:increase5m") for what in ("bad", "total"))
    return f"sum_over_time({bad}[{span}]) / (sum_over_time({total}[{span}]) > 0)"


def _bounds(
    objective: Objective, window: int, settings: RuleSettings, series: Series, *, confident: bool
) -> Iterator[Recording]:
    """Effective events of a window that decides, and the lower bound of the burn where a page rests on it."""
    labels, name = {"slo": objective.name}, window_name(window)
    if event_time(objective):
        events = _from_sidecar(objective, "mlmon_slo_effective_events", name)
        yield Recording(f"mlmon_slo:events:{name}", events, labels)
        if confident:
            lower = _from_sidecar(objective, "mlmon_slo_burn_rate_lower", name)
            yield Recording(f"mlmon_slo:burn_rate_lower:{name}", lower, labels)
        return
    sums = _sums(series, window, settings)
    scale = number(settings.seconds(settings.interval_seconds)) if is_fast(window) else ""
    events = effective_events(sums["total"], sums["total_weight_squared"], scale)
    yield Recording(f"mlmon_slo:events:{name}", events, labels)
    if not confident:
        return
    budget = number(objective.current.budget)
    own = series.named(f"mlmon_slo:error_events:{name}")
    yield Recording(
        f"mlmon_slo:error_events:{name}",
        _error_events(sums, scale, series.named(f"mlmon_slo:events:{name}")),
        labels,
    )
    ratio = f"{series.named(f'mlmon_slo:burn_rate:{name}')} * {budget}"
    lower = f"({wilson_lower(ratio, own, objective.confidence)}) / {budget}"
    yield Recording(f"mlmon_slo:burn_rate_lower:{name}", lower, labels)


def _sums(series: Series, window: int, settings: RuleSettings) -> dict[str, str]:
    span = settings.duration(window)
    names = ("bad", "total", "bad_weight_squared", "total_weight_squared")
    if is_fast(window):
        return {what: f"sum_over_time({series.named(series.rate(what))}[{span}])" for what in names}
    return {what: f"sum_over_time({series.named(f'mlmon_slo:{what}:increase5m')}[{span}])" for what in names}


def _error_events(sums: dict[str, str], scale: str, fallback: str) -> str:
    """Effective events behind an error ratio when the weights of good and bad events differ.

    n = p(1-p)/Var(p̂) with Var(p̂) = ((1-p)²·Vb + p²·Vg)/T², so n = T²·B·G / (G²·Vb + B²·Vg). It is (Σw)²/Σw²
    where the weights do not depend on the outcome. Errors are always kept and the rest is sampled, so with
    few errors (Σw)²/Σw² would be far too small, and a page far too late.
    """
    bad, total = sums["bad"], sums["total"]
    good = f"({total} - {bad})"
    good_squared = f"clamp_min({sums['total_weight_squared']} - {sums['bad_weight_squared']}, 0)"
    factor = f"{scale} * " if scale else ""
    above = f"{total} ^ 2 * {bad} * {good}"
    below = f"({good} ^ 2 * {sums['bad_weight_squared']} + {bad} ^ 2 * {good_squared})"
    return f"({factor}{above}\n/ {below} > 0)\nor {fallback}"
