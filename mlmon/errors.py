"""Every error mlmon raises on purpose.

    MlmonError
    ├── ConfigError             a configuration that cannot be run; names key, value, reason, remedy
    ├── DecodeError             bytes that are not an event; carries a `DecodeReason`
    ├── SourceError             a log that cannot be read or written
    ├── CheckpointError         state that cannot be read or written
    │   ├── FencedError         somebody else owns the partitions now: drop state, start over
    │   └── LockedError         another sidecar holds the checkpoint
    ├── BaselineError           a baseline that cannot be read, written, built or believed
    ├── HistoryError            the history cannot be read or written
    ├── RemoteError             a server that is managed (Grafana, Alertmanager) cannot be reached or refuses
    ├── IncompatibleStateError  summaries with different parameters cannot be merged
    └── MissingExtraError       an optional dependency is absent; names the pip line

Messages say what was expected, what came, and what to do about it.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "BaselineError",
    "CheckpointError",
    "ConfigError",
    "DecodeError",
    "DecodeReason",
    "FencedError",
    "HistoryError",
    "IncompatibleStateError",
    "LockedError",
    "MissingExtraError",
    "MlmonError",
    "RemoteError",
    "SourceError",
]


class MlmonError(Exception):
    """Base of every error raised on purpose; the command line prints its message without a traceback."""


class ConfigError(MlmonError):
    """The configuration cannot be run: the message names the key, the value, the reason and the remedy."""


class DecodeReason(StrEnum):
    """Why a record is not an event. The set is closed: it is a metric label."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    SCHEMA_REGISTRY = "schema_registry_framed"
    UNKNOWN_FORMAT = "unknown_format"
    MALFORMED = "malformed"
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"
    BAD_VALUE = "bad_value"
    UNSUPPORTED_VERSION = "unsupported_version"
    FUTURE_TIME = "future_time"
    CORRUPT_FRAME = "corrupt_frame"


class DecodeError(MlmonError):
    """Bytes that are not an event.

    Attributes:
        reason: the class of fault, a bounded label.
        detail: what was expected and what came, for a person.
    """

    def __init__(self, reason: DecodeReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class SourceError(MlmonError):
    """A log cannot be read or written."""


class CheckpointError(MlmonError):
    """State cannot be read or written; whoever catches it drops what is in memory and reloads."""


class FencedError(CheckpointError):
    """Another member owns the partitions now. Drop all state and join again."""


class LockedError(CheckpointError):
    """Another sidecar holds this checkpoint."""


class BaselineError(MlmonError):
    """A baseline cannot be read, written or built, or is not the one that its digest says."""


class HistoryError(MlmonError):
    """The history cannot be read or written. It never stops the loop: what is not written stays pending."""


class RemoteError(MlmonError):
    """A server that is managed, such as Grafana, cannot be reached or refuses what it is asked."""


class IncompatibleStateError(MlmonError):
    """Two summaries with different parameters cannot be merged."""


class MissingExtraError(MlmonError):
    """An optional dependency is not installed.

    Example:
        >>> print(MissingExtraError("fastapi", "server"))
        fastapi is not installed: run  pip install "mlmon[server]"
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed: run  pip install "mlmon[{extra}]"')
        self.package = package
        self.extra = extra
