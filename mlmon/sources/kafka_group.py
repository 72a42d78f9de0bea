"""Which partitions the consumer group has given to this member, and since when without interruption.

Everything here is called by kafka-python on its I/O thread or by the source's thread; it records and never
blocks. It does not trust the library's account of what was lost: when a member is thrown out of its group
while its own join is under way (a freeze at the wrong moment), kafka-python 3.0.12 reports the partitions
that come back to it as never lost, although another member may have had them in between. So ownership counts
as uninterrupted only from one generation to the very next under one member id; after anything else every
partition is taken as lost, and as new if it is still assigned.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from kafka import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import ConsumerGroupMetadata, TopicPartition

from mlmon.errors import FencedError
from mlmon.kafka_client import partition_name, partition_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka import KafkaConsumer

__all__ = ["Membership"]


class Membership:
    """The state of one member over the life of its consumers; thread-safe.

    Each time a partition comes to this member it gets a new token. What the caller was told is kept as tokens
    too, so the difference is what it must be told next: a partition lost and regained appears in both lists.
    """

    def __init__(self, group: str, instance: str | None) -> None:
        self._group = group
        self._instance = instance
        self._lock = threading.RLock()
        self._consumer: KafkaConsumer | None = None
        self._voice: _Voice | None = None
        self._owned: dict[TopicPartition, int] = {}
        self._told: dict[TopicPartition, int] = {}
        self._sought: dict[TopicPartition, int] = {}
        self._generation = -1
        self._member = ""
        self._tokens = 0
        self.rebalances = 0

    def renew(self) -> tuple[CooperativeStickyAssignor, ConsumerRebalanceListener]:
        """An assignor and a listener for a new consumer; whatever the last one owned is lost, and its word.

        An abandoned consumer may still be closing in some thread: what it reports is not heard any more.
        """
        with self._lock:
            self._owned.clear()
            self._sought.clear()
            self._generation, self._member, self._consumer = -1, "", None
            self._voice = _Voice(self)
            return _Assignor(self._voice), self._voice

    def bind(self, consumer: KafkaConsumer) -> None:
        """The consumer that was made with what `renew` returned."""
        with self._lock:
            self._consumer = consumer

    def joined(self, voice: _Voice, assignment: Iterable[TopicPartition], generation: int) -> None:
        """The member has joined a generation and been given these partitions. Called on the I/O thread."""
        with self._lock:
            consumer = self._consumer
            if consumer is None or voice is not self._voice:
                return
            member = consumer.group_metadata().member_id
            unbroken = member == self._member and generation == self._generation + 1
            kept = self._owned if unbroken else {}
            owned: dict[TopicPartition, int] = {}
            for tp in assignment:
                token = kept.get(tp)
                if token is None:
                    self._tokens += 1
                    token = self._tokens
                    # Nothing is fetched before the caller has said from where; a position keeps the
                    # library from asking the brokers for one.
                    consumer.pause(tp)
                    consumer.seek(tp, 0)
                owned[tp] = token
            self._owned = owned
            self._generation, self._member = generation, member
            self.rebalances += 1

    def lost(self, voice: _Voice, partitions: Iterable[TopicPartition]) -> None:
        """Partitions went. Called on the I/O thread."""
        with self._lock:
            if voice is self._voice:
                for tp in partitions:
                    self._owned.pop(tp, None)

    def changes(self) -> tuple[list[str], list[str]]:
        """What the caller has not been told yet: (assigned, revoked). It is told by this."""
        with self._lock:
            if self._owned == self._told:
                return [], []
            revoked = [tp for tp, token in self._told.items() if self._owned.get(tp) != token]
            assigned = [tp for tp, token in self._owned.items() if self._told.get(tp) != token]
            self._told = dict(self._owned)
            return [partition_name(*tp) for tp in assigned], [partition_name(*tp) for tp in revoked]

    def partition(self, name: str) -> TopicPartition | None:
        """The partition of this name if it is owned and the caller knows so, else None."""
        with self._lock:
            tp = TopicPartition(*partition_number(name))
            token = self._owned.get(tp)
            return tp if token is not None and token == self._told.get(tp) else None

    def sought(self, tp: TopicPartition) -> None:
        """The caller has said where to read on."""
        with self._lock:
            self._sought[tp] = self._owned.get(tp, 0)

    def readable(self) -> frozenset[TopicPartition]:
        """Owned, known to the caller, and sought since they came."""
        with self._lock:
            return frozenset(
                tp for tp, token in self._owned.items() if token == self._told.get(tp) == self._sought.get(tp)
            )

    def claim(self, names: Iterable[str]) -> ConsumerGroupMetadata:
        """The right to write these partitions' state: what the brokers check a commit against.

        It names the generation whose assignment the caller knows, not the newest the client has heard of.

        Raises:
            FencedError: one of them is not owned, or the caller has yet to be told of a rebalance.
        """
        with self._lock:
            if self._owned != self._told:
                raise FencedError(
                    "the group has rebalanced since the last poll: drop the state and poll again"
                )
            gone = [n for n in names if TopicPartition(*partition_number(n)) not in self._owned]
            if gone:
                raise FencedError(
                    f"{', '.join(gone)}: no longer this member's; drop the state of these partitions and poll"
                )
            return ConsumerGroupMetadata(self._group, self._generation, self._member, self._instance)


class _Voice(ConsumerRebalanceListener):  # type: ignore[misc]  # the library has no types
    """What one consumer reports of its group."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def joined(self, assignment: Iterable[TopicPartition], generation: int) -> None:
        self._membership.joined(self, assignment, generation)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Nothing: `joined` has seen the whole assignment, with its generation."""

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._membership.lost(self, revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._membership.lost(self, lost)


class _Assignor(CooperativeStickyAssignor):  # type: ignore[misc]  # the library has no types
    """The cooperative assignor, which also tells what it was told."""

    def __init__(self, voice: _Voice) -> None:
        super().__init__()
        self._voice = voice

    def on_assignment(self, assignment: Any, generation: int) -> None:
        super().on_assignment(assignment, generation)
        self._voice.joined(assignment.partitions(), generation)
