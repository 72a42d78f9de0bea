"""The table of all routes: what serves each, and what the OpenAPI document says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mlmon.server.web import bodies, bodies_v2, hf, oip, openai
from mlmon.server.web.bodies import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["POSTS", "ROUTE_NAMES", "Post", "components", "get_operation", "post_operation"]

_REFUSALS = {
    401: "No token, or another one.",
    404: "Another model than the one that is served.",
    413: "More than a request may bring.",
    422: "Not what the route takes, or a text that is too long.",
    429: "No room; come back after `retry-after` seconds.",
    500: "A fault of the server's.",
    503: "The server stops, the device has no memory for a sequence, or no room for shadow work.",
    504: "Not done within the request's time.",
}
_HEADERS = (
    (
        "x-mlmon-lane",
        {"type": "string", "enum": ["interactive", "shadow"]},
        "Whose turn it is; shadow work only takes room that interactive work leaves.",
    ),
    (
        "x-mlmon-probe",
        {"type": "string", "pattern": "^[!-~]{1,128}$"},
        "Name of a golden probe, for the event.",
    ),
    ("x-request-id", {"type": "string", "pattern": "^[!-~]{1,128}$"}, "Id of the event."),
)


class ListOf:
    """A JSON array whose items are of any of these types, which may be lists too.

    msgspec, which makes the schemas, has no type for several kinds of list in one place.
    """

    def __init__(self, *items: Any) -> None:
        self.items = items


@dataclass(frozen=True, slots=True)
class Post:
    """A route that takes a body.

    Attributes:
        path: with its parameters in braces.
        task: as in the events; empty for one that is no inference.
        body: what it takes.
        handle: makes the answer.
        reply: what it gives.
        error: what a refusal looks like.
    """

    path: str
    task: str
    body: type
    handle: Callable[..., Any]
    reply: Any
    error: type = bodies.ErrorReply


#: One text: of one mask, or of several; several texts: a list of those.
_MASKS = ListOf(Candidate, ListOf(Candidate), ListOf(ListOf(Candidate)))
_SCORES = ListOf(bodies.LikelihoodScore, bodies.MaskedScore)
_INFER = ("fill-mask", bodies_v2.InferBody, oip.infer, bodies_v2.InferReply, bodies_v2.V2ErrorReply)

#: In the order they are looked through: the busiest first.
POSTS: tuple[Post, ...] = (
    Post("/fill-mask", "fill-mask", bodies.FillMaskBody, hf.fill_mask, _MASKS),
    Post("/embed", "embedding", bodies.EmbedBody, hf.embed, ListOf(ListOf(float))),
    Post("/score", "score", bodies.ScoreBody, hf.score, _SCORES),
    Post("/tokenize", "tokenize", bodies.TokenizeBody, hf.tokenize, ListOf(ListOf(bodies.TokenizedToken))),
    Post(
        "/v1/embeddings",
        "embedding",
        bodies.EmbeddingsBody,
        openai.embeddings,
        bodies.EmbeddingsReply,
        bodies.OpenAIErrorReply,
    ),
    Post("/v2/models/{model:path}/versions/{version}/infer", *_INFER),
    Post("/v2/models/{model:path}/infer", *_INFER),
)

#: Values of the label `route`.
ROUTE_NAMES = (*(post.path.replace(":path", "") for post in POSTS), "other")


def _types() -> list[type]:
    """Every type that the document has a schema of."""
    found: list[type] = [
        bodies.InfoReply,
        bodies.ModelsReply,
        bodies.StateReply,
        bodies_v2.V2Live,
        bodies_v2.V2Ready,
    ]
    found += [bodies_v2.ServerMetadata, bodies_v2.ModelMetadata]
    for post in POSTS:
        found += [post.body, post.error, *_inside(post.reply)]
    return list(dict.fromkeys(found))


def _inside(kind: Any) -> list[type]:
    return [inner for item in kind.items for inner in _inside(item)] if isinstance(kind, ListOf) else [kind]


_SCHEMAS, _COMPONENTS = msgspec.json.schema_components(_types(), ref_template="#/components/schemas/{name}")
_BY_TYPE = dict(zip(_types(), _SCHEMAS, strict=True))


def components() -> dict[str, Any]:
    """Schemas that the operations refer to, by name."""
    return _COMPONENTS


def _schema(kind: Any) -> dict[str, Any]:
    if not isinstance(kind, ListOf):
        return _BY_TYPE[kind]
    items = [_schema(item) for item in kind.items]
    return {"type": "array", "items": items[0] if len(items) == 1 else {"anyOf": items}}


def _content(kind: Any) -> dict[str, Any]:
    return {"application/json": {"schema": _schema(kind)}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1].partition(":")[0] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def post_operation(post: Post) -> tuple[dict[str, Any], dict[int | str, dict[str, Any]]]:
    """What the document says of a route that takes a body: the operation, and its responses."""
    seconds = {"type": "number", "exclusiveMinimum": 0}
    parameters = _path_parameters(post.path)
    parameters += [
        {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
        for name, schema, text in (*_HEADERS, ("x-mlmon-timeout", seconds, "Seconds until 504."))
    ]
    parameters.append(
        {
            "name": "timeout",
            "in": "query",
            "required": False,
            "schema": seconds,
            "description": "The same, where a header cannot be set.",
        }
    )
    operation = {
        "parameters": parameters,
        "requestBody": {"required": True, "content": _content(post.body)},
    }
    return operation, _responses(post.reply, post.error, tuple(_REFUSALS))


def get_operation(
    path: str, reply: Any, error: Any, codes: Sequence[int] = (401,)
) -> tuple[dict[str, Any], dict[int | str, dict[str, Any]]]:
    """The same of a route that only tells; `error` is what it gives with `codes`."""
    return {"parameters": _path_parameters(path)}, _responses(reply, error, codes)


def _responses(reply: Any, error: Any, codes: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {200: {"description": "The answer.", "content": _content(reply)}}
    for code in codes:
        found[code] = {"description": _REFUSALS[code], "content": _content(error)}
    return found
