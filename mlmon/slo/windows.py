"""Over which windows a burn is measured, and on which clock: the table that recordings and alerts share.

The burn windows themselves are the conditions of the objectives (`model.STANDARD` where a spec names no
policy). Two tiers keep long windows cheap. The fast tier reads the counters over five minutes at every
evaluation and averages these rates over windows of up to an hour. The slow tier keeps one sum for each five
minutes, and longer windows, the period of 30 days too, add those up: 8,640 samples instead of 86,400.

An average of rates over a window is the sum of events over its length, so the quotient of two averages is
the quotient of the sums. Ratios are never averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlmon.slo.model import BurnCondition, Objective

__all__ = [
    "CURRENT_SECONDS",
    "FAST_SECONDS",
    "STEP_SECONDS",
    "RuleSettings",
    "burn_windows",
    "is_fast",
    "long_windows",
    "window_name",
]

#: The step of the slow tier, and the range over which counters are read.
STEP_SECONDS = 300
#: The longest window of the fast tier.
FAST_SECONDS = 3600
#: The window of "the current burn".
CURRENT_SECONDS = 3600
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class RuleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[rules]`: what is the same in every rule.

    Attributes:
        interval_seconds: between evaluations of the fast tier and of the health rules.
        keep_firing_seconds: how long a burn alert goes on firing at least after its burn ended or its data
            stopped, so that a dying exporter cannot resolve its own page.
        runbook_url: with `{alert}` where the alert's name goes.
        dashboard_url: of Grafana's dashboards, with `{uid}` where the dashboard's uid goes.
        explorer_url: of the explorer; empty: alerts do not link to it.
        time_scale: every window, interval and duration is divided by it; names stay. For rehearsals.
    """

    interval_seconds: Annotated[int, msgspec.Meta(ge=1, le=STEP_SECONDS)] = 60
    keep_firing_seconds: Annotated[int, msgspec.Meta(ge=0)] = 900
    runbook_url: str = "https://runbooks.example/{alert}.md"
    dashboard_url: str = "https://grafana.example/d/{uid}"
    explorer_url: str = ""
    time_scale: _Positive = 1.0

    def __post_init__(self) -> None:
        for name, place in (("runbook_url", "{alert}"), ("dashboard_url", "{uid}")):
            if place not in getattr(self, name):
                raise ValueError(
                    f"{name}: expected an address with {place} in it; got {getattr(self, name)!r}"
                )
        if self.explorer_url and urlsplit(self.explorer_url).scheme not in ("http", "https"):
            raise ValueError(
                "explorer_url: expected an address such as https://explorer.example; "
                f"got {self.explorer_url!r}"
            )

    def seconds(self, nominal: float) -> float:
        """A nominal duration, scaled, in seconds."""
        return nominal / self.time_scale

    def duration(self, nominal: float) -> str:
        """A nominal duration, scaled, as Prometheus writes it.

        Example:
            >>> RuleSettings().duration(5400), RuleSettings(time_scale=60).duration(90)
            ('1h30m', '1500ms')
        """
        milliseconds = max(1, round(self.seconds(nominal) * 1000))
        return f"{milliseconds}ms" if milliseconds % 1000 else window_name(milliseconds // 1000)


def window_name(seconds: int) -> str:
    """A duration in the largest units that fit, as Prometheus reads it.

    Example:
        >>> [window_name(n) for n in (300, 3600, 259_200, 5400, 0)]
        ['5m', '1h', '3d', '1h30m', '0s']
    """
    parts = []
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def burn_windows(objective: Objective) -> tuple[int, ...]:
    """Every window over which the burn of an objective is recorded, in seconds, shortest first."""
    found = {CURRENT_SECONDS}
    for condition in objective.conditions:
        found |= {condition.long_seconds, condition.short_seconds}
    return tuple(sorted(found))


def long_windows(conditions: Iterable[BurnCondition]) -> Iterator[tuple[int, bool]]:
    """Windows that decide, each once, and whether any condition tests the lower bound over it."""
    confident: dict[int, bool] = {}
    for condition in conditions:
        confident[condition.long_seconds] = (
            confident.get(condition.long_seconds, False) or condition.confident
        )
    yield from sorted(confident.items())


def is_fast(window_seconds: int) -> bool:
    """Whether a window belongs to the fast tier."""
    return window_seconds <= FAST_SECONDS
