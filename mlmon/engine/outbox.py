"""Parcels for the history: written into the transaction that closes a window, delivered after it.

A parcel is new until its commit succeeds, then due until it is delivered, then spent until the next commit
deletes its records. After a crash what was due is due again, so delivery must be idempotent by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["MAX_PARCELS", "OUTBOX_PREFIX", "Outbox"]

OUTBOX_PREFIX = b"o"
#: Parcels kept while the history cannot be written; beyond it the oldest are given up.
MAX_PARCELS = 1_000


@dataclass(slots=True)
class _Parcel:
    partition: str
    chunks: Sequence[bytes]
    committed: bool = False
    spent: bool = False


class Outbox:
    """Parcels of all partitions held, by name.

    Memory: what is not yet delivered, at most `MAX_PARCELS` windows.
    """

    def __init__(self) -> None:
        self._parcels: dict[str, _Parcel] = {}

    def __len__(self) -> int:
        return sum(not parcel.spent for parcel in self._parcels.values())

    def add(self, name: str, partition: str, chunks: Sequence[bytes]) -> int:
        """Put a parcel in; returns how many old ones were given up to make room."""
        if chunks:
            self._parcels[name] = _Parcel(partition, chunks)
        excess = len(self) - MAX_PARCELS
        for parcel in [p for p in self._parcels.values() if not p.spent][: max(0, excess)]:
            parcel.spent = True
        return max(0, excess)

    def load(self, partition: str, records: Mapping[bytes, bytes]) -> None:
        """Take over what a checkpoint still holds of a partition: all of it is due."""
        found: dict[str, dict[int, bytes]] = {}
        for key, value in records.items():
            if key.startswith(OUTBOX_PREFIX):
                name, index = unpack(key[1:])
                found.setdefault(name, {})[index] = value
        for name, chunks in sorted(found.items()):
            self._parcels[name] = _Parcel(partition, [chunks[i] for i in sorted(chunks)], committed=True)

    def drop(self, partition: str) -> None:
        """Forget a partition's parcels; whoever holds it next finds them in its state."""
        self._parcels = {name: p for name, p in self._parcels.items() if p.partition != partition}

    def clear(self) -> None:
        """Forget everything that is in memory."""
        self._parcels.clear()

    def changes(self, partition: str) -> tuple[dict[bytes, bytes], list[bytes]]:
        """State records to put and to delete with the next commit of a partition."""
        puts: dict[bytes, bytes] = {}
        deletes: list[bytes] = []
        for name, parcel in self._parcels.items():
            if parcel.partition != partition:
                continue
            if parcel.spent and parcel.committed:
                deletes.extend(_key(name, index) for index in range(len(parcel.chunks)))
            elif not parcel.spent and not parcel.committed:
                puts.update({_key(name, index): chunk for index, chunk in enumerate(parcel.chunks)})
        return puts, deletes

    def committed(self) -> None:
        """Take note that the last `changes` are safe."""
        self._parcels = {name: p for name, p in self._parcels.items() if not p.spent}
        for parcel in self._parcels.values():
            parcel.committed = True

    def due(self) -> Iterator[tuple[str, Sequence[bytes]]]:
        """Parcels that are safe and not delivered, oldest first."""
        for name, parcel in list(self._parcels.items()):
            if parcel.committed and not parcel.spent:
                yield name, parcel.chunks

    def delivered(self, name: str) -> str:
        """Take note that a parcel was delivered; returns the partition whose next commit deletes it."""
        self._parcels[name].spent = True
        return self._parcels[name].partition


def _key(name: str, index: int) -> bytes:
    return OUTBOX_PREFIX + pack([name, index])
