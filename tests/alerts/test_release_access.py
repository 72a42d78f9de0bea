"""How Alertmanager lets `mlmon release` in: name and password over TLS, tokens, and what stays secret."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from alertmanager_kit import Gate
from click.testing import CliRunner

from mlmon.cli import cli
from mlmon.errors import ConfigError, RemoteError
from mlmon.slo.alertmanager import NotifyConfig, render_alertmanager
from mlmon.slo.alertmanager_receivers import Receiver
from mlmon.slo.release import Alertmanager, start, stop
from mlmon.slo.release_access import (
    PASSWORD_VARIABLE,
    TOKEN_VARIABLE,
    USER_VARIABLE,
    Credentials,
    SecretFiles,
    read_credentials,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from alertmanager_kit import AlertmanagerServer, Notifications

CONFIG = render_alertmanager(NotifyConfig(Receiver(), Receiver(), Receiver()))
PASSWORD = "a pass: wörd"  # noqa: S105 - of these tests
#: The password's bcrypt hash, which is what Alertmanager wants to know of it.
HASH = "$2b$04$abcdefghijklmnopqrstuuuCzJIEPQTjH4TS3dPWp/z3vNg0xeUzW"
TOKEN = "tok-en_1"  # noqa: S105 - of these tests


@pytest.fixture(autouse=True)
def _no_secrets_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (TOKEN_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def guarded(tmp_path: Path, alertmanager: Callable[..., AlertmanagerServer]) -> tuple[str, str]:
    """Address and certificate of an Alertmanager that speaks TLS and asks for a password."""
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -keyout key.pem -out cert.pem "
        "-addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    certificate = tmp_path / "cert.pem"
    tls = {"cert_file": str(certificate), "key_file": str(tmp_path / "key.pem")}
    # JSON is YAML
    web = json.dumps({"tls_server_config": tls, "basic_auth_users": {"ann": HASH}})
    return alertmanager(CONFIG, web).url, str(certificate)


def mlmon(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["release", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_password_over_tls(
    tmp_path: Path, guarded: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file to begin, from the environment to end."""
    url, certificate = guarded
    (tmp_path / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    common = ("--service", "checkout", "--alertmanager", url, "--ca-file", certificate)
    named = ("--alertmanager-user", "ann", "--alertmanager-password-file", str(tmp_path / "password"))
    assert "silent until" in mlmon("start", *common, *named)
    monkeypatch.setenv(USER_VARIABLE, "ann")
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    assert "told again" in mlmon("stop", *common)


def test_without_the_password_or_the_certificate_nothing_happens(guarded: tuple[str, str]) -> None:
    url, certificate = guarded
    with pytest.raises(RemoteError, match=r"certificate is not trusted.*--ca-file"):
        start(Alertmanager(url), "checkout", 60, "", datetime.now(UTC))
    wrong = Credentials(basic("ann", "other"), certificate)
    for credentials in (Credentials(ca_file=certificate), wrong):
        with pytest.raises(RemoteError, match=f"{USER_VARIABLE} and {PASSWORD_VARIABLE}") as error:
            start(Alertmanager(url, credentials), "checkout", 60, "", datetime.now(UTC))
        assert "other" not in str(error.value).replace("others", "")
    right = Alertmanager(url, Credentials(basic("ann", PASSWORD), certificate))
    assert stop(right, "checkout") == []


def test_a_token_for_a_proxy(
    tmp_path: Path, alertmanager: Callable[..., AlertmanagerServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call carries it: finding, setting, reading back, expiring."""
    (tmp_path / "token").write_text(f"{TOKEN}\n", encoding="utf-8")
    with Gate(alertmanager(CONFIG).url, TOKEN) as gate:
        common = ("--service", "checkout", "--alertmanager", gate.url)
        with pytest.raises(RemoteError, match=TOKEN_VARIABLE):
            mlmon("start", *common)
        assert "silent until" in mlmon("start", *common, "--alertmanager-token-file", str(tmp_path / "token"))
        monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
        assert "told again" in mlmon("stop", *common)


def test_redirects_are_not_followed_with_a_secret(notifications: Notifications) -> None:
    with Gate(notifications.url, TOKEN, redirect=True) as gate, pytest.raises(RemoteError, match="redirect"):
        start(Alertmanager(gate.url, Credentials(f"Bearer {TOKEN}")), "checkout", 60, "", datetime.now(UTC))


@pytest.mark.parametrize("url", ["http://alertmanager.example:9093", "http://10.0.0.1"])
def test_secrets_are_not_sent_in_plain_text_to_another_machine(url: str) -> None:
    Alertmanager(url)
    with pytest.raises(ConfigError, match=r"unencrypted.*--allow-plain-http") as error:
        Alertmanager(url, Credentials(f"Bearer {TOKEN}"))
    assert TOKEN not in str(error.value)
    Alertmanager(url, Credentials(f"Bearer {TOKEN}", plain_http=True))
    for here in ("http://127.0.0.1:9", "http://[::1]", "http://localhost", "https://alertmanager.example"):
        Alertmanager(here, Credentials(f"Bearer {TOKEN}"))


def test_where_secrets_come_from(tmp_path: Path) -> None:
    """Options go before the environment, and the end of a file's line is no part of a secret."""
    file = tmp_path / "secret"
    file.write_text(f"{PASSWORD}\r\n", encoding="utf-8")
    known = {USER_VARIABLE: "bob", PASSWORD_VARIABLE: "other"}
    files = SecretFiles(user="ann", password_file=str(file))
    assert read_credentials(files, environ=known).authorization == basic("ann", PASSWORD)
    assert read_credentials(SecretFiles(), environ=known).authorization == basic("bob", "other")
    assert read_credentials(SecretFiles(), environ={TOKEN_VARIABLE: TOKEN}).authorization == f"Bearer {TOKEN}"
    assert read_credentials(SecretFiles(), environ={}) == Credentials()
    assert PASSWORD not in repr(read_credentials(files, environ={}))


@pytest.mark.parametrize(
    ("files", "known", "message"),
    [
        ({"user": "ann"}, {}, "got only a name"),
        ({}, {PASSWORD_VARIABLE: "hidden"}, "got only a password"),
        ({}, {TOKEN_VARIABLE: "hidden", USER_VARIABLE: "ann", PASSWORD_VARIABLE: "hidden"}, "got both"),
        ({}, {TOKEN_VARIABLE: "hid den"}, "printable ASCII"),
        ({}, {TOKEN_VARIABLE: "hidden\r\nX-Admin: 1"}, "printable ASCII"),
        ({"user": "ann:hidden"}, {PASSWORD_VARIABLE: "hidden"}, "without a colon"),
        ({"user": "ann"}, {PASSWORD_VARIABLE: "hidden\nx"}, "in one line"),
        ({"token_file": "/nonexistent/hidden.txt"}, {}, "expected a readable file"),
        ({"token_file": "/dev/null"}, {}, "expected a secret, got an empty file"),
    ],
)
def test_secrets_that_cannot_be(files: dict[str, Any], known: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read_credentials(SecretFiles(**files), environ=known)
    assert "hidden" not in str(error.value).replace("hidden.txt", "")


def test_certificates_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file with certificates"):
        Credentials(ca_file=str(tmp_path / "none"))
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(ConfigError, match="in PEM"):
        Alertmanager("https://127.0.0.1:9", Credentials(ca_file=str(tmp_path / "text")))
