"""State, positions and dead letters in one Kafka transaction: any sidecar can take over from any other.

State lives in a compacted topic, the records of input partition p in its partition p. A commit is, in order:

1. claim: the group membership under which the state was built; refused if a partition has gone since.
2. state records, tombstones, a position record per partition, and dead letters are sent, and acknowledged.
3. the input offsets are added to the transaction under that membership: the brokers refuse them if the
   group has moved on (a stalled member is fenced here).
4. the transaction is committed.

The order of 2 and 3 is what makes a takeover exact. A new owner notes the state partition's end after it was
given the partition, then reads committed records until it gets there. Whatever a predecessor may still commit
was acknowledged before the group moved on (else 3 refuses it), so it lies before that end, and the reader
waits until its transaction is decided.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import msgspec
from kafka.structs import OffsetAndMetadata, TopicPartition

from mlmon.checkpoint.base import Written
from mlmon.checkpoint.kafka_letters import letter_record
from mlmon.checkpoint.kafka_state import (
    StateReader,
    Tables,
    position_key,
    position_value,
    split_key,
    state_key,
)
from mlmon.checkpoint.kafka_topics import Topics
from mlmon.checkpoint.kafka_transaction import Outgoing, Transactions
from mlmon.errors import CheckpointError
from mlmon.kafka_client import partition_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kafka.structs import ConsumerGroupMetadata

    from mlmon.checkpoint.base import DeadLetter, PartitionChange, Stored
    from mlmon.kafka_client import KafkaConnection

__all__ = ["Claims", "KafkaCheckpoint", "KafkaCheckpointConfig"]

log = logging.getLogger(__name__)

META = b"meta"
#: Looked at from the end of a peer's state partition: its last transaction ends with `meta` and a marker.
TAIL_RECORDS = 8
PEER_SECONDS = 2.0
DECIDED_SECONDS = 1.0


class KafkaCheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[checkpoint.kafka]`: where state and dead letters are kept in Kafka."""

    state_topic: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=249)] | None,
        msgspec.Meta(
            description="Compacted topic of the state, created if missing. None: <group>-mlmon-state.",
        ),
    ] = None
    dead_letter_topic: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=249)] | None,
        msgspec.Meta(
            description="Topic of records that could not be decoded, created if missing. None: "
            "<group>-mlmon-dead-letters.",
        ),
    ] = None
    replication_factor: Annotated[
        int,
        msgspec.Meta(ge=-1, le=32_767, description="Of topics that are created; -1: the brokers' default."),
    ] = -1
    transactional_id_prefix: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None,
        msgspec.Meta(
            description="Beginning of each sidecar's transactional id, for access-control lists. None: "
            "<group>-mlmon-.",
        ),
    ] = None
    transaction_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=1,
            le=900,
            description="A transaction open for longer is aborted by the brokers. Raising it rides out "
            "slower brokers; lowering it lets others take over sooner from a sidecar that died in a commit.",
        ),
    ] = 15.0
    load_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=1,
            le=900,
            description="How long a takeover waits for a partition's state before it is tried again. Longer "
            "than the transaction timeout plus 10 s, the brokers' own delay in aborting.",
        ),
    ] = 60.0
    compression: Annotated[
        Literal["none", "lz4", "zstd"],
        msgspec.Meta(description="Of state and dead letters as sent and kept."),
    ] = "lz4"
    state_segment_seconds: Annotated[
        int,
        msgspec.Meta(
            ge=10,
            description="Age at which a segment of a created state topic is closed and can be compacted. "
            "Lowering it keeps the topic smaller and takeovers quicker, at more work for the brokers.",
        ),
    ] = 600
    dead_letter_retention_seconds: Annotated[
        int, msgspec.Meta(ge=60, description="How long a created dead-letter topic keeps records.")
    ] = 7 * 86_400
    dead_letter_retention_bytes: Annotated[
        int, msgspec.Meta(ge=1024 * 1024, description="How many bytes a created dead-letter topic keeps.")
    ] = 1024**3
    dead_letter_max_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1024,
            le=900_000,
            description="A longer record is cut to this length in the dead-letter topic, so that no record "
            "is too large to be put aside.",
        ),
    ] = 900_000

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.load_timeout_seconds <= self.transaction_timeout_seconds:
            raise ValueError("load_timeout_seconds must be longer than transaction_timeout_seconds: raise it")


class Claims(Protocol):
    """What a checkpoint asks of the source: `KafkaSource` has it."""

    def claim(self, partitions: Iterable[str]) -> ConsumerGroupMetadata:
        """The membership to commit these partitions under.

        Raises:
            FencedError: one is not owned any more.
        """
        ...


class KafkaCheckpoint:
    """A `Checkpoint` in Kafka.

    Guarantee: after `write` has returned, state, positions and dead letters are all on the brokers, and each
    event is in the state exactly once whoever writes next; after `write` has raised, all or nothing of it may
    be there, and `load` says which. Nothing is kept on this machine. Blocking: `write` and `load` wait for
    the brokers, within the configured times. One thread uses it; kafka-python adds three of its own.

    Args:
        config: of the checkpoint.
        connection: to the brokers; the source's configuration is one.
        group: the source's consumer group.
        topics: the source's topics.
        claims: the source; None: only `load`, `scan` and `peers` work.
    """

    def __init__(
        self,
        config: KafkaCheckpointConfig,
        connection: KafkaConnection,
        group: str,
        topics: Sequence[str],
        claims: Claims | None,
    ) -> None:
        self._config = config
        self._group = group
        self._inputs = tuple(topics)
        self._claims = claims
        self.state_topic = config.state_topic or f"{group}-mlmon-state"
        self.dead_letter_topic = config.dead_letter_topic or f"{group}-mlmon-dead-letters"
        self._topics = Topics(connection, connection.request_timeout_seconds)
        self._reader = StateReader(connection, self.state_topic)
        self._transactions = Transactions(
            connection,
            f"{config.transactional_id_prefix or f'{group}-mlmon-'}{uuid.uuid4().hex}",
            config.transaction_timeout_seconds,
            None if config.compression == "none" else config.compression,
        )
        self._numbers = 0
        self._metas: dict[str, bytes] = {}

    # The contract

    def load(self, partition: str) -> Stored | None:
        """The last committed state of a partition; to be called after it was assigned.

        Raises:
            CheckpointError: the brokers do not answer, topics do not fit, or a predecessor's transaction was
                not decided in time; calling again retries.
        """
        self._prepare()
        number = self._number(partition)
        self._transactions.settle()
        deadline = time.monotonic() + self._config.load_timeout_seconds
        end = self._topics.ends(self.state_topic, [number], committed=False)[number]
        tables = Tables(only=partition)
        for _, key, value in self._reader.read({number: (None, end)}, deadline):
            tables.apply(key, value)
        return tables.stored().get(partition)

    def write(self, changes: Sequence[PartitionChange], letters: Sequence[DeadLetter]) -> Written:
        """Commit in one transaction.

        Raises:
            FencedError: a partition belongs to another member, or this one was thrown out of the group.
            CheckpointError: the brokers refused or did not answer in time.
        """
        if self._claims is None:
            raise CheckpointError("this checkpoint was opened for reading only")
        if not changes and not letters:
            return Written(0)
        membership = self._claims.claim(
            {change.partition for change in changes} | {letter.partition for letter in letters}
        )
        self._prepare()
        records = [self._letter(letter) for letter in letters]
        records += [record for change in changes for record in self._state(change)]
        offsets = {
            TopicPartition(*partition_number(change.partition)): OffsetAndMetadata(change.next_offset, "", -1)
            for change in changes
        }
        return Written(self._transactions.commit(records, offsets, membership))

    def scan(self) -> Iterator[tuple[str, Stored]]:
        """Every partition as last committed; nothing while there is no state topic.

        A commit that has just returned is seen. A transaction that stays open is not waited for.

        Raises:
            CheckpointError: the brokers do not answer.
        """
        count = self._topics.partitions([self.state_topic]).get(self.state_topic, 0)
        ends = self._decided_ends(range(count))
        deadline = time.monotonic() + self._config.load_timeout_seconds
        for number in range(count):
            tables = Tables()
            for _, key, value in self._reader.read({number: (None, ends[number])}, deadline):
                tables.apply(key, value)
            yield from sorted(tables.stored().items())

    def peers(self, own: frozenset[str]) -> Mapping[str, bytes]:
        """The last `meta` of partitions others hold; one that is not near the end keeps its old value.

        Takes at most about two seconds; what did not come in that time is left as it was known.
        """
        self._prepare()
        ends = self._topics.ends(self.state_topic, range(self._numbers), committed=True)
        mine = {number for topic, number in map(partition_number, own) if len(self._inputs) == 1}
        spans = {
            number: (max(0, end - TAIL_RECORDS), end) for number, end in ends.items() if number not in mine
        }
        try:
            for _, key, value in self._reader.read(spans, time.monotonic() + PEER_SECONDS):
                name, inner = split_key(key or b"")
                if inner == META and value is not None:
                    self._metas[name] = value
        except (CheckpointError, ValueError) as error:
            log.info("peers could not all be read: %s", error)
        return {name: meta for name, meta in self._metas.items() if name not in own}

    def close(self) -> None:
        """Free the clients; an open transaction is aborted."""
        self._transactions.close()
        self._reader.close()
        self._topics.close()

    # Inside

    def _decided_ends(self, numbers: Sequence[int]) -> dict[int, int]:
        """Ends of what is committed, once what was there at the call is decided, or a second later.

        Brokers write the end of a transaction a moment after they have confirmed it.
        """
        if not numbers:
            return {}
        there = self._topics.ends(self.state_topic, numbers, committed=False)
        deadline = time.monotonic() + DECIDED_SECONDS
        while True:
            ends = self._topics.ends(self.state_topic, numbers, committed=True)
            if all(ends[n] >= there[n] for n in numbers) or time.monotonic() > deadline:
                return ends
            time.sleep(0.01)

    def _prepare(self) -> None:
        """Make sure of the topics, once.

        Raises:
            CheckpointError: they do not fit or cannot be created.
        """
        if self._numbers:
            return
        inputs = self._topics.partitions(self._inputs)
        missing = [topic for topic in self._inputs if topic not in inputs]
        if missing:
            raise CheckpointError(
                f"there is no topic {', '.join(missing)}: create it, or correct source.kafka.topics"
            )
        wanted, replicas = max(inputs.values()), self._config.replication_factor
        self._topics.ensure(self.state_topic, wanted, replicas, self._state_settings())
        self._topics.ensure(self.dead_letter_topic, 1, replicas, self._letter_settings())
        found = self._topics.partitions([self.state_topic])[self.state_topic]
        if found != wanted:
            raise CheckpointError(
                f"topic {self.state_topic} has {found} partitions, expected {wanted}, as many as "
                f"{', '.join(self._inputs)}: "
                + ("add partitions to it" if found < wanted else "use another checkpoint.kafka.state_topic")
            )
        policy = self._topics.setting(self.state_topic, "cleanup.policy")
        if policy not in (None, "compact"):
            raise CheckpointError(
                f"topic {self.state_topic} has cleanup.policy={policy}, which deletes state; set compact"
            )
        self._numbers = found

    def _state_settings(self) -> dict[str, str]:
        return {
            "cleanup.policy": "compact",
            "segment.ms": str(self._config.state_segment_seconds * 1000),
            "segment.bytes": str(32 * 1024 * 1024),
            "min.cleanable.dirty.ratio": "0.1",
            # Longer than any load: a reader that began before a tombstone must still meet it.
            "delete.retention.ms": str(3_600_000),
            "max.message.bytes": str(8 * 1024 * 1024),
        }

    def _letter_settings(self) -> dict[str, str]:
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self._config.dead_letter_retention_seconds * 1000),
            "retention.bytes": str(self._config.dead_letter_retention_bytes),
            "segment.bytes": str(min(128 * 1024 * 1024, self._config.dead_letter_retention_bytes)),
            "max.message.bytes": str(2 * 1024 * 1024),
        }

    def _number(self, partition: str) -> int:
        number = partition_number(partition)[1]
        if number >= self._numbers:
            self._numbers = 0  # the input topic has grown: look at the topics again next time
            raise CheckpointError(
                f"{partition} has no place in topic {self.state_topic}: the input topic has grown; add "
                f"partitions to {self.state_topic} until it has as many"
            )
        return number

    def _state(self, change: PartitionChange) -> Iterator[Outgoing]:
        """Position first, so that `meta`, the last of the puts, stays near the end for peers to see."""
        topic, number, name = self.state_topic, self._number(change.partition), change.partition
        yield Outgoing(topic, number, position_key(name), position_value(change.next_offset))
        for key in change.deletes:
            yield Outgoing(topic, number, state_key(name, key), None)
        for key, value in change.puts.items():
            yield Outgoing(topic, number, state_key(name, key), value)

    def _letter(self, letter: DeadLetter) -> Outgoing:
        value, headers = letter_record(letter, self._config.dead_letter_max_bytes)
        return Outgoing(self.dead_letter_topic, 0, letter.partition.encode(), value, headers)
