"""Pass, fail or inconclusive: whether a canary is no worse than what serves, by more than a margin.

Each check has a confidence sequence: an interval that contains the true difference at all times together. A
check passes when the whole interval is below the margin, fails when the whole of it is above, and is
inconclusive until then. So one may look every minute: a
z-test looked at so often rejects wrongly 41 % of the time at 5 %.

A canary fails when any check fails, and passes when every check that data came for has passed. Error rate:
`false_verdicts` is divided over the checks, so a canary at or below all margins fails with at most that
probability, and one above a margin passes with at most its share of it.

Why not a likelihood ratio of the two arms: it needs equal traffic (`stats.sequences.comparison_log_e`),
and a canary has five percent.
"""

from __future__ import annotations

import math
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from mlmon.canary.arms import Trials
from mlmon.stats.sequences import Interval, difference_interval, proportion_interval, quantile_shares
from mlmon.stats.sketch import RELATIVE_ACCURACY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.canary.arms import Arm, ArmPair, Cells
    from mlmon.canary.config import CanaryConfig

__all__ = ["Check", "State", "Verdict", "judge"]

#: Most cells of one field that are compared; the smallest are pooled.
_MOST_CELLS = 24
#: Margins of shares below this are of rare events.
_RARE = 0.01
#: So many bad events a margin must make up before anything is said: before, the asymptotic interval is short.
_AT_MARGIN = 10


class State(StrEnum):
    """What a check or a verdict says."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Check(msgspec.Struct, frozen=True):
    """One comparison.

    Attributes:
        name: objective, `latency-p95`, or `drift`.
        state: what it says.
        reason: in words, with the numbers.
        stable: the stable arm's figure: a share of bad events, seconds, or a share of a cell.
        canary: the canary's.
        low: lower end of the difference (of latency: of the ratio less one), over all times.
        high: upper end.
        margin: what is allowed of it.
        stable_events: effective events of the stable arm.
        canary_events: of the canary.
    """

    name: str
    state: State
    reason: str
    stable: float | None = None
    canary: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    stable_events: float = 0.0
    canary_events: float = 0.0


class Verdict(msgspec.Struct, frozen=True):
    """What is said of a canary.

    Attributes:
        verdict: pass, fail or inconclusive.
        reasons: of the checks that decided, or that are waited for.
        checks: all of them.
        stable: name of the stable arm.
        canary: name of the canary.
        false_verdicts: error rate over all times and checks.
    """

    verdict: State
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    stable: str
    canary: str
    false_verdicts: float


def judge(pair: ArmPair, config: CanaryConfig) -> Verdict:
    """Compare a canary with what serves.

    Args:
        pair: sums since the canary began. Asking again later, with more, costs no error.
        config: margins and error rate.
    """
    names = [name for name in pair.budgets if name in pair.stable.outcomes or name in pair.canary.outcomes]
    alpha = config.false_verdicts / (len(names) + 2)
    checks = [_objective(name, pair, config, alpha) for name in names]
    checks.append(_latency(pair, config, alpha))
    drift = _drift(pair, config, alpha)
    asked = [check for check in checks if check.stable_events or check.canary_events]
    failed = [check for check in (*asked, drift) if check.state is State.FAIL]
    waiting = [check for check in asked if check.state is State.INCONCLUSIVE]
    if failed:
        state, decided = State.FAIL, failed
    elif waiting or not asked:
        state, decided = State.INCONCLUSIVE, waiting or checks[:1]
    else:
        state, decided = State.PASS, asked
    reasons = tuple(f"{check.name}: {check.reason}" for check in decided)
    return Verdict(
        state, reasons, (*checks, drift), pair.stable.name, pair.canary.name, config.false_verdicts
    )


def _objective(name: str, pair: ArmPair, config: CanaryConfig, alpha: float) -> Check:
    margin = config.margins.get(name, config.margin_budget_share * pair.budgets[name])
    trials = pair.stable.trials(name), pair.canary.trials(name)
    return _shares(name, "bad events", trials, margin, (alpha, config.min_events))


def _shares(
    name: str, what: str, trials: tuple[Trials, Trials], margin: float, rules: tuple[float, int]
) -> Check:
    """Compare two shares; `rules` are the error rate and the least number of events."""
    alpha, least = rules
    if margin >= _RARE:
        least = max(least, math.ceil(_AT_MARGIN / margin))
    few = _too_few(name, (trials[0].events, trials[1].events), least)
    if few is not None:
        return few
    difference = _difference(trials, margin, alpha)
    shares = [t.bad / t.events for t in trials]
    state = _state(difference, margin)
    reason = (
        f"{what} are {shares[1]:.3%} against {shares[0]:.3%}, between {difference.low:+.3%} and "
        f"{difference.high:+.3%}; {margin:.3%} more is allowed"
    )
    return Check(
        name, state, reason, shares[0], shares[1], *difference, margin, trials[0].events, trials[1].events
    )


#: The same counts are asked about again and again, such as by every look at an arm that stands still.
_interval = lru_cache(maxsize=4096)(proportion_interval)


def _difference(trials: tuple[Trials, Trials], margin: float, alpha: float) -> Interval:
    """How much larger the canary's share is; below either end with probability alpha, over all times.

    Margins below `_RARE` belong to rare events: there the exact sequences of both arms are subtracted. For
    others a third of the events is enough with the asymptotic one; the margin alone decides, never the data.
    """
    stable, canary = trials
    if margin >= _RARE:
        return difference_interval((stable.bad, stable.events), (canary.bad, canary.events), 2 * alpha)
    old, new = (_interval(t.bad, t.events, alpha / 2) for t in trials)
    return Interval(new.low - old.high, new.high - old.low)


def _state(difference: Interval, margin: float) -> State:
    if difference.low > margin:
        return State.FAIL
    return State.PASS if difference.high <= margin else State.INCONCLUSIVE


def _too_few(name: str, events: tuple[float, float], least: int) -> Check | None:
    if min(events) >= least:
        return None
    reason = (
        f"{events[1]:,.0f} events of the canary and {events[0]:,.0f} of the stable one; {least} are needed"
    )
    return Check(name, State.INCONCLUSIVE, reason, stable_events=events[0], canary_events=events[1])


def _latency(pair: ArmPair, config: CanaryConfig, alpha: float) -> Check:
    """Compare a quantile by its ratio: confidence sequences of both quantiles, from the sketches."""
    name = f"latency-p{config.latency_quantile * 100:g}"
    events = pair.stable.latency_events, pair.canary.latency_events
    few = _too_few(name, events, config.min_events)
    if few is not None:
        return few
    old, new = (_quantile(arm, config.latency_quantile, alpha / 2) for arm in (pair.stable, pair.canary))
    ratio = Interval(new[0].low / old[0].high - 1, new[0].high / old[0].low - 1)
    reason = (
        f"{new[1] * 1e3:,.1f} ms against {old[1] * 1e3:,.1f} ms, between {ratio.low:+.1%} and "
        f"{ratio.high:+.1%}; {config.latency_margin:.1%} more is allowed"
    )
    state = _state(ratio, config.latency_margin)
    return Check(name, state, reason, old[1], new[1], *ratio, config.latency_margin, *events)


def _quantile(arm: Arm, share: float, alpha: float) -> tuple[Interval, float]:
    """Interval and estimate, in seconds; the interval is wider by what the sketch may be off."""
    shares = quantile_shares(share, arm.latency_events, alpha)
    low, high, here = arm.latency.quantiles((shares.low, shares.high, share))
    if shares.high >= 1.0:
        high = float("inf")
    return Interval(low * (1 - RELATIVE_ACCURACY), high * (1 + RELATIVE_ACCURACY)), here


def _drift(pair: ArmPair, config: CanaryConfig, alpha: float) -> Check:
    """Compare every cell of every distribution that both have; the worst is told."""
    common = sorted(pair.stable.fields.keys() & pair.canary.fields.keys())
    compared = [
        check
        for name in common
        for check in _cells(name, pair.stable.fields[name], pair.canary.fields[name], config)
    ]
    if not compared:
        return Check("drift", State.INCONCLUSIVE, "no distribution that both have enough events of")
    each = alpha / len(compared)
    checks = [
        _shares(f"{name}[{cell}]", f"events in cell {cell} of {name}", trials, config.drift_margin, (each, 1))
        for name, cell, trials in compared
    ]
    worst = max(checks, key=lambda check: check.low or 0.0)
    state = State.FAIL if worst.state is State.FAIL else State.INCONCLUSIVE
    reason = worst.reason if state is State.FAIL else f"{len(common)} fields, none surely different"
    return msgspec.structs.replace(worst, name="drift", state=state, reason=reason)


def _cells(
    name: str, stable: Cells, canary: Cells, config: CanaryConfig
) -> Iterator[tuple[str, int, tuple[Trials, Trials]]]:
    """Cells whose share may have risen. A share that fell made another rise, so rises are enough."""
    if min(stable.n_eff, canary.n_eff) < config.min_events or len(stable.cells) != len(canary.cells):
        return
    arms = [(part.cells / part.weight).clip(0.0, 1.0) for part in (stable, canary)]
    largest = sorted(range(len(arms[0])), key=lambda cell: -float(max(arms[0][cell], arms[1][cell])))
    for cell in sorted(largest[:_MOST_CELLS]):
        sizes = (stable.n_eff, canary.n_eff)
        old, new = (Trials(float(arm[cell]) * size, size) for arm, size in zip(arms, sizes, strict=True))
        yield name, cell, (old, new)
