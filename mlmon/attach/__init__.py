"""How a model server is watched: the ASGI tap, the emitter behind it, and where events go.

`KafkaSink` is in `mlmon.attach.kafka_sink`, the Prometheus collector in `mlmon.attach.metrics`: each is
imported where it is used, so that a server pays only for what it has.
"""

from __future__ import annotations

from mlmon.attach.asgi import MlmonMiddleware
from mlmon.attach.emitter import Emitter
from mlmon.attach.labels import Label, LabelConfig, LabelSender
from mlmon.attach.limits import EmitterConfig, EmitterStats
from mlmon.attach.mirror import Mirror, MirrorConfig, MirrorSink, MirrorStats
from mlmon.attach.mirror_record import MirrorRecord
from mlmon.attach.mirror_spool import MirrorFiles, MirrorSpoolConfig
from mlmon.attach.sinks import OutRecord, RefusedError, Sink, SpoolSink
from mlmon.attach.tap import TapConfig, TapHooks, text_from
from mlmon.attach.text import CharacterStatistics, HfTokenizerStatistics, TextStatistics

__all__ = [
    "MlmonMiddleware",
    "TapConfig",
    "TapHooks",
    "text_from",
    "TextStatistics",
    "HfTokenizerStatistics",
    "CharacterStatistics",
    "Emitter",
    "EmitterConfig",
    "EmitterStats",
    "Label",
    "LabelConfig",
    "LabelSender",
    "Mirror",
    "MirrorConfig",
    "MirrorFiles",
    "MirrorRecord",
    "MirrorSink",
    "MirrorSpoolConfig",
    "MirrorStats",
    "Sink",
    "SpoolSink",
    "OutRecord",
    "RefusedError",
]
