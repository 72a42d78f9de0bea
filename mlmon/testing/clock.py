"""A clock that stands still until it is told to move, so that tests of time never wait."""

from __future__ import annotations

import threading

__all__ = ["ManualClock"]


class ManualClock:
    """A `mlmon.clock.Clock` moved by hand; wall and monotonic time move together. Safe across threads.

    Args:
        now_us: the wall clock's first reading, µs since 1970 UTC; the default is 2026-01-01.

    Example:
        >>> clock = ManualClock(now_us=0)
        >>> clock.sleep(1.5)
        >>> clock.now_us(), clock.monotonic()
        (1500000, 1.5)
    """

    def __init__(self, now_us: int = 1_767_225_600_000_000) -> None:
        self._lock = threading.Lock()
        self._now_us = now_us
        self._elapsed_us = 0

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC."""
        with self._lock:
            return self._now_us

    def monotonic(self) -> float:
        """Seconds moved so far."""
        with self._lock:
            return self._elapsed_us / 1_000_000

    def sleep(self, seconds: float) -> None:
        """Move on at once instead of waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward.

        Raises:
            ValueError: seconds is negative; only `set_now_us` turns the wall clock back.
        """
        if seconds < 0:
            raise ValueError(f"expected seconds >= 0, got {seconds}")
        with self._lock:
            self._now_us += round(seconds * 1_000_000)
            self._elapsed_us += round(seconds * 1_000_000)

    def set_now_us(self, now_us: int) -> None:
        """Step the wall clock, forward or back, as an administrator would; monotonic time stays."""
        with self._lock:
            self._now_us = now_us
