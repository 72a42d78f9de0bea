"""What format a record is in: by its `content-type` header, otherwise by its first bytes.

Also the header names and content types of the wire, spelled only here.
"""

from __future__ import annotations

from enum import Enum

from mlmon.errors import DecodeError, DecodeReason

__all__ = [
    "ARROW_CONTENT_TYPE",
    "CLOUDEVENTS_CONTENT_TYPE",
    "CONTENT_TYPE_HEADER",
    "DROPPED_HEADER",
    "JSON_CONTENT_TYPE",
    "MSGPACK_CONTENT_TYPE",
    "VERSION_METADATA",
    "Format",
    "format_of_bytes",
    "format_of_content_type",
]

ARROW_CONTENT_TYPE = "application/vnd.apache.arrow.stream"
JSON_CONTENT_TYPE = "application/json"
CLOUDEVENTS_CONTENT_TYPE = "application/cloudevents+json"
MSGPACK_CONTENT_TYPE = "application/msgpack"

CONTENT_TYPE_HEADER = "content-type"
#: Decimal count of the events that the emitter dropped since its previous record.
DROPPED_HEADER = "mlmon-dropped"
#: Key of the Arrow schema's metadata that carries the version of the contract.
VERSION_METADATA = b"mlmon.schema_version"


class Format(Enum):
    """How a record's value is encoded."""

    ARROW = "arrow"
    JSON = "json"
    CLOUDEVENT = "cloudevent"
    MSGPACK = "msgpack"


_BY_CONTENT_TYPE = {
    ARROW_CONTENT_TYPE: Format.ARROW,
    JSON_CONTENT_TYPE: Format.JSON,
    "text/json": Format.JSON,
    CLOUDEVENTS_CONTENT_TYPE: Format.CLOUDEVENT,
    MSGPACK_CONTENT_TYPE: Format.MSGPACK,
    "application/x-msgpack": Format.MSGPACK,
    "application/vnd.msgpack": Format.MSGPACK,
    # These say nothing, so the bytes are asked.
    "application/octet-stream": None,
    "": None,
}
_ARROW_CONTINUATION = b"\xff\xff\xff\xff"
_JSON_SPACE = b" \t\r\n"


def format_of_content_type(header: bytes) -> Format | None:
    """Name the format of a `content-type` header; None when it leaves the question to the bytes.

    Raises:
        DecodeError: UNKNOWN_FORMAT, the type is none that mlmon reads.

    Example:
        >>> format_of_content_type(b"Application/JSON; charset=utf-8")
        <Format.JSON: 'json'>
    """
    name = header.partition(b";")[0].strip().lower().decode("latin-1")
    try:
        return _BY_CONTENT_TYPE[name]
    except KeyError:
        raise DecodeError(
            DecodeReason.UNKNOWN_FORMAT,
            f"content-type {name[:100]!r}: expected one of {', '.join(filter(None, _BY_CONTENT_TYPE))}",
        ) from None


def format_of_bytes(value: bytes) -> Format:
    """Guess the format from the bytes; never EMPTY or framed ones, which the decoder refuses before.

    Raises:
        DecodeError: UNKNOWN_FORMAT, nothing mlmon reads begins like this.

    Example:
        >>> format_of_bytes(b' {"specversion": "1.0"}')
        <Format.CLOUDEVENT: 'cloudevent'>
    """
    first = value[0]
    if first in _JSON_SPACE:
        first = (value[:64].lstrip(_JSON_SPACE) or b" ")[0]
    if first == 0x7B:  # {
        return Format.CLOUDEVENT if b'"specversion"' in value else Format.JSON
    if first == 0x5B:  # [ : the JSON decoder says what is wrong with it
        return Format.JSON
    if value.startswith(_ARROW_CONTINUATION):
        return Format.ARROW
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return Format.MSGPACK
    hint = "an Arrow file; send an Arrow stream" if value.startswith(b"ARROW1") else repr(value[:8])
    raise DecodeError(
        DecodeReason.UNKNOWN_FORMAT,
        f"expected an Arrow stream, a JSON object or a MessagePack map, got {hint}; "
        f"set the {CONTENT_TYPE_HEADER} header to say which it is",
    )
