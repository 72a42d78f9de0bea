"""Traffic for the demo: a few client threads that post queries at a steady rate until told to stop."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from mlmon.demo.corpus import query

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Traffic", "request"]

_CHANNELS = ("app", "web", "phone")
_CHANNEL_SHARES = (0.6, 0.3, 0.1)


def request(rng: random.Random, travel: float) -> dict[str, Any]:
    """What one customer sends.

    Args:
        rng: where chance comes from.
        travel: share of travel queries.
    """
    return {
        "text": query(rng, travel)[1],
        "channel": rng.choices(_CHANNELS, _CHANNEL_SHARES)[0],
        "customer_years": round(rng.gammavariate(2.0, 3.0), 2),
    }


class Traffic:
    """Posts queries to a service on loopback. What is posted, and to which path, a subclass may choose.

    Args:
        port: called before every request, so that the service may move (a redeployment).
        per_second: requests a second over all clients.
        clients: threads.

    Attributes:
        per_second: as above; may be changed at any time.
        travel: share of travel queries; may be changed at any time.
        answered: requests answered 200.
        failed: others.
    """

    path = "/classify"

    def __init__(self, port: Callable[[], int], per_second: float, clients: int = 4) -> None:
        self._port = port
        self._clients = clients
        self._stop = threading.Event()
        self._count = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(clients)]
        self.per_second = per_second
        self.travel = 0.0
        self.answered = 0
        self.failed = 0

    def body(self, rng: random.Random) -> dict[str, Any]:
        """What the next request says."""
        return request(rng, self.travel)

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
        rng = random.Random(seed)  # noqa: S311 - traffic, not secrets
        connection: http.client.HTTPConnection | None = None
        port = 0
        due = time.monotonic()
        while not self._stop.is_set():
            if connection is None or port != self._port():
                if connection is not None:
                    connection.close()
                port = self._port()
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            if not self._post(connection, self.body(rng)):
                connection.close()
                connection = None
            # a client that is behind does not make up for it: the rate is steady, or lower
            due = max(due + self._clients / self.per_second, time.monotonic() - 0.1)
            self._stop.wait(max(0.0, due - time.monotonic()))
        if connection is not None:
            connection.close()

    def _post(self, connection: http.client.HTTPConnection, body: dict[str, Any]) -> bool:
        try:
            connection.request("POST", self.path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            good = response.status == 200
        except (OSError, http.client.HTTPException):
            good = False
        with self._count:
            self.answered += good
            self.failed += not good
        return good
