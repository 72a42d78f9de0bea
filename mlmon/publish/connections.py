"""Connections: a thread for each of a bounded number, one answer each, within one deadline.

The deadline covers the TLS handshake, a request that trickles in and a reader that dawdles, so no client can
hold a slot for longer. Knows nothing of what is served.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

__all__ = ["BoundedServer", "Reply"]

_LOG = logging.getLogger(__name__)
_MAX_HEAD_BYTES = 16 * 1024
_MAX_BODY_BYTES = 64 * 1024
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to a client."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class BoundedServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens from the moment it is made, serves while `serve_forever` runs.

    Args:
        family: of the address.
        address: host and port.
        answer: the reply to a path and headers of a GET; called in the connection's thread. A HEAD gets the
            same without the body; a POST, where one is allowed, the same whatever its body says.
        tls: handshakes with it, None for plain HTTP.
        max_connections: most served at once; more get 503 from the accepting thread and are counted.
        timeout_seconds: from accept to last byte.

    Attributes:
        refused: connections that got 503 for want of a slot.
        posts: paths that may be asked by POST too.

    Raises:
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        family: socket.AddressFamily,
        address: tuple[str, int],
        answer: Callable[[str, Mapping[str, str]], Reply],
        *,
        tls: ssl.SSLContext | None,
        max_connections: int,
        timeout_seconds: float,
    ) -> None:
        self.address_family = family
        self.answer = answer
        self.refused = 0
        self.posts: frozenset[str] = frozenset()
        self._tls = tls
        self._timeout = timeout_seconds
        self._slots = threading.BoundedSemaphore(max_connections)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread if there is a slot; otherwise answer 503 at once, without a thread."""
        if not self._slots.acquire(blocking=False):
            self.refused += 1
            self._turn_away(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, then free the slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands within the deadline, then answer."""
        deadline = time.monotonic() + self._timeout
        if self._tls is None:
            self._serve(request, deadline, client_address)
            return
        request.settimeout(self._timeout)
        with self._tls.wrap_socket(request, server_side=True) as secure:
            self._serve(secure, deadline, client_address)

    def _serve(self, sock: socket.socket, deadline: float, client_address: Any) -> None:
        _Handler(cast("socket.socket", _Deadline(sock, deadline)), client_address, self)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - overrides
        """A client that hangs up, is too slow or has no certificate is its own affair; the rest is ours."""
        if isinstance(sys.exc_info()[1], OSError):
            _LOG.debug("connection from %s ended early", client_address, exc_info=True)
        else:
            _LOG.exception("connection from %s failed", client_address)

    def _turn_away(self, request: socket.socket) -> None:
        try:
            request.setblocking(False)
            if self._tls is None:
                request.send(_REFUSAL)
                request.shutdown(socket.SHUT_WR)
                # what was sent and not read would turn the close into a reset and lose the answer
                request.recv(_MAX_HEAD_BYTES)
        except OSError:
            pass
        finally:
            request.close()


class _Deadline:
    """A socket of which all reading and writing together must end by a moment."""

    def __init__(self, sock: socket.socket, at: float) -> None:
        self._sock = sock
        self._at = at

    def _arm(self) -> None:
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("connection deadline passed")
        self._sock.settimeout(left)

    def read_head(self) -> bytes:
        """Everything up to the blank line, or what came before the client stopped or sent too much."""
        head = bytearray()
        while b"\r\n\r\n" not in head and len(head) <= _MAX_HEAD_BYTES:
            self._arm()
            piece = self._sock.recv(4096)
            if not piece:
                break
            head += piece
        return bytes(head)

    def skip(self, count: int) -> bool:
        """Read and forget so many bytes; False where the client stopped before."""
        while count > 0:
            self._arm()
            piece = self._sock.recv(min(count, 4096))
            if not piece:
                return False
            count -= len(piece)
        return True

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._arm()
            view = view[self._sock.send(view[: 256 * 1024]) :]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Read the request's head within the deadline."""
        self._wire = cast("_Deadline", self.request)
        self._head = self._wire.read_head()
        self.rfile = BytesIO(self._head)
        self.wfile = BytesIO()

    def handle(self) -> None:
        """Answer one request; the connection is then closed."""
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(_MAX_HEAD_BYTES)
        if not self.raw_requestline.strip():
            return
        if len(self._head) > _MAX_HEAD_BYTES:
            self.requestline, self.request_version, self.command = "", "HTTP/1.1", ""
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self.parse_request():
            self._respond()

    def _respond(self) -> None:
        server = cast("BoundedServer", self.server)
        methods = ["GET", "HEAD"]
        if self.path.partition("?")[0] in server.posts:
            methods.append("POST")
        if self.command not in methods:
            allow = ", ".join(methods)
            text = f"only {allow}\n".encode()
            reply = Reply(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, text, (("Allow", allow),))
        elif self.command == "POST" and not self._drained():
            reply = Reply(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TEXT, b"a body of at most 64 KiB, by length\n"
            )
        else:
            try:
                headers = cast("Mapping[str, str]", self.headers)
                reply = server.answer(self.path, headers)
            except Exception:  # noqa: BLE001 - whatever fails, the client gets an answer and the log a trace
                _LOG.exception("%r could not be answered", self.path)
                reply = Reply(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"failed; the log says why\n")
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Connection", "close")
        for name, value in reply.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def _drained(self) -> bool:
        """Read a body of moderate length, which says nothing here: webhooks send one whether asked or not."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            return False
        return self._wire.skip(int(length) - (len(self._head) - self.rfile.tell()))

    def finish(self) -> None:
        """Send what was written."""
        self._wire.write(cast("BytesIO", self.wfile).getvalue())

    def version_string(self) -> str:
        """The Server header: no version, which is nobody's business before authentication."""
        return "mlmon"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - overrides
        """Requests are logged at debug level, without headers."""
        _LOG.debug("%s " + format, self.client_address[0], *args)
