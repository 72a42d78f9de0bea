"""The dashboards as files. Committed, so that they can be read and provisioned without running anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlmon.grafana.build import build
from mlmon.grafana.debug import BOARD as DEBUG
from mlmon.grafana.drift import BOARD as DRIFT
from mlmon.grafana.executive import BOARD as EXECUTIVE
from mlmon.grafana.oncall import RUNBOOK_URL
from mlmon.grafana.oncall import board as oncall
from mlmon.grafana.sdk import JSONEncoder

if TYPE_CHECKING:
    from mlmon.grafana.spec import Board

__all__ = ["FOLDER", "as_json", "boards", "rendered"]

#: Where the files go, from the root of the repository.
FOLDER = "dashboards/json"


def boards(runbook_url: str = RUNBOOK_URL) -> tuple[Board, ...]:
    """Every board."""
    return (EXECUTIVE, oncall(runbook_url), DEBUG, DRIFT)


def as_json(board: Board) -> dict[str, Any]:
    """A board as Grafana's JSON."""
    made: dict[str, Any] = json.loads(json.dumps(build(board), cls=JSONEncoder))
    return made


def rendered(runbook_url: str = RUNBOOK_URL) -> dict[str, str]:
    """Text of every dashboard by path; the same for the same code, byte for byte."""
    return {f"{FOLDER}/{board.name}.json": _text(as_json(board)) for board in boards(runbook_url)}


def _text(board: dict[str, Any]) -> str:
    return json.dumps(board, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
