"""Makes `tests/support` importable; a baseline with everything a baseline can hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from baseline_kit import KEY, make_scope

from mlmon.baseline import Baseline


@pytest.fixture
def baseline() -> Baseline:
    return Baseline({KEY: make_scope()}, 1_700_000_000_000_000, "events.jsonl", ("a warning",))
