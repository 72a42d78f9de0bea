"""Baselines made from events: parameters learned, nulls estimated from contiguous blocks, quality checked."""

from __future__ import annotations

from mlmon.calibration.build import CalibrationOptions, Origin, Progress, build, drift_monitors, no_progress

__all__ = ["CalibrationOptions", "Origin", "Progress", "build", "drift_monitors", "no_progress"]
