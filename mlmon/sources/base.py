"""What a source is: partitions of records with positions, from which any of them can be read again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlmon.events.record import Record

__all__ = ["Chunk", "Lag", "Polled", "Source"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one partition, in order.

    Attributes:
        partition: its name, such as `mlmon.events-3` (Kafka: topic-number) or `slot-0` (spool).
        records: in the order of the log; may be empty when only the position moved (control records, gaps).
        next_offset: where reading goes on after these records.
        lost: records that retention removed before they were read, since the last chunk.
    """

    partition: str
    records: Sequence[Record]
    next_offset: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought.

    Attributes:
        chunks: records by partition; only of partitions that have been sought.
        assigned: partitions this source now reads; each must be sought before it yields.
        revoked: partitions it no longer reads; their state is to be dropped.
    """

    chunks: Sequence[Chunk] = ()
    assigned: Sequence[str] = ()
    revoked: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind a partition is: records to its end, and the append time (ms) of the last record read."""

    records: int
    end_offset: int


class Source(Protocol):
    """A log, read by one thread.

    A record is delivered only from a partition that was announced in `Polled.assigned` and then sought. A
    poll may bring the same partition in `revoked` and `assigned` (it was lost and came back): revocation is
    handled first. `close` is not called after a crash, and nothing may depend on it.
    """

    def poll(self, max_wait_seconds: float) -> Polled:
        """Wait for records up to this long. Bounded in records and bytes.

        Raises:
            SourceError: the log cannot be read and retrying inside did not help; calling again retries.
        """
        ...

    def seek(self, partition: str, offset: int | None) -> None:
        """Read on from this offset; None means the configured start (earliest, latest, or committed)."""
        ...

    def reset(self) -> None:
        """Give every partition up and join anew; the next polls revoke and assign them."""
        ...

    def lag(self) -> Mapping[str, Lag]:
        """What is left to read by partition, without waiting for the network."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the log is bounded and has been read to its end."""
        ...

    def close(self) -> None:
        """Leave; free what is held."""
        ...
