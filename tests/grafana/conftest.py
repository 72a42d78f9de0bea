"""`tests/support` on the path, and the world that the queries are asked of, started once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

for _folder in (Path(__file__).parents[1] / "support", Path(__file__).parent):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from dashboard_world import World  # noqa: E402 - found by the lines above

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A sidecar with a baseline, an emitter that feeds it, and a Prometheus that scrapes both."""
    with World(tmp_path_factory.mktemp("dashboards")) as world:
        yield world
