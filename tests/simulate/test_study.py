"""Delays: a shift is found, and blamed on what it changes and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import drift_kit

import mlmon.simulate.study as study_module
from mlmon.drift.config import AlertsConfig, DriftConfig
from mlmon.simulate.run import Rules
from mlmon.simulate.study import Study, StudyOptions

if TYPE_CHECKING:
    import pytest

RULES = Rules(AlertsConfig(), DriftConfig(), 60)
BLAMED = {
    "confidence down by a tenth": "predictions",
    "one more unknown token in 20 % of requests": "tokenizer",
    "30 % more tokens (another tokenizer)": "tokenizer",
    "a numeric feature + 0.25 standard deviations": "features",
    "a numeric feature missing in 2 % of requests": "features",
    "a category never seen, in 1 % of requests": "features",
    "5 % of the embedding's dimensions dead": "embeddings",
}


def test_a_shift_is_blamed_on_what_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is made of few events, whose mean is not the whole sample's."""
    monkeypatch.setattr(study_module, "_SHIFTED", 300)
    scope = replace(next(iter(drift_kit.reference().scopes.values())), sample=drift_kit.events())
    options = StudyOptions(1_500.0, 5.0, 8_000, runs=6, references=2, limit_windows=40)
    study = Study(scope, RULES, drift_kit.CONFIGS, options)
    found = {delay.name: delay for delay in study.delays()}
    for name, cause in BLAMED.items():
        assert found[name].runs == 6
        assert dict(found[name].causes) == {cause: len(found[name].windows)}, name
        assert len(found[name].windows) >= 5, name
