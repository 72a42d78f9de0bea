"""One mirrored request: the text that went into the model, and the answer that came out.

The only thing of mlmon's that holds raw text. It is no event, is never written to the events' log, and lives
for the mirror's retention.
"""

from __future__ import annotations

import msgspec

from mlmon.errors import ConfigError

__all__ = ["MirrorRecord", "sequence_of"]

VERSION = 1
_ENCODER = msgspec.json.Encoder()


class MirrorRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the evaluator needs of a request; names, types and units are those of the event.

    Attributes:
        text: the request's first input, after redaction.
        sequence: the text that the answer gives back, as fill-mask answers do; shows whose answer it is.
        sampling_weight: requests that this one stands for: itself and those passed over since the last one.
    """

    event_id: str
    event_time: int
    service: str
    model_name: str
    text: str
    model_version: str | None = None
    deployment: str | None = None
    segments: dict[str, str] | None = None
    task: str | None = None
    prediction: str | None = None
    confidence: float | None = None
    top_labels: list[str] | None = None
    top_scores: list[float] | None = None
    embedding: list[float] | None = None
    sequence: str | None = None
    sampling_weight: float = 1.0
    mirror_version: int = VERSION

    def encoded(self) -> bytes:
        """As one line of JSON, without its end."""
        return _ENCODER.encode(self)

    @staticmethod
    def decoded(data: bytes) -> MirrorRecord:
        """The record that `encoded` wrote.

        Raises:
            ConfigError: it is none, or of a newer version.
        """
        try:
            record = msgspec.json.decode(data, type=MirrorRecord)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"no mirrored request: {error}") from None
        if record.mirror_version > VERSION:
            raise ConfigError(
                f"mirrored request of version {record.mirror_version}: this mlmon reads up to {VERSION}; "
                "update the evaluator"
            )
        return record


def sequence_of(response: object) -> str | None:
    """The `sequence` of the first answer in a fill-mask response, however deep it is nested in lists.

    Example:
        >>> sequence_of([[{"token_str": "a", "sequence": "a b"}], [{"sequence": "c"}]])
        'a b'
    """
    for _ in range(4):
        if not isinstance(response, list) or not response:
            break
        response = response[0]
    found = response.get("sequence") if isinstance(response, dict) else None
    return found if isinstance(found, str) else None
