"""A sidecar in miniature: counts what `KafkaSource` reads into `KafkaCheckpoint`, until it is killed.

Records are decimal numbers; each partition's state is their count and sum. A record that ends in b"!" is put
aside as a dead letter instead. It dawdles before and inside every transaction, so that what kills or freezes
it often meets it there.

    python tests/kafka/worker.py BOOTSTRAP TOPIC GROUP
"""

from __future__ import annotations

import logging
import struct
import sys
import time

import mlmon.checkpoint.kafka_transaction as transaction
from mlmon.checkpoint.base import DeadLetter, PartitionChange
from mlmon.checkpoint.kafka import KafkaCheckpoint, KafkaCheckpointConfig
from mlmon.errors import CheckpointError, DecodeReason, FencedError, SourceError
from mlmon.events.record import Reject
from mlmon.sources.kafka import KafkaConfig, KafkaSource

COUNTS = struct.Struct(">qq")
COMMIT_SECONDS = 0.1
DAWDLE_SECONDS = 0.04


def dawdling(function):
    def slow(*args, **kwargs):
        result = function(*args, **kwargs)
        time.sleep(DAWDLE_SECONDS)
        return result

    return slow


class Worker:
    def __init__(self, bootstrap: str, topic: str, group: str) -> None:
        config = KafkaConfig(
            bootstrap_servers=(bootstrap,),
            topics=(topic,),
            group=group,
            session_timeout_seconds=2,
            max_poll_records=300,
            connect_timeout_seconds=3,
            request_timeout_seconds=5,
        )
        self.source = KafkaSource(config)
        settings = KafkaCheckpointConfig(
            replication_factor=1, transaction_timeout_seconds=5, load_timeout_seconds=15
        )
        self.checkpoint = KafkaCheckpoint(settings, config, group, [topic], self.source)
        self.unloaded: dict[str, None] = {}
        self.state: dict[str, list[int]] = {}  # partition -> count, sum, next offset
        self.dirty: set[str] = set()
        self.letters: list[DeadLetter] = []
        self.next_commit = time.monotonic() + COMMIT_SECONDS

    def step(self) -> None:
        try:
            self.load()
            polled = self.source.poll(0.05)
            for partition in polled.revoked:
                self.unloaded.pop(partition, None)
                self.state.pop(partition, None)
                self.dirty.discard(partition)
                self.letters = [letter for letter in self.letters if letter.partition != partition]
            self.unloaded |= dict.fromkeys(polled.assigned)
            for chunk in polled.chunks:
                self.count(chunk)
            if time.monotonic() >= self.next_commit:
                self.commit()
        except SourceError as error:
            logging.warning("source: %s", error)
            time.sleep(0.1)
        except FencedError as error:
            logging.warning("fenced: %s", error)
            self.start_over()
        except CheckpointError as error:
            logging.warning("checkpoint: %s", error)
            self.start_over()

    def load(self) -> None:
        for partition in list(self.unloaded):
            stored = self.checkpoint.load(partition)
            count, total = COUNTS.unpack(stored.records[b"counts"]) if stored else (0, 0)
            self.source.seek(partition, stored.next_offset if stored else None)
            self.state[partition] = [count, total, stored.next_offset if stored else 0]
            del self.unloaded[partition]

    def count(self, chunk) -> None:
        state = self.state[chunk.partition]
        for record in chunk.records:
            if record.value.endswith(b"!"):
                reject = Reject(record.offset, -1, DecodeReason.MALFORMED, "!", record.value, [])
                self.letters.append(DeadLetter(chunk.partition, reject))
            else:
                state[0] += 1
                state[1] += int(record.value)
        state[2] = chunk.next_offset
        self.dirty.add(chunk.partition)

    def commit(self) -> None:
        self.next_commit = time.monotonic() + COMMIT_SECONDS
        time.sleep(DAWDLE_SECONDS)
        changes = [
            PartitionChange(p, self.state[p][2], {b"counts": COUNTS.pack(*self.state[p][:2])})
            for p in sorted(self.dirty)
        ]
        self.checkpoint.write(changes, self.letters)
        self.dirty.clear()
        self.letters.clear()

    def start_over(self) -> None:
        self.state.clear()
        self.unloaded.clear()
        self.dirty.clear()
        self.letters.clear()
        self.source.reset()
        time.sleep(0.05)


def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    # After the flush, after the offsets, and after the commit.
    transaction._send = dawdling(transaction._send)
    transaction.Transactions._finish = dawdling(transaction.Transactions._finish)
    worker = Worker(*sys.argv[1:4])
    while True:
        worker.step()


if __name__ == "__main__":
    main()
