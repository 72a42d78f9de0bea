"""What the tap reads of the protocol and what it leaves alone: ids, traces, lifespans, websockets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmon.attach import MlmonMiddleware, TapConfig
from mlmon.attach.asgi import request_id
from mlmon.attach.build import checked_fields, trace_of
from mlmon.events.event import Event

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONFIG = TapConfig(service="svc", model_name="m")


def test_websockets_are_untouched(emitter: Any) -> None:
    given_to: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given_to.extend((scope, receive, send))

    scope, receive, send = {"type": "websocket"}, object(), object()
    asyncio.run(MlmonMiddleware(app, emitter, CONFIG)(scope, receive, send))  # type: ignore[arg-type]
    assert given_to[0] is scope
    assert given_to[1] is receive
    assert given_to[2] is send


def test_the_end_of_the_lifespan_flushes(make_emitter: Any, read_back: Any) -> None:
    """A server that a signal stops runs no exit handlers; this is the last the tap hears."""
    emitter = make_emitter(batch_age_seconds=600)
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        emitter.emit(Event(event_id="1", event_time=time.time_ns() // 1000, service="s", model_name="m"))
        await send({"type": "lifespan.shutdown.complete"})

    async def send(message: Any) -> None:
        sent.append((message["type"], emitter.stats().sent_events))

    asyncio.run(MlmonMiddleware(app, emitter, CONFIG)({"type": "lifespan"}, asyncio.Event().wait, send))  # type: ignore[arg-type]
    assert sent == [("lifespan.startup.complete", 0), ("lifespan.shutdown.complete", 1)]
    assert len(read_back().events) == 1


@given(st.binary(max_size=200))
def test_request_ids_are_usable_whatever_the_client_sends(value: bytes) -> None:
    found = request_id([(b"x-request-id", value)])
    assert 0 < len(found) <= 128
    assert found.isascii()
    assert found.isprintable()
    text = value.decode("latin-1")
    if 0 < len(value) <= 128 and text.isascii() and text.isprintable():
        assert found == text


def test_made_up_request_ids_differ() -> None:
    assert len({request_id([]) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        TRACE.upper(),
        TRACE + b"-more",
        TRACE[:-1],
    ],
)
def test_invalid_trace_parents_are_ignored(value: bytes) -> None:
    assert trace_of([(b"traceparent", value)]) == (None, None)


def test_later_versions_of_trace_parents_are_read() -> None:
    assert trace_of([(b"traceparent", b"01" + TRACE[2:] + b"-more")])[1] == "b7ad6b7169203331"


def test_extracted_values_of_numpy_become_plain() -> None:
    fields, error = checked_fields(
        {
            "confidence": np.float32(0.25),
            "embedding": np.array([1, 2], np.float16),
            "top_scores": (np.float64(0.5), 0.25),
            "numeric_features": {"a": np.int64(3)},
            "batch_size": np.int32(4),
        }
    )
    assert error is None
    assert fields == {
        "confidence": 0.25,
        "embedding": [1.0, 2.0],
        "top_scores": [0.5, 0.25],
        "numeric_features": {"a": 3.0},
        "batch_size": 4,
    }
