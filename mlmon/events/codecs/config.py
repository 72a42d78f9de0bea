"""`[decode]`: the limits a record and an event must keep to."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["DecodeConfig"]


class DecodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of decoding. What passes them is refused with a reason; nothing is cut silently."""

    max_record_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1024,
            le=1 << 30,
            description="Largest record value, in bytes. Larger records become dead letters unread. "
            "Raising it raises the memory one poll may need.",
        ),
    ] = 16 * 1024 * 1024
    max_events_per_record: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=1_000_000,
            description="Most events in one Arrow record. Raising it raises the memory one poll may need.",
        ),
    ] = 16_384
    max_depth: Annotated[
        int,
        msgspec.Meta(
            ge=4,
            le=128,
            description="Deepest nesting of a JSON record, in brackets, unknown fields included. "
            "For MessagePack it is the interpreter's own limit. Raising it lets odder records through.",
        ),
    ] = 32
    max_features: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=4096,
            description="Most distinct feature names per poll, of numbers and of strings each. Values of "
            "further names are dropped and counted. Raising it costs memory for every name.",
        ),
    ] = 128
    max_embedding_dim: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=65_536,
            description="Longest embedding, in numbers. Events with longer ones are refused.",
        ),
    ] = 8192
    max_label_length: Annotated[
        int,
        msgspec.Meta(
            ge=16,
            le=65_536,
            description="Longest string of any field, in characters. Events with longer ones are refused. "
            "Raising it lets larger label values into metrics.",
        ),
    ] = 256
    future_tolerance_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=86_400,
            description="How far an event may lie ahead of this machine's clock. Later ones are refused, "
            "since one of them would close every window. Raise it when producers' clocks are off.",
        ),
    ] = 300.0

    @property
    def future_us(self) -> int:
        """Future tolerance, µs."""
        return int(self.future_tolerance_seconds * 1_000_000)
