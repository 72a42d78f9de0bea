"""A history written by a sidecar once, and pages of it opened as a browser would."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from streamlit.testing.v1 import AppTest

for _folder in (Path(__file__).parent, Path(__file__).parents[1] / "support"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import explorer_kit  # noqa: E402 - after the path

from mlmon.explorer.source import Bounds, HistorySource  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

APP = Path(__file__).parents[2] / "mlmon" / "explorer" / "app.py"


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> explorer_kit.Explored:
    return explorer_kit.write_history(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="session")
def source(explored: explorer_kit.Explored) -> HistorySource:
    return HistorySource(explored.history)


@pytest.fixture(scope="session")
def bounds() -> Bounds:
    """The whole hour."""
    return Bounds(explorer_kit.START * 1_000_000, explorer_kit.END_US)


@pytest.fixture
def open_page(explored: explorer_kit.Explored, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Opens a page: its name, and what its address says. `history` shows another one, `baseline` none."""

    def opened(name: str, *, history: Path | None = None, baseline: bool = True, **query: str) -> AppTest:
        monkeypatch.setenv("MLMON_EXPLORE_HISTORY", str(history or explored.history))
        monkeypatch.setenv("MLMON_EXPLORE_BASELINES", str(explored.baseline) if baseline else "")
        monkeypatch.setenv("MLMON_EXPLORE_CONFIG", str(explored.config))
        monkeypatch.setenv("MLMON_EXPLORE_TEXTS", os.environ.get("MLMON_EXPLORE_TEXTS", ""))
        app = AppTest.from_file(str(APP), default_timeout=120)
        app.switch_page(f"screens/{name}.py")
        for key, value in query.items():
            app.query_params[key.rstrip("_")] = value
        return app.run()

    return opened
