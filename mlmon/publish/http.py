"""The port: /metrics for Prometheus, /healthz and /readyz for whoever keeps the sidecar running.

Answers come from threads of their own (`publish.connections`), out of the snapshot: a request never waits for
the loop, nor the loop for a request.

Why not the library's server: it has no bound on threads, no deadline, no authentication.
"""

from __future__ import annotations

import errno
import gzip
import ipaddress
import json
import logging
import socket
import ssl
import threading
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from prometheus_client.exposition import choose_encoder, gzip_accepted

from mlmon.catalog.sidecar import HTTP_REFUSED
from mlmon.errors import ConfigError
from mlmon.monitors.base import Sample
from mlmon.publish.auth import basic_auth
from mlmon.publish.connections import BoundedServer, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlmon.publish.auth import BasicAuth
    from mlmon.publish.prometheus import SnapshotCollector

__all__ = ["Health", "HttpConfig", "MetricsServer", "is_loopback"]

_LOG = logging.getLogger(__name__)
_TEXT = "text/plain; charset=utf-8"
_INDEX = "mlmon: /metrics  /healthz  /readyz"


Routes: TypeAlias = "Mapping[str, Callable[[str], Reply]]"
_NO_ROUTES: Routes = {}


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[http]`: where metrics are served and who may read them."""

    host: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="Address to listen on. 0.0.0.0 or :: lets other machines in; then set a password or "
            "TLS with a client CA, since metrics name services, models and versions.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65_535, description="Port to listen on; 0 lets the system choose one.")
    ] = 9477
    username: Annotated[
        str | None, msgspec.Meta(description="User for HTTP basic authentication; needs a password below.")
    ] = None
    password_env: Annotated[
        str | None, msgspec.Meta(description="Name of the environment variable that holds the password.")
    ] = None
    password_file: Annotated[
        str | None, msgspec.Meta(description="Path of a file that holds the password; read once, at start.")
    ] = None
    tls_cert_file: Annotated[
        str | None, msgspec.Meta(description="Path of the server's certificate chain, PEM; turns TLS on.")
    ] = None
    tls_key_file: Annotated[
        str | None,
        msgspec.Meta(description="Path of the certificate's private key, PEM, without passphrase."),
    ] = None
    tls_client_ca_file: Annotated[
        str | None,
        msgspec.Meta(description="Path of CA certificates, PEM. Clients must then show one that it signed."),
    ] = None
    max_connections: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=256,
            description="Most connections served at once, in connections; more are answered 503. Each may "
            "hold a rendering of all metrics in memory.",
        ),
    ] = 8
    timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=300,
            description="Longest time a connection may take, in seconds, from accept to last byte.",
        ),
    ] = 10.0

    def __post_init__(self) -> None:
        passwords = (self.password_env is not None) + (self.password_file is not None)
        if passwords != (self.username is not None):
            raise ValueError(
                "expected username with exactly one of password_env and password_file, or none of the three"
            )
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file, tls_key_file: expected both or neither")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_client_ca_file: expected tls_cert_file and tls_key_file beside it")


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes answer.

    Attributes:
        alive: False asks whoever runs the sidecar to restart it (/healthz answers 503).
        ready: False while its figures cannot be relied on (/readyz answers 503).
        reasons: why not, for a person.
    """

    alive: bool
    ready: bool
    reasons: tuple[str, ...] = ()


class MetricsServer:
    """Serves a collector over HTTP. The port is bound when it is made, answered from `start` to `close`.

    With a password, /metrics needs it; the probes answer without, but give their reasons only with it.

    Args:
        config: address, authentication, TLS, bounds.
        collector: what /metrics shows.
        health: what the probes say; called in a connection's thread, must not block.
        environ: where `password_env` is looked up.
        routes: what other paths answer, by GET or POST, to whoever may read /metrics: from path with query to
            reply. Called in a connection's thread.

    Raises:
        ConfigError: the address is taken or not of this machine; the password is missing; a TLS file cannot
            be used.
    """

    def __init__(
        self,
        config: HttpConfig,
        collector: SnapshotCollector,
        health: Callable[[], Health],
        environ: Mapping[str, str] | None = None,
        routes: Routes = _NO_ROUTES,
    ) -> None:
        auth = basic_auth(config.username, config.password_env, config.password_file, environ)
        tls = _tls_context(config)
        self._server = _bind(config, _App(collector, health, auth, routes), tls)
        self._server.posts = frozenset(routes)
        self._thread: threading.Thread | None = None
        self._scheme = "https" if tls else "http"
        if not is_loopback(self.host) and auth is None and config.tls_client_ca_file is None:
            _LOG.warning(
                "metrics on %s are readable by anyone who can reach it: set username and a password, or "
                "tls_client_ca_file, or listen on 127.0.0.1",
                self.url,
            )

    @property
    def host(self) -> str:
        """Address it is bound to."""
        return str(self._server.server_address[0])

    @property
    def port(self) -> int:
        """Port it is bound to."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    @property
    def refused(self) -> int:
        """Connections turned away because `max_connections` were being served."""
        return self._server.refused

    def samples(self) -> Iterable[Sample]:
        """What to publish of it."""
        yield Sample(HTTP_REFUSED, (), float(self.refused))

    def start(self) -> None:
        """Answer from now on, in threads of its own."""
        # how often it looks whether to stop, which bounds how long `close` takes
        serve = partial(self._server.serve_forever, poll_interval=0.1)
        self._thread = threading.Thread(target=serve, name="mlmon-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Free the port. Connections being answered end by their deadline."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()


class _App:
    """What each path answers."""

    def __init__(
        self,
        collector: SnapshotCollector,
        health: Callable[[], Health],
        auth: BasicAuth | None,
        routes: Routes,
    ) -> None:
        self._collector = collector
        self._health = health
        self._auth = auth
        self._routes = routes
        self._index = ("  ".join([_INDEX, *routes]) + "\n").encode()
        self._rendering = threading.Lock()

    def answer(self, path: str, headers: Mapping[str, str]) -> Reply:
        trusted = self._auth is None or self._auth.allows(headers.get("Authorization"))
        place = path.partition("?")[0]
        if place in self._routes:
            return self._routes[place](path) if trusted else _unauthorized()
        match place:
            case "/healthz":
                return self._probe("alive", trusted=trusted)
            case "/readyz":
                return self._probe("ready", trusted=trusted)
            case "/metrics" if trusted:
                return self._metrics(headers)
            case "/metrics":
                return _unauthorized()
            case "/":
                return Reply(HTTPStatus.OK, _TEXT, self._index)
            case _:
                return Reply(HTTPStatus.NOT_FOUND, _TEXT, self._index)

    def _metrics(self, headers: Mapping[str, str]) -> Reply:
        _, content_type = choose_encoder(headers.get("Accept") or "")
        openmetrics = content_type.startswith("application/openmetrics-text")
        # one at a time: a rendering of a thousand series is 60 MB before it is compressed
        with self._rendering:
            body = self._collector.render(openmetrics=openmetrics)
            if gzip_accepted(headers.get("Accept-Encoding") or ""):
                body = gzip.compress(body, compresslevel=1, mtime=0)
                return Reply(HTTPStatus.OK, content_type, body, (("Content-Encoding", "gzip"),))
        return Reply(HTTPStatus.OK, content_type, body)

    def _probe(self, what: str, *, trusted: bool) -> Reply:
        health = self._health()
        good = health.alive if what == "alive" else health.ready
        content: dict[str, Any] = {what: good}
        if trusted:
            content["reasons"] = list(health.reasons)
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        return Reply(status, "application/json", json.dumps(content).encode() + b"\n")


def _unauthorized() -> Reply:
    challenge = (("WWW-Authenticate", 'Basic realm="mlmon", charset="UTF-8"'),)
    return Reply(HTTPStatus.UNAUTHORIZED, _TEXT, b"a user and a password are needed\n", challenge)


def _bind(config: HttpConfig, app: _App, tls: ssl.SSLContext | None) -> BoundedServer:
    where = f"{config.host}:{config.port}"
    try:
        info = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = info[0]
        return BoundedServer(
            family,
            (str(address[0]), int(address[1])),
            app.answer,
            tls=tls,
            max_connections=config.max_connections,
            timeout_seconds=config.timeout_seconds,
        )
    except socket.gaierror as error:
        raise ConfigError(
            f"http.host {config.host!r}: expected an address of this machine: {error}"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"http: {where} is taken by another program: stop it, or set http.port to another port "
                "(0 lets the system choose)"
            ) from error
        raise ConfigError(f"http: cannot listen on {where}: {error.strerror or error}") from error


def _tls_context(config: HttpConfig) -> ssl.SSLContext | None:
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # a passphrase would be asked for on the terminal: refuse such a key instead
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"http: certificate {config.tls_cert_file} and key {config.tls_key_file} cannot be used: "
            f"expected PEM files that belong together, the key without passphrase: {error}"
        ) from error
    if config.tls_client_ca_file is not None:
        try:
            context.load_verify_locations(config.tls_client_ca_file)
        except OSError as error:
            raise ConfigError(
                f"http.tls_client_ca_file {config.tls_client_ca_file}: expected CA certificates, PEM: {error}"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone. A name is taken for one that is not."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
