"""Scenarios for the alerts of an objective, made from its numbers alone.

For each burn condition: it fires at a burn a little above its threshold, and is silent a little below; a
short spike, an episode that is over, and few events do not fire it; gaps and resets of counters change
nothing; and when the exporter dies it goes on firing. Each scenario is there to be failed by one mistake:
a weaker or stronger threshold, another window, no short window, no bound, no minimum, no `keep_firing_for`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlmon.slo.alerting import NO_DATA, ROOT_CAUSES, alert_name
from mlmon.slo.feasible import lower_bound
from mlmon.slo.promtest import Check, Scenario, labels_text
from mlmon.slo.promtest_traffic import GONE, RESET, Phase, group_labels, traffic_series
from mlmon.slo.recording import event_time, weighted
from mlmon.slo.windows import FAST_SECONDS, STEP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlmon.slo.model import BurnCondition, Objective
    from mlmon.slo.windows import RuleSettings

__all__ = ["PACES", "Pace", "objective_scenarios"]

_RATE = 100.0
_DAY = 86_400
#: Where the burn of a scenario stands to the threshold.
_ABOVE, _BELOW = 1.25, 0.8


class Pace(NamedTuple):
    """How often promtool evaluates: long windows need fewer moments, and only short ones count evaluations.

    Attributes:
        suffix: of the test file's name.
        from_seconds: the shortest long window of it.
        evaluation_seconds: between evaluations; 0: as the rules say.
    """

    suffix: str
    from_seconds: int
    evaluation_seconds: int

    def has(self, condition: BurnCondition) -> bool:
        """Whether a condition is tested at this pace."""
        return max(pace.from_seconds for pace in PACES if condition.long_seconds >= pace.from_seconds) == (
            self.from_seconds
        )


PACES = (Pace("", 0, 0), Pace("-hours", FAST_SECONDS + 1, STEP_SECONDS), Pace("-days", _DAY, 1800))


class _Author:
    """Writes the scenarios of one objective's conditions of one pace."""

    def __init__(self, objective: Objective, settings: RuleSettings, pace: Pace) -> None:
        self.objective, self.settings = objective, settings
        self.step = settings.interval_seconds
        self.unit = max(STEP_SECONDS, pace.evaluation_seconds)
        self.labels = group_labels(objective)

    def whole(self, seconds: float) -> int:
        """Rounded up to moments at which everything is evaluated."""
        return -(-int(seconds) // self.unit) * self.unit

    def firing(self, severity: str, cause: str = "") -> dict[str, str]:
        o = self.objective
        return {
            "severity": severity,
            **({} if "service" in self.labels else {"service": o.service}),
            **{name: value for name, value in self.labels.items() if name in ("service", "model")},
            "slo": o.name,
            "root_cause": cause or o.root_cause or "unknown",
            "team": o.team or "none",
        }

    def share(self, burn: float) -> float:
        """Share of bad events at a burn."""
        return min(burn * self.objective.current.budget, 1.0)

    def check(self, condition: BurnCondition, at: int, fires: str = "", cause: str = "") -> Check:
        """Whether a condition's alert fires at a moment."""
        found = (self.firing(fires, cause),) if fires else ()
        return Check(alert_name(condition), at, found, self.objective.name)

    def scenario(
        self, name: str, condition: BurnCondition, phases: Sequence[Phase], fires: str = "", cause: str = ""
    ) -> Scenario:
        """Traffic, and one check at its end."""
        check = self.check(condition, _length(phases), fires, cause)
        series = traffic_series(self.objective, phases, self.step, self.unit)
        return Scenario(f"{condition.name}: {name}", self.step, series, [check])

    def of(self, condition: BurnCondition) -> Iterator[Scenario]:
        """Everything about one condition."""
        yield from self._levels(condition)
        yield from self._episodes(condition)
        yield from self._accidents(condition)
        if weighted(self.objective):
            yield from self._few_events(condition)
        if self.objective.minimum_coverage > 0 and condition.severity == "page":
            yield self._low_coverage(condition)
        if {"service", "model"} <= self.labels.keys():
            yield self._known_cause(condition)

    def _levels(self, c: BurnCondition) -> Iterator[Scenario]:
        long = c.long_seconds
        calm = Phase(self.whole(0.5 * long), _RATE, self.share(0.1 * c.threshold))
        loud = Phase(self.whole(1.1 * long + 600), _RATE, self.share(self._above(c)))
        yield self.scenario("fires above its threshold", c, [calm, loud], c.severity)
        below = [Phase(self._while(c), _RATE, self.share(_BELOW * c.threshold))]
        yield self.scenario("silent below its threshold", c, below)

    def _while(self, c: BurnCondition) -> int:
        """Long enough for the short window to be filled."""
        return self.whole(max(1.2 * c.short_seconds, 900))

    def _above(self, c: BurnCondition) -> float:
        return min(_ABOVE * c.threshold, (c.threshold + self.objective.current.maximum_burn) / 2)

    def _episodes(self, c: BurnCondition) -> Iterator[Scenario]:
        """The long window is there for a short spike, the short one for an episode that is over."""
        most = 0.95 * self.objective.current.maximum_burn
        calm, spell = self.whole(0.5 * c.long_seconds), self.whole(c.short_seconds)
        spike = min(0.6 * c.threshold * (calm + spell) / spell, most)
        phases = [Phase(calm, _RATE), Phase(spell, _RATE, self.share(spike))]
        yield self.scenario("silent in a short spike", c, phases)
        hot = min(4 * c.threshold, most)
        over = self.whole(c.short_seconds + self._kept(c) + 900)
        spell = self.whole(0.6 * over)
        if spell + over <= c.long_seconds and hot * spell / (spell + over) > 1.1 * c.threshold:
            phases = [Phase(spell, _RATE, self.share(hot)), Phase(over, _RATE)]
            yield self.scenario("silent when it is over", c, phases)

    def _kept(self, c: BurnCondition) -> int:
        return min(max(self.settings.keep_firing_seconds, c.short_seconds), 3600)

    def _accidents(self, c: BurnCondition) -> Iterator[Scenario]:
        """What happens to an exporter says nothing about the service."""
        part = self._while(c)
        quiet = Phase(part, _RATE, self.share(0.5 * c.threshold))
        phases = [quiet, GONE(self.whole(600)), quiet, RESET, quiet]
        yield self.scenario("silent through a gap and a reset of the counters", c, phases)
        loud = Phase(part, _RATE, self.share(self._above(c)))
        phases = [loud, RESET, loud, GONE(self.whole(600)), loud]
        dark = 0 if event_time(self.objective) else STEP_SECONDS
        if dark and c.short_seconds > STEP_SECONDS:
            dark += c.short_seconds
        death = GONE((dark + self._kept(c) // 2) // self.unit * self.unit)
        dying = self.scenario("fires through a gap and a reset, and goes on when the exporter dies", c, [])
        checks = [
            self.check(c, _length(phases), c.severity),
            self.check(c, _length([*phases, death]), c.severity),
        ]
        series = traffic_series(self.objective, [*phases, death], self.step, self.unit)
        yield dying._replace(series=series, checks=checks)
        yield self.scenario("silent when nothing was ever counted", c, [Phase(part)])

    def _few_events(self, c: BurnCondition) -> Iterator[Scenario]:
        o = self.objective
        span = self.whole(0.2 * c.long_seconds) + 3 * self.whole(c.short_seconds)
        if c.confident:
            found = _too_few(c.threshold * o.current.budget, max(o.minimum_events, 1), o.confidence)
            if found:
                events, bad = found
                late = 3 * self.whole(c.short_seconds)
                phases = _sparse(events, bad, span, late)
                yield self.scenario("silent when few events could be chance", c, phases)
        if o.minimum_events > 1:
            rate = 0.5 * o.minimum_events / span
            phases = [Phase(span, rate, self.share(o.current.maximum_burn))]
            yield self.scenario("silent under the minimum of events", c, phases)

    def _low_coverage(self, c: BurnCondition) -> Scenario:
        phases = [Phase(self._while(c), _RATE, self.share(self._above(c)))]
        base = self.scenario("a ticket while labels are too few", c, phases, "ticket")
        coverage = "mlmon_slo_label_coverage_ratio" + labels_text({**self.labels, "slo": self.objective.name})
        count = _length(phases) // self.step
        low = f"{0.5 * self.objective.minimum_coverage}+0x{count}"
        return base._replace(series={**base.series, coverage: low})

    def _known_cause(self, c: BurnCondition) -> Scenario:
        phases = [Phase(self._while(c), _RATE, self.share(self._above(c)))]
        base = self.scenario("names the cause that is known", c, phases, c.severity, "tokenizer")
        cause = ROOT_CAUSES + labels_text({**self.labels, "root_cause": "tokenizer"})
        return base._replace(series={**base.series, cause: f"1+0x{_length(phases) // self.step}"})

    def no_data(self) -> Iterator[Scenario]:
        """Data that stopped, a service that is idle, and one that never was."""
        span = 3600 + self.objective.label_delay_seconds
        wait = self.whole(span + 2 * STEP_SECONDS + 900) + self.unit
        busy = Phase(_DAY + self.unit, _RATE)

        def check(phases: Sequence[Phase], *fires: str) -> list[Check]:
            found = tuple(self.firing(severity) for severity in fires)
            return [Check(NO_DATA, _length(phases), found, self.objective.name)]

        for name, phases, fires in (
            ("fires when the data stopped", [busy, GONE(wait)], ("ticket",)),
            ("silent while there is data", [busy, Phase(wait, _RATE)], ()),
            ("silent for a service that is idle", [Phase(_DAY + wait)], ()),
            ("silent for a service that never was", [GONE(_DAY + wait)], ()),
        ):
            series = traffic_series(self.objective, phases, self.step, self.unit)
            yield Scenario(f"no data: {name}", self.step, series, check(phases, *fires))


def objective_scenarios(objective: Objective, settings: RuleSettings, pace: Pace) -> list[Scenario]:
    """All scenarios of an objective's alerts of one pace; none where it has none there."""
    author = _Author(objective, settings, pace)
    scenarios: list[Scenario] = []
    for condition in objective.conditions:
        if pace.has(condition):
            scenarios += author.of(condition)
    if pace is PACES[-1] and any(condition.no_data for condition in objective.conditions):
        scenarios += author.no_data()
    return scenarios


def _length(phases: Sequence[Phase]) -> int:
    return sum(phase.seconds for phase in phases)


def _too_few(limit: float, least: int, confidence: float) -> tuple[int, int] | None:
    """Events and bad ones whose share is above a limit though its lower bound is not, with some margin."""
    for events in range(least + least // 5 + 1, 20 * least + 2000):
        bad = max(1, round(1.6 * limit * events))
        share = bad / events
        if 1.3 * limit < share < 0.9 and lower_bound(share, events, confidence) < 0.8 * limit:
            return events, bad
    return None


def _sparse(events: int, bad: int, span: int, late: int) -> list[Phase]:
    """Few events of weight 30 over a span, the bad ones among those of its last part."""
    rate = events / span
    share = min(bad / (rate * late), 1.0)
    return [Phase(span - late, rate, 0.0, 30.0), Phase(late, bad / late / share, share, 30.0)]
