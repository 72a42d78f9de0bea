"""The whole configuration: which component's configuration stands in which table of the file.

Each table is the configuration object of one component and is documented there. Here is only what belongs to
none of them: which source and which checkpoint are used, which monitors watch, and how mlmon logs; and the
defaults that only the whole can have, such as where files are kept.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from mlmon.app.sidecar import LoopConfig
from mlmon.baseline.config import BaselineConfig
from mlmon.canary.config import CanaryConfig
from mlmon.checkpoint.kafka import KafkaCheckpointConfig
from mlmon.checkpoint.letters import DeadLetterConfig
from mlmon.checkpoint.sqlite import SqliteCheckpointConfig
from mlmon.drift.config import AlertsConfig, DriftConfig
from mlmon.engine import EngineConfig
from mlmon.engine.series import SeriesConfig
from mlmon.events.codecs.config import DecodeConfig
from mlmon.history.config import HistoryConfig
from mlmon.monitors import MONITORS
from mlmon.monitors.embeddings import EmbeddingsConfig
from mlmon.monitors.features import FeaturesConfig
from mlmon.monitors.predictions import PredictionsConfig
from mlmon.monitors.samples import SamplesConfig
from mlmon.monitors.shadow import ShadowConfig
from mlmon.monitors.slo import SloConfig
from mlmon.monitors.tokenizer import TokenizerConfig
from mlmon.monitors.traffic import TrafficConfig
from mlmon.monitors.versions import VersionsConfig
from mlmon.publish.http import HttpConfig
from mlmon.registry.config import RegistryConfig
from mlmon.sources.kafka import KafkaConfig
from mlmon.sources.replay import ReplayConfig  # noqa: TC001 - msgspec reads the annotation
from mlmon.sources.spool import SpoolConfig
from mlmon.windows import WindowConfig

__all__ = [
    "CheckpointConfig",
    "CheckpointKind",
    "Config",
    "LogConfig",
    "MonitorName",
    "MonitorsConfig",
    "SourceConfig",
    "SourceKind",
]

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
    spool: SpoolConfig = SpoolConfig(directory="mlmon-data/spool")
    kafka: KafkaConfig = KafkaConfig()
    replay: ReplayConfig | None = None


class CheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[checkpoint]`: where state and positions are kept."""

    kind: Annotated[
        CheckpointKind | None,
        msgspec.Meta(
            description="kafka keeps state in a compacted topic, in one transaction with the offsets; sqlite "
            "keeps it in a file of this machine. Left out: kafka for the Kafka source, sqlite for the others."
        ),
    ] = None
    sqlite: SqliteCheckpointConfig = SqliteCheckpointConfig(path="mlmon-data/checkpoint.sqlite")
    kafka: KafkaCheckpointConfig = KafkaCheckpointConfig()


MonitorName = Literal[
    "traffic", "tokenizer", "versions", "samples", "features", "embeddings", "predictions", "slo", "shadow"
]


class MonitorsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors]`: what is watched."""

    enabled: Annotated[
        tuple[MonitorName, ...],
        msgspec.Meta(
            description="Monitors that watch. Leaving one out saves its samples; its stored state is dropped."
        ),
    ] = (
        "traffic",
        "tokenizer",
        "versions",
        "samples",
        "features",
        "embeddings",
        "predictions",
        "slo",
        "shadow",
    )
    traffic: TrafficConfig = TrafficConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    versions: VersionsConfig = VersionsConfig()
    samples: SamplesConfig = SamplesConfig()
    features: FeaturesConfig = FeaturesConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    predictions: PredictionsConfig = PredictionsConfig()
    slo: SloConfig = SloConfig()
    shadow: ShadowConfig = ShadowConfig()


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
    dead_letters: DeadLetterConfig = DeadLetterConfig(directory="mlmon-data/dead-letters")
    loop: LoopConfig = LoopConfig()
    windows: WindowConfig = WindowConfig()
    series: SeriesConfig = SeriesConfig()
    decode: DecodeConfig = DecodeConfig()
    monitors: MonitorsConfig = MonitorsConfig()
    baseline: BaselineConfig = BaselineConfig()
    drift: DriftConfig = DriftConfig()
    alerts: AlertsConfig = AlertsConfig()
    history: HistoryConfig = HistoryConfig()
    canary: CanaryConfig = CanaryConfig()
    registry: RegistryConfig = RegistryConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()

    @property
    def checkpoint_kind(self) -> CheckpointKind:
        """The checkpoint in use: the configured one, else the one that goes with the source."""
        return self.checkpoint.kind or ("kafka" if self.source.kind == "kafka" else "sqlite")

    @property
    def engine(self) -> EngineConfig:
        """What the engine needs to know."""
        return EngineConfig(windows=self.windows, series=self.series)

    @property
    def monitor_configs(self) -> dict[str, Any]:
        """The configurations of the monitors that watch, by name: what `build_monitors` takes.

        A sample of events is of use to the history alone.
        """
        watching = set(self.monitors.enabled) - (set() if self.history.enabled else {"samples"})
        return {name: getattr(self.monitors, name) for name in MONITORS if name in watching}
