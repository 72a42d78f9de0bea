"""What is rendered, and how `mlmon render` writes it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
import yaml
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parent))

from rules_kit import SETTINGS, availability

from mlmon.cli import cli
from mlmon.cli.render import rendered
from mlmon.drift.pager import PRECEDENCE
from mlmon.errors import ConfigError
from mlmon.explorer.view import read_query
from mlmon.slo.alerting import alert_name, objective_groups
from mlmon.slo.health import HealthSettings
from mlmon.slo.health_services import _CAUSES
from mlmon.slo.model import STANDARD
from mlmon.slo.promql import Alert, Group, Recording, rules_yaml, scalar
from mlmon.slo.promtest import Check, Scenario, counter, gauge, matching_labels
from mlmon.slo.recording import RELEASE_END
from mlmon.slo.release import RELEASE_END as WRITTEN
from mlmon.slo.render_rules import alerts_of, health_groups, rule_groups
from mlmon.slo.windows import RuleSettings, burn_windows

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
FILES = rendered(ROOT)


def rules(text: str) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(text)["groups"]:
        yield from group["rules"]


ALERTS = [
    rule
    for name, text in FILES.items()
    if name.startswith("alerts/rules")
    for rule in rules(text)
    if "alert" in rule
]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda a: a["alert"])
def test_every_alert_can_be_routed_and_read(alert: dict[str, Any]) -> None:
    assert re.fullmatch(r"Mlmon[A-Z][A-Za-z0-9]+", alert["alert"])
    labels, notes = alert["labels"], alert["annotations"]
    assert labels["severity"] in ("page", "ticket")
    assert labels["root_cause"]
    assert labels["team"]
    # an objective's alerts have `slo` from their series; the services' have `service` from theirs
    assert ("slo" in labels) or "mlmon_slo:" in alert["expr"]
    assert notes.keys() - {"explorer_url"} == {"summary", "description", "runbook_url", "dashboard_url"}
    assert notes["runbook_url"].endswith(f"{alert['alert']}.md")
    assert "/d/mlmon-" in notes["dashboard_url"]


def test_alerts_of_services_link_to_what_the_explorer_shows_of_them() -> None:
    of_pipeline = {alert["alert"] for alert in ALERTS if "explorer_url" not in alert["annotations"]}
    assert {"MlmonSidecarDown", "MlmonPipelineLagging"} <= of_pipeline
    links = {
        name: alert["annotations"]["explorer_url"]
        for alert in ALERTS
        if (name := alert["alert"]) not in of_pipeline
    }
    assert {"MlmonDriftPage", "MlmonVersionMismatch", "MlmonUnknownTokenJump"} <= links.keys()
    for name, link in links.items():
        address = urlsplit(link)
        assert (address.netloc, address.path) == ("localhost:8501", "/incident")
        query = dict(parse_qsl(address.query))
        assert read_query(query).complaints == ()
        assert (query["alert"], query["service"]) == (name, "{{ $labels.service | urlquery }}")


def test_every_alert_has_a_runbook_and_no_runbook_is_without_an_alert() -> None:
    written = {path.stem for path in (ROOT / "alerts" / "runbooks").glob("Mlmon*.md")}
    assert written >= {alert["alert"] for alert in ALERTS}


def test_pages_go_on_firing_when_their_data_end() -> None:
    assert all("keep_firing_for" in alert for alert in ALERTS if alert["labels"]["severity"] == "page")


def test_rendering_twice_gives_the_same_bytes() -> None:
    assert rendered(ROOT) == FILES


def test_our_yaml_is_what_a_yaml_parser_reads() -> None:
    nasty = 'a: b # no\n\n"q" \\ {{ $x }}\n  indented'
    group = Group(
        "yes",
        "1m",
        [
            Recording("a:b", "1", {"slo": "no", "number": "1e3"}),
            Alert("X", nasty, {"severity": "page"}, {"summary": nasty, "description": "é: ok"}, "5m", "10m"),
        ],
    )
    (found,) = yaml.safe_load(rules_yaml([group], "x"))["groups"]
    assert found["name"] == "yes"
    recording, alert = found["rules"]
    assert recording == {"record": "a:b", "expr": "1", "labels": {"slo": "no", "number": "1e3"}}
    assert alert["expr"] == nasty
    assert alert["annotations"] == {"summary": nasty, "description": "é: ok"}
    assert (alert["for"], alert["keep_firing_for"]) == ("5m", "10m")
    for text in ("null", "Off", "12", "1:30", "-", "=x", "a#b", "~"):
        assert yaml.safe_load(f"k: {scalar(text)}") == {"k": text}


def test_one_table_feeds_recordings_and_alerts() -> None:
    """Whatever windows the conditions name are recorded, and nothing an alert reads is not."""
    objective = availability(conditions=(STANDARD[0], STANDARD[3]))
    groups = objective_groups(objective, SETTINGS)
    recorded = {rule.record for group in groups for rule in group.rules if isinstance(rule, Recording)}
    assert {name for name in recorded if name.startswith("mlmon_slo:burn_rate:")} == {
        f"mlmon_slo:burn_rate:{window}" for window in ("5m", "1h", "6h", "3d", "period")
    }
    assert burn_windows(objective) == (300, 3600, 21_600, 259_200)
    for alert in alerts_of(groups):
        assert set(re.findall(r"mlmon_slo:[a-z0-9_:]+", alert.expr)) <= recorded


def test_a_scale_divides_every_duration_and_changes_no_name() -> None:
    scaled = RuleSettings(time_scale=60)
    plain_text, scaled_text = (
        "".join(rules_yaml(groups, "") for _, _, groups in rule_groups([availability()], s, HealthSettings()))
        for s in (SETTINGS, scaled)
    )
    names = r"(?:record|alert): .*"
    assert re.findall(names, plain_text) == re.findall(names, scaled_text)
    pattern = r"(?:\[|offset |for: |interval: )(\d+[a-z]+)"
    pairs = zip(re.findall(pattern, plain_text), re.findall(pattern, scaled_text), strict=True)
    expected = {"5m": "5s", "1m": "1s", "30m": "30s", "1h": "1m", "6h": "6m", "1d": "24m", "3d": "1h"}
    for plain, short in pairs:
        assert expected.get(plain, short) == short
    assert "[30d]" in plain_text
    assert "[12h]" in scaled_text


def test_the_standard_conditions_have_the_names_of_the_runbooks() -> None:
    assert [alert_name(condition) for condition in STANDARD] == [
        "MlmonErrorBudgetBurnFast",
        "MlmonErrorBudgetBurnSlow",
        "MlmonErrorBudgetBurnDay",
        "MlmonErrorBudgetBurnSteady",
    ]


def test_causes_and_gauges_are_named_as_where_they_come_from() -> None:
    assert _CAUSES == PRECEDENCE
    assert RELEASE_END == WRITTEN


def test_settings_without_a_place_for_the_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"runbook_url: expected an address with \{alert\}"):
        RuleSettings(runbook_url="https://x.example/")
    with pytest.raises(ValueError, match=r"explorer_url: expected an address such as"):
        RuleSettings(explorer_url="localhost:8501")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"unknown_token_factor": 0.5}, HealthSettings)


def test_the_notation_of_series() -> None:
    assert counter([(2, 1.0), (5, None), (1, 1.0)]) == "0 1+1x1 _x5 3+1x0"
    assert gauge([(1, 1.0), (1, 1.0), (2, None)]) == "1+0x1 _x2"
    (one,) = [matching_labels([availability().sli.total.estimated], availability().sli.part.estimated)]  # type: ignore[union-attr]
    assert one == {"status": "other"}
    with pytest.raises(ValueError, match="no labels match"):
        matching_labels([availability().sli.part.estimated], availability().sli.total.estimated)  # type: ignore[union-attr]
    assert Scenario("x", 60, {}, [Check("A", 60)]).checks[0].firing == ()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "alerts" / "slos", tmp_path / "alerts" / "slos")
    return tmp_path


def test_render_writes_checks_and_removes(copy: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["render", "--root", str(copy), *arguments])

    assert run("--check").exit_code == 1
    assert not (copy / "alerts" / "rules").exists()
    assert run().exit_code == 0
    assert run("--check").exit_code == 0
    old = copy / "alerts" / "rules" / "slo-old.yml"
    old.write_text("groups: []")
    changed = copy / "alerts" / "rules" / "slo-availability.yml"
    text = changed.read_text()
    changed.write_text(text.replace("14.4", "24.4"))
    found = run("--check")
    assert found.exit_code == 1
    assert "stale: alerts/rules/slo-old.yml" in found.output
    assert "stale: alerts/rules/slo-availability.yml" in found.output
    assert "removed: alerts/rules/slo-old.yml" in run().output
    assert changed.read_text() == text
    assert not old.exists()


def test_render_reads_its_configuration_strictly(copy: Path) -> None:
    config = copy / "mine.toml"
    config.write_text('[rules]\nrunbook_url = "https://wiki.example/{alert}"\n[health]\nlag_seconds = 60\n')
    files = rendered(copy, config)
    assert "https://wiki.example/MlmonSidecarDown" in files["alerts/rules/pipeline.yml"]
    assert "mlmon_consumer_lag_seconds) > 60" in files["alerts/rules/pipeline.yml"]
    config.write_text("[health]\nlag_second = 60\n")
    with pytest.raises(ConfigError, match="lag_seconds"):
        rendered(copy, config)
    with pytest.raises(ConfigError, match="expected a file"):
        rendered(copy, copy / "none.toml")


def test_scaled_rules_have_no_unit_tests(copy: Path) -> None:
    config = copy / "mine.toml"
    config.write_text("[rules]\ntime_scale = 60\n")
    assert not [name for name in rendered(copy, config) if "alerts/tests" in name]


def test_health_groups_are_evaluated_with_the_causes_first() -> None:
    """An alert's template asks for the root cause that its own group has just recorded."""
    group = health_groups(SETTINGS, HealthSettings())["services.yml"][0]
    kinds = [isinstance(rule, Recording) for rule in group.rules]
    assert kinds == sorted(kinds, reverse=True)
