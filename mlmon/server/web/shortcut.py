"""The busy routes without what FastAPI does around each request.

Its routing, dependency injection and exit stacks take a good tenth of the time that the server has for a
short request, and these endpoints use none of it: they read and check their bodies themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from starlette.responses import Response

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]
    Endpoint = Callable[[Request], Awaitable[Response]]

__all__ = ["Shortcut"]


class Shortcut:
    """An ASGI app that serves POSTs on fixed paths itself, and leaves all else to the app behind it.

    Args:
        app: has the same endpoints, and describes them.
        endpoints: by path.
        failed: makes the answer when one of them raises.
    """

    def __init__(
        self,
        app: App,
        endpoints: Mapping[str, Endpoint],
        failed: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app, self._endpoints, self._failed = app, endpoints, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any type."""
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            reply = await endpoint(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told something
            reply = await self._failed(request, error)
        await reply(scope, receive, send)
