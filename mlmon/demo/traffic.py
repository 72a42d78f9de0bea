"""Traffic for the demo: a few client threads that post texts at a steady rate until told to stop."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING

from mlmon.demo.corpus import queries

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Traffic"]


class Traffic:
    """Posts `{"text": ...}` to a service on loopback.

    Args:
        port: called before every connection, so that the service may move (a redeployment).
        per_second: requests a second over all clients.
        clients: threads.
    """

    def __init__(self, port: Callable[[], int], per_second: float = 60.0, clients: int = 3) -> None:
        self._port = port
        self._pause = clients / per_second
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(clients)]
        self.answered = 0
        self.failed = 0

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, and wait for the requests under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def _run(self, seed: int) -> None:
        texts = queries(seed)
        connection: http.client.HTTPConnection | None = None
        port = 0
        while not self._stop.is_set():
            started = time.monotonic()
            if connection is None or port != self._port():
                port = self._port()
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                body = json.dumps({"text": next(texts)})
                connection.request("POST", "/classify", body, {"content-type": "application/json"})
                connection.getresponse().read()
                self.answered += 1
            except (OSError, http.client.HTTPException):
                connection.close()
                connection = None
                self.failed += 1
            self._stop.wait(max(0.0, self._pause - (time.monotonic() - started)))
