"""alertmanager.yml by the program that checks it: valid, up to date, everybody told what is theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import yaml
from alertmanager_kit import program

from mlmon.slo.alertmanager import NotifyConfig, alertmanager_files, render_alertmanager
from mlmon.slo.alertmanager_inhibition import inhibit_rules

if TYPE_CHECKING:
    from mlmon.slo.promql import Alert

ROOT = Path(__file__).resolve().parents[2]
ALL_CHANNELS = b"""
group_wait_seconds = 0.2
[[ml_oncall.pagerduty]]
routing_key_file = "/etc/alertmanager/secrets/pagerduty"
[[ml_oncall.slack]]
api_url_file = "/etc/alertmanager/secrets/slack"
channel = "#ml-oncall"
[[platform_sre.opsgenie]]
api_key_file = "/etc/alertmanager/secrets/opsgenie"
url = "https://api.eu.opsgenie.com/"
[[product_owner.webhook]]
url = "https://tickets.example/new"
token_file = "/etc/alertmanager/secrets/tickets"
"""


def amtool(*arguments: str) -> str:
    done = subprocess.run(
        [program("amtool"), *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_committed_files_are_up_to_date() -> None:
    for path, text in alertmanager_files(NotifyConfig()).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is stale"


@pytest.mark.parametrize("config", [b"", ALL_CHANNELS], ids=["defaults", "all channels"])
def test_amtool_takes_it(tmp_path: Path, config: bytes) -> None:
    text = render_alertmanager(msgspec.toml.decode(config, type=NotifyConfig))
    (tmp_path / "alertmanager.yml").write_text(text, encoding="utf-8")
    assert "SUCCESS" in amtool("check-config", str(tmp_path / "alertmanager.yml"))


def test_every_alert_reaches_those_who_act_on_it(alerts: list[Alert]) -> None:
    """Pages both people on call, tickets the product owner, and nobody else."""
    expected = {"page": "ml-oncall,platform-sre\n", "ticket": "product-owner\n"}
    seen = {(a.alert, tuple(sorted((k, v) for k, v in a.labels.items() if "{" not in v))) for a in alerts}
    assert {alert.severity for alert in alerts} == set(expected)
    routed: dict[tuple[tuple[str, str], ...], str] = {}
    for name, labels in seen:
        known = (("alertname", name), *((k, v) for k, v in labels if k not in ("slo", "team")))
        if known not in routed:
            given = [f"{key}={value}" for key, value in known]
            routed[known] = amtool(
                "config", "routes", "test", "--config.file", "alerts/alertmanager.yml", *given
            )
        assert routed[known] == expected[dict(labels)["severity"]], name


def test_an_alert_of_somebody_else_s_is_not_lost() -> None:
    told = amtool("config", "routes", "test", "--config.file", "alerts/alertmanager.yml", "alertname=Other")
    assert told == "product-owner\n"


def test_inhibition_names_alerts_and_objectives_that_exist(alerts: list[Alert]) -> None:
    names = {alert.alert for alert in alerts}
    for rule in inhibit_rules(("availability",)):
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, _, value = matcher.partition("=")
            if label == "alertname":
                wanted = value.removeprefix("~").strip('"').removesuffix(".*").split("|")
                assert all(any(name.startswith(one) for name in names) for one in wanted), matcher
    objectives = {path.stem.removeprefix("slo-") for path in (ROOT / "alerts/rules").glob("slo-*.yml")}
    assert not objectives or set(NotifyConfig().outage_slos) <= objectives


def test_no_cause_may_silence_an_outage_unless_told_so() -> None:
    def spared(slos: tuple[str, ...]) -> int:
        text = render_alertmanager(NotifyConfig(outage_slos=slos))
        rules = yaml.safe_load(text)["inhibit_rules"]
        return sum(f'slo!~"{"|".join(slos)}"' in rule["target_matchers"] for rule in rules)

    assert spared(("availability", "a.b")) == 0  # the dot is escaped
    assert spared(("availability", "latency-p95")) == 3
    assert "slo!" not in render_alertmanager(NotifyConfig(outage_slos=()))


def test_secrets_are_only_named() -> None:
    text = render_alertmanager(msgspec.toml.decode(ALL_CHANNELS, type=NotifyConfig))
    found = {
        key: value
        for one in yaml.safe_load(text)["receivers"]
        for kind, channels in one.items()
        if kind != "name"
        for key, value in channels[0].items()
    }
    assert {"routing_key_file", "api_url_file", "api_key_file"} <= set(found)
    assert not {"routing_key", "service_key", "api_key", "credentials"} & set(found)
    assert found["http_config"] == {
        "authorization": {"credentials_file": "/etc/alertmanager/secrets/tickets"}
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[ml_oncall.webhook]]\nurl = "https://user:secret@x.example"', "without a password"),
        ('[[ml_oncall.webhook]]\nurl = "ftp://x"', "expected an address"),
        ('[[ml_oncall.pagerduty]]\nrouting_key_file = "R0UTINGKEY"', "file that holds the secret"),
        ('[[ml_oncall.slack]]\napi_url_file = "/x"\nchannel = ""', "#ml-oncall"),
        ('[[ml_oncall.pagerduty]]\nrouting_key = "x"', "routing_key"),
        ("group_wait_seconds = 0", "group_wait_seconds"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message) as error:
        msgspec.toml.decode(text.encode(), type=NotifyConfig)
    assert "secret@" not in str(error.value)
