"""How much of the device's time shadow work may take, so that interactive work hardly notices it.

A device that is idle between two interactive batches is not free: who comes during a shadow batch waits for
all of it, and on a CPU the threads that read and write requests want the same cores. So while interactive
work comes, shadow work has a fixed share of the time; when none has come for a while, it has all of it.

Taking what is left over, as measured, was the alternative. It feeds on itself: shadow work slows interactive
work down, which then uses less of the device and so leaves more.
"""

from __future__ import annotations

__all__ = ["QUIET_SECONDS", "SHARE", "ShadowShare"]

#: Of the time, while interactive work comes.
SHARE = 1 / 16
#: Without interactive work for so long there is none that could wait.
QUIET_SECONDS = 0.1


class ShadowShare:
    """A bucket of seconds that fills by `SHARE` of the time. It may be overdrawn by what is already begun.

    Not safe for several threads.

    Args:
        batch_seconds: the bucket's size: what shadow work may take of one batch.

    Example:
        >>> share = ShadowShare(0.02)
        >>> share.came(now=10.0)
        >>> share.seconds(now=10.0)
        0.02
        >>> share.spend(0.03)
        >>> share.seconds(now=10.0), round(share.wait(now=10.0), 3)
        (0.0, 0.1)
        >>> share.seconds(now=10.2)
        0.02
    """

    def __init__(self, batch_seconds: float) -> None:
        self._most = batch_seconds
        self._left = batch_seconds
        self._at = 0.0  # until when the bucket was filled
        self._came = float("-inf")  # when interactive work last did

    def came(self, now: float) -> None:
        """Interactive work went into a batch."""
        self._came = now

    def spend(self, seconds: float) -> None:
        """Shadow work took time of the device."""
        self._left -= seconds

    def seconds(self, now: float) -> float:
        """What shadow work may take of a batch that begins now; `batch_seconds` where the bucket is full."""
        self._left = min(self._most, self._left + SHARE * max(0.0, now - self._at))
        self._at = now
        if now - self._came >= QUIET_SECONDS:
            self._left = self._most
        return max(0.0, self._left)

    def wait(self, now: float) -> float:
        """Seconds until the bucket is full again, if nothing more comes."""
        self.seconds(now)
        return max(0.0, min(self._came + QUIET_SECONDS - now, (self._most - self._left) / SHARE))
