"""One request as it passes: what is noted of it on the event loop, at the least cost.

An exchange stands between the server and the app. It hands every message on unchanged and before it looks at
it; of a sampled request it keeps references to body chunks, of any other nothing. When the response is
complete it puts itself into the emitter's queue, and `build_event` reads it there.
"""

from __future__ import annotations

import asyncio
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from mlmon.attach.build import build_event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    from mlmon.attach.tap import Tap
    from mlmon.events.event import Event

    Message = MutableMapping[str, Any]
    Headers = Sequence[tuple[bytes, bytes]]

__all__ = ["Body", "Exchange", "Seen"]

#: What an exchange is reckoned to take in the queue besides its bodies.
BASE_BYTES = 1024


class Body:
    """Chunks of a body up to a limit."""

    __slots__ = ("chunks", "cut", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.cut = False  #: whether there was more than the limit

    def add(self, chunk: Any, limit: int) -> None:
        """Keep a chunk, or the part of it that fits."""
        room = limit - self.size
        if len(chunk) > room:
            self.cut = True
            chunk = chunk[:room]
        if chunk:
            # a server may reuse a buffer that is not bytes
            self.chunks.append(chunk if type(chunk) is bytes else bytes(chunk))
            self.size += len(chunk)


class Seen:
    """What was seen of one request, as it waits in the queue. Holds nothing of the connection.

    Attributes:
        tap: configuration and hooks.
        request_id: identity of the event.
        time_us: arrival, µs since 1970 UTC.
        headers: of the request.
        request, response: the bodies of a sampled request, else None.
        response_headers: of the response; empty where the request is not sampled.
        status: one of the contract's.
        latency_seconds: from the call of the app to the last byte sent.
        weight: sampling weight.
    """

    __slots__ = (
        "headers",
        "latency_seconds",
        "request",
        "request_id",
        "response",
        "response_headers",
        "status",
        "tap",
        "time_us",
        "weight",
    )

    def __init__(self, tap: Tap, request_id: str, headers: Headers) -> None:
        self.tap = tap
        self.request_id = request_id
        self.headers = headers
        self.time_us = time_ns() // 1000
        self.request: Body | None = None
        self.response: Body | None = None
        self.response_headers: Headers = ()
        self.status = ""
        self.latency_seconds = 0.0
        self.weight = 1.0

    def build(self) -> Event:
        """The event; called in the emitter's thread."""
        return build_event(self)


class Exchange:
    """The `receive` and `send` between a server and the app for one request."""

    __slots__ = ("_closing", "_code", "_done", "_gone", "_receive", "_seen", "_send", "_start", "_tap")

    def __init__(
        self,
        tap: Tap,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        request_id: str,
    ) -> None:
        self._start = perf_counter()
        self._tap = tap
        self._seen = Seen(tap, request_id, scope["headers"])
        self._receive = receive
        self._send = send
        self._code = 0
        self._closing = self._done = self._gone = False
        if tap.sampler.keep(request_id):
            self._seen.request, self._seen.response = Body(), Body()

    async def receive(self) -> Message:
        """The app's `receive`."""
        message = await self._receive()
        try:
            if message["type"] == "http.disconnect":
                # after the response every server says this
                self._gone = self._gone or not self._closing
            elif (body := self._seen.request) is not None and (chunk := message.get("body")):
                body.add(chunk, self._tap.config.max_body_bytes)
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the request
            self._tap.emitter.count_tap_error(error)
        return message

    async def send(self, message: Message) -> None:
        """The app's `send`."""
        try:
            kind = message["type"]
            self._closing = (
                kind == "http.response.body" and not message.get("more_body", False)
            ) or kind == "http.response.pathsend"
        except Exception:  # noqa: BLE001 - not a message; the server will say so
            kind = ""
        try:
            await self._send(message)
        except OSError:
            self._gone = True
            raise
        try:
            if kind == "http.response.start":
                self._code = message["status"]
                if self._seen.response is not None:
                    self._seen.response_headers = message.get("headers", ())
                return
            if (body := self._seen.response) is not None and (chunk := message.get("body")):
                body.add(chunk, self._tap.config.max_body_bytes)
            if self._closing and not self._done:
                self._finish(self._tap.status_of(self._code))
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the request
            self._tap.emitter.count_tap_error(error)

    def ended(self, error: BaseException | None) -> None:
        """The app returned or raised; says what it means if the response is not complete."""
        if self._done:
            return
        if self._gone:
            status = "client_error"
        else:
            late = isinstance(error, TimeoutError | asyncio.CancelledError)
            status = "timeout" if late else "error"
        try:
            self._finish(status)
        except Exception as failure:  # noqa: BLE001 - nothing of ours may reach the request
            self._tap.emitter.count_tap_error(failure)

    def _finish(self, status: str) -> None:
        self._done = True
        tap, seen = self._tap, self._seen
        if status not in tap.sampler.always_keep:
            if seen.request is None:
                return
            seen.weight = tap.sampler.weight
        if status != "ok":
            seen.request = seen.response = None  # not looked into
        size = BASE_BYTES
        if seen.request is not None and seen.response is not None:
            size += seen.request.size + seen.response.size
        seen.status = status
        seen.latency_seconds = perf_counter() - self._start
        tap.emitter.emit_deferred(seen.build, size)
