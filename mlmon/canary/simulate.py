"""What verdicts to expect: canaries of known quality, looked at again and again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.canary.arms import Arm, ArmPair
from mlmon.canary.verdict import State, judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlmon.canary.config import CanaryConfig

__all__ = ["Outcome", "Rollout", "rollouts"]

_OBJECTIVE = "simulated"


class Rollout(NamedTuple):
    """A canary of known quality.

    Attributes:
        stable: share of bad events of the stable arm.
        canary: of the canary.
        budget: error budget of the objective.
        events: of both arms, over the whole rollout.
        traffic: share of the events that go to the canary, in (0, 1).
        looks: how often one looks, evenly over the events.
    """

    stable: float
    canary: float
    budget: float
    events: int = 20_000
    traffic: float = 0.1
    looks: int = 200


class Outcome(NamedTuple):
    """How rollouts ended, with the first verdict that is no longer inconclusive.

    Attributes:
        passed: share that passed.
        failed: share that failed.
        median_events: events of both arms until half of all had a verdict; NaN where fewer have one.
    """

    passed: float
    failed: float
    median_events: float


def rollouts(
    rollout: Rollout,
    config: CanaryConfig,
    repetitions: int,
    seed: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Draw rollouts and judge each at every look, as somebody does who stops at the first verdict.

    Args:
        rollout: what is drawn.
        config: margins and error rate.
        repetitions: how many rollouts.
        seed: of the draws.
        tick: called after each.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([rollout.events * (1 - rollout.traffic), rollout.events * rollout.traffic])
    per_look = np.maximum(1, np.round(sizes / rollout.looks)).astype(np.int64)
    rates = np.array([rollout.stable, rollout.canary])
    ends: list[tuple[State, float]] = []
    for _ in range(repetitions):
        bad = rng.binomial(per_look, rates, (rollout.looks, 2)).cumsum(axis=0)
        ends.append(_first_verdict(bad, per_look, rollout.budget, config))
        tick()
    states = [state for state, _ in ends]
    times = sorted(at for _, at in ends)
    median = times[(len(times) - 1) // 2]
    return Outcome(
        states.count(State.PASS) / repetitions,
        states.count(State.FAIL) / repetitions,
        median if math.isfinite(median) else math.nan,
    )


def _first_verdict(
    bad: NDArray[np.int64], per_look: NDArray[np.int64], budget: float, config: CanaryConfig
) -> tuple[State, float]:
    for look, counts in enumerate(bad, 1):
        seen = per_look * look
        arms = [_arm(int(size), int(count)) for size, count in zip(seen, counts, strict=True)]
        state = judge(ArmPair(arms[0], arms[1], {_OBJECTIVE: budget}), config).verdict
        if state is not State.INCONCLUSIVE:
            return state, float(seen.sum())
    return State.INCONCLUSIVE, math.inf


def _arm(events: int, bad: int) -> Arm:
    good = events - bad
    return Arm("", {_OBJECTIVE: np.array([[good] * 3, [bad] * 3], np.float64)})
