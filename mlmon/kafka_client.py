"""How mlmon reaches Kafka: addresses, TLS and SASL, for source, checkpoint and the emitter's sink alike.

Secrets are named in the configuration, never written there: each is read from an environment variable or a
file at the moment a client is opened, and appears in no message. Clients are opened through `open_client`,
which frees what kafka-python 3.0 leaves behind (a thread and its sockets) when no broker answers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from kafka.net.compat import KafkaNetClient
from kafka.net.sasl.oauth import AbstractTokenProvider

from mlmon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "KafkaConnection",
    "client_settings",
    "open_client",
    "partition_name",
    "partition_number",
    "reason",
]

T = TypeVar("T")

SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class KafkaConnection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to reach and convince a Kafka cluster; every Kafka component's configuration begins with these."""

    bootstrap_servers: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            min_length=1, description="host:port of brokers to begin with; two or three are enough."
        ),
    ] = ("127.0.0.1:9092",)
    client_id: Annotated[
        str, msgspec.Meta(min_length=1, description="Name shown in the brokers' logs and quotas.")
    ] = "mlmon"
    tls: Annotated[bool, msgspec.Meta(description="Encrypt, and check who the broker is.")] = False
    tls_ca_file: Annotated[
        str | None,
        msgspec.Meta(
            description="PEM file of the authority that signed the brokers' certificates; none: the "
            "machine's own list."
        ),
    ] = None
    tls_cert_file: Annotated[
        str | None, msgspec.Meta(description="PEM file of the client's own certificate, for mutual TLS.")
    ] = None
    tls_key_file: Annotated[
        str | None, msgspec.Meta(description="PEM file of the client certificate's private key.")
    ] = None
    tls_key_password_env: Annotated[
        str | None, msgspec.Meta(description="Environment variable that holds the private key's password.")
    ] = None
    tls_key_password_file: Annotated[
        str | None, msgspec.Meta(description="File that holds the private key's password.")
    ] = None
    tls_verify_hostname: Annotated[
        bool, msgspec.Meta(description="Whether a broker's certificate must name the host it is reached at.")
    ] = True
    sasl_mechanism: Annotated[
        SaslMechanism | None, msgspec.Meta(description="How to log in; none: no login.")
    ] = None
    sasl_username: Annotated[str | None, msgspec.Meta(description="User for PLAIN and SCRAM.")] = None
    sasl_password_env: Annotated[
        str | None,
        msgspec.Meta(description="Environment variable that holds the password for PLAIN and SCRAM."),
    ] = None
    sasl_password_file: Annotated[
        str | None, msgspec.Meta(description="File that holds the password for PLAIN and SCRAM.")
    ] = None
    sasl_token_env: Annotated[
        str | None, msgspec.Meta(description="Environment variable that holds the token for OAUTHBEARER.")
    ] = None
    sasl_token_file: Annotated[
        str | None,
        msgspec.Meta(
            description="File that holds the token for OAUTHBEARER; read at every login, so another "
            "process may renew it."
        ),
    ] = None
    connect_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=300,
            description="How long to wait for the first broker to answer before the "
            "attempt fails and is repeated.",
        ),
    ] = 10.0
    request_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=1,
            le=300,
            description="How long to wait for the answer to a request. Raising it rides "
            "out slower brokers, and notices dead ones later.",
        ),
    ] = 15.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for what, env, file in (
            ("tls_key_password", self.tls_key_password_env, self.tls_key_password_file),
            ("sasl_password", self.sasl_password_env, self.sasl_password_file),
            ("sasl_token", self.sasl_token_env, self.sasl_token_file),
        ):
            if env and file:
                raise ValueError(f"{what}_env and {what}_file are both set: keep one")
        if not self.tls and (self.tls_ca_file or self.tls_cert_file or self.tls_key_file):
            raise ValueError(
                "tls_ca_file, tls_cert_file or tls_key_file is set, but tls is false: set tls = true"
            )
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise ValueError("tls_cert_file and tls_key_file go together: set both or neither")
        self._check_login()

    def _check_login(self) -> None:
        token = self.sasl_token_env or self.sasl_token_file
        password = self.sasl_password_env or self.sasl_password_file
        if self.sasl_mechanism is None:
            if token or password or self.sasl_username:
                raise ValueError("a SASL user, password or token is set, but sasl_mechanism is not: set it")
        elif self.sasl_mechanism == "OAUTHBEARER":
            if not token:
                raise ValueError("sasl_mechanism OAUTHBEARER needs sasl_token_env or sasl_token_file")
        elif not (self.sasl_username and password):
            raise ValueError(
                f"sasl_mechanism {self.sasl_mechanism} needs sasl_username, and sasl_password_env or "
                "sasl_password_file"
            )


def client_settings(connection: KafkaConnection) -> dict[str, Any]:
    """kafka-python's keyword arguments for this connection, secrets read now.

    Raises:
        ConfigError: a secret or a file that the configuration names is not there.
    """
    encrypted, login = connection.tls, connection.sasl_mechanism is not None
    settings: dict[str, Any] = {
        "bootstrap_servers": list(connection.bootstrap_servers),
        "client_id": connection.client_id,
        "security_protocol": ("SASL_" if login else "") + ("SSL" if encrypted else "PLAINTEXT"),
        "bootstrap_timeout_ms": _ms(connection.connect_timeout_seconds),
        "request_timeout_ms": _ms(connection.request_timeout_seconds),
        "reconnect_backoff_max_ms": 2_000,
    }
    if not encrypted and not login:
        return settings
    if login:
        settings |= _login(connection)
    if encrypted:
        settings |= {
            "ssl_check_hostname": connection.tls_verify_hostname,
            "ssl_cafile": _existing("tls_ca_file", connection.tls_ca_file),
            "ssl_certfile": _existing("tls_cert_file", connection.tls_cert_file),
            "ssl_keyfile": _existing("tls_key_file", connection.tls_key_file),
            "ssl_password": _secret(
                "tls_key_password", connection.tls_key_password_env, connection.tls_key_password_file
            ),
        }
    return settings


def _login(connection: KafkaConnection) -> dict[str, Any]:
    if connection.sasl_mechanism == "OAUTHBEARER":
        provider = _Token(connection.sasl_token_env, connection.sasl_token_file)
        provider.token()  # a missing token is said now, by name, and not in a client's thread
        return {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": provider}
    return {
        "sasl_mechanism": connection.sasl_mechanism,
        "sasl_plain_username": connection.sasl_username,
        "sasl_plain_password": _secret(
            "sasl_password", connection.sasl_password_env, connection.sasl_password_file
        ),
    }


class _Token(AbstractTokenProvider):  # type: ignore[misc]  # the library has no types
    """The token as it stands in its file or variable when a connection logs in."""

    def __init__(self, env: str | None, file: str | None) -> None:
        super().__init__()
        self._env, self._file = env, file

    def token(self) -> str:
        return _secret("sasl_token", self._env, self._file) or ""


def _secret(what: str, env: str | None, file: str | None) -> str | None:
    if env:
        value = os.environ.get(env, "")
        if not value:
            raise ConfigError(f"{what}_env = {env!r}: that environment variable is not set; set it")
        return value
    if file:
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{what}_file = {file!r} cannot be read ({error}); correct path or rights"
            ) from None
        if not value:
            raise ConfigError(f"{what}_file = {file!r} is empty; write the secret into it")
        return value
    return None


def _existing(what: str, path: str | None) -> str | None:
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"{what} = {path!r} is not a file; correct the path")
    return path


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def open_client(kind: Callable[..., T], settings: dict[str, Any]) -> T:
    """A kafka-python client of this kind, or nothing at all.

    Why not the constructor alone: when no broker answers it raises, but its I/O thread lives on, one more for
    every attempt.

    Raises:
        KafkaError: no broker answered, or none that lets us in.
    """
    nets: list[Any] = []

    def remember(**configs: Any) -> Any:
        nets.append(KafkaNetClient(**configs))
        return nets[-1]

    try:
        return kind(kafka_client=remember, **settings)
    except BaseException:
        for net in nets:
            net.close()
        raise


def reason(error: BaseException) -> str:
    """An error in one line: kafka-python's own often have no text."""
    text = str(error).strip().splitlines()[0][:500] if str(error).strip() else ""
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name


def partition_name(topic: str, number: int) -> str:
    """What mlmon calls a partition.

    Example:
        >>> partition_name("mlmon.events", 3), partition_number("mlmon.events-3")
        ('mlmon.events-3', ('mlmon.events', 3))
    """
    return f"{topic}-{number}"


def partition_number(name: str) -> tuple[str, int]:
    """Topic and number of a partition's name.

    Raises:
        ValueError: not such a name.
    """
    topic, _, number = name.rpartition("-")
    if not topic or not number.isdigit():
        raise ValueError(f"expected a Kafka partition such as mlmon.events-3, got {name!r}")
    return topic, int(number)
