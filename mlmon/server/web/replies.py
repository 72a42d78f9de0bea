"""Answers and refusals as HTTP: status, headers, and the words of each family of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from mlmon.server.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.server.refusals import RefusalError

__all__ = ["STATUS", "family_of", "json_reply", "refusal_reply"]

STATUS: dict[Refusal, int] = {
    Refusal.MALFORMED: 422,
    Refusal.INVALID: 422,
    Refusal.TOO_LONG: 422,
    Refusal.TOO_LARGE: 413,
    Refusal.NOT_FOUND: 404,
    Refusal.METHOD: 405,
    Refusal.UNAUTHORIZED: 401,
    Refusal.FULL: 429,
    Refusal.STARVED: 503,
    Refusal.STOPPING: 503,
    Refusal.TIMEOUT: 504,
    Refusal.GONE: 499,
    Refusal.MEMORY: 503,
    Refusal.FAILED: 500,
}

_ENCODER = msgspec.json.Encoder()


def family_of(path: str) -> str:
    """Whose words errors on this path are told in: `openai`, `oip` or `own`."""
    if path.startswith("/v1/"):
        return "openai"
    return "oip" if path == "/v2" or path.startswith("/v2/") else "own"


def json_reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer."""
    data = _ENCODER.encode(content)
    return Response(data, status, dict(headers) if headers else None, media_type="application/json")


def refusal_reply(error: RefusalError, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal, in the words of the family that the path belongs to."""
    status = STATUS[error.kind]
    sent = dict(headers or {})
    if error.retry_seconds is not None:
        sent["retry-after"] = str(error.retry_seconds)
    match family_of(path):
        case "openai":
            kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
            kind = "rate_limit_error" if status == 429 else kind
            content: Any = {
                "error": {"message": str(error), "type": kind, "param": None, "code": error.kind.value}
            }
        case "oip":
            content = {"error": str(error)}
        case _:
            content = {
                "error": str(error),
                "error_type": error.kind.value,
                "expected": error.expected,
                "got": error.got,
                "remedy": error.remedy,
            }
    return json_reply(content, status, sent)
