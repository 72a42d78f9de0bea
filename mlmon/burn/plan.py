"""What is asked of the buckets of one objective: its windows, where they end, and what its sums are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlmon.monitors.slo_objectives import SHORT_SECONDS, units_of

if TYPE_CHECKING:
    from mlmon.monitors.slo_objectives import JudgedObjective, Judging, Tiers

__all__ = ["Plan", "plans_of", "window_name"]

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
#: Columns of sums of requests, of outcomes, and of outcomes that rest on labels.
_OUTCOMES, _LABELLED = 5, 6


class Plan(NamedTuple):
    """One objective in the ledger.

    Attributes:
        place: its place among the objectives.
        objective: it.
        tiers: how its time is cut.
        width: columns of its sums.
        names: of its burn windows.
        windows: (length in base buckets, tier) of its burn windows, and last of its period.
        covered: index of the window over which label coverage is measured.
        base_us: length of a base bucket, µs.
        delay_us: windows end so long before the watermark.
        currency: what bad sums are counted in: (begin in µs, budget) of each version.
    """

    place: int
    objective: JudgedObjective
    tiers: Tiers
    width: int
    names: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    covered: int
    base_us: int
    delay_us: int
    currency: tuple[tuple[int | None, float], ...]

    def end(self, watermark_us: int) -> int:
        """Where windows end, in base buckets: the last whole bucket up to the watermark less the delay."""
        length = self.tiers.lengths[0]
        return (watermark_us - self.delay_us) // (length * self.base_us) * length

    def rate(self, stored: list[list[float | None]]) -> float:
        """What a bad weight that was stored in another currency is worth in this one.

        Where versions were added since, it is worth less or more by the ratio of the budgets. Where a target
        was rewritten instead, what happened is judged by the new one, so a weight stays a weight.
        """
        then = tuple((since, budget) for since, budget in stored)
        if then and len(then) < len(self.currency) and self.currency[: len(then)] == then:
            return self.currency[-1][1] / self.currency[len(then) - 1][1]
        return 1.0


def plans_of(judging: Judging) -> tuple[Plan, ...]:
    """The plan of every objective."""
    return tuple(_plan(judging, index) for index in range(len(judging.objectives)))


def _plan(judging: Judging, index: int) -> Plan:
    objective = judging.objectives[index]
    seconds = objective.burn_windows_seconds
    tiers = [0 if window <= SHORT_SECONDS else 1 for window in seconds]
    return Plan(
        index,
        objective,
        judging.tiers[index],
        _LABELLED if objective.labelled else _OUTCOMES,
        tuple(window_name(window) for window in seconds),
        (
            *((units_of(window), tier) for window, tier in zip(seconds, tiers, strict=True)),
            (units_of(objective.window_seconds), 2),
        ),
        seconds.index(objective.coverage_window_seconds),
        judging.base_us,
        judging.delay_us(objective),
        tuple((version.since_us, version.budget) for version in objective.versions),
    )


def window_name(seconds: int) -> str:
    """A window as the rules name it: in the largest units that fit (`mlmon.slo.windows.window_name`).

    Example:
        >>> [window_name(n) for n in (300, 3600, 259_200, 5400)]
        ['5m', '1h', '3d', '1h30m']
    """
    parts = []
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
