"""Who may ask: a bearer token, known by its digest only and compared in constant time."""

from __future__ import annotations

import hmac
import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlmon.errors import ConfigError
from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.web.replies import refusal_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["OPEN_PATHS", "BearerToken", "Guard", "read_token"]

#: Whoever keeps the server running may ask these without a token; they tell nothing but yes or no.
OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
_MIN_TOKEN = 16


class BearerToken:
    """Knows a token by digest only, so that it can end up in no log and no dump.

    Example:
        >>> token = BearerToken("0123456789abcdef")
        >>> token.allows("Bearer 0123456789abcdef"), token.allows("Bearer x"), token.allows(None)
        (True, False, False)
    """

    __slots__ = ("_digest",)

    def __init__(self, token: str) -> None:
        self._digest = sha256(token.encode()).digest()

    def allows(self, header: str | None) -> bool:
        """Whether an Authorization header carries it."""
        scheme, _, given = (header or "").partition(" ")
        same = hmac.compare_digest(sha256(given.strip().encode()).digest(), self._digest)
        return same and scheme.lower() == "bearer"


def read_token(
    token_env: str | None, token_file: str | None, environ: Mapping[str, str] | None = None
) -> BearerToken | None:
    """Read the token where the configuration says it is; None where it names no place.

    Raises:
        ConfigError: it is missing, unreadable or short. The message never holds it.
    """
    if token_env is not None:
        token = (os.environ if environ is None else environ).get(token_env, "")
        origin = f"environment variable {token_env} (server.token_env)"
    elif token_file is not None:
        origin = f"file {token_file} (server.token_file)"
        try:
            token = Path(token_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{origin}: expected a readable file with the token: {error}") from error
    else:
        return None
    if len(token) < _MIN_TOKEN:
        raise ConfigError(
            f"{origin}: expected a token of at least {_MIN_TOKEN} characters, got {len(token)}; make one "
            f"with  "
            "openssl rand -hex 32"
        )
    return BearerToken(token)


class Guard:
    """An ASGI app that lets requests with the token through, and everyone to the probes.

    Args:
        app: what is guarded.
        token: what must be shown; None lets everyone through.
    """

    def __init__(self, app: App, token: BearerToken | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any type."""
        if self._token is None or scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = [value for key, value in scope["headers"] if key.lower() == b"authorization"]
        if len(given) == 1 and self._token.allows(given[0].decode("latin-1")):
            await self._app(scope, receive, send)
            return
        error = RefusalError(
            Refusal.UNAUTHORIZED,
            "the header  authorization: Bearer TOKEN",
            "another token" if given else "none",
            "show the token that the server was given",
        )
        reply = refusal_reply(error, scope["path"], {"www-authenticate": "Bearer"})
        await reply(scope, receive, send)
