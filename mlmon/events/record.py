"""What comes out of a log before it is decoded, and what is kept of it when it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlmon.errors import DecodeReason

__all__ = ["CORRUPT_HEADER", "LogRecord", "Record", "Reject"]

#: A source puts this header on a record whose bytes it knows to be damaged; its value says what is wrong, for
#: a person. Such a record is never decoded: it is refused whole, as `DecodeReason.CORRUPT_FRAME`.
CORRUPT_HEADER = "mlmon-corrupt"


class Record(Protocol):
    """One record of a log. kafka-python's ConsumerRecord is one, so the hot path wraps nothing.

    `offset` rises along a partition; `timestamp` is the append time in ms since 1970 UTC, or -1.
    """

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class LogRecord(NamedTuple):
    """The record of every source but Kafka."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Reject(NamedTuple):
    """A record, or one row of a batch, that is not an event.

    Attributes:
        offset: of the record it came in.
        row: of the event within its record, or -1 when the whole record is refused.
        reason: class of fault, a bounded label.
        detail: what was expected and what came.
        payload: the original bytes; for a row, a one-row Arrow stream of it.
        headers: the original record's headers (for a row, the content type of `payload`).
    """

    offset: int
    row: int
    reason: DecodeReason
    detail: str
    payload: bytes
    headers: Sequence[tuple[str, bytes]]
