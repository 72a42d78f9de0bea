"""How a dead letter looks in its topic: the original bytes, and headers that say whence and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlmon.checkpoint.base import DeadLetter

__all__ = ["letter_record"]

MAX_DETAIL = 2_000
MAX_HEADER_BYTES = 32_768


def letter_record(letter: DeadLetter, max_bytes: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers of a letter's record.

    The original headers come first, as long as they are few bytes; then mlmon-reason, mlmon-detail,
    mlmon-partition, mlmon-offset and mlmon-row. A payload beyond `max_bytes` is cut, and mlmon-size says how
    long it was.

    Example:
        >>> from mlmon.checkpoint.base import DeadLetter
        >>> from mlmon.errors import DecodeReason
        >>> from mlmon.events.record import Reject
        >>> reject = Reject(7, -1, DecodeReason.MALFORMED, "not JSON", b"{x", [])
        >>> value, headers = letter_record(DeadLetter("events-0", reject), 100)
        >>> value, dict(headers)["mlmon-reason"], dict(headers)["mlmon-offset"]
        (b'{x', b'malformed', b'7')
    """
    reject = letter.reject
    original = [(key, bytes(value or b"")) for key, value in reject.headers]
    if sum(len(key) + len(value) for key, value in original) > MAX_HEADER_BYTES:
        original = [("mlmon-headers", b"too long, left out")]
    headers = [
        *original,
        ("mlmon-reason", str(reject.reason).encode()),
        ("mlmon-detail", reject.detail[:MAX_DETAIL].encode(errors="replace")),
        ("mlmon-partition", letter.partition.encode()),
        ("mlmon-offset", str(reject.offset).encode()),
        ("mlmon-row", str(reject.row).encode()),
    ]
    if len(reject.payload) > max_bytes:
        headers.append(("mlmon-size", str(len(reject.payload)).encode()))
    return reject.payload[:max_bytes], headers
