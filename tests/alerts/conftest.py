"""The kit on the path, the alerts that are rendered, and servers that are stopped when the test ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

for _folder in (Path(__file__).parent, Path(__file__).parents[1] / "grafana"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from alertmanager_kit import AlertmanagerServer, Notifications  # noqa: E402 - found by the lines above

from mlmon.slo import load_specs  # noqa: E402
from mlmon.slo.health import HealthSettings  # noqa: E402
from mlmon.slo.model import CRITICAL_ACCURACY  # noqa: E402
from mlmon.slo.render_rules import alerts_of, rule_groups  # noqa: E402
from mlmon.slo.windows import RuleSettings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlmon.slo.promql import Alert

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def alerts() -> list[Alert]:
    """Every alert that the shipped specs and the health rules make."""
    objectives = load_specs([ROOT / "alerts/slos"]).objectives
    groups = rule_groups(objectives, RuleSettings(), HealthSettings())
    found = [alert for _, _, some in groups for alert in alerts_of(some)]
    assert any(alert.alert.endswith(CRITICAL_ACCURACY.name.title()) for alert in found)
    return found


@pytest.fixture
def notifications() -> Iterator[Notifications]:
    """Everybody's pager."""
    server = Notifications()
    yield server
    server.close()


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Callable[..., AlertmanagerServer]]:
    """A factory: texts of a configuration and of a web configuration in, a running Alertmanager out."""
    started: list[AlertmanagerServer] = []

    def start(config: str, web: str = "") -> AlertmanagerServer:
        started.append(AlertmanagerServer(tmp_path / f"alertmanager{len(started)}", config, web))
        return started[-1]

    yield start
    for server in started:
        server.close()
