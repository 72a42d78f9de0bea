"""Batches in, readings out: series, windows, state and its changes. No input, no output, no clock."""

from __future__ import annotations

from mlmon.engine.core import Engine, EngineConfig, Intake, Published
from mlmon.engine.series import SeriesConfig
from mlmon.engine.state import META_KEY, PartitionMeta, SeriesSeen, StateChange

__all__ = [
    "META_KEY",
    "Engine",
    "EngineConfig",
    "Intake",
    "PartitionMeta",
    "Published",
    "SeriesConfig",
    "SeriesSeen",
    "StateChange",
]
