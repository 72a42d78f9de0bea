"""The FastAPI app: every route of the table, errors in one form, and the OpenAPI document."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the endpoints' annotations
from starlette.responses import Response

from mlmon import __version__
from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.web import bodies, bodies_v2, oip, openai, ops
from mlmon.server.web.replies import refusal_reply
from mlmon.server.web.routes import POSTS, components, get_operation, post_operation
from mlmon.server.web.serving import inference
from mlmon.server.web.shortcut import Shortcut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mlmon.server.model import ModelInfo
    from mlmon.server.web.serving import Serving
    from mlmon.server.work.scheduler import Budgets

__all__ = ["make_api"]

log = logging.getLogger(__name__)


def make_api(
    serving: Serving, info: ModelInfo, budgets: Budgets, lifespan: Callable[..., Any]
) -> Callable[..., Any]:
    """The app.

    Its document is at /openapi.json; there is no page that shows it, since those load scripts from elsewhere.

    Args:
        serving: the model.
        info: what it is.
        budgets: bounds, for /info.
        lifespan: what begins and ends with the app.
    """
    app = FastAPI(
        title="mlmon serve",
        version=__version__,
        summary="Fill-mask, embeddings and scores of a masked language model.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # newer versions trace requests themselves; `tracing` does, with the parts that only this server knows
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    endpoints: dict[str, Callable[[Request], Awaitable[Response]]] = {}
    for post in POSTS:
        names = (post.path.replace(":path", ""), post.task)
        endpoints[post.path] = inference(serving, names, post.body, post.handle)
        _add(app, post.path, "POST", endpoints[post.path], post_operation(post))
    _add_gets(app, serving, info, budgets)
    app.add_exception_handler(HTTPException, _not_a_route)
    app.add_exception_handler(Exception, _failed)
    describe = app.openapi
    app.openapi = partial(_document, app, describe)  # type: ignore[method-assign]
    return Shortcut(app, {path: answer for path, answer in endpoints.items() if "{" not in path}, _failed)


def _add_gets(app: FastAPI, serving: Serving, info: ModelInfo, budgets: Budgets) -> None:
    error, v2_error = bodies.ErrorReply, bodies_v2.V2ErrorReply
    state, model = bodies.StateReply, "/v2/models/{model:path}"
    for path, reply, told, codes, answer in (
        ("/health/live", state, state, (503,), lambda _: ops.live(serving)),
        ("/health/ready", state, state, (503,), lambda _: ops.ready(serving)),
        ("/info", bodies.InfoReply, error, (401,), lambda _: ops.info(serving, info, budgets)),
        ("/v1/models", bodies.ModelsReply, bodies.OpenAIErrorReply, (401,), lambda _: openai.models(serving)),
        ("/v2", bodies_v2.ServerMetadata, v2_error, (401,), lambda _: oip.metadata(serving)),
        ("/v2/health/live", bodies_v2.V2Live, bodies_v2.V2Live, (503,), lambda _: ops.v2_live(serving)),
        ("/v2/health/ready", bodies_v2.V2Ready, bodies_v2.V2Ready, (503,), lambda _: ops.v2_ready(serving)),
    ):
        _add(app, path, "GET", _told(answer), get_operation(path, reply, told, codes))
    for base in (model + "/versions/{version}", model):
        described = get_operation(base, bodies_v2.V2Ready, v2_error, (401, 404))
        _add(app, base + "/ready", "GET", _told(partial(oip.model_ready, serving)), described)
    for base in (model + "/versions/{version}", model):
        described = get_operation(base, bodies_v2.ModelMetadata, v2_error, (401, 404))
        _add(app, base, "GET", _told(partial(oip.model_metadata, serving)), described)

    async def metrics(request: Request) -> Response:
        return await ops.metrics(serving, request)

    app.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False)


def _told(answer: Callable[[Request], Response]) -> Callable[[Request], Any]:
    """An endpoint that only tells what is known; on the event loop, since it takes no time."""

    async def endpoint(request: Request) -> Response:
        return answer(request)

    return endpoint


def _add(
    app: FastAPI,
    path: str,
    method: str,
    endpoint: Callable[[Request], Any],
    described: tuple[dict[str, Any], dict[int | str, dict[str, Any]]],
) -> None:
    operation, responses = described
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        name=f"{method} {path}",
        response_class=Response,
        responses=responses,
        openapi_extra=operation,
    )


def _document(app: FastAPI, describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI's document with the schemas of bodies, which are msgspec's and not pydantic's."""
    if app.openapi_schema is None:
        document = describe()
        document["components"] = {
            "schemas": components(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        }
        document["security"] = [{}, {"bearer": []}]
        app.openapi_schema = document
    return app.openapi_schema


async def _not_a_route(request: Request, error: Exception) -> Response:
    """404 and 405, as every other refusal is told."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    method, path = request.method, request.url.path
    if error.status_code == 405:
        told = RefusalError(Refusal.METHOD, "another method", method, "see /openapi.json")
    else:
        told = RefusalError(Refusal.NOT_FOUND, "a route of /openapi.json", path, "correct the path")
    return refusal_reply(told, path, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of the server's own; the log has the traceback."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    told = RefusalError(
        Refusal.FAILED, "a server without faults", type(error).__name__, "see the server's log"
    )
    return refusal_reply(told, request.url.path)
