"""One Grafana, reached safely: who it is, with which token, and the few calls that are needed.

The token comes from a file or the environment and goes into no message, log or `repr`. It is sent over TLS,
or in plain text to this machine only. Redirects are not followed: a POST would arrive as a GET, and the
token is for the address that was given.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mlmon.errors import ConfigError, MissingExtraError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["TOKEN_VARIABLE", "Access", "Grafana", "connect", "read_token"]

#: Environment variable of the token.
TOKEN_VARIABLE = "MLMON_GRAFANA_TOKEN"  # noqa: S105 - its name
_TIMEOUT_SECONDS = 15.0
_UID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_FOUND_AT_ONCE = 100
_JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Access:
    """Where a Grafana is and how to be let in.

    Attributes:
        url: `https://grafana.example`, with the path it is served under.
        token: of a service account.
        ca_file: certificates to trust instead of the system's.
        plain_http: send the token unencrypted to another machine.

    Raises:
        ConfigError: the address is not one, holds a password, or would send the token in plain text.
    """

    url: str
    token: str = field(repr=False)
    ca_file: str | None = None
    plain_http: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(
                f"expected an address such as https://grafana.example, got {parts.scheme!r}://…"
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                f"the address of {parts.hostname} holds a name or password, which end up in logs: leave them "
                f"out, and give a token by {TOKEN_VARIABLE} or --token-file"
            )
        if parts.scheme == "http" and not self.plain_http and not _is_loopback(parts.hostname):
            raise ConfigError(
                f"{self.url} would send the token unencrypted to another machine: use https, or "
                "--allow-plain-http where the network is trusted"
            )
        if self.ca_file is not None and not Path(self.ca_file).is_file():
            raise ConfigError(f"{self.ca_file}: expected a file with certificates to trust")

    @property
    def local(self) -> bool:
        """Whether it is this machine."""
        return _is_loopback(urlsplit(self.url).hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(token_file: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The token, from the file if one is named, else from the environment.

    Raises:
        ConfigError: there is none, it cannot be read, or it has characters that no token has.
    """
    if token_file is not None:
        origin = token_file
        try:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{token_file}: expected a readable file with a token: {error}") from error
    else:
        origin = TOKEN_VARIABLE
        token = (os.environ if environ is None else environ).get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise ConfigError(
            f"{origin}: expected the token of a service account, got nothing: set {TOKEN_VARIABLE} or give "
            "--token-file"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{origin}: expected a token in one line of printable ASCII without blanks")
    return token


def connect(access: Access) -> Grafana:
    """A client; opens no connection yet.

    Raises:
        MissingExtraError: the extra `grafana` is not installed.
    """
    try:
        from grafana_client.api import GrafanaApi
    except ImportError as error:
        raise MissingExtraError("grafana-client", "grafana") from error
    parts = urlsplit(access.url)
    path = parts.path.strip("/")
    api = GrafanaApi(
        access.token,
        host=f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname,
        port=parts.port,
        url_path_prefix=f"{path}/" if path else "",
        protocol=parts.scheme,
        verify=True if access.ca_file is None else access.ca_file,
        timeout=_TIMEOUT_SECONDS,
        user_agent="mlmon",
    )
    session = api.client.s
    session.max_redirects = 0
    # No proxy for this machine: the token would go there.
    session.trust_env = not access.local
    return Grafana(access.url, api)


class Grafana:
    """The calls that are needed, with errors that say what to do. One thread at a time.

    Args:
        url: for messages.
        api: grafana-client's.
    """

    def __init__(self, url: str, api: Any) -> None:
        self.url = url
        self._api = api

    def close(self) -> None:
        """Let go of the connections."""
        self._api.client.s.close()

    def folder(self, uid: str) -> _JSON | None:
        """A folder, or None."""
        return self._find(lambda: self._api.folder.get_folder(_checked(uid)))

    def create_folder(self, uid: str, title: str) -> None:
        """Make a folder."""
        self._call(f"make folder {title!r}", lambda: self._api.folder.create_folder(title, uid=_checked(uid)))

    def dashboard(self, uid: str) -> _JSON | None:
        """`{"dashboard": ..., "meta": ...}`, or None."""
        return self._find(lambda: self._api.dashboard.get_dashboard(_checked(uid)))

    def save_dashboard(self, board: _JSON, folder_uid: str, message: str, version: int | None) -> None:
        """Make or replace a dashboard.

        Args:
            board: as in the file.
            folder_uid: where it belongs.
            message: kept in its history.
            version: of the one that is replaced; if it is not the newest any more Grafana refuses.
        """
        own = {key: value for key, value in board.items() if key not in ("id", "version")}
        numbered = own | {"id": None} | ({} if version is None else {"version": version})
        payload = {"dashboard": numbered, "folderUid": folder_uid, "message": message, "overwrite": False}
        self._call(f"save dashboard {board['uid']}", lambda: self._api.dashboard.update_dashboard(payload))

    def contact_points(self) -> list[_JSON]:
        """All there are; what is secret in them reads `[REDACTED]`."""
        found = self._call("list contact points", self._api.alertingprovisioning.get_contactpoints)
        return list(found or ())

    def save_contact_point(self, point: _JSON, *, exists: bool) -> None:
        """Make or replace a contact point."""
        alerting = self._api.alertingprovisioning
        if exists:
            uid = _checked(point["uid"])
            self._call(f"save contact point {uid}", lambda: alerting.update_contactpoint(uid, point))
        else:
            self._call(f"make contact point {point['name']}", lambda: alerting.create_contactpoint(point))

    def annotate(self, text: str, tags: Sequence[str], start_ms: int, end_ms: int | None = None) -> int:
        """Make an annotation of the whole organisation, or end the one that is there.

        The same text, tags and start are the same annotation, so that calling twice makes one.

        Args:
            text: shown.
            tags: by which dashboards find it.
            start_ms: ms since 1970.
            end_ms: ms since 1970; None for a moment, or an end that is not known yet.

        Returns:
            Its id.
        """
        annotations = self._api.annotations
        wanted = {"time_from": start_ms, "time_to": end_ms, "tags": list(tags), "text": text}
        found = self._call(
            "find annotations",
            lambda: annotations.find_annotations(
                time_from=start_ms,
                time_to=start_ms + 1,
                tags=[quote(tag, safe="") for tag in tags],
                ann_type="annotation",
                limit=_FOUND_AT_ONCE,
            ),
        )
        for one in found or ():
            same = (one.get("time"), one.get("text"), set(one.get("tags", ()))) == (start_ms, text, set(tags))
            if same:
                number = int(one["id"])
                if end_ms is not None and one.get("timeEnd") != end_ms:
                    self._call("end an annotation", partial(annotations.update_annotation, number, **wanted))
                return number
        made = self._call("make an annotation", lambda: annotations.add_annotation(**wanted))
        return int(made["id"])

    def _find(self, call: Callable[[], Any]) -> _JSON | None:
        found: _JSON | None = self._call("look", call, absent=True)
        return found

    def _call(self, what: str, call: Callable[[], Any], *, absent: bool = False) -> Any:
        from grafana_client.client import GrafanaException
        from niquests.exceptions import RequestException, TooManyRedirects

        try:
            return call()
        except GrafanaException as error:
            if absent and error.status_code == 404:
                return None
            raise RemoteError(f"{self.url}: cannot {what}: {_reason(error.status_code, error)}") from error
        except TooManyRedirects as error:
            raise RemoteError(
                f"{self.url}: it answers with a redirect, which is not followed with a token: give the "
                "address it redirects to"
            ) from error
        except (RequestException, OSError, ValueError) as error:
            raise RemoteError(f"{self.url}: cannot {what}: {error}") from error


def _checked(uid: str) -> str:
    if not _UID.fullmatch(uid):
        raise ConfigError(f"uid {uid!r}: expected 1 to 40 letters, digits, - and _")
    return uid


def _reason(status: int, error: Exception) -> str:
    """What a refusal means and what helps."""
    helps = {
        401: f"the token is not known there: make one for a service account and set {TOKEN_VARIABLE}",
        403: "the token may not: its service account needs the role Editor (Admin for contact points)",
        412: "somebody changed it meanwhile: look at  mlmon grafana diff  and push again",
    }
    return helps.get(status, str(error) or f"status {status}")
