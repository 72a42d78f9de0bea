"""A real Alertmanager with the rendered configuration: what people are told, and what they are not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from alertmanager_kit import wait_for

from mlmon.slo.alertmanager import NotifyConfig, render_alertmanager
from mlmon.slo.alertmanager_receivers import Opsgenie, PagerDuty, Receiver, Slack, Webhook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from alertmanager_kit import AlertmanagerServer, Notifications

    from mlmon.slo.promql import Alert

pytestmark = pytest.mark.slow

#: A second receiver hears the same, so one path tells of all pages.
PAGES, TICKETS = "/ml-oncall", "/product-owner"
#: Long enough for what is posted at once, or for a wrong notification to come.
WAIT, QUIET = 0.5, 2.0


def config(url: str) -> str:
    def to(name: str) -> Receiver:
        return Receiver(webhook=(Webhook(f"{url}/{name}"),))

    return render_alertmanager(
        NotifyConfig(
            ml_oncall=to("ml-oncall"),
            platform_sre=to("platform-sre"),
            product_owner=to("product-owner"),
            group_wait_seconds=WAIT,
            group_interval_seconds=WAIT,
        )
    )


@pytest.fixture
def labels(alerts: list[Alert]) -> Callable[..., dict[str, str]]:
    """Labels of an alert that fires for checkout/encoder, with the given ones in place of templates."""

    def of(name: str, **given: str) -> dict[str, str]:
        found = next(alert for alert in alerts if alert.alert == name)
        fixed = {key: value for key, value in found.labels.items() if "{{" not in value}
        series = {"service": "checkout", "model": "encoder"} if "service" not in fixed else {}
        return {"alertname": name, **series, **fixed, **given}

    return of


def burn(labels: Callable[..., dict[str, str]], slo: str, cause: str, speed: str = "Fast") -> dict[str, str]:
    made = labels(f"MlmonErrorBudgetBurn{speed}", root_cause=cause)
    return {**made, "service": "checkout", "model": "encoder", "slo": slo}


def test_a_wrong_tokenizer_is_one_page_that_names_it(
    notifications: Notifications,
    alertmanager: Callable[[str], AlertmanagerServer],
    labels: Callable[..., dict[str, str]],
) -> None:
    server = alertmanager(config(notifications.url))
    server.fire(
        [
            labels("MlmonDriftPage", root_cause="tokenizer", cause="embeddings", field="embedding"),
            burn(labels, "task-accuracy", "accuracy", "Critical"),  # before its cause was known
            burn(labels, "task-accuracy", "tokenizer", "Critical"),
            burn(labels, "cost-per-inference", "tokenizer", "Day"),
            labels("MlmonDriftNear", root_cause="tokenizer"),
            labels("MlmonUnknownTokenJump", root_cause="tokenizer"),
        ]
    )
    wait_for(lambda: notifications.at(PAGES))
    time.sleep(QUIET)
    (page,) = notifications.at(PAGES)
    assert page.firing == ["MlmonUnknownTokenJump"]
    assert page.body["groupLabels"] == {"service": "checkout", "root_cause": "tokenizer"}
    assert len(notifications.at("/platform-sre")) == 1
    assert notifications.at(TICKETS) == []
    # a symptom that comes later adds nothing
    server.fire([burn(labels, "unknown-tokens", "tokenizer", "Slow")])
    time.sleep(QUIET)
    assert len(notifications.at(PAGES)) == 1


def test_an_outage_is_told_beside_its_cause_in_the_same_group(
    notifications: Notifications,
    alertmanager: Callable[[str], AlertmanagerServer],
    labels: Callable[..., dict[str, str]],
) -> None:
    server = alertmanager(config(notifications.url))
    server.fire(
        [labels("MlmonVersionMismatch", root_cause="version"), burn(labels, "availability", "version")]
    )
    (page,) = wait_for(lambda: notifications.at(PAGES))
    assert page.firing == ["MlmonErrorBudgetBurnFast", "MlmonVersionMismatch"]


def test_causes_services_and_models_stay_apart(
    notifications: Notifications,
    alertmanager: Callable[[str], AlertmanagerServer],
    labels: Callable[..., dict[str, str]],
) -> None:
    """What is muted belongs to the same service and model; another cause is another page."""
    server = alertmanager(config(notifications.url))
    server.fire(
        [
            labels("MlmonUnknownTokenJump", root_cause="tokenizer"),
            {**labels("MlmonDriftPage", root_cause="features"), "service": "search"},
            {**labels("MlmonDriftPage", root_cause="features"), "model": "other"},
            burn(labels, "latency-p95", "latency"),
            labels("MlmonLatencyP99High", root_cause="memory"),
        ]
    )
    pages = wait_for(lambda: len(notifications.at(PAGES)) >= 4 and notifications.at(PAGES))
    groups = {tuple(sorted(page.body["groupLabels"].items())) for page in pages}
    assert groups == {
        (("root_cause", "tokenizer"), ("service", "checkout")),
        (("root_cause", "features"), ("service", "search")),
        (("root_cause", "features"), ("service", "checkout")),
        (("root_cause", "latency"), ("service", "checkout")),
    }
    (ticket,) = wait_for(lambda: notifications.at(TICKETS))
    assert ticket.firing == ["MlmonLatencyP99High"]


def test_a_dead_sidecar_is_one_page(
    notifications: Notifications,
    alertmanager: Callable[[str], AlertmanagerServer],
    labels: Callable[..., dict[str, str]],
) -> None:
    server = alertmanager(config(notifications.url))
    no_data = {
        **labels("MlmonSloNoData"),
        "service": "checkout",
        "model": "encoder",
        "root_cause": "accuracy",
    }
    server.fire(
        [
            labels("MlmonSidecarDown"),
            labels("MlmonWatermarkStuck", instance="a:9477"),
            labels("MlmonCheckpointFailing", instance="a:9477"),
            labels("MlmonHistoryFailing", instance="a:9477"),
            {**burn(labels, "pipeline-freshness", "pipeline", "Slow"), "service": "mlmon", "model": ""},
            no_data,
        ]
    )
    wait_for(lambda: notifications.at(PAGES))
    time.sleep(QUIET)
    (page,) = notifications.at(PAGES)
    assert page.firing == ["MlmonSidecarDown"]
    assert notifications.at(TICKETS) == []


def test_a_broken_log_is_one_page_and_another_sidecar_is_another_alert(
    notifications: Notifications,
    alertmanager: Callable[[str], AlertmanagerServer],
    labels: Callable[..., dict[str, str]],
) -> None:
    server = alertmanager(config(notifications.url))
    server.fire(
        [
            labels("MlmonSourceFailing", instance="a:9477"),
            labels("MlmonPipelineLagging", instance="a:9477"),
            labels("MlmonWatermarkStuck", instance="b:9477"),
        ]
    )
    (page,) = wait_for(lambda: notifications.at(PAGES))
    assert page.firing == ["MlmonSourceFailing", "MlmonWatermarkStuck"]


def test_the_fastest_page_speaks_for_the_slower_ones(
    alertmanager: Callable[[str], AlertmanagerServer], labels: Callable[..., dict[str, str]]
) -> None:
    server = alertmanager(config("http://127.0.0.1:9"))
    server.fire(
        [burn(labels, "availability", "errors", speed) for speed in ("Fast", "Slow", "Day", "Steady")]
    )
    expected = {"Fast": False, "Slow": True, "Day": True, "Steady": True}
    wanted = {f"MlmonErrorBudgetBurn{speed}": muted for speed, muted in expected.items()}
    wait_for(lambda: server.muted() == wanted)


@pytest.mark.parametrize("speed", ["Fast", "Critical"])
def test_a_burn_that_is_only_a_ticket_silences_no_page(
    alertmanager: Callable[[str], AlertmanagerServer], labels: Callable[..., dict[str, str]], speed: str
) -> None:
    """With few labels a condition of the class page is a ticket."""
    server = alertmanager(config("http://127.0.0.1:9"))
    server.fire(
        [
            {**burn(labels, "task-accuracy", "accuracy", speed), "severity": "ticket"},
            burn(labels, "task-accuracy", "accuracy", "Slow"),
        ]
    )
    wanted = {f"MlmonErrorBudgetBurn{speed}": True, "MlmonErrorBudgetBurnSlow": False}
    wait_for(lambda: server.muted() == wanted)


def test_every_channel_says_service_and_cause(
    tmp_path: Path,
    notifications: Notifications,
    alertmanager: Callable[[str], AlertmanagerServer],
    labels: Callable[..., dict[str, str]],
) -> None:
    """The templates of all channels work, and the secrets come from their files."""
    secrets = {
        "pagerduty": "routing-key",
        "opsgenie": "api-key",
        "slack": f"{notifications.url}/slack",
        "token": "t0ken",
    }
    for name, secret in secrets.items():
        (tmp_path / name).write_text(secret)
    everything = Receiver(
        pagerduty=(PagerDuty(str(tmp_path / "pagerduty"), f"{notifications.url}/pagerduty"),),
        opsgenie=(Opsgenie(str(tmp_path / "opsgenie"), f"{notifications.url}/opsgenie/"),),
        slack=(Slack(str(tmp_path / "slack"), "#ml-oncall"),),
        webhook=(Webhook(f"{notifications.url}/hook", str(tmp_path / "token")),),
    )
    nobody = Receiver()
    server = alertmanager(
        render_alertmanager(NotifyConfig(everything, nobody, nobody, group_wait_seconds=WAIT))
    )
    notes = {"summary": "Unknown tokens jumped", "runbook_url": "https://runbooks.example/x.md"}
    notes["explorer_url"] = "http://explorer.example/incident?service=checkout"
    server.fire([labels("MlmonUnknownTokenJump", root_cause="tokenizer")], notes)
    paths = ("/pagerduty", "/opsgenie/v2/alerts", "/slack", "/hook")
    wait_for(lambda: all(notifications.at(path) for path in paths))
    pagerduty, opsgenie, slack, hook = (notifications.at(path)[0] for path in paths)
    title = "checkout: tokenizer (1 firing): Unknown tokens jumped"
    assert pagerduty.body["routing_key"] == "routing-key"
    assert pagerduty.body["payload"]["summary"] == title
    assert pagerduty.body["payload"]["severity"] == "critical"
    assert "Runbook: https://runbooks.example/x.md" in pagerduty.body["payload"]["custom_details"]["alerts"]
    began = hook.body["alerts"][0]["startsAt"][:19]
    assert f"Explorer: {notes['explorer_url']}&at={began}Z\n" in opsgenie.body["description"]
    assert opsgenie.headers["Authorization"] == "GenieKey api-key"
    assert (opsgenie.body["message"], opsgenie.body["priority"]) == (title, "P1")
    (attachment,) = slack.body["attachments"]
    assert attachment["title"] == "[firing] checkout: tokenizer (1 firing)"
    assert (slack.body["channel"], attachment["color"]) == ("#ml-oncall", "danger")
    assert hook.headers["Authorization"] == "Bearer t0ken"
    assert hook.firing == ["MlmonUnknownTokenJump"]
