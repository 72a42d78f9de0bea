"""Where the emitter's records go: the sink contract, and the spool directory.

A sink is used by one thread, the emitter's, and opened by it on the first write, so that constructing one
costs nothing and a forked worker opens its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mlmon.errors import SourceError
from mlmon.sources.spool import SpoolWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.sources.spool import SpoolWriterConfig

__all__ = ["OutRecord", "RefusedError", "Sink", "SpoolSink"]


@dataclass(frozen=True, slots=True, eq=False)
class OutRecord:
    """One record to write.

    Attributes:
        key: `service/model_name`: all records of a series have one key.
        value: an Arrow stream of events.
        headers: content type, and the events dropped since the last accepted record.
        events: how many events are in it.
    """

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]
    events: int


class RefusedError(SourceError):
    """The log will never take this record (it is too large): retrying is of no use."""


class Sink(Protocol):
    """A log that can be appended to."""

    def write(self, record: OutRecord) -> None:
        """Write one record; when this returns, the log has it.

        Blocks for a bounded time. After a `SourceError` the same record object is written again, and a sink
        that can still have it under way goes on waiting for that instead of sending it twice.

        Raises:
            SourceError: not written, as far as is known; worth retrying.
            RefusedError: this record will never be written.
        """
        ...

    def close(self, timeout_seconds: float) -> None:
        """Free what is held. The next write opens it again."""
        ...

    def after_fork(self) -> None:
        """Called in a forked child: forget what the parent had open, without disturbing the parent."""
        ...


class SpoolSink:
    """Appends records to a spool directory on this machine.

    When `write` returns the record survives `kill -9` of this process. Each process takes a slot of its own,
    so workers do not wait for each other.
    """

    def __init__(self, config: SpoolWriterConfig) -> None:
        self._config = config
        self._writer: SpoolWriter | None = None

    def write(self, record: OutRecord) -> None:
        """Append, opening the spool first if need be."""
        if self._writer is None:
            self._writer = SpoolWriter(self._config)
        self._writer.append(record.value, record.headers)

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002 - the disk keeps nobody waiting
        """Give the slot back."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def after_fork(self) -> None:
        """Close the child's copies of the descriptors; the parent keeps its slot."""
        self.close(0.0)
