"""What the headers of a request say: its lane, its probe, its time, and the length of its body.

They are looked through once. Starlette's would be for each header that is asked for, and to find most of them
absent is a good part of what a short request costs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.work.jobs import Lane

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    Headers = Mapping[bytes, Sequence[str]]

__all__ = ["body_length", "headers_of", "lane_of", "probe_of", "seconds_of"]

_MAX_PROBE = 128
_READ = frozenset(
    {b"x-mlmon-lane", b"x-mlmon-probe", b"x-mlmon-timeout", b"content-encoding", b"content-length"}
)


def headers_of(request: Request) -> Headers:
    """The headers that are read here, by name, each with all it was given as."""
    found: dict[bytes, list[str]] = {}
    for name, value in request.scope["headers"]:
        if name in _READ:
            found.setdefault(name, []).append(value.decode("latin-1"))
    return found


def lane_of(headers: Headers) -> Lane:
    """The lane, `interactive` without a header.

    Raises:
        RefusalError: there is no such lane.
    """
    given = headers.get(b"x-mlmon-lane")
    if given is None:
        return Lane.INTERACTIVE
    try:
        return Lane(given[0])
    except ValueError:
        raise RefusalError(
            Refusal.INVALID, "the header x-mlmon-lane: interactive or shadow", repr(given[0]), "correct it"
        ) from None


def probe_of(headers: Headers) -> str | None:
    """The name of the golden probe; None for traffic.

    Raises:
        RefusalError: it is none that an event could carry.
    """
    names = headers.get(b"x-mlmon-probe")
    if names is None:
        return None
    given = names[0]
    if not 0 < len(given) <= _MAX_PROBE or not given.isascii() or not given.isprintable():
        raise RefusalError(
            Refusal.INVALID,
            f"the header x-mlmon-probe: 1 to {_MAX_PROBE} printable ASCII characters",
            repr(given[:_MAX_PROBE]),
            "correct it",
        )
    return given


def seconds_of(request: Request, headers: Headers) -> float | None:
    """The time that the request is given: the header's, else the query's; None where neither says.

    Raises:
        RefusalError: one of them is no number of seconds above 0, also where another wins over it.
    """
    query = request.query_params.getlist("timeout") if request.scope["query_string"] else []
    given = [*query, *headers.get(b"x-mlmon-timeout", ())]
    return [_seconds(text) for text in given][-1] if given else None


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RefusalError(
            Refusal.INVALID,
            "a timeout in seconds, above 0",
            repr(given),
            "correct x-mlmon-timeout or ?timeout=",
        )
    return seconds


def body_length(headers: Headers) -> int:
    """Bytes of the body as the client tells them; 0 where it does not.

    Raises:
        RefusalError: the body is compressed.
    """
    encoding = headers.get(b"content-encoding", ("identity",))[0]
    if encoding != "identity":
        raise RefusalError(Refusal.INVALID, "a body as it is", f"one in {encoding}", "do not compress it")
    length = headers.get(b"content-length", ("0",))[0]
    return int(length) if length.isdecimal() else 0
