"""Parcels of closed windows from the engine's outbox into the history, between two commits.

A parcel that cannot be written stays in the outbox, which is part of the checkpoint, and is tried again after
the next commit: a full disk stops the history and nothing else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from mlmon.errors import HistoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.clock import Clock
    from mlmon.engine import Engine

__all__ = ["Delivery"]

log = logging.getLogger(__name__)

#: Parcels written after one commit, so that catching up does not hold the loop.
_AT_ONCE = 50
#: Time between two looks at age, size and compaction, seconds.
_MAINTAIN_SECONDS = 10.0


class _Writes(Protocol):
    """What delivery needs of a history: `history.store.History`."""

    def write(self, key: str, chunks: Sequence[bytes]) -> None:
        """Keep a parcel; the same key again changes nothing."""
        ...

    def maintain(self) -> bool:
        """Delete what is too old, compact; bounded work."""
        ...


class Delivery:
    """Delivers what is due. One thread, the loop's.

    Args:
        engine: has the outbox.
        history: where parcels go.
        clock: time.
    """

    def __init__(self, engine: Engine, history: _Writes, clock: Clock) -> None:
        self._engine = engine
        self._history = history
        self._clock = clock
        self._next_maintenance = clock.monotonic()
        self._failing = False

    def __call__(self) -> None:
        """Write parcels that are due, at most `_AT_ONCE`; now and then look after the files."""
        try:
            for done, (name, chunks) in enumerate(self._engine.outbox.due()):
                if done >= _AT_ONCE:
                    break
                self._history.write(name, chunks)
                self._engine.delivered(name)
            if self._clock.monotonic() >= self._next_maintenance:
                more = self._history.maintain()
                self._next_maintenance = self._clock.monotonic() + (0.0 if more else _MAINTAIN_SECONDS)
        except HistoryError as error:
            if not self._failing:
                log.warning("the history cannot be written, tried again after each commit: %s", error)
            self._failing = True
            return
        self._failing = False
