"""JSON over HTTP to a server that is replayed to: kept connections, bounded retries, no dependency.

Why not httpx: threads with one connection each are all that concurrency needs here, and the base install
stays as it is.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from mlmon.errors import ConfigError, MlmonError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlmon.shadow.config import EndpointConfig

__all__ = ["ReplayError", "Wire"]

_MOST_BYTES = 64 * 1024 * 1024
_LONGEST_PAUSE = 30.0
#: Statuses that a later attempt may not meet again.
_AGAIN = (429, 502, 503, 504)


class ReplayError(MlmonError):
    """A replayed text was not answered.

    Attributes:
        reason: unreachable, refused, or unreadable.
        status: of HTTP, 0 where there was none.
    """

    def __init__(self, reason: str, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class Wire:
    """POSTs JSON. Any number of threads; each has its connection.

    Args:
        endpoint: address, timeouts, retries, token.
        headers: sent with each request.
        sleep: waits between attempts.

    Raises:
        ConfigError: the token's variable is not set, or the authority's file cannot be read.
    """

    def __init__(
        self,
        endpoint: EndpointConfig,
        headers: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(endpoint.url)
        self._endpoint = endpoint
        self._host, self._port = parts.hostname or "", parts.port
        self._root = parts.path.rstrip("/")
        self._query = f"?{parts.query}" if parts.query else ""
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._sleep = sleep
        self._local = threading.local()
        self._open: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._tls = _context(endpoint) if parts.scheme == "https" else None
        if endpoint.token_env:
            token = os.environ.get(endpoint.token_env)
            if not token:
                raise ConfigError(f"token_env: the environment variable {endpoint.token_env} is not set")
            self._headers["Authorization"] = f"Bearer {token}"

    def post(self, path: str, body: Any) -> Any:
        """The parsed answer.

        Raises:
            ReplayError: no answer with a status below 300 and a body of JSON, after the retries.
        """
        data, target = msgspec.json.encode(body), f"{self._root}{path}{self._query}" or "/"
        for attempt in range(self._endpoint.retries + 1):
            last = attempt == self._endpoint.retries
            try:
                status, headers, answer = self._exchange(target, data)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if last:
                    raise ReplayError(
                        "unreachable", f"{self._host} does not answer: {str(error) or type(error).__name__}"
                    ) from error
                self._sleep(min(0.05 * 2**attempt, _LONGEST_PAUSE))
                continue
            if status < 300:
                return _parsed(answer, self._host)
            if status not in _AGAIN or last:
                raise ReplayError("refused", f"{self._host} answered {status} to {path or target}", status)
            self._sleep(_pause(headers.get("retry-after"), attempt))
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def close(self) -> None:
        """Close all connections. No request may be under way."""
        with self._lock:
            connections, self._open = self._open, []
        for connection in connections:
            connection.close()
        self._local = threading.local()

    def _exchange(self, target: str, data: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = self._connection()
        connection.request("POST", target, data, self._headers)
        response = connection.getresponse()
        answer = response.read(_MOST_BYTES + 1)
        if len(answer) > _MOST_BYTES:
            self._drop()
            raise ReplayError("unreadable", f"{self._host} answered more than {_MOST_BYTES} bytes")
        return response.status, {name.lower(): value for name, value in response.getheaders()}, answer

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            timeout = self._endpoint.timeout_seconds
            connection = (
                http.client.HTTPConnection(self._host, self._port, timeout=timeout)
                if self._tls is None
                else http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
            )
            self._local.connection = connection
            with self._lock:
                self._open.append(connection)
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()  # the next request opens it again


def _context(endpoint: EndpointConfig) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=endpoint.tls_ca_file)
    except OSError as error:
        raise ConfigError(f"tls_ca_file: {endpoint.tls_ca_file} cannot be read: {error}") from error


def _parsed(answer: bytes, host: str) -> Any:
    try:
        return msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReplayError("unreadable", f"{host} answered what is no JSON: {error}") from None


def _pause(told: str | None, attempt: int) -> float:
    seconds = float(told) if told is not None and told.isdigit() else 0.1 * 2**attempt
    return min(seconds, _LONGEST_PAUSE)
