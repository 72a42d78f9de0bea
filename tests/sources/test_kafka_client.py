# ruff: noqa: S105, S106 - names of variables and passwords of a broker that lives as long as a test
"""From configuration to a connection: TLS, SASL, secrets."""

from __future__ import annotations

import msgspec
import pytest
from kafka import KafkaAdminClient
from kafka.admin import UserScramCredentialUpsertion
from kafka.errors import KafkaError

from mlmon.errors import ConfigError
from mlmon.kafka_client import KafkaConnection, client_settings, open_client, partition_number, reason


def test_plain_needs_nothing():
    settings = client_settings(KafkaConnection(bootstrap_servers=("a:1", "b:2"), connect_timeout_seconds=0.5))
    assert settings["bootstrap_servers"] == ["a:1", "b:2"]
    assert settings["security_protocol"] == "PLAINTEXT"
    assert settings["bootstrap_timeout_ms"] == 500
    assert not [key for key in settings if key.startswith(("ssl", "sasl"))]


@pytest.mark.parametrize(
    ("tls", "login", "protocol"),
    [(True, False, "SSL"), (False, True, "SASL_PLAINTEXT"), (True, True, "SASL_SSL")],
)
def test_protocols(tls, login, protocol, monkeypatch):
    monkeypatch.setenv("A_PASSWORD", "hush")
    user = (
        {"sasl_mechanism": "PLAIN", "sasl_username": "me", "sasl_password_env": "A_PASSWORD"} if login else {}
    )
    assert client_settings(KafkaConnection(tls=tls, **user))["security_protocol"] == protocol


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_passwords_come_from_file_or_environment(mechanism, tmp_path, monkeypatch):
    file = tmp_path / "password"
    file.write_text("hush\n")
    user = {"sasl_mechanism": mechanism, "sasl_username": "me"}
    settings = client_settings(KafkaConnection(**user, sasl_password_file=str(file)))
    assert settings["sasl_mechanism"] == mechanism
    assert (settings["sasl_plain_username"], settings["sasl_plain_password"]) == ("me", "hush")
    monkeypatch.setenv("A_PASSWORD", "hush hush")
    settings = client_settings(KafkaConnection(**user, sasl_password_env="A_PASSWORD"))
    assert settings["sasl_plain_password"] == "hush hush"


def test_a_token_is_read_at_every_login(tmp_path):
    file = tmp_path / "token"
    file.write_text("one")
    provider = client_settings(KafkaConnection(sasl_mechanism="OAUTHBEARER", sasl_token_file=str(file)))[
        "sasl_oauth_token_provider"
    ]
    assert provider.token() == "one"
    file.write_text("two\n")
    assert provider.token() == "two"
    assert provider.extensions() == {}


def test_tls_files(tmp_path, monkeypatch):
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("pem")
    monkeypatch.setenv("KEY_PASSWORD", "hush")
    settings = client_settings(
        KafkaConnection(
            tls=True,
            tls_ca_file=str(tmp_path / "ca"),
            tls_cert_file=str(tmp_path / "cert"),
            tls_key_file=str(tmp_path / "key"),
            tls_key_password_env="KEY_PASSWORD",
            tls_verify_hostname=False,
        )
    )
    assert settings["ssl_cafile"] == str(tmp_path / "ca")
    assert settings["ssl_certfile"] == str(tmp_path / "cert")
    assert settings["ssl_keyfile"] == str(tmp_path / "key")
    assert settings["ssl_password"] == "hush"
    assert settings["ssl_check_hostname"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sasl_mechanism": "PLAIN"}, "needs sasl_username"),
        ({"sasl_mechanism": "PLAIN", "sasl_username": "me"}, "sasl_password_env"),
        ({"sasl_mechanism": "OAUTHBEARER"}, "sasl_token_env"),
        ({"sasl_username": "me"}, "sasl_mechanism is not"),
        ({"sasl_password_env": "A", "sasl_password_file": "b"}, "both set"),
        ({"tls_ca_file": "ca.pem"}, "tls is false"),
        ({"tls": True, "tls_cert_file": "cert.pem"}, "go together"),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(settings, KafkaConnection)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sasl_password_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE.*not set"),
        ({"sasl_password_file": "/nowhere/password"}, "/nowhere/password.*cannot be read"),
    ],
)
def test_missing_secrets_are_named(settings, message):
    connection = KafkaConnection(sasl_mechanism="PLAIN", sasl_username="me", **settings)
    with pytest.raises(ConfigError, match=message):
        client_settings(connection)
    with pytest.raises(ConfigError, match=r"tls_ca_file.*not a file"):
        client_settings(KafkaConnection(tls=True, tls_ca_file="/nowhere/ca.pem"))


def test_an_empty_secret_is_none(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        client_settings(
            KafkaConnection(sasl_mechanism="OAUTHBEARER", sasl_token_file=str(tmp_path / "empty"))
        )


@pytest.mark.parametrize("name", ["events", "events-", "-1", "events-x"])
def test_partition_names(name):
    with pytest.raises(ValueError, match="expected a Kafka partition"):
        partition_number(name)
    assert partition_number("a-b-12") == ("a-b", 12)


def test_reasons_are_one_line():
    assert reason(KafkaError("a\nb")) == "KafkaError: a"
    assert reason(ValueError()) == "ValueError"


# Against the broker


def topics(connection):
    admin = open_client(KafkaAdminClient, client_settings(connection))
    try:
        return admin.list_topics()
    finally:
        admin.close()


@pytest.mark.kafka
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_logging_in(kafka_broker, mechanism, monkeypatch):
    if kafka_broker.sasl_bootstrap is None:
        pytest.skip("this broker has no SASL listener")
    admin = kafka_broker.admin()
    admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion("alice", "SCRAM-SHA-256", "alice-secret")]
    )
    admin.close()
    monkeypatch.setenv("ALICE", "alice-secret")
    connection = KafkaConnection(
        bootstrap_servers=(kafka_broker.sasl_bootstrap,),
        sasl_mechanism=mechanism,
        sasl_username="alice",
        sasl_password_env="ALICE",
        connect_timeout_seconds=5,
    )
    assert isinstance(topics(connection), list)
    monkeypatch.setenv("ALICE", "wrong")
    with pytest.raises(KafkaError) as caught:
        topics(msgspec.structs.replace(connection, connect_timeout_seconds=1))
    assert "wrong" not in str(caught.value)


@pytest.mark.kafka
def test_encrypted(kafka_broker):
    if kafka_broker.tls_bootstrap is None:
        pytest.skip("this broker has no TLS listener")
    connection = KafkaConnection(
        bootstrap_servers=(kafka_broker.tls_bootstrap,),
        tls=True,
        tls_ca_file=str(kafka_broker.cafile),
        connect_timeout_seconds=5,
    )
    assert isinstance(topics(connection), list)
    with pytest.raises(KafkaError):  # signed by nobody the machine knows
        topics(msgspec.structs.replace(connection, tls_ca_file=None, connect_timeout_seconds=1))
