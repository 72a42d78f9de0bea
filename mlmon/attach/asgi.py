"""The tap for FastAPI, Starlette and any other ASGI app: requests in, events out, responses untouched.

Pure ASGI: bodies are not buffered, streams stream, websockets pass. Only the lifespan's end is looked at,
since a server that a signal stops runs no exit handlers: what is queued is flushed before the app says that
its shutdown is complete.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from mlmon.attach.exchange import Exchange
from mlmon.attach.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from mlmon.attach.emitter import Emitter
    from mlmon.attach.tap import TapConfig, TapHooks

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["MlmonMiddleware"]

_MAX_ID = 128


class MlmonMiddleware:
    """An ASGI app around an ASGI app.

    Whether a request is sampled is decided from its id before anything is kept. Nothing this class does can
    change a response or raise: what fails is counted in `emitter.stats().tap_errors`. Exceptions of the app
    pass through as they are.

    The id of a request is its `x-request-id` header where that is 1 to 128 printable ASCII characters, and
    otherwise random.

    Status of an event: that of the response; `error` where the app raised before it was complete, `timeout`
    where that was a `TimeoutError` or a cancellation, `client_error` where the client had gone away.

    Args:
        app: the app to watch.
        emitter: where events go.
        config: identity, sampling, paths.
        hooks: the user's functions; without them events have latency, status and identity only.

    Raises:
        ConfigError: the configuration cannot be used.

    Example:
        app.add_middleware(MlmonMiddleware, emitter=emitter, config=config, hooks=hooks)
    """

    def __init__(self, app: App, emitter: Emitter, config: TapConfig, hooks: TapHooks | None = None) -> None:
        self.app = app
        self.tap = Tap(emitter, config, hooks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any type."""
        if scope["type"] != "http":
            wrapped = _FlushAtEnd(self.tap, send) if scope["type"] == "lifespan" else send
            await self.app(scope, receive, wrapped)
            return
        try:
            tap = self.tap
            exchange = (
                Exchange(tap, scope, receive, send, request_id(scope["headers"]))
                if tap.watches(scope)
                else None
            )
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the request
            self.tap.emitter.count_tap_error(error)
            exchange = None
        if exchange is None:
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.ended(error)
            raise
        exchange.ended(None)


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The request's own id where it has a usable one, otherwise 96 random bits."""
    for name, value in headers:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if 0 < len(text) <= _MAX_ID and text.isascii() and text.isprintable():
                return text
            break
    return os.urandom(12).hex()


class _FlushAtEnd:
    """A `send` for the lifespan that flushes emitter and mirror before the app says it is done."""

    def __init__(self, tap: Tap, send: Send) -> None:
        self._tap = tap
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message.get("type") in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            try:
                await asyncio.to_thread(self._flush)
            except RuntimeError:  # not asyncio, or its threads have ended
                self._flush()
        await self._send(message)

    def _flush(self) -> None:
        self._tap.emitter.flush()
        if self._tap.hooks.mirror is not None:
            self._tap.hooks.mirror.flush()
