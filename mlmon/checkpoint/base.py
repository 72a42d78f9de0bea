"""What a checkpoint is: state, positions and dead letters written together or not at all.

Order of a commit: (1) dead letters, (2) state records and the next position of every changed partition, as
one transaction. Only when it has returned is anything published. State is opaque here: records by key within
a partition, written by `engine.state`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlmon.events.record import Reject

__all__ = ["Checkpoint", "DeadLetter", "PartitionChange", "Stored", "Written"]


class DeadLetter(NamedTuple):
    """A reject and where it came from. (partition, reject.offset, reject.row) is its identity."""

    partition: str
    reject: Reject


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """What one commit changes of a partition.

    Attributes:
        partition: its name.
        next_offset: where reading goes on.
        puts: records to write, by key.
        deletes: keys to remove.
    """

    partition: str
    next_offset: int
    puts: Mapping[bytes, bytes]
    deletes: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of a partition: its position and its records by key."""

    next_offset: int
    records: dict[bytes, bytes] = field(default_factory=dict)


class Written(NamedTuple):
    """What one commit wrote."""

    bytes: int


class Checkpoint(Protocol):
    """A store of partitions' state. One thread uses it.

    Whatever `write` raises, its outcome is unknown to the caller, which drops its memory and loads again.
    """

    def load(self, partition: str) -> Stored | None:
        """The last committed state of a partition, or None when there is none.

        Raises:
            CheckpointError: the store cannot be read; calling again retries.
        """
        ...

    def write(self, changes: Sequence[PartitionChange], letters: Sequence[DeadLetter]) -> Written:
        """Commit, atomically and durably over a crash of this process.

        Raises:
            FencedError: another member owns a partition now.
            CheckpointError: the commit failed or its outcome is unknown.
        """
        ...

    def scan(self) -> Iterator[tuple[str, Stored]]:
        """Every stored partition, for `mlmon status`; needs no ownership and takes no lock."""
        ...

    def peers(self, own: frozenset[str]) -> Mapping[str, bytes]:
        """The `meta` record of partitions held by others (not in `own`), as last committed; may be old."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...
