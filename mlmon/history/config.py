"""`[history]`: what is kept of closed windows, where and for how long."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["HistoryConfig"]


class HistoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[history]`: closed windows as Parquet files, for the explorer and for reports."""

    enabled: Annotated[
        bool,
        msgspec.Meta(
            description="Keep the readings of closed windows, compact summaries and a sample of events. Off, "
            "the samples monitor rests too."
        ),
    ] = True
    directory: Annotated[
        Annotated[str, msgspec.Meta(min_length=1)],
        msgspec.Meta(description="Directory of the history. Several sidecars may share one."),
    ] = "mlmon-data/history"
    max_days: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=3_650,
            description="Days kept, by the date (UTC) of the window, counted from the newest one there is; "
            "older ones are deleted.",
        ),
    ] = 90
    max_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1024 * 1024,
            description="Size on disk, in bytes, beyond which the oldest dates are deleted, and where one "
            "date is left its oldest windows. Embeddings of sampled events take most of it.",
        ),
    ] = 10 * 1024**3
    compact_files: Annotated[
        int,
        msgspec.Meta(
            ge=2,
            le=1_000,
            description="Files of single windows, in files, that are joined into one. Fewer makes fewer "
            "files, more makes less work.",
        ),
    ] = 60
    compact_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=64 * 1024,
            le=1024**3,
            description="Size to which files are joined, in bytes. It bounds the time of one step of upkeep, "
            "during which no event is counted: about a second for 32 MiB.",
        ),
    ] = 32 * 1024**2
