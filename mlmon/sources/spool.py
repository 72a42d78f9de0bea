"""The spool as a source: a directory of segment files, tailed like the partitions of a topic.

The embedded default log, for one machine or a volume shared by a server and its sidecar; `docs/spool.md` says
what it guarantees. The layout is in `spool_segment`, the frames in `spool_format`, the writer in
`spool_writer`. Why files and not a socket: the server never waits for the sidecar, and either may be away.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from mlmon.clock import SystemClock
from mlmon.errors import SourceError
from mlmon.sources.base import Chunk, Lag, Polled
from mlmon.sources.budget import Budget
from mlmon.sources.spool_reader import SlotReader
from mlmon.sources.spool_segment import list_segments, list_slots
from mlmon.sources.spool_writer import SpoolWriter, SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.clock import Clock

__all__ = ["SpoolConfig", "SpoolSource", "SpoolWriter", "SpoolWriterConfig"]

_WAIT_SECONDS = 0.03


class SpoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a spool directory is read."""

    directory: Annotated[str, msgspec.Meta(min_length=1, description="The spool directory.")]
    start: Annotated[
        Literal["earliest", "latest"],
        msgspec.Meta(
            description="Where reading begins in slots that have no checkpoint. Slots that come into being "
            "later are always read from their first record."
        ),
    ] = "earliest"
    max_records: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=1_000_000,
            description="Records one poll brings at most. Raising it makes fewer, larger steps, and takes "
            "memory.",
        ),
    ] = 2048
    max_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=4096,
            le=1 << 32,
            description="Bytes one poll brings at most, unless a single record is larger. Raising it takes "
            "memory.",
        ),
    ] = 16 * 1024 * 1024
    stop_at_end: Annotated[
        bool,
        msgspec.Meta(
            description="Read up to the end as it is at the start, then finish; later slots are ignored."
        ),
    ] = False


class SpoolSource:
    """A spool directory, read by one thread; slots are partitions, offsets count records.

    Delivery: every record whose `append` returned is delivered once, in order, to a reader that goes on from
    its positions. The reader holds no lock and never writes: two sidecars on one spool are kept apart by
    their checkpoint. What retention removed unread is counted in `Chunk.lost`.

    Raises:
        SourceError: the path is not a directory, or `stop_at_end` is asked of one that does not exist.
    """

    def __init__(self, config: SpoolConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._root = Path(config.directory)
        self._slots: dict[str, SlotReader] = {}
        self._sought: dict[str, SlotReader] = {}
        self._revoked: list[str] = []
        self._assigned: list[str] = []
        self._first: frozenset[str] | None = None
        self._turn = 0
        if self._root.exists() and not self._root.is_dir():
            raise SourceError(f"the spool {self._root} is not a directory: name the directory of its slots")
        if config.stop_at_end and not self._root.exists():
            raise SourceError(
                f"the spool {self._root} does not exist: name the directory an emitter writes to"
            )

    def poll(self, max_wait_seconds: float) -> Polled:
        """Bring new slots and the next records, waiting up to this long for the first of them.

        Looks at the files every 30 ms while there is nothing. All slots that have records get an equal share
        of the bounds.

        Raises:
            SourceError: a file cannot be read; calling again retries.
        """
        deadline = self._clock.monotonic() + max_wait_seconds
        while True:
            try:
                polled = self._poll()
            except OSError as error:
                raise SourceError(f"the spool {self._root} cannot be read: {error}") from error
            left = deadline - self._clock.monotonic()
            if polled.chunks or polled.assigned or polled.revoked or self.finished or left <= 0:
                return polled
            self._clock.sleep(min(_WAIT_SECONDS, left))

    def seek(self, partition: str, offset: int | None) -> None:
        """Read on from this offset; None means the configured start.

        An offset that retention has removed means the oldest record, and the difference is lost. One beyond
        the end, after a power failure or when the directory was replaced, means the end; it is logged.

        Raises:
            SourceError: the slot was not announced, or cannot be read.
        """
        if partition not in self._slots:
            raise SourceError(f"{partition} was not announced by the spool {self._root}: seek only what was")
        slot = self._slots[partition]
        latest = self._config.start == "latest" and partition in (self._first or ())
        try:
            slot.seek(offset, latest=latest)
        except OSError as error:
            raise SourceError(f"the spool {self._root} cannot be read: {error}") from error
        self._sought[partition] = slot

    def reset(self) -> None:
        """Give every slot up; the next poll revokes and assigns them."""
        self._revoked.extend(self._slots)
        self._assigned = []
        self.close()

    def lag(self) -> Mapping[str, Lag]:
        """Records left by slot, exact, for slots that have been sought. Reads the headers of new frames."""
        lags = {}
        for name, slot in self._sought.items():
            try:
                end, oldest = slot.end_offset() or 0, slot.oldest_offset() or 0
            except OSError as error:
                raise SourceError(f"the spool {self._root} cannot be read: {error}") from error
            position = oldest if slot.next_offset is None else max(slot.next_offset, oldest)
            lags[name] = Lag(max(0, end - position), end)
        return lags

    @property
    def finished(self) -> bool:
        """With `stop_at_end`: whether every slot was read to where it ended at the first poll."""
        return (
            self._config.stop_at_end
            and self._first is not None
            and self._first == set(self._sought)
            and all((slot.next_offset or 0) >= (slot.limit or 0) for slot in self._sought.values())
        )

    def close(self) -> None:
        """Close the open files."""
        for slot in self._slots.values():
            slot.close()
        self._slots, self._sought = {}, {}

    def _poll(self) -> Polled:
        """Whatever raises in here, what was found before is told by the next call."""
        self._assign()
        polled = Polled(self._read(), self._assigned, self._revoked)
        self._assigned, self._revoked = [], []
        return polled

    def _assign(self) -> None:
        """Find slots that have a segment and were not announced yet."""
        found = [
            name
            for name in list_slots(self._root)
            if name not in self._slots and list_segments(self._root / name)
        ]
        if self._first is None:
            self._first = frozenset(found)
        if self._config.stop_at_end:
            found = [name for name in found if name in self._first]
        for name in found:
            slot = SlotReader(self._root / name)
            if self._config.stop_at_end:
                slot.limit = slot.end_offset()
            self._slots[name] = slot
            self._assigned.append(name)

    def _read(self) -> list[Chunk]:
        """One round over the sought slots, each taking its share, beginning with another one every time."""
        slots = list(self._sought.values())
        self._turn = (self._turn + 1) % max(1, len(slots))
        slots = slots[self._turn :] + slots[: self._turn]
        records_left, bytes_left, fresh = self._config.max_records, self._config.max_bytes, True
        chunks: list[Chunk] = []
        fault: OSError | None = None
        for index, slot in enumerate(slots):
            shares = len(slots) - index
            share = Budget(-(-records_left // shares), bytes_left // shares, fresh=fresh)
            before = (share.records, share.bytes, slot.next_offset)
            try:
                records, lost = slot.read(share)
            except OSError as error:
                fault = error  # one bad slot does not stop the others
                continue
            records_left -= before[0] - share.records
            bytes_left -= before[1] - share.bytes
            fresh = fresh and share.fresh
            if records or lost or slot.next_offset != before[2]:
                chunks.append(Chunk(slot.name, records, slot.next_offset or 0, lost))
        if fault is not None and not chunks:
            raise fault
        return chunks
