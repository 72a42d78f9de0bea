"""Why a request is not answered: one exception for all reasons, with what was expected, what came, what "
"to do.

`web` turns them into HTTP. They are no `MlmonError`s: those end a program, these end a request.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Refusal", "RefusalError"]


class Refusal(StrEnum):
    """The kinds; a closed set, since clients tell them apart by it."""

    MALFORMED = "malformed"  #: no JSON, or not what the route takes
    INVALID = "invalid"  #: a value that cannot be worked with
    TOO_LONG = "too_long"  #: a text longer than the model takes
    TOO_LARGE = "too_large"  #: more than a request may bring
    NOT_FOUND = "not_found"  #: no such model, version or route
    METHOD = "method_not_allowed"
    UNAUTHORIZED = "unauthorized"
    FULL = "full"  #: no room: come back later
    STARVED = "starved"  #: shadow work for which no batch had room
    STOPPING = "stopping"  #: the server is shutting down
    TIMEOUT = "timeout"
    GONE = "disconnected"  #: the client went away; nobody reads this
    MEMORY = "out_of_memory"
    FAILED = "failed"  #: a fault of the server's


class RefusalError(Exception):
    """A request that is not answered.

    Args:
        kind: which of the reasons.
        expected: what would have been right.
        got: what came.
        remedy: what to do.
        retry_seconds: when to come back, where that is of use.
    """

    def __init__(
        self, kind: Refusal, expected: str, got: str, remedy: str, *, retry_seconds: int | None = None
    ) -> None:
        super().__init__(f"expected {expected}, got {got}; {remedy}")
        self.kind = kind
        self.expected = expected
        self.got = got
        self.remedy = remedy
        self.retry_seconds = retry_seconds
