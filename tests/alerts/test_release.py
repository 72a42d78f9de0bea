"""`mlmon release` against a real Alertmanager: silent while it goes on, heard afterwards."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from alertmanager_kit import wait_for
from click.testing import CliRunner
from fake_grafana import TOKEN, FakeGrafana
from prometheus_client.parser import text_string_to_metric_families

from mlmon.cli import cli
from mlmon.errors import ConfigError, RemoteError
from mlmon.grafana.frame import RELEASE_TAGS
from mlmon.slo.alertmanager import NotifyConfig, render_alertmanager
from mlmon.slo.alertmanager_receivers import Receiver, Webhook
from mlmon.slo.recording import RELEASE_ACTIVE
from mlmon.slo.release import RELEASE_END, Alertmanager, start, stop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from alertmanager_kit import AlertmanagerServer, Notifications

    Factory = Callable[[str], AlertmanagerServer]

ALERT = {"alertname": "MlmonDriftPage", "severity": "page", "root_cause": "features", "service": "checkout"}


def config(url: str) -> str:
    told = Receiver(webhook=(Webhook(f"{url}/page"),))
    return render_alertmanager(
        NotifyConfig(told, Receiver(), Receiver(), group_wait_seconds=0.2, group_interval_seconds=0.2)
    )


def mlmon(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["release", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def silences(server: AlertmanagerServer) -> list[dict[str, Any]]:
    found = json.loads(server.call("GET", "/api/v2/silences")[1])
    return [one for one in found if one["status"]["state"] == "active"]


def test_a_release_mutes_its_service_and_no_other_until_it_is_stopped(
    notifications: Notifications, alertmanager: Factory
) -> None:
    server = alertmanager(config(notifications.url))
    said = mlmon("start", "--service", "checkout", "--alertmanager", server.url, "--comment", "v2")
    assert "silent until" in said
    server.fire([ALERT, {**ALERT, "service": "search"}])
    wait_for(lambda: notifications.at("/page"))
    time.sleep(1.5)
    assert [one.body["groupLabels"]["service"] for one in notifications.at("/page")] == ["search"]
    (silence,) = silences(server)
    assert silence["comment"] == "planned release of checkout: v2"
    assert "told again" in mlmon("stop", "--service", "checkout", "--alertmanager", server.url)
    wait_for(lambda: len(notifications.at("/page")) == 2)
    assert notifications.at("/page")[1].body["groupLabels"]["service"] == "checkout"


def test_starting_again_moves_the_end(alertmanager: Factory) -> None:
    server = alertmanager(config("http://127.0.0.1:9"))
    client = Alertmanager(server.url)
    now = datetime.now(UTC)
    first = start(client, "checkout", 600, "why", now)
    second = start(client, "checkout", 1800, "another", now)
    assert (second.number, second.starts, second.comment) == (first.number, first.starts, "why")
    assert second.ends - first.ends == timedelta(seconds=1200)
    assert [one["id"] for one in silences(server)] == [first.number]
    assert [one.number for one in stop(client, "checkout")] == [first.number]
    assert silences(server) == []
    assert stop(client, "checkout") == []
    again = start(client, "checkout", 600, "later", datetime.now(UTC))
    assert again.number != first.number


def test_silences_of_others_are_left_alone(alertmanager: Factory) -> None:
    """Somebody's silence of the same service, and a release of a service whose name has quotes."""
    server = alertmanager(config("http://127.0.0.1:9"))
    client = Alertmanager(server.url)
    theirs = {
        "matchers": [{"name": "service", "value": "checkout", "isRegex": False, "isEqual": True}],
        "startsAt": datetime.now(UTC).isoformat(),
        "endsAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "createdBy": "ann",
        "comment": "noise",
    }
    assert server.call("POST", "/api/v2/silences", theirs)[0] == 200
    name = 'a "b" \\ ü'
    start(client, name, 600, "why", datetime.now(UTC))
    start(client, "checkout", 600, "why", datetime.now(UTC))
    assert len(silences(server)) == 3
    assert len(stop(client, name)) == 1
    stop(client, "checkout")
    assert [one["createdBy"] for one in silences(server)] == ["ann"]


def test_the_gauge_is_there_while_it_goes_on(tmp_path: Path, alertmanager: Factory) -> None:
    server = alertmanager(config("http://127.0.0.1:9"))
    name = 'check/out "x"'
    folder = tmp_path / "textfile"
    folder.mkdir()
    common = ("--service", name, "--alertmanager", server.url, "--textfile-dir", str(folder))
    mlmon("start", *common, "--for", "2h")
    (written,) = folder.iterdir()
    assert written.suffix == ".prom"
    families = {f.name: f.samples[0] for f in text_string_to_metric_families(written.read_text())}
    assert set(families) == {RELEASE_ACTIVE, RELEASE_END}
    assert (families[RELEASE_ACTIVE].labels, families[RELEASE_ACTIVE].value) == ({"service": name}, 1)
    assert families[RELEASE_END].value == pytest.approx(datetime.now(UTC).timestamp() + 7200, abs=120)
    mlmon("stop", *common)
    assert list(folder.iterdir()) == []


def test_grafana_is_marked_from_the_start_to_the_end(
    alertmanager: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLMON_GRAFANA_TOKEN", TOKEN)
    server = alertmanager(config("http://127.0.0.1:9"))
    with FakeGrafana() as grafana:
        common = ("--service", "checkout", "--alertmanager", server.url, "--grafana", grafana.url)
        assert "annotation" in mlmon("start", *common)
        (planned,) = (dict(one) for one in grafana.annotations)
        mlmon("stop", *common)
        (ended,) = grafana.annotations
    assert planned["text"] == ended["text"] == "planned release of checkout"
    assert set(planned["tags"]) == set(ended["tags"]) == {*RELEASE_TAGS, "service:checkout"}
    assert planned["timeEnd"] - planned["time"] == pytest.approx(1_800_000, abs=5000)
    assert planned["time"] == ended["time"] <= ended["timeEnd"] < planned["timeEnd"]


def test_without_a_token_nothing_is_silenced(alertmanager: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLMON_GRAFANA_TOKEN", raising=False)
    server = alertmanager(config("http://127.0.0.1:9"))
    with pytest.raises(ConfigError, match="token"):
        mlmon("start", "--service", "x", "--alertmanager", server.url, "--grafana", "http://127.0.0.1:9")
    assert silences(server) == []


def test_what_is_not_going_on_cannot_be_stopped(alertmanager: Factory) -> None:
    server = alertmanager(config("http://127.0.0.1:9"))
    assert "no planned release" in mlmon("stop", "--service", "x", "--alertmanager", server.url)


def test_nobody_there() -> None:
    with pytest.raises(RemoteError, match=r"does not answer.*--alertmanager"):
        mlmon("start", "--service", "x", "--alertmanager", "http://127.0.0.1:9")


def test_somebody_else_is_there(notifications: Notifications) -> None:
    with pytest.raises(RemoteError, match="expected Alertmanager's API v2, got status"):
        stop(Alertmanager(notifications.url), "x")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://u:secret@x", "http://x:99999", "http://x?a=1"])
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        Alertmanager(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(("service", "seconds"), [("", 60), ("x", 0), ("x", 86_401)])
def test_releases_that_cannot_be(service: str, seconds: int) -> None:
    with pytest.raises(ConfigError):
        start(Alertmanager("http://127.0.0.1:9"), service, seconds, "", datetime.now(UTC))


def test_a_duration_that_is_none() -> None:
    result = CliRunner().invoke(cli, ["release", "start", "--service", "x", "--for", "soon"])
    assert result.exit_code == 2
    assert "30m" in result.output
