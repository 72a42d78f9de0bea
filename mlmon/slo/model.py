"""What an SLO spec means, compiled: typed objectives that rules, monitors and dashboards are made from.

Nothing here reads files or knows OpenSLO's documents; `mlmon.slo.load_specs` makes these objects. All are
frozen and hashable, all durations are whole seconds, and references between documents are resolved.

Burn. With an error ratio e over a window and a target t, the burn is e / (1 - t): at burn 1 the budget lasts
exactly the objective's window. It can never exceed 1 / (1 - t).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

__all__ = [
    "CRITICAL_ACCURACY",
    "STANDARD",
    "AlertPolicy",
    "BurnCondition",
    "Counters",
    "Expression",
    "JudgeKind",
    "Judgement",
    "Matcher",
    "Method",
    "NotificationTarget",
    "Objective",
    "Ratio",
    "Selector",
    "ServiceInfo",
    "Severity",
    "SeverityClass",
    "Specs",
    "Threshold",
    "Version",
]

Severity = Literal["page", "ticket"]
SeverityClass = Literal["critical", "standard", "informational"]
MatchOp = Literal["=", "!=", "=~", "!~"]
CompareOp = Literal["<", "<=", ">", ">="]


class Method(StrEnum):
    """How a budget is counted: OpenSLO's `budgetingMethod`."""

    OCCURRENCES = "Occurrences"
    TIMESLICES = "Timeslices"
    RATIO_TIMESLICES = "RatioTimeslices"


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label.

    Example:
        >>> str(Matcher("status", "=~", "error|timeout"))
        'status=~"error|timeout"'
    """

    label: str
    op: MatchOp
    value: str

    def __str__(self) -> str:
        """As PromQL writes it."""
        text = self.value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        return f'{self.label}{self.op}"{text}"'


@dataclass(frozen=True, slots=True)
class Selector:
    """Time series by name and labels, never with a range.

    Attributes:
        metric: the name as Prometheus shows it, `_total` and `_bucket` included.
        matchers: conditions on labels, in the order of the spec.

    Example:
        >>> up = Selector("up", (Matcher("job", "=", "mlmon"),))
        >>> str(up), up.over("5m"), str(Selector("up", ()))
        ('up{job="mlmon"}', 'up{job="mlmon"}[5m]', 'up')
    """

    metric: str
    matchers: tuple[Matcher, ...] = ()

    def __str__(self) -> str:
        """As PromQL writes it."""
        inside = ",".join(map(str, self.matchers))
        return f"{self.metric}{{{inside}}}" if inside else self.metric

    def over(self, duration: str) -> str:
        """The range selector over a Prometheus duration."""
        return f"{self}[{duration}]"

    def named(self, metric: str) -> Selector:
        """The same labels of another metric."""
        return replace(self, metric=metric)


@dataclass(frozen=True, slots=True)
class Counters:
    """What is counted: Σw, and where mlmon counted it also n and Σw².

    n_eff = (Σw)² / Σw². For a metric from elsewhere `sampled` and `weight_squared` are None: each of its
    events counts for one, so n_eff is the count itself.
    """

    estimated: Selector
    sampled: Selector | None = None
    weight_squared: Selector | None = None

    def selectors(self) -> Iterator[Selector]:
        """The selectors there are, Σw first."""
        yield self.estimated
        yield from (s for s in (self.sampled, self.weight_squared) if s is not None)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Events of one kind among all of them; every counter only rises.

    Attributes:
        part: the events counted as good, or as bad.
        part_is: which of the two.
        total: all events.
    """

    part: Counters
    part_is: Literal["good", "bad"]
    total: Counters

    def metrics(self) -> tuple[str, ...]:
        """Names of the series it reads, sorted."""
        return tuple(sorted({s.metric for c in (self.part, self.total) for s in c.selectors()}))


@dataclass(frozen=True, slots=True)
class Expression:
    """A PromQL instant vector, and the series it names as far as they are mlmon's."""

    text: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A measured value is good while `expression op limit` holds; where it is absent there is no data.

    Each evaluation is one occurrence. It carries no sample size: confidence does not apply to it.
    """

    expression: Expression
    op: CompareOp
    limit: float

    def metrics(self) -> tuple[str, ...]:
        """Names of the mlmon series it reads, sorted."""
        return self.expression.metrics


class JudgeKind(StrEnum):
    """How one event, or one event with its label, is judged in event time."""

    AVAILABILITY = "availability"
    LATENCY = "latency"
    ACCURACY = "accuracy"
    MASKED_ACCURACY = "masked-accuracy"
    AGREEMENT = "agreement"
    ECHO = "echo"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The rule for one event.

    availability: bad where the status is `error` or `timeout`. latency: bad where latency_seconds > limit,
    no event where it is absent. accuracy: bad where the label differs from the prediction. masked-accuracy:
    counts masked tokens predicted wrongly among those that are labelled. agreement: bad where a reference
    gave another first answer. echo: bad where the answer carries another request's text.

    Attributes:
        kind: which rule.
        limit: seconds for latency; None for the others.
    """

    kind: JudgeKind
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class BurnCondition:
    """Alert while the burn over both windows is above the threshold.

    Attributes:
        name: unique among the conditions of an objective; stable, so that alerts and tests can name it.
        severity: page or ticket.
        threshold: burn.
        long_seconds: the window that decides.
        short_seconds: the window that lets the alert end soon after the cause does.
        for_seconds: how long it must hold.
        confident: whether the lower confidence bound of the long window must be above the threshold (pages),
            or the point estimate (tickets).
        no_data: whether the absence of data raises an alert of its own.
        resolved: whether the end of the alert is notified.
        targets: names of the `NotificationTarget`s that the policy names.
    """

    name: str
    severity: Severity
    threshold: float
    long_seconds: int
    short_seconds: int
    for_seconds: int = 0
    confident: bool = False
    no_data: bool = True
    resolved: bool = True
    targets: tuple[str, ...] = ()


_HOUR, _DAY = 3600, 86_400

#: The multiwindow, multi-burn-rate alerts of a spec that names no policies: over a window of 30 days they
#: spend 2 %, 5 %, 10 % and 10 % of the budget. Source: The Site Reliability Workbook, ch. 5, table 5-8.
STANDARD: tuple[BurnCondition, ...] = (
    BurnCondition("fast", "page", 14.4, _HOUR, 300, confident=True),
    BurnCondition("slow", "page", 6.0, 6 * _HOUR, 1800, confident=True),
    BurnCondition("day", "ticket", 3.0, _DAY, 2 * _HOUR),
    BurnCondition("steady", "ticket", 1.0, 3 * _DAY, 6 * _HOUR),
)

#: Beside them for an objective of class critical that rests on labels: a page above burn 3 over an hour. On a
#: point estimate it would page falsely with few events, so it tests the lower bound.
CRITICAL_ACCURACY = BurnCondition("critical", "page", 3.0, _HOUR, 300, confident=True)


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """A named AlertPolicy as written, for catalogues; `Objective.conditions` is what rules are made from."""

    name: str
    display_name: str
    description: str
    conditions: tuple[BurnCondition, ...]


@dataclass(frozen=True, slots=True)
class NotificationTarget:
    """Where a policy wants to be heard: `target` is a word such as pagerduty, slack, email."""

    name: str
    description: str
    target: str


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A service that specs name."""

    name: str
    display_name: str
    description: str


@dataclass(frozen=True, slots=True)
class Version:
    """What is in force from a moment on.

    Attributes:
        effective_from: when it begins, in UTC; None for the first version, which holds from ever.
        target: share of good events (or slices), from 0 to below 1.
        sli: what is measured.
        judgement: how the sidecar judges one event; None where only PromQL knows.
        slice_seconds: length of a slice, for both timeslice methods; else None.
        slice_target: share of good events that makes a slice good, for Timeslices of a ratio; else None.
    """

    effective_from: datetime | None
    target: float
    sli: Ratio | Threshold
    judgement: Judgement | None = None
    slice_seconds: int | None = None
    slice_target: float | None = None

    @property
    def budget(self) -> float:
        """Share of events that may be bad.

        Example:
            >>> Version(None, 0.999, Threshold(Expression("up", ()), ">=", 1)).budget
            0.001
        """
        return round(1 - self.target, 12)

    @property
    def maximum_burn(self) -> float:
        """The burn when everything fails: 1 / (1 - target)."""
        return 1 / self.budget


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective: one value of the label `slo`.

    Attributes:
        name: unique among all specs.
        service: the service the spec names; where `service` is in `group_by` the series say it instead.
        display_name: for people.
        description: for people; empty where the spec has none.
        window_seconds: the rolling window over which the budget is counted.
        method: how it is counted.
        versions: what is in force when; oldest first, at least one. Methods, windows and groups never differ.
        conditions: when to alert; resolved, so that rules need no policy table of their own.
        group_by: labels that tell apart what has a budget of its own; empty: one budget.
        label_delay_seconds: how long the truth about an event may take; 0 where it comes with the event.
        minimum_events: effective events in a window below which it says nothing (no page, no ticket).
        minimum_coverage: share of events with a label below which a page becomes a ticket.
        confidence: one-sided level of the lower bound that pages test.
        severity_class: critical adds `CRITICAL_ACCURACY` where labels decide; informational never pages.
        root_cause: the alerts' label, by which symptoms of one cause are grouped.
        team: who owns it.
        burns_in_release: whether the budget burns during a planned release.
        requires: what must be switched on before any of its metrics exists, for people; empty: nothing.
        source: file and line of the document.
    """

    name: str
    service: str
    display_name: str
    description: str
    window_seconds: int
    method: Method
    versions: tuple[Version, ...]
    conditions: tuple[BurnCondition, ...]
    group_by: tuple[str, ...] = ()
    label_delay_seconds: int = 0
    minimum_events: int = 0
    minimum_coverage: float = 0.0
    confidence: float = 0.95
    severity_class: SeverityClass = "standard"
    root_cause: str = ""
    team: str = ""
    burns_in_release: bool = True
    requires: str = ""
    source: str = ""

    @property
    def critical(self) -> bool:
        """Whether its severity class is critical."""
        return self.severity_class == "critical"

    @property
    def current(self) -> Version:
        """The newest version."""
        return self.versions[-1]

    @property
    def target(self) -> float:
        """The newest version's target."""
        return self.current.target

    @property
    def sli(self) -> Ratio | Threshold:
        """The newest version's measure."""
        return self.current.sli

    def at(self, moment: datetime) -> Version:
        """The version in force at a moment, which must know its time zone."""
        found = self.versions[0]
        for version in self.versions[1:]:
            if version.effective_from is not None and version.effective_from <= moment:
                found = version
        return found

    def metrics(self) -> tuple[str, ...]:
        """Names of all series that any version reads, sorted."""
        return tuple(sorted({name for version in self.versions for name in version.sli.metrics()}))


@dataclass(frozen=True, slots=True)
class Specs:
    """Everything that a set of files says, in the order of the files."""

    objectives: tuple[Objective, ...]
    policies: tuple[AlertPolicy, ...] = ()
    targets: tuple[NotificationTarget, ...] = ()
    services: tuple[ServiceInfo, ...] = ()

    def __iter__(self) -> Iterator[Objective]:
        """The objectives."""
        return iter(self.objectives)

    def __getitem__(self, name: str) -> Objective:
        """The objective of that name; KeyError where there is none."""
        for objective in self.objectives:
            if objective.name == name:
                return objective
        raise KeyError(name)
