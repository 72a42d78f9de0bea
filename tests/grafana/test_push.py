"""`mlmon grafana` against a server that records and validates what grafana-client sends it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from fake_grafana import TOKEN, FakeGrafana

from mlmon.cli import cli, exit_code
from mlmon.errors import ConfigError, MlmonError, RemoteError
from mlmon.grafana import render_dashboards
from mlmon.grafana.client import TOKEN_VARIABLE, Access, connect, read_token
from mlmon.grafana.sync import differences, read_boards, read_points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

UIDS = ["mlmon-executive", "mlmon-oncall", "mlmon-debug", "mlmon-drift"]
POINTS = """
- uid: mlmon-page
  name: on call
  type: webhook
  disableResolveMessage: false
  settings: {url: {file: url}, httpMethod: POST}
"""


@pytest.fixture
def server() -> Iterator[FakeGrafana]:
    with FakeGrafana() as server:
        yield server


def run(server: FakeGrafana | str, *arguments: str, token: str | None = TOKEN) -> Result:
    url = server if isinstance(server, str) else server.url
    command = ["grafana", arguments[0], "--url", url, *arguments[1:]]
    result = CliRunner().invoke(cli, command, env={TOKEN_VARIABLE: token}, standalone_mode=False)
    for text in (result.output, repr(result.exception)):
        assert TOKEN not in text
    return result


def done(result: Result) -> list[str]:
    """(lines said); the command must not have failed."""
    if result.exception is not None:
        raise result.exception
    return result.output.splitlines()


def test_a_push_makes_folder_and_dashboards_and_a_second_one_nothing(server: FakeGrafana) -> None:
    said = done(run(server, "push"))
    assert said == ["create  folder mlmon", *(f"create  dashboard {uid}" for uid in UIDS)]
    assert list(server.boards) == UIDS
    assert server.writes == [("POST", "/api/folders"), *[("POST", "/api/dashboards/db")] * 4]
    for board in read_boards(render_dashboards()):
        stored = server.boards[board["uid"]]["dashboard"]
        assert {key: stored[key] for key in board} == board
        assert server.boards[board["uid"]]["meta"]["folderUid"] == "mlmon"
    server.requests.clear()
    said = done(run(server, "push"))
    assert {line.split()[0] for line in said} == {"keep"}
    assert server.writes == []


def test_a_diff_says_where_and_changes_nothing(server: FakeGrafana) -> None:
    first = run(server, "diff")
    assert first.return_value == 1
    assert server.writes == []
    done(run(server, "push"))
    assert run(server, "diff").return_value == 0
    board = server.boards["mlmon-oncall"]["dashboard"]
    panel = next(panel for panel in board["panels"] if panel["type"] != "row")
    panel["description"] = "changed by hand"
    server.boards["mlmon-drift"]["meta"]["folderUid"] = "elsewhere"
    server.requests.clear()
    changed = run(server, "diff")
    assert changed.return_value == 1
    assert f"update  dashboard mlmon-oncall: panels[{panel['title']}].description" in changed.output
    assert "update  dashboard mlmon-drift: its folder" in changed.output
    assert server.writes == []
    said = done(run(server, "push"))
    assert [line.split()[0] for line in said].count("update") == 2
    assert run(server, "diff").return_value == 0


def test_a_dry_run_changes_nothing(server: FakeGrafana) -> None:
    assert done(run(server, "push", "--dry-run"))[0] == "create  folder mlmon"
    assert server.writes == []


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(server: FakeGrafana) -> None:
    done(run(server, "push"))
    board = server.boards["mlmon-drift"]["dashboard"]
    board["title"] = "mine"
    answer = server.answer

    def later(method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        if method == "POST":
            board["version"] += 1
        return answer(method, target, headers, body)

    server.answer = later  # type: ignore[method-assign]
    with pytest.raises(RemoteError, match="somebody changed it meanwhile"):
        done(run(server, "push"))
    assert board["title"] == "mine"


def test_a_provisioned_dashboard_is_left_alone(server: FakeGrafana) -> None:
    done(run(server, "push"))
    server.boards["mlmon-debug"]["meta"]["provisioned"] = True
    assert done(run(server, "push"))[3] == "keep    dashboard mlmon-debug"
    server.boards["mlmon-debug"]["dashboard"]["title"] = "other"
    server.requests.clear()
    result = run(server, "push")
    assert result.return_value == 1
    assert "blocked dashboard mlmon-debug: provisioned from a file there" in result.output
    assert server.writes == []


def test_contact_points_keep_their_secrets_and_are_pushed_once(server: FakeGrafana, tmp_path: Path) -> None:
    path = tmp_path / "points.yaml"
    path.write_text(POINTS)
    (tmp_path / "url").write_text("https://hooks.example/s3cr3t\n")
    arguments = ("push", "--contact-points", str(path))
    result = run(server, *arguments)
    assert done(result)[-1] == "create  contact point on call (webhook)"
    assert "s3cr3t" not in result.output
    assert server.points["mlmon-page"]["settings"]["url"] == "https://hooks.example/s3cr3t"
    server.requests.clear()
    assert done(run(server, *arguments))[-1] == "keep    contact point on call (webhook)"
    assert server.writes == []
    path.write_text(POINTS.replace("POST", "PUT"))
    assert done(run(server, *arguments))[-1] == "update  contact point on call (webhook): settings.httpMethod"
    assert server.points["mlmon-page"]["settings"]["httpMethod"] == "PUT"
    assert server.writes == [("PUT", "/api/v1/provisioning/contact-points/mlmon-page")]


def test_an_annotation_is_made_once_and_ended(server: FakeGrafana) -> None:
    arguments = ("annotate", "release 7", "--tag", "release", "--tag", "service:a&b", "--start", "1000")
    assert done(run(server, *arguments)) == ["annotation 1"]
    assert done(run(server, *arguments)) == ["annotation 1"]
    assert server.annotations[0]["tags"] == ["mlmon", "release", "service:a&b"]
    assert server.writes == [("POST", "/api/annotations")]
    assert done(run(server, *arguments, "--end", "5000")) == ["annotation 1"]
    assert server.annotations[0]["timeEnd"] == 5000
    assert done(run(server, *arguments, "--end", "5000")) == ["annotation 1"]
    assert server.writes == [("POST", "/api/annotations"), ("PUT", "/api/annotations/1")]
    assert done(run(server, "annotate", "another", "--tag", "release", "--start", "1000")) == ["annotation 2"]


def test_a_pull_brings_back_what_was_pushed(server: FakeGrafana, tmp_path: Path) -> None:
    missing = run(server, "pull", str(tmp_path))
    assert missing.return_value == 1
    assert not list(tmp_path.iterdir())
    done(run(server, "push"))
    assert run(server, "pull", str(tmp_path)).return_value == 0
    for path, text in render_dashboards().items():
        assert (tmp_path / Path(path).name).read_text(encoding="utf-8") == text
    assert {line.split()[0] for line in done(run(server, "pull", str(tmp_path)))} == {"unchanged"}
    with FakeGrafana() as other:
        done(run(other, "push", "--dashboards", str(tmp_path)))
        assert set(other.boards) == set(UIDS)


def test_the_token_is_in_no_log(server: FakeGrafana, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        done(run(server, "push"))
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(Access(server.url, TOKEN))


def test_a_wrong_token_is_said(server: FakeGrafana) -> None:
    with pytest.raises(RemoteError, match="the token is not known there") as caught:
        done(run(server, "push", token=TOKEN[::-1]))
    assert exit_code(caught.value) == 3
    assert server.requests == []


def test_what_is_refused_is_an_error_and_not_an_absence(server: FakeGrafana) -> None:
    answer = server.answer
    server.answer = lambda method, *rest: (  # type: ignore[method-assign]
        (404, {"message": "no such call"}) if method == "POST" else answer(method, *rest)
    )
    with pytest.raises(RemoteError, match="cannot make folder"):
        done(run(server, "push"))


def test_a_redirect_is_not_followed(server: FakeGrafana) -> None:
    message = "redirect, which is not followed"
    with FakeGrafana(redirect=server.url) as front, pytest.raises(RemoteError, match=message):
        done(run(front, "push"))
    assert server.requests == []


def test_nobody_there_is_said() -> None:
    with FakeGrafana() as gone:
        url = gone.url
    with pytest.raises(RemoteError, match="cannot look"):
        done(run(url, "push"))


def test_a_local_grafana_is_not_asked_through_a_proxy(server: FakeGrafana) -> None:
    """In a process of its own: the HTTP library looks at the environment once."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    with FakeGrafana() as proxy:
        names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
        environment = kept | dict.fromkeys(names, proxy.url) | {TOKEN_VARIABLE: TOKEN}
        command = [sys.executable, "-m", "mlmon.cli", "grafana", "push", "--url", server.url]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        assert proxy.requests == []
    assert len(server.boards) == 4


def test_tls_is_checked(tmp_path: Path) -> None:
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    )
    pem, both = tmp_path / "ca.pem", tmp_path / "both.pem"
    keys = ["-keyout", str(tmp_path / "key"), "-out", str(pem)]
    subprocess.run([*command.split(), *keys], check=True, capture_output=True)
    both.write_text(pem.read_text() + (tmp_path / "key").read_text())
    with FakeGrafana(certificate=both) as server:
        with pytest.raises(RemoteError, match=r"(?i)certificate"):
            done(run(server, "push"))
        assert server.requests == []
        done(run(server, "push", "--ca-file", str(pem)))
        assert len(server.boards) == 4


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://grafana.example", "unencrypted"),
        ("http://127.0.0.1.example", "unencrypted"),
        ("https://user:secret@grafana.example", "holds a name or password"),
        ("ftp://grafana.example", "expected an address"),
        ("https://grafana.example?verify=false", "expected an address"),
        ("grafana.example", "expected an address"),
    ],
)
def test_addresses_that_would_give_the_token_away_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Access(url, TOKEN)
    assert "secret" not in str(caught.value)


def test_plain_http_is_allowed_to_this_machine_or_on_request() -> None:
    for url in ("http://localhost:3000", "http://127.0.0.1", "http://[::1]:3000"):
        assert Access(url, TOKEN).local
    assert not Access("http://grafana:3000", TOKEN, plain_http=True).local


def test_an_address_may_have_a_path_and_version_6() -> None:
    server = connect(Access("https://[::1]:8443/grafana/", TOKEN))
    assert server._api.client.url == "https://[::1]:8443/grafana/api"
    server.close()


def test_tokens_come_from_file_or_environment(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(str(path), {TOKEN_VARIABLE: "other"}) == TOKEN
    assert read_token(None, {TOKEN_VARIABLE: TOKEN}) == TOKEN
    for wrong in ("", "two words", "é"):
        with pytest.raises(ConfigError, match="expected"):
            read_token(None, {TOKEN_VARIABLE: wrong})
    with pytest.raises(ConfigError, match="readable file"):
        read_token(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON of a dashboard"),
        ("[]", "uid, title and panels"),
        ('{"uid": "x", "title": "y"}', "uid, title and panels"),
    ],
)
def test_files_that_are_no_dashboards_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_boards({"a.json": text})


def test_two_dashboards_of_one_uid_are_refused() -> None:
    text = json.dumps({"uid": "x", "title": "y", "panels": []})
    with pytest.raises(ConfigError, match="another file"):
        read_boards({"a.json": text, "b.json": text})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "YAML"),
        ("a: 1", "a list"),
        ("- {uid: x}", "uid, name, type, settings"),
        ("- {uid: x, name: y, type: z, settings: 3}", "as a mapping"),
        ("- {uid: x, name: y, type: z, settings: {url: {file: none}}}", "with a secret"),
    ],
)
def test_contact_points_that_are_none_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "points.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_points(path)


@pytest.mark.parametrize("uid", ["../admin/settings", "x/../../admin/settings", "x" * 41, ""])
def test_uids_that_would_be_another_path_are_refused(server: FakeGrafana, uid: str) -> None:
    with pytest.raises(MlmonError, match="uid"):
        done(run(server, "pull", "out", "--uid", uid))
    assert server.requests == []


def test_differences_tell_types_apart() -> None:
    assert list(differences({"a": True}, {"a": 1})) == ["a"]
    assert list(differences({"a": [1, 2]}, {"a": [1]})) == ["a"]
    assert list(differences({"a": 1.0}, {"a": 1})) == []
