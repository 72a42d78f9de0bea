"""HTTP basic authentication: one user, one password, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from mlmon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BasicAuth", "basic_auth"]


class BasicAuth:
    """Knows a user and a password by digest only, so that neither can end up in a log or a dump of it."""

    __slots__ = ("_digest",)

    def __init__(self, username: str, password: str) -> None:
        self._digest = sha256(f"{username}:{password}".encode()).digest()

    def allows(self, header: str | None) -> bool:
        """Whether an Authorization header carries them. Takes as long for a wrong one as for a right one."""
        scheme, _, encoded = (header or "").partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        same = hmac.compare_digest(sha256(given).digest(), self._digest)
        return same and scheme.lower() == "basic"


def basic_auth(
    username: str | None,
    password_env: str | None,
    password_file: str | None,
    environ: Mapping[str, str] | None = None,
) -> BasicAuth | None:
    """Read the password where the configuration says it is; None without a user.

    Raises:
        ConfigError: the user holds a colon, or the password is missing, unreadable or empty.
    """
    if username is None:
        return None
    if ":" in username:
        raise ConfigError("http.username: expected a name without a colon, which ends it in HTTP")
    if password_env is not None:
        password = (os.environ if environ is None else environ).get(password_env, "")
        origin = f"environment variable {password_env} (http.password_env)"
    else:
        path = Path(password_file or "")
        origin = f"file {path} (http.password_file)"
        try:
            password = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{origin}: expected a readable file with the password: {error}") from error
    if not password:
        raise ConfigError(f"{origin}: expected the password, got nothing: set it, or remove http.username")
    return BasicAuth(username, password)
