"""Traffic with a known answer: records to append, and what exact counting must say of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlmon.events.encode import ARROW_CONTENT_TYPE, JSON_CONTENT_TYPE, encode_arrow, encode_json
from mlmon.events.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECOND = 1_000_000
SIZE_SECONDS, LATENESS_SECONDS = 5, 20
START = 1_780_000_000 * SECOND

Headers = list[tuple[str, bytes]]


@dataclass
class Expected:
    """What a partition's totals must be in the end."""

    records: int = 0
    events: int = 0
    late: int = 0
    rejects: int = 0
    windows: Counter[int] = field(default_factory=Counter)
    newest: int = -(2**62)

    def add(self, time_us: int) -> None:
        """Count one event as the rules of windows say, one at a time."""
        self.events += 1
        end = time_us - time_us % (SIZE_SECONDS * SECOND) + SIZE_SECONDS * SECOND
        if end <= self.newest - LATENESS_SECONDS * SECOND:
            self.late += 1
        else:
            self.windows[end - SIZE_SECONDS * SECOND] += 1
        self.newest = max(self.newest, time_us)


class Load:
    """Records for `partitions` partitions; every one is counted in `expected` when it is made.

    One record in a hundred is poison. One event in 200 is a minute late. Event times advance slowly, so that
    200,000 events over 8 partitions fill about a hundred windows.
    """

    def __init__(self, partitions: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._clock = [START] * partitions
        self._made = 0
        self.expected = [Expected() for _ in range(partitions)]

    def records(self, partition: int, events: int) -> Iterator[tuple[bytes, Headers]]:
        """Records that hold exactly `events` good events, and some poison besides."""
        while events > 0:
            self.expected[partition].records += 1
            if self._rng.random() < 0.01:
                self.expected[partition].rejects += 1
                yield b"\xff\xfe" + self._rng.bytes(30), [("content-type", ARROW_CONTENT_TYPE.encode())]
                continue
            count = min(events, int(self._rng.integers(1, 120)))
            events -= count
            if self._rng.random() < 0.2:
                self.expected[partition].records += count - 1
                for _ in range(count):
                    yield encode_json(self._event(partition)), [("content-type", JSON_CONTENT_TYPE.encode())]
                continue
            batch = [self._event(partition) for _ in range(count)]
            yield encode_arrow(batch), [("content-type", ARROW_CONTENT_TYPE.encode())]

    def _event(self, partition: int) -> Event:
        self._made += 1
        self._clock[partition] += int(self._rng.integers(5_000, 35_000))
        late = 60 if self._rng.random() < 0.005 else 10 * self._rng.random()
        time_us = self._clock[partition] - int(late * SECOND)
        self.expected[partition].add(time_us)
        return Event(
            event_id=f"{self._made:032x}",
            event_time=time_us,
            service="fire",
            model_name=f"m{partition}",
            model_version="1",
            latency_seconds=0.01,
            tokens=7,
            unknown_tokens=1,
        )


class Writing(threading.Thread):
    """Writes a load steadily from a thread, a little to each partition in turn, until all of it is written.

    Args:
        load: what to write; its expectations are right once the thread has ended.
        events: in all.
        seconds: how long it should take at least.
        append: writes one record to a partition.
    """

    def __init__(
        self, load: Load, events: int, seconds: float, append: Callable[[int, bytes, Headers], object]
    ) -> None:
        super().__init__(daemon=True)
        self._load, self._append = load, append
        self._rounds = max(1, int(seconds / 0.1))
        self._partitions = len(load.expected)
        self._each, rest = divmod(events, self._partitions)
        assert rest == 0, "events divide by partitions"
        self.error: BaseException | None = None

    def run(self) -> None:
        """Write."""
        try:
            left = [self._each] * self._partitions
            while any(left):
                due = time.monotonic() + 0.1
                for partition in range(self._partitions):
                    take = min(left[partition], -(-self._each // self._rounds))
                    left[partition] -= take
                    for value, headers in self._load.records(partition, take):
                        self._append(partition, value, headers)
                time.sleep(max(0.0, due - time.monotonic()))
        except BaseException as error:
            self.error = error
            raise

    def finish(self) -> dict[int, Expected]:
        """Wait for the end; what each partition must come to."""
        self.join(300)
        assert not self.is_alive(), "the load was not written in time"
        assert self.error is None, f"writing failed: {self.error!r}"
        return dict(enumerate(self._load.expected))
