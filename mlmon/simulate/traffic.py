"""How events arrive: independent, in bursts, or by the time of day."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pattern", "Traffic"]

Pattern = Literal["independent", "bursty", "daily"]

_DAY_SECONDS = 86_400
#: A reference that follows the day covers this many of them, in this many steps.
_DAYS, _SLOTS = 3, 288


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Draws windows of events from a population of `size`.

    Attributes:
        size: events in the population.
        events: mean number of events to a window.
        pattern: independent: every event is drawn by itself. bursty: each draw is repeated, a geometric
            number of times with mean `burst`. daily: volume and mix follow the time of day.
        burst: mean length of a burst.
        tilt: for daily: each event's place in the day, -1 to 1, shape (size,): at noon an event with tilt 1
            is (1 + swing) times as likely as on average, at midnight (1 - swing) times.
        swing: how far volume and mix swing, 0 to 1.
        window_seconds: length of a window.
    """

    size: int
    events: float
    pattern: Pattern = "independent"
    burst: float = 5.0
    tilt: NDArray[np.float64] | None = None
    swing: float = 0.3
    window_seconds: int = 60

    def draw(self, window: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """How often each event of the population is in window number `window`, shape (size,)."""
        if self.pattern == "bursty":
            bursts = rng.poisson(self.events / self.burst)
            lengths = rng.geometric(1.0 / self.burst, bursts)
            starts = rng.integers(0, self.size, bursts)
            return np.bincount(starts, lengths, self.size).astype(np.float64)
        if self.pattern == "daily":
            phase = math.sin(2 * math.pi * window * self.window_seconds / _DAY_SECONDS)
            chosen = self._at(phase, int(rng.poisson(self.events * (1.0 + self.swing * phase))), rng)
        else:
            chosen = rng.integers(0, self.size, rng.poisson(self.events))
        return np.bincount(chosen, minlength=self.size).astype(np.float64)

    def order(self, events: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Events in the order they arrive, for a baseline; by the day, from whole days, shape (events,)."""
        if self.pattern == "bursty":
            chosen = rng.integers(0, self.size, events)
            return np.repeat(chosen, rng.geometric(1.0 / self.burst, events))[:events]
        if self.pattern == "daily":
            sizes = np.diff(np.linspace(0, events, _SLOTS + 1).astype(int))
            phases = np.sin(2 * np.pi * _DAYS * np.arange(_SLOTS) / _SLOTS)
            return np.concatenate(
                [self._at(p, n, rng) for p, n in zip(phases.tolist(), sizes.tolist(), strict=True)]
            )
        return rng.integers(0, self.size, events)

    def _at(self, phase: float, events: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Events drawn at a time of day, -1 to 1, shape (events,)."""
        tilt = np.zeros(self.size) if self.tilt is None else self.tilt
        weights = np.maximum(0.0, 1.0 + self.swing * phase * tilt)
        chosen: NDArray[np.intp] = rng.choice(self.size, events, p=weights / weights.sum())
        return chosen
