"""Flat events of older versions of the contract, brought to the present one.

Version 0 is the flat form that services logged before the contract had units in its names:

| v0 | v1 |
|---|---|
| `id` | `event_id` |
| `timestamp_ms` | `event_time`, ms to µs |
| `service` | `service` |
| `model`, `version` | `model_name`, `model_version` |
| `tokenizer` | `tokenizer_version` |
| `success` (true, false) | `status` ok, error |
| `latency_ms`, `queue_ms`, `tokenize_ms`, `inference_ms` | `..._seconds` |
| `text_length` | `characters` |
| `unk_tokens` | `unknown_tokens` |
| `label`, `score` | `prediction`, `confidence` |
| `sample_rate` | `sampling_weight`, its inverse |

Fields that already had today's name keep it. A v1 name beside its v0 name wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["upcast", "version_of"]


def version_of(event: dict[str, Any]) -> int:
    """The version a flat event states; the present one where it states none.

    Raises:
        DecodeError: WRONG_TYPE, it is no integer; UNSUPPORTED_VERSION, it is none that can be read.
    """
    version = event.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, bool) or not isinstance(version, int):
        raise DecodeError(
            DecodeReason.WRONG_TYPE, f"schema_version: expected an int, got {str(version)[:40]!r}"
        )
    if not 0 <= version <= SCHEMA_VERSION:
        raise DecodeError(
            DecodeReason.UNSUPPORTED_VERSION,
            f"schema_version is {str(version)[:20]}: expected 0 to {SCHEMA_VERSION}; "
            "upgrade mlmon before its producers",
        )
    return version


def upcast(event: dict[str, Any]) -> dict[str, Any]:
    """A flat event of any supported version as one of the present version.

    Raises:
        DecodeError: as `version_of`, or WRONG_TYPE for a value that has no translation.

    Example:
        >>> upcast({"schema_version": 0, "id": "1", "timestamp_ms": 2, "latency_ms": 5})
        {'schema_version': 1, 'event_id': '1', 'event_time': 2000, 'latency_seconds': 0.005}
    """
    for version in range(version_of(event), SCHEMA_VERSION):
        event = _STEPS[version](event)
    return event


def _from_v0(event: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"schema_version": 1}
    for key, value in event.items():
        if key == "schema_version":
            continue
        name, convert = _V0.get(key, (key, None))
        if name != key and name in event:
            continue
        try:
            out[name] = value if convert is None or value is None else convert(value)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            raise DecodeError(
                DecodeReason.WRONG_TYPE, f"{key} (v0): expected a value for {name}, got {str(value)[:40]!r}"
            ) from None
    return out


def _micros(value: float) -> int:
    return value * 1000 if isinstance(value, int) else round(value * 1000)


def _seconds(value: float) -> float:
    return value / 1000


def _weight(value: float) -> float:
    return 1 / value


def _status(value: bool) -> str:
    return "ok" if value else "error"


_V0: dict[str, tuple[str, Callable[[Any], Any] | None]] = {
    "id": ("event_id", None),
    "timestamp_ms": ("event_time", _micros),
    "model": ("model_name", None),
    "version": ("model_version", None),
    "tokenizer": ("tokenizer_version", None),
    "success": ("status", _status),
    "latency_ms": ("latency_seconds", _seconds),
    "queue_ms": ("queue_seconds", _seconds),
    "tokenize_ms": ("tokenize_seconds", _seconds),
    "inference_ms": ("inference_seconds", _seconds),
    "text_length": ("characters", None),
    "unk_tokens": ("unknown_tokens", None),
    "label": ("prediction", None),
    "score": ("confidence", None),
    "sample_rate": ("sampling_weight", _weight),
}
#: How to go from each old version to the next.
_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {0: _from_v0}
