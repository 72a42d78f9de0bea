"""Reads Kafka topics as one member of a consumer group, and goes on reading whatever the client library does.

Values are taken as bytes; nothing is deserialised here. Nothing is committed here either: positions are
committed by the checkpoint, in the transaction that holds the state they belong to (see
`mlmon.checkpoint.kafka`), which asks `KafkaSource.claim` for the right to.

kafka-python 3.0.12 is not to be trusted after an exception out of `poll()` (after a failed checksum the next
call spins for ever), so the consumer is then thrown away and made anew: its partitions are reported revoked,
and assigned again when the group has met. A watchdog does the same when a poll does not come back.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from kafka import KafkaConsumer
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError
from kafka.structs import MemberState

from mlmon.errors import SourceError
from mlmon.kafka_client import KafkaConnection, client_settings, open_client, partition_name, reason
from mlmon.sources.base import Chunk, Lag, Polled
from mlmon.sources.kafka_group import Membership
from mlmon.sources.kafka_watch import Watchdog, dispose

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kafka.structs import ConsumerGroupMetadata, TopicPartition

    from mlmon.events.record import Record

__all__ = ["KafkaConfig", "KafkaSource"]

log = logging.getLogger(__name__)

#: A poll waits at least this long for a join that is under way: a commit made meanwhile would only be fenced.
SETTLE_SECONDS = 3.0
#: Between looks at positions that moved without records (control records, compacted gaps).
DRIFT_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 5.0


class KafkaConfig(KafkaConnection, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[source.kafka]`: which topics are read, as a member of which group."""

    topics: Annotated[
        tuple[str, ...], msgspec.Meta(min_length=1, description="Topics that carry events; all are read.")
    ] = ("mlmon.events",)
    group: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=200,
            description="Consumer group. Sidecars of one group share the partitions; it also names the state "
            "and dead-letter topics.",
        ),
    ] = "mlmon"
    group_instance_id: Annotated[
        Annotated[str, msgspec.Meta(max_length=249)] | None,
        msgspec.Meta(
            description="Name of this member, different for each: a member that comes back under its name "
            "within the session timeout gets its partitions back without a rebalance, but one that stays "
            "away holds them for that long. None: a rebalance at each start and stop.",
        ),
    ] = None
    auto_offset_reset: Annotated[
        Literal["earliest", "latest"],
        msgspec.Meta(description="Where a group begins that has neither state nor committed offsets."),
    ] = "earliest"
    session_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=1,
            le=1800,
            description="A member silent for this long loses its partitions. Raising it rides out longer "
            "pauses and delays the takeover after a crash.",
        ),
    ] = 15.0
    max_poll_interval_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=1,
            le=86_400,
            description="A member that does not come back to poll for this long gives its partitions up; "
            "also how long a rebalance waits for a member.",
        ),
    ] = 300.0
    max_poll_records: Annotated[
        int,
        msgspec.Meta(ge=1, le=1_000_000, description="Records one poll hands over at most; bounds memory."),
    ] = 5_000
    max_partition_fetch_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1024,
            description="Bytes fetched at once from a partition; a larger record is still fetched. Memory "
            "grows with it times the partitions.",
        ),
    ] = 1024 * 1024
    fetch_max_bytes: Annotated[
        int, msgspec.Meta(ge=1024, description="Bytes fetched at once from a broker; bounds memory.")
    ] = 16 * 1024 * 1024
    fetch_max_wait_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0, le=10, description="How long a broker holds an empty answer back for new records."
        ),
    ] = 0.5
    stall_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=5,
            description="A poll that takes longer is broken off, the source is not ready, and the consumer "
            "is made anew.",
        ),
    ] = 60.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        super().__post_init__()
        if len(set(self.topics)) != len(self.topics):
            raise ValueError(f"topics names a topic twice: {list(self.topics)}; name each once")
        if self.max_poll_interval_seconds < self.session_timeout_seconds:
            raise ValueError("max_poll_interval_seconds is shorter than session_timeout_seconds: raise it")


class KafkaSource:
    """A `Source` over Kafka topics.

    Delivery: at least once by itself; exactly once with `KafkaCheckpoint`. Blocking: `poll` waits up to
    `max_wait_seconds`, longer only while it connects (`connect_timeout_seconds`), while a join is under way
    (3 s) or until the watchdog breaks it off (`stall_seconds`). Threads: one of kafka-python's per consumer,
    one watchdog; methods are called from one thread, `stalled` from any. After a crash nothing is left but
    the group membership, which ends with the session timeout.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._members = Membership(config.group, config.group_instance_id)
        self._watchdog = Watchdog(config.stall_seconds)
        self._consumer: KafkaConsumer | None = None
        self._next: dict[TopicPartition, int] = {}
        self._lost: dict[TopicPartition, int] = {}
        self._next_drift = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self.recreated = 0

    # The contract

    @property
    def finished(self) -> bool:
        """Never: a topic has no end."""
        return False

    @property
    def stalled(self) -> bool:
        """Whether the last poll had to be broken off or is overdue, and none has succeeded since."""
        return self._watchdog.stalled

    def poll(self, max_wait_seconds: float) -> Polled:
        """Records of sought partitions, and what the group gave or took.

        Raises:
            SourceError: no broker answers, login or rights are refused, or the library failed; the consumer
                is gone, the next polls report its partitions revoked and join anew, with growing pauses.
        """
        if self._consumer is None and not self._may_retry(max_wait_seconds):
            return self._polled({})
        try:
            consumer = self._consumer or self._open()
            found = self._watched_poll(consumer, max_wait_seconds)
            if not found:
                self._check_heard(consumer)
        except OffsetOutOfRangeError as error:
            self._skip_lost(error.args[0])
            found = {}
        except LogTruncationError as error:
            self._skip_lost(error.divergent_offsets)
            found = {}
        except SourceError as error:
            self._fail(error)
            raise
        except Exception as error:  # whatever comes out of poll, the consumer is not to be used again
            self._fail(error)
            raise SourceError(f"reading {self._where()} failed ({reason(error)}); joining again") from error
        self._failures = 0
        return self._polled(found)

    def _check_heard(self, consumer: KafkaConsumer) -> None:
        """See that the group's coordinator has answered within the session timeout.

        kafka-python 3.0.12 says nothing of it: while no broker answers, its polls come back empty for ever.

        Raises:
            SourceError: it has not, so the membership is over.
        """
        heartbeat = consumer._coordinator.heartbeat
        if consumer.group_metadata().state == MemberState.STABLE and heartbeat.session_timeout_expired():
            seconds = self._config.session_timeout_seconds
            raise SourceError(f"no broker of {self._where()} has answered for {seconds:g} s; joining again")

    def seek(self, partition: str, offset: int | None) -> None:
        """Read on from this offset; None: from the group's committed offset, else `auto_offset_reset`.

        Raises:
            SourceError: the partition is not assigned any more, or the brokers do not say the offset.
        """
        tp = self._members.partition(partition)
        if tp is None or self._consumer is None:
            raise SourceError(f"{partition} is not assigned to this member now; poll says when it is")
        try:
            where = self._start(tp) if offset is None else offset
            self._consumer.seek(tp, where)
            self._consumer.resume(tp)
        except (KafkaError, ValueError) as error:
            raise SourceError(f"{partition} cannot be sought ({reason(error)}); try again") from error
        self._next[tp] = where
        self._members.sought(tp)

    def reset(self) -> None:
        """Leave the group without committing; the next poll joins it anew."""
        self._discard()
        self._retry_at = 0.0

    def lag(self) -> Mapping[str, Lag]:
        """Records to the end by sought partition, as of the last fetch; absent before the first."""
        consumer = self._consumer
        lags: dict[str, Lag] = {}
        if consumer is None:
            return lags
        for tp in self._members.readable():
            with contextlib.suppress(KafkaError):
                end = consumer.highwater(tp)
                if end is not None:
                    lags[partition_name(*tp)] = Lag(max(0, end - self._next[tp]), end)
        return lags

    def close(self) -> None:
        """Leave the group."""
        self._discard()
        self._watchdog.close()

    # For the checkpoint

    def claim(self, partitions: Iterable[str]) -> ConsumerGroupMetadata:
        """The membership under which these partitions' positions may be committed.

        Raises:
            FencedError: one is not owned, or a rebalance has not been polled yet.
        """
        return self._members.claim(partitions)

    # Inside

    def _open(self) -> KafkaConsumer:
        config = self._config
        assignor, listener = self._members.renew()
        settings = client_settings(config) | {
            "group_id": config.group,
            "group_instance_id": config.group_instance_id,
            "partition_assignment_strategy": [assignor],
            "enable_auto_commit": False,
            # Any other value moves positions silently; what is lost is to be counted.
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
            "session_timeout_ms": round(config.session_timeout_seconds * 1000),
            "heartbeat_interval_ms": round(min(3.0, config.session_timeout_seconds / 3) * 1000),
            "max_poll_interval_ms": round(config.max_poll_interval_seconds * 1000),
            "max_poll_records": config.max_poll_records,
            "max_partition_fetch_bytes": config.max_partition_fetch_bytes,
            "fetch_max_bytes": config.fetch_max_bytes,
            "fetch_max_wait_ms": max(1, round(config.fetch_max_wait_seconds * 1000)),
            "metrics_enabled": False,
        }
        consumer = open_client(KafkaConsumer, settings)
        self._members.bind(consumer)
        self._consumer = consumer
        consumer.subscribe(list(config.topics), listener=listener)
        self._await_topics(consumer)
        return consumer

    def _await_topics(self, consumer: KafkaConsumer) -> None:
        """Wait until the client knows the topics: a leader that does not know one assigns nothing of it."""
        deadline = time.monotonic() + self._config.connect_timeout_seconds
        while missing := [t for t in self._config.topics if not consumer._cluster.partitions_for_topic(t)]:
            if time.monotonic() > deadline:
                raise SourceError(f"there is no topic {', '.join(missing)}, or this user may not see it")
            time.sleep(0.01)

    def _watched_poll(
        self, consumer: KafkaConsumer, max_wait_seconds: float
    ) -> dict[TopicPartition, list[Record]]:
        with self._watchdog.over(consumer):
            started = time.monotonic()
            found: dict[TopicPartition, list[Record]] = consumer.poll(timeout_ms=max_wait_seconds * 1000)
            while _joining(consumer) and not found:
                left = started + max(max_wait_seconds, SETTLE_SECONDS) - time.monotonic()
                if left <= 0:
                    break
                found = consumer.poll(timeout_ms=min(left, 0.2) * 1000)
            return found

    def _polled(self, found: dict[TopicPartition, list[Record]]) -> Polled:
        assigned, revoked = self._members.changes()
        readable = self._members.readable()
        if assigned or revoked:
            for gone in [tp for tp in self._next if tp not in readable]:
                self._next.pop(gone)
                self._lost.pop(gone, None)
        chunks = [self._chunk(tp, records) for tp, records in found.items() if tp in readable]
        chunks += self._drifted({tp for tp in readable if tp not in found})
        return Polled(chunks, assigned, revoked)

    def _chunk(self, tp: TopicPartition, records: Sequence[Record]) -> Chunk:
        if records:
            self._next[tp] = records[-1].offset + 1
        return Chunk(partition_name(*tp), records, self._next[tp], self._lost.pop(tp, 0))

    def _drifted(self, silent: Iterable[TopicPartition]) -> list[Chunk]:
        """Chunks without records for partitions whose position has moved nevertheless."""
        chunks = [self._chunk(tp, ()) for tp in silent if tp in self._lost]
        now = time.monotonic()
        if self._consumer is None or now < self._next_drift:
            return chunks
        self._next_drift = now + DRIFT_SECONDS
        for tp in silent:
            with contextlib.suppress(KafkaError):
                position = self._consumer.position(tp, timeout_ms=0)
                if position is not None and position > self._next[tp]:
                    self._next[tp] = position
                    chunks.append(self._chunk(tp, ()))
        return chunks

    def _start(self, tp: TopicPartition) -> int:
        """Where a partition without state begins."""
        assert self._consumer is not None  # noqa: S101 - seek has looked
        timeout = self._config.request_timeout_seconds * 1000
        committed: int | None = self._consumer.committed(tp, timeout_ms=timeout)
        if committed is not None:
            return committed
        earliest = self._config.auto_offset_reset == "earliest"
        ask = self._consumer.beginning_offsets if earliest else self._consumer.end_offsets
        return int(ask([tp], timeout_ms=timeout)[tp])

    def _skip_lost(self, divergent: Mapping[TopicPartition, Any]) -> None:
        """Go on where the log still is: retention (or an unclean election) took what was next.

        The count is of offsets, so records that compaction or transactions left out are counted too.
        """
        assert self._consumer is not None  # noqa: S101 - the error came out of it
        tps = list(divergent)
        try:
            begins = self._consumer.beginning_offsets(
                tps, timeout_ms=self._config.request_timeout_seconds * 1000
            )
            for tp in tps:
                known = getattr(divergent[tp], "offset", None)
                where = begins[tp] if known is None else known
                expected = self._next.get(tp, where)
                log.warning("%s: offset %d is gone, going on at %d", partition_name(*tp), expected, where)
                self._consumer.seek(tp, where)
                self._next[tp] = where
                self._lost[tp] = self._lost.get(tp, 0) + max(0, where - expected)
        except (KafkaError, ValueError) as error:
            self._fail(error)
            raise SourceError(f"{self._where()}: lost records and cannot go on ({reason(error)})") from error

    def _may_retry(self, max_wait_seconds: float) -> bool:
        wait = self._retry_at - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, max_wait_seconds))
        return self._retry_at <= time.monotonic()

    def _fail(self, error: BaseException) -> None:
        self._failures += 1
        self._retry_at = time.monotonic() + min(MAX_BACKOFF_SECONDS, 0.1 * 2 ** min(self._failures, 10))
        log.warning("reading %s failed (%s); the consumer is made anew", self._where(), reason(error))
        self._discard()

    def _discard(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._members.renew()
        self._next.clear()
        self._lost.clear()
        if consumer is not None:
            self.recreated += 1
            dispose(consumer)

    def _where(self) -> str:
        config = self._config
        return f"{', '.join(config.topics)} at {', '.join(config.bootstrap_servers)}"


def _joining(consumer: KafkaConsumer) -> bool:
    """Whether a join is under way; if so, see to it that the next poll takes it up again.

    kafka-python 3.0.12 forgets a join that new metadata caused and that outlasted its poll: it would wait for
    ever, without heartbeats, in no group.
    """
    if consumer.group_metadata().state != MemberState.REBALANCING:
        return False
    consumer._coordinator.request_rejoin()
    return True
