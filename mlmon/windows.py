"""Event-time tumbling windows: which window an event belongs to, which events are late, when a window closes.

Pure state and arithmetic; times are integers, µs since 1970 UTC.

Lateness is decided per partition, from what that partition itself has carried, so it is a function of the
log alone and comes out the same however reading is batched, crashed or moved. Closing needs all partitions:
a window is published when the lowest watermark among those that are not idle has passed its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NEVER", "Window", "WindowConfig", "late_mask"]

#: A time before every event: the watermark of a partition that has carried none.
NEVER = -(2**62)


class WindowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[windows]`: how event time is cut."""

    size_seconds: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=86_400,
            description="Length of a window. Longer windows see smaller drifts, later.",
        ),
    ] = 60
    allowed_lateness_seconds: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=86_400,
            description="How far an event may lag behind the newest of its partition and still join its "
            "window. Raising it delays every window's reading by as much.",
        ),
    ] = 30
    idle_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=86_400,
            description="A partition without events for this long no longer holds windows open.",
        ),
    ] = 30.0
    max_open: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            description="Most (window, series, partition) states held open, some 20 kB each. Beyond it "
            "the oldest windows close early, and their later events count as late.",
        ),
    ] = 20_000

    @property
    def size_us(self) -> int:
        """Window length, µs."""
        return self.size_seconds * 1_000_000

    @property
    def lateness_us(self) -> int:
        """Allowed lateness, µs."""
        return self.allowed_lateness_seconds * 1_000_000

    @property
    def idle_us(self) -> int:
        """Idle timeout, µs."""
        return int(self.idle_timeout_seconds * 1_000_000)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The half-open interval [start_us, end_us) of event time."""

    start_us: int
    end_us: int


def late_mask(
    times: NDArray[np.int64], seen_us: int, closed_us: int, config: WindowConfig
) -> NDArray[np.bool_]:
    """Say which events come after their window has closed.

    An event is late when its window's end is at or below the watermark as it stood *before* the event (the
    newest time the partition had carried, less the allowed lateness), or below `closed_us`, up to where
    windows were already published. An event never makes itself late, and splitting the input anywhere gives
    the same answer.

    Args:
        times: event times in the order of the log, µs, shape (n,).
        seen_us: the partition's newest event time so far, or `NEVER`.
        closed_us: windows that end here or earlier are published, or `NEVER`.
        config: window size and allowed lateness.

    Returns:
        True where the event is late, shape (n,).

    Example:
        >>> c = WindowConfig(size_seconds=10, allowed_lateness_seconds=5)
        >>> late_mask(np.array([1, 16, 9, 14, 8]) * 1_000_000, NEVER, NEVER, c).tolist()
        [False, False, True, False, True]
    """
    before = np.empty_like(times)
    before[:1] = seen_us
    before[1:] = times[:-1]
    np.maximum.accumulate(np.maximum(before, seen_us, out=before), out=before)
    ends = times - times % config.size_us + config.size_us
    late: NDArray[np.bool_] = ends <= np.maximum(before - config.lateness_us, closed_us)
    return late
