"""Baselines: what they hold, how they are stored and compared."""

from __future__ import annotations

from mlmon.baseline.model import (
    Baseline,
    FieldReference,
    FieldSpec,
    Parameters,
    Scope,
    ScopeKey,
    Segment,
    no_parameters,
)

__all__ = [
    "Baseline",
    "FieldReference",
    "FieldSpec",
    "Parameters",
    "Scope",
    "ScopeKey",
    "Segment",
    "no_parameters",
]
