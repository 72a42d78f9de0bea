"""A finished request to an event: parse, measure, extract. Runs in the emitter's thread, away from requests.

Each part that fails is counted and left out; the event itself is always made.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from mlmon.attach.mirror_record import sequence_of
from mlmon.attach.text import CharacterStatistics
from mlmon.events.event import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlmon.attach.exchange import Body, Seen

__all__ = ["build_event", "checked_fields", "trace_of"]

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_CHARACTERS = CharacterStatistics()
#: The header that replays have.
_LANE = b"x-mlmon-lane"
#: What the tap knows itself; a hook can't change it.
_OWN = ("event_id", "event_time", "request_time", "service", "status", "latency_seconds", "sampling_weight")
_EXTRACTED = msgspec.defstruct(
    "Extracted",
    [
        (field.name, field.type, msgspec.UNSET)
        for field in msgspec.structs.fields(Event)
        if field.name not in _OWN
    ],
    forbid_unknown_fields=True,
    kw_only=True,
)
_UNREADABLE = object()


def build_event(seen: Seen) -> Event:
    """Make the event. Raises nothing that depends on contents or hooks.

    Bodies are looked into only where the request was answered `ok`: of the others, which are kept whatever
    the sample rate, only some have bodies, and no weight could put that right.
    """
    tap = seen.tap
    trace_id, span_id = trace_of(seen.headers)
    fields: dict[str, Any] = tap.identity | {
        "event_id": seen.request_id,
        "event_time": seen.time_us,
        "instance": tap.instance(),
        "status": seen.status,
        "latency_seconds": seen.latency_seconds,
        "sampling_weight": seen.weight,
        "trace_id": trace_id,
        "span_id": span_id,
    }
    if _header(seen.headers, _LANE) == b"shadow":
        fields["deployment"] = "shadow"  # a replay of the evaluator's, which is nobody's request
    if seen.request is None or seen.status != "ok":
        return Event(**fields)
    contents, mirrored = _contents(seen)
    event = Event(**fields | contents)
    if mirrored is not None and tap.hooks.mirror is not None:
        tap.hooks.mirror.offer(event, *mirrored)
    return event


def _contents(seen: Seen) -> tuple[dict[str, Any], tuple[str, str | None] | None]:
    """What the bodies say, and for the mirror the first text and what the answer gives back of it."""
    hooks, emitter = seen.tap.hooks, seen.tap.emitter
    fields: dict[str, Any] = {}
    texts: list[str] | None = None
    response: Any = None
    if hooks.text is None and hooks.extract is None:
        return fields, None
    request = _parse(seen, seen.request, seen.headers)
    if hooks.text is not None and request is not _UNREADABLE and request is not None:
        try:
            texts = _texts(seen, request)
            fields |= _text_fields(seen, texts)
        except Exception as error:  # noqa: BLE001 - a user's code
            emitter.count_tap_error(error)
    if hooks.extract is not None or (hooks.mirror is not None and texts):
        response = _parse(seen, seen.response, seen.response_headers)
        readable = [None if body is _UNREADABLE else body for body in (request, response)]
        try:
            if hooks.extract is not None:
                fields |= _extracted(seen, hooks.extract(*readable) or {})
        except Exception as error:  # noqa: BLE001 - a user's code
            emitter.count_tap_error(error)
    return fields, (texts[0], sequence_of(response)) if texts and isinstance(texts[0], str) else None


def _texts(seen: Seen, request: Any) -> list[str] | None:
    hooks = seen.tap.hooks
    found = hooks.text(request) if hooks.text is not None else None
    if found is None:
        return None
    return [found] if isinstance(found, str) else list(found)


def _text_fields(seen: Seen, texts: list[str] | None) -> Mapping[str, Any]:
    hooks = seen.tap.hooks
    if texts is None:
        return {}
    fields = dict((hooks.tokenizer or _CHARACTERS).measure(texts))
    if hooks.hasher is not None:
        fields["input_hash"] = hooks.hasher.hash(texts)
    return _extracted(seen, fields)


def _extracted(seen: Seen, values: Mapping[str, Any]) -> dict[str, Any]:
    fields, error = checked_fields(values)
    if error is not None:
        seen.tap.emitter.count_tap_error(error)
    return fields


def checked_fields(values: Mapping[str, Any]) -> tuple[dict[str, Any], Exception | None]:
    """Values by field name, of the types of `Event`; NumPy and tensor values become plain ones.

    Returns:
        What fits, and the first error about what does not.

    Example:
        >>> import numpy as np
        >>> checked_fields({"confidence": np.float32(0.5), "tokens": "many"})
        ({'confidence': 0.5}, ValidationError('Expected `int | null`, got `str` - at `$.tokens`'))
    """
    try:
        return _converted(values), None
    except msgspec.ValidationError:
        pass
    fields: dict[str, Any] = {}
    first: Exception | None = None
    for name, value in values.items():
        try:
            fields |= _converted({name: _plain(value)})
        except (msgspec.ValidationError, TypeError, ValueError, RuntimeError) as error:
            first = first or error
    return fields, first


def _converted(values: Mapping[str, Any]) -> dict[str, Any]:
    found = msgspec.convert(values, _EXTRACTED)
    return {name: getattr(found, name) for name in values}


def _plain(value: Any) -> Any:
    """NumPy arrays and scalars, and tensors, as lists and numbers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _parse(seen: Seen, body: Body | None, headers: Iterable[tuple[bytes, bytes]]) -> Any:
    """The JSON of a body, or `_UNREADABLE`, which is counted."""
    if body is None or body.cut:
        seen.tap.emitter.count_bodies(truncated=int(body is not None), unparsed=0)
        return _UNREADABLE
    if not body.chunks:
        return None
    data = body.chunks[0] if len(body.chunks) == 1 else b"".join(body.chunks)
    try:
        encoding = _header(headers, b"content-encoding")
        if encoding is not None and encoding != b"identity":
            data = _inflate(data, encoding, seen.tap.config.max_body_bytes)
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, zlib.error, RecursionError):
        seen.tap.emitter.count_bodies(truncated=0, unparsed=1)
        return _UNREADABLE


def _inflate(data: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding not in (b"gzip", b"deflate"):
        raise ValueError(f"content encoding {encoding!r} is not looked into")
    stream = zlib.decompressobj(wbits=47)
    plain = stream.decompress(data, limit)
    if not stream.eof:
        raise ValueError("the body is cut, or larger than the limit")
    return plain


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    for key, value in headers:
        if key.lower() == name:
            return value
    return None


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, str | None]:
    """Trace id and span id of a valid W3C `traceparent`, else (None, None).

    Example:
        >>> trace_of([(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")])
        ('0af7651916cd43dd8448eb211c80319c', 'b7ad6b7169203331')
    """
    value = _header(headers, b"traceparent")
    match = _TRACEPARENT.fullmatch(value.strip()) if value is not None else None
    if match is None:
        return None, None
    version, trace, span, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest) or not trace.strip(b"0") or not span.strip(b"0"):
        return None, None
    return trace.decode(), span.decode()
