"""Every query of every board is answered by a real Prometheus that scraped a real sidecar, with series."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dashboard_linter import expanded, panels

from mlmon.grafana import render_dashboards

if TYPE_CHECKING:
    from dashboard_world import World

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(180)]

MADE: dict[str, dict[str, Any]] = {
    Path(path).stem: json.loads(text) for path, text in render_dashboards().items()
}
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in MADE.items()
    for panel in panels(board)
]
#: As Grafana replaces them: at first everything is chosen; `embeddings/shift` moved in the world.
EVERYTHING = {"service": ".*", "model": ".*", "version": ".*"}
ONE = {"service": "bank", "model": "intent", "version": "7"}
COMMON = {"__rate_interval": "5m", "__range": "10m", "price": "2.5", "field": "shift"}
#: Panels that are empty on purpose where nothing is wrong are asked about a world in which it is.
choices = pytest.mark.parametrize("chosen", [EVERYTHING, ONE], ids=["everything", "one"])


@choices
@pytest.mark.parametrize("panel", PANELS)
def test_every_query_is_answered(world: World, panel: dict[str, Any], chosen: dict[str, str]) -> None:
    for target in panel["targets"]:
        query = expanded(target["expr"], COMMON | chosen)
        found = world.ask(query)
        assert found, f"no series: {query}"
        assert any(math.isfinite(value) for _, value in found), f"{found}: {query}"


@pytest.mark.parametrize("panel", [p for p in PANELS if p.values[0]["type"] == "table"])
def test_columns_of_tables_exist_and_rows_are_one_each(world: World, panel: dict[str, Any]) -> None:
    """A column is a label of the answers or the value of a query."""
    labels: set[str] = set()
    answers = []
    for target in panel["targets"]:
        found = world.ask(expanded(target["expr"], COMMON | EVERYTHING))
        answers.append({frozenset(series.items()) for series, _ in found})
        labels |= {name for series, _ in found for name in series}
    (kept,) = (t for t in panel["transformations"] if t["id"] == "filterFieldsByName")
    values = {"Value"} if len(answers) == 1 else {f"Value #{t['refId']}" for t in panel["targets"]}
    wanted = set(kept["options"]["include"]["names"])
    optional = {"segment", "model", "slo", "root_cause", "team", "version"}
    assert wanted - values - labels <= optional
    assert wanted & values or panel["title"] in ("Alerts", "Causes", "Cause of the open page")


@pytest.mark.parametrize("name", MADE)
def test_variables_offer_what_is_there(world: World, name: str) -> None:
    expected = {"service": {"bank"}, "model": {"intent"}, "version": {"7"}}
    for variable in MADE[name]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        selector, label = variable["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        found = {series[label] for series, _ in world.ask(expanded(selector, EVERYTHING))}
        assert found >= expected.get(variable["name"], {COMMON["field"]})


def test_marks_are_answered(world: World) -> None:
    for mark in MADE["oncall"]["annotations"]["list"]:
        if "expr" in mark:
            found = world.ask(expanded(mark["expr"], EVERYTHING))
            assert found, mark["expr"]
            if mark.get("useValueForTime"):
                ((_, milliseconds),) = found
                assert abs(milliseconds / 1000 - world.at) < 120


def test_latency_has_traces(world: World) -> None:
    asked = [
        target["expr"]
        for board in MADE.values()
        for panel in panels(board)
        for target in panel["targets"]
        if target.get("exemplar")
    ]
    assert len(asked) >= 3
    for query in asked:
        found = world.prometheus.exemplars(expanded(query, COMMON | EVERYTHING))
        assert found, query
        assert all(len(exemplar["labels"]["trace_id"]) == 32 for exemplar in found)


def test_figures_are_right(world: World) -> None:
    """A few of them against what went in: 4 % failed, every event of weight 20, another version expected."""

    def value(board: str, title: str) -> float:
        (panel,) = (panel for panel in panels(MADE[board]) if panel["title"] == title)
        ((_, found),) = world.ask(expanded(panel["targets"][0]["expr"], COMMON | ONE))
        return found

    assert value("oncall", "Failed") == pytest.approx(0.04, abs=0.01)
    assert value("oncall", "Wrong version") == 1.0
    assert value("oncall", "Sidecars up") == 1.0
    assert value("oncall", "Drift page") == 1.0
    assert value("oncall", "Latency p95") == pytest.approx(math.exp(-3 + 1.645 * 0.7), rel=0.2)
    assert value("executive", "Device time of a request") == pytest.approx(
        0.6 * math.exp(-3 + 0.7**2 / 2), rel=0.1
    )
    cost = value("executive", "Cost of 1,000 requests")
    assert cost == pytest.approx(1000 * value("executive", "Device time of a request") * 2.5 / 3600)
