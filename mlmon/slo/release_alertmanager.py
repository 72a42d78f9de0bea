"""The few calls of Alertmanager's API v2 that a planned release needs: find, set and expire a silence.

A silence's own times are read back after it is set, since Alertmanager moves a start that is past to now.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mlmon.errors import ConfigError, RemoteError
from mlmon.slo.release_access import (
    PASSWORD_VARIABLE,
    TOKEN_VARIABLE,
    USER_VARIABLE,
    Credentials,
    is_loopback,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Alertmanager", "Silence"]

_TIMEOUT_SECONDS = 15.0
#: More than this of an answer is not read.
_LONGEST_ANSWER = 16 << 20
_NONE = Credentials()
_LET_IN = (
    f"set {TOKEN_VARIABLE}, or {USER_VARIABLE} and {PASSWORD_VARIABLE}, or give the options "
    "--alertmanager-token-file, --alertmanager-user, --alertmanager-password-file"
)
#: What an answer means that is not Alertmanager's own.
_REFUSALS = {
    401: f"Alertmanager wants a token, or a name and a password, or has others: {_LET_IN}",
    403: "Alertmanager knows who asks, and does not let them silence alerts: ask who runs it",
}


@dataclass(frozen=True, slots=True)
class Silence:
    """A silence of all alerts of one service.

    Attributes:
        service: the value of the label `service`.
        starts: from when, to the millisecond.
        ends: until when.
        author: who made it.
        comment: why.
        number: Alertmanager's id; empty before it is set.
    """

    service: str
    starts: datetime
    ends: datetime
    author: str
    comment: str
    number: str = ""


class Alertmanager:
    """One Alertmanager; silences spread to the others of its cluster by themselves.

    Redirects are not followed: a POST would arrive as a GET, and secrets are for the address that was given.

    Args:
        url: such as `http://127.0.0.1:9093`, with the path it is served under.
        credentials: how it lets us in.

    Raises:
        ConfigError: the address is not one, holds a password, or would send a secret in plain text; or what
            should be certificates is not.
    """

    def __init__(self, url: str, credentials: Credentials = _NONE) -> None:
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise ConfigError(f"expected an address such as http://127.0.0.1:9093: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"expected an address such as http://127.0.0.1:9093, got {parts.scheme!r}://…")
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                f"the address of {parts.hostname} holds a name or password, which end up in logs: leave them "
                f"out, and set {USER_VARIABLE} and {PASSWORD_VARIABLE}"
            )
        self.url = url.rstrip("/")
        self._host = parts.hostname
        self._tls = _tls(credentials.ca_file) if parts.scheme == "https" else None
        self._headers = {"Content-Type": "application/json"}
        if credentials.authorization:
            if self._tls is None and not credentials.plain_http and not is_loopback(self._host):
                raise ConfigError(
                    f"{self.url} would send the secret unencrypted to another machine: use https, or "
                    "--allow-plain-http where the network is trusted"
                )
            self._headers["Authorization"] = credentials.authorization
        self._path = parts.path.rstrip("/")

    def active(self, service: str, author: str) -> list[Silence]:
        """The author's silences of exactly this service that are in force, the oldest first."""
        matcher = quote(f"service={json.dumps(service, ensure_ascii=False)}", safe="")
        answer = self._call("GET", f"silences?filter={matcher}")
        found = (
            silence for silence in _read(answer) if (silence.service, silence.author) == (service, author)
        )
        return sorted(found, key=lambda silence: silence.starts)

    def put(self, silence: Silence) -> Silence:
        """Set a silence, or move the end of the one with its number; returns it as it is now."""
        matcher = {"name": "service", "value": silence.service, "isRegex": False, "isEqual": True}
        body = {
            **({"id": silence.number} if silence.number else {}),
            "matchers": [matcher],
            "startsAt": _text(silence.starts),
            "endsAt": _text(silence.ends),
            "createdBy": silence.author,
            "comment": silence.comment,
        }
        number = self._call("POST", "silences", body)["silenceID"]
        (now,) = _read([self._call("GET", f"silence/{quote(number, safe='')}")], of_any_state=True)
        return now

    def expire(self, silence: Silence) -> None:
        """End a silence now."""
        self._call("DELETE", f"silence/{quote(silence.number, safe='')}")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection = self._connection()
        sent = None if body is None else json.dumps(body)
        try:
            connection.request(method, f"{self._path}/api/v2/{path}", sent, self._headers)
            with connection.getresponse() as answer:
                text = answer.read(_LONGEST_ANSWER)
        except ssl.SSLCertVerificationError as error:
            raise RemoteError(
                f"{self.url}: Alertmanager's certificate is not trusted ({error.verify_message}): give those "
                "to trust by --ca-file"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise RemoteError(
                f"{self.url}: Alertmanager does not answer ({error}): give its address by --alertmanager"
            ) from error
        finally:
            connection.close()
        if answer.status in _REFUSALS:
            raise RemoteError(f"{self.url}: {_REFUSALS[answer.status]}")
        if 300 <= answer.status < 400:
            raise RemoteError(
                f"{self.url}: it answers with a redirect, which is not followed: give the address it "
                "redirects to by --alertmanager"
            )
        if answer.status != 200:
            raise RemoteError(
                f"{self.url}: expected Alertmanager's API v2, got status {answer.status}: "
                f"{text[:200].decode(errors='replace')}"
            )
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise RemoteError(
                f"{self.url}: expected JSON of Alertmanager's API v2, got something else: is this it?"
            ) from error

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_SECONDS)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=_TIMEOUT_SECONDS, context=self._tls
        )


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca_file}: expected certificates to trust in PEM: {error}") from error


def _read(answer: list[Any], *, of_any_state: bool = False) -> Iterator[Silence]:
    """Silences of one service and nothing else; others are somebody else's."""
    for one in answer:
        if not of_any_state and one["status"]["state"] == "expired":
            continue
        matchers = one["matchers"]
        plain = len(matchers) == 1 and not matchers[0]["isRegex"] and matchers[0].get("isEqual", True)
        if plain and matchers[0]["name"] == "service":
            yield Silence(
                matchers[0]["value"],
                datetime.fromisoformat(one["startsAt"]),
                datetime.fromisoformat(one["endsAt"]),
                one["createdBy"],
                one["comment"],
                one["id"],
            )


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
