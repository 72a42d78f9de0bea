"""How Alertmanager lets us in: a token, or a name and a password, and which certificates are trusted.

Secrets come from files or the environment, never from an option, where every process of the machine would
see them, and go into no message, log or `repr`. They are sent over TLS, or in plain text to this machine
only. Alertmanager itself knows names and passwords (`--web.config.file`); tokens are what proxies before it
ask for.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlmon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PASSWORD_VARIABLE",
    "TOKEN_VARIABLE",
    "USER_VARIABLE",
    "Credentials",
    "SecretFiles",
    "is_loopback",
    "read_credentials",
]

#: Environment variables of the secrets and of the name.
TOKEN_VARIABLE = "MLMON_ALERTMANAGER_TOKEN"  # noqa: S105 - its name
USER_VARIABLE = "MLMON_ALERTMANAGER_USER"
PASSWORD_VARIABLE = "MLMON_ALERTMANAGER_PASSWORD"  # noqa: S105 - its name


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to be let in.

    Attributes:
        authorization: the header of that name; empty: none is sent.
        ca_file: certificates to trust instead of the system's.
        plain_http: send secrets unencrypted to another machine.

    Raises:
        ConfigError: there is no such file of certificates.
    """

    authorization: str = field(default="", repr=False)
    ca_file: str | None = None
    plain_http: bool = False

    def __post_init__(self) -> None:
        if self.ca_file is not None and not Path(self.ca_file).is_file():
            raise ConfigError(f"{self.ca_file}: expected a file with certificates to trust")


@dataclass(frozen=True, slots=True)
class SecretFiles:
    """Where secrets are, before they are looked for in the environment.

    Attributes:
        token_file: a bearer token in one line.
        user: the name that belongs to the password.
        password_file: a password; the end of its last line is no part of it.
    """

    token_file: str | None = None
    user: str | None = None
    password_file: str | None = None


def read_credentials(
    files: SecretFiles,
    ca_file: str | None = None,
    *,
    plain_http: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Credentials:
    """The credentials; what no option names comes from the environment. That there are none is no error.

    Raises:
        ConfigError: a token beside a password, a name without a password or the other way round, a file that
            cannot be read or is empty, or characters that cannot be sent.
    """
    known = os.environ if environ is None else environ
    token = _secret(files.token_file, TOKEN_VARIABLE, known).strip()
    user = known.get(USER_VARIABLE, "") if files.user is None else files.user
    password = _secret(files.password_file, PASSWORD_VARIABLE, known)
    if token and (user or password):
        raise ConfigError(
            "expected a token for Alertmanager, or a name with a password; got both: leave out either "
            f"{TOKEN_VARIABLE} and --alertmanager-token-file, or {USER_VARIABLE}, {PASSWORD_VARIABLE} and "
            "their options"
        )
    if bool(user) != bool(password):
        raise ConfigError(
            f"expected a name and a password for Alertmanager, got only a {'name' if user else 'password'}: "
            f"set {USER_VARIABLE} and {PASSWORD_VARIABLE}, or give --alertmanager-user and "
            "--alertmanager-password-file"
        )
    return Credentials(_header(token, user, password), ca_file, plain_http)


def _secret(file: str | None, variable: str, environ: Mapping[str, str]) -> str:
    if file is None:
        return environ.get(variable, "")
    try:
        secret = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected a readable file with a secret: {error}") from error
    if not secret:
        raise ConfigError(f"{file}: expected a secret, got an empty file")
    return secret


def _header(token: str, user: str, password: str) -> str:
    if token:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("expected Alertmanager's token in one line of printable ASCII without blanks")
        return f"Bearer {token}"
    if not user:
        return ""
    if ":" in user or not f"{user}{password}".isprintable():
        raise ConfigError(
            "expected a name without a colon and a password in one line for Alertmanager, got others"
        )
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def is_loopback(host: str) -> bool:
    """Whether it is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
