"""Makes `tests/support` importable; a calibrated baseline as a store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from report_kit import calibrated

from mlmon.baseline.store import BaselineStore


@pytest.fixture(scope="session")
def store() -> BaselineStore:
    return BaselineStore([calibrated()])
