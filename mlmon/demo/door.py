"""One address for a service that moves: what a load balancer is to those who were told an address once."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Door"]

_CHUNK = 65_536


class Door:
    """Passes connections on to where the service is when they are opened.

    When it has moved since, an open one is closed at its next request, as one that was kept alive for too
    long: clients send that request again, over another.

    Args:
        service: the service's port on loopback.

    Attributes:
        port: its own, on loopback.
    """

    def __init__(self, service: Callable[[], int]) -> None:
        class Passing(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                port = service()
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as inner:
                    _pass_on(self.request, inner, lambda: port == service())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Passing)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _pass_on(outer: socket.socket, inner: socket.socket, stays: Callable[[], bool]) -> None:
    """Hand bytes on in both directions until either side ends, or the next request is not to be taken."""
    other = {outer: inner, inner: outer}
    answered = False
    while True:
        for one in select.select(list(other), [], [])[0]:
            if one is outer and answered and not stays():
                return
            answered = one is inner
            data = one.recv(_CHUNK)
            if not data:
                return
            other[one].sendall(data)
