"""The generated files: fresh, of Grafana's schema, clean by every rule, and each rule finds its own fault."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from dashboard_linter import RULES, names_in, panels, targets

from mlmon.cli.render import rendered
from mlmon.config.reader import read_toml
from mlmon.grafana import recorded, render_dashboards
from mlmon.grafana.oncall import RUNBOOK_URL
from mlmon.grafana.render import boards
from mlmon.grafana.sdk import JSONEncoder, model
from mlmon.slo.render import RenderConfig
from mlmon.slo.windows import RuleSettings

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
CONFIG = read_toml((ROOT / "alerts/config.toml").read_text(encoding="utf-8"), RenderConfig, "config.toml")
FILES = render_dashboards(CONFIG.rules.runbook_url)
MADE: dict[str, dict[str, Any]] = {Path(path).stem: json.loads(text) for path, text in FILES.items()}
each_board = pytest.mark.parametrize("name", MADE)


def test_the_committed_files_are_those_of_the_code() -> None:
    committed = {f"dashboards/json/{path.name}" for path in (ROOT / "dashboards/json").glob("*.json")}
    assert committed == set(FILES)
    for path, text in FILES.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is stale: run  mlmon render"


def test_rendering_gives_the_same_bytes_again() -> None:
    assert render_dashboards(CONFIG.rules.runbook_url) == FILES


@each_board
def test_the_model_reads_back_what_it_wrote(name: str) -> None:
    """Grafana's schema, as the SDK has it: nothing is lost on the way through its types."""
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    read = model.Dashboard.from_json(copy.deepcopy(MADE[name]))
    written = json.loads(json.dumps(read, cls=JSONEncoder))
    assert written == MADE[name]
    assert written["schemaVersion"] == 42


def test_ids_of_boards_never_change() -> None:
    assert {name: board["uid"] for name, board in MADE.items()} == {
        "executive": "mlmon-executive",
        "oncall": "mlmon-oncall",
        "debug": "mlmon-debug",
        "drift": "mlmon-drift",
    }


def test_numbers_of_panels_do_not_depend_on_their_place() -> None:
    from mlmon.grafana.build import panel_id

    for board in boards():
        for row in board.rows:
            for panel in row.panels:
                found = [p["id"] for p in panels(MADE[board.name]) if p["title"] == panel.title]
                assert found == [panel_id(panel.title)]


@each_board
@pytest.mark.parametrize("rule", RULES)
def test_boards_are_clean(name: str, rule: str) -> None:
    assert list(RULES[rule](MADE[name])) == []


def first(board: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(panel for panel in panels(board) if panel["type"] == kind)


def change(path: str, value: Any, kind: str = "timeseries") -> Callable[[dict[str, Any]], None]:
    """Set one key of the first panel of a kind, or of its first target."""

    def apply(board: dict[str, Any]) -> None:
        place: Any = first(board, kind)
        *keys, last = path.split("/")
        for key in keys:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value

    return apply


def expr(text: str) -> Callable[[dict[str, Any]], None]:
    return change("targets/0/expr", text)


def of_board(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(board: dict[str, Any]) -> None:
        place: Any = board
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return apply


_LIST = ("templating", "list")
FAULTS = {
    "template-datasource": of_board(*_LIST, 0, "label", value="Source"),
    "template-on-time-change-reload": of_board(*_LIST, 1, "refresh", value=1),
    "template-label-promql": of_board(*_LIST, 1, "query", value="label_values(sum(x), service)"),
    "template-unused": of_board(*_LIST, 3, "name", value="unheard"),
    "template-required-variables": of_board(*_LIST, 2, "name", value="modell"),
    "uneditable-dashboard": of_board("editable", value=True),
    "panel-datasource": change("targets/0/datasource", {"type": "prometheus", "uid": "prometheus"}),
    "panel-title-description": change("description", ""),
    "panel-units": change("fieldConfig/defaults/unit", "parsecs"),
    "panel-no-targets": change("targets", []),
    "target-promql": expr("sum(rate(mlmon_events_total[$__rate_interval])"),
    "target-rate-interval": expr("sum(rate(mlmon_events_total[5m]))"),
    "target-counter-agg": expr("sum(mlmon_events_total)"),
    "target-histogram": expr("sum(rate(mlmon_batch_size_bucket[$__rate_interval]))"),
    "target-required-matchers": expr("max(mlmon_pager_evidence)"),
    "known-metrics": expr("max(mlmon_pager_evidense)"),
    "legend": change("targets/0/legendFormat", ""),
    "layout": of_board("panels", 2, "gridPos", value={"x": 0, "y": 0, "w": 24, "h": 4}),
    "variables-declared": expr('max(mlmon_series{job="$job"})'),
    "whole-scope": expr("max by (field) (mlmon_drift_effect)"),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_finds_its_fault(rule: str) -> None:
    board = copy.deepcopy(MADE["oncall"])
    FAULTS[rule](board)
    assert list(RULES[rule](board)) != []


def test_recorded_series_are_those_of_the_rules() -> None:
    made = set()
    for path in (ROOT / "alerts/rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            made |= {rule["record"] for rule in group["rules"] if "record" in rule}
    used = {
        metric
        for board in MADE.values()
        for _, target in targets(board)
        for metric in names_in(target["expr"])
        if ":" in metric
    }
    assert used == {getattr(recorded, name) for name in recorded.__all__ if name.isupper()} - {
        recorded.OBJECTIVE
    }
    assert used <= made


@pytest.mark.parametrize(
    "address",
    [
        RuleSettings().runbook_url,
        "https://wiki.example/find?page={alert}&in=ops",
        "https://x.example/{alert}",
    ],
)
def test_the_link_to_runbooks_is_where_the_alerts_point(address: str) -> None:
    board = json.loads(render_dashboards(address)["dashboards/json/oncall.json"])
    (chosen,) = (v for v in board["templating"]["list"] if v["name"] == "runbooks")
    (link,) = set(re.findall(r'"url": "([^"]*runbooks[^"]*)"', json.dumps(board)))
    followed = link.replace("${runbooks}", chosen["query"]).replace("${__value.raw}", "MlmonDriftPage")
    assert followed == address.replace("{alert}", "MlmonDriftPage")


def test_the_address_of_runbooks_comes_from_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[rules]\nrunbook_url = "https://wiki.example/{alert}"\n', encoding="utf-8")
    boards_of = {path: text for path, text in rendered(ROOT, config).items() if path.startswith("dashboards")}
    assert boards_of == render_dashboards("https://wiki.example/{alert}") != FILES
    assert RuleSettings().runbook_url == RUNBOOK_URL


def test_evidence_is_on_a_logarithmic_axis_and_limits_are_bands() -> None:
    shown = {panel["title"]: panel["fieldConfig"] for panel in panels(MADE["drift"])}
    for title, config in shown.items():
        scale = config["defaults"].get("custom", {}).get("scaleDistribution", {"type": "linear"})
        if "vidence" in title:
            assert scale == {"type": "log", "log": 10}, title
    for group in ("Embeddings", "Features", "Predictions", "Tokens"):
        for what in ("effect", "evidence"):
            defaults = shown[f"{group}: {what}"]["defaults"]
            assert defaults["custom"]["thresholdsStyle"] == {"mode": "area"}
            assert [step["value"] for step in defaults["thresholds"]["steps"]] == [None, 1.0]
    for title in ("Effect and tolerance", "Evidence and threshold"):
        (override,) = shown[title]["overrides"]
        assert override["matcher"] == {"id": "byName", "options": "limit"}
        assert {p["id"]: p["value"] for p in override["properties"]}["custom.fillOpacity"] > 0


def test_nobody_is_woken_by_shadow_traffic() -> None:
    """What users meet leaves out what nobody waits for."""
    for panel, target in targets(MADE["oncall"]):
        for name in ("mlmon_requests_total", "mlmon_request_latency_seconds_bucket"):
            asked = target["expr"].count(name)
            assert target["expr"].count('deployment!="shadow"') >= asked, panel["title"]


def test_traces_are_asked_for_where_latency_is_shown() -> None:
    for name in ("oncall", "debug"):
        assert any(target.get("exemplar") for _, target in targets(MADE[name]))


def test_releases_new_versions_and_pages_are_marked() -> None:
    for board in MADE.values():
        marks = {mark["name"]: mark for mark in board["annotations"]["list"]}
        assert set(marks) == {"New versions", "Releases", "Pages"}
        assert marks["Releases"]["target"]["tags"] == ["mlmon", "release"]
        assert marks["Releases"]["target"]["matchAny"] is False
        assert marks["Releases"]["datasource"]["uid"] == "-- Grafana --"
        assert marks["New versions"]["useValueForTime"] is True
