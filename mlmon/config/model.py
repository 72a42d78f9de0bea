"""The whole configuration: which component's configuration stands in which table of the file.

Each table is the configuration object of one component and is documented there. Here is only what belongs to
none of them: which source and which checkpoint are used, how often is committed, and how mlmon logs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from mlmon.engine.series import SeriesConfig
from mlmon.windows import WindowConfig

__all__ = ["CheckpointConfig", "CheckpointKind", "Config", "LogConfig", "SourceConfig", "SourceKind"]

SourceKind = Literal["spool", "kafka", "replay"]
CheckpointKind = Literal["sqlite", "kafka"]


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[source]`: where events come from."""

    kind: Annotated[
        SourceKind,
        msgspec.Meta(
            description="spool reads a directory that the emitter writes, kafka reads topics, replay reads "
            "recorded files once. Its own keys stand in the table of the same name."
        ),
    ] = "spool"


class CheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[checkpoint]`: where state and positions are kept, and how often they are written."""

    kind: Annotated[
        CheckpointKind | None,
        msgspec.Meta(
            description="kafka keeps state in a compacted topic, in one transaction with the offsets; sqlite "
            "keeps it in a file of this machine. Left out: kafka for the Kafka source, sqlite for the others."
        ),
    ] = None
    interval_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=300,
            description="Time between commits. What is counted is published after the commit, so raising it "
            "delays the metrics by as much, and lengthens what is read again after a crash.",
        ),
    ] = 2.0


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: what mlmon writes to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        msgspec.Meta(description="The least severe messages that are written."),
    ] = "info"
    format: Annotated[
        Literal["text", "json"],
        msgspec.Meta(description="text for people, json (one object to a line) for log collectors."),
    ] = "text"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a sidecar is built from."""

    source: SourceConfig = SourceConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    windows: WindowConfig = WindowConfig()
    series: SeriesConfig = SeriesConfig()
    log: LogConfig = LogConfig()

    @property
    def checkpoint_kind(self) -> CheckpointKind:
        """The checkpoint in use: the configured one, else the one that goes with the source."""
        return self.checkpoint.kind or ("kafka" if self.source.kind == "kafka" else "sqlite")
