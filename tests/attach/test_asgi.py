"""The tap as an ASGI app: what it records, and that it changes nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from mlmon.attach import MlmonMiddleware, TapConfig, TapHooks, text_from
from mlmon.errors import ConfigError
from mlmon.events.privacy import InputHasher
from mlmon.events.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def config(**fields: Any) -> TapConfig:
    base: dict[str, Any] = {"service": "svc", "model_name": "m", "model_version": "7", "instance": "here"}
    return TapConfig(**base | fields)


def answer(status: int = 200, body: Any = None, headers: Any = ()) -> Any:
    """An app that reads the whole request and answers."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": data[:2], "more_body": True})
        await send({"type": "http.response.body", "body": data[2:]})

    return app


@pytest.fixture
def seen(emitter: Any, read_back: Any, call: Any) -> Callable[..., list[dict[str, Any]]]:
    """Call a tapped app and return what is in the spool then."""

    def run(app: Any, *, hooks: TapHooks | None = None, tap: Any = None, **request: Any) -> Any:
        done = call(MlmonMiddleware(app, emitter, tap or config(), hooks), **request)
        assert emitter.flush(5)
        run.done = done  # type: ignore[attr-defined]
        return read_back().events if emitter.stats().sent_events else []

    return run


HOOKS = TapHooks(
    text=text_from("text"),
    extract=lambda request, response: {"prediction": response["label"], "language": request.get("lang")},
    hasher=InputHasher(b"0123456789abcdef"),
)


def test_an_ordinary_request(seen: Any) -> None:
    before = time.time_ns() // 1000
    events = seen(
        answer(200, {"label": "spam"}),
        hooks=HOOKS,
        tap=config(deployment="canary", task="classification", tokenizer_version="t1", model_digest="ab"),
        headers=[(b"x-request-id", b"req-1"), (b"traceparent", TRACE)],
        chunks=[b'{"text": "h\xc3\xa9llo",', b' "lang": "fr"}'],
    )
    (event,) = events
    latency = event.pop("latency_seconds")
    when = event.pop("event_time")
    assert 0 < latency < 5
    assert before <= round(when.timestamp() * 1e6) <= time.time_ns() // 1000
    assert event == {
        "event_id": "req-1",
        "service": "svc",
        "model_name": "m",
        "model_version": "7",
        "model_digest": "ab",
        "tokenizer_version": "t1",
        "deployment": "canary",
        "instance": "here",
        "task": "classification",
        "status": "ok",
        "characters": 5,
        "input_hash": InputHasher(b"0123456789abcdef").hash(["héllo"]),
        "language": "fr",
        "prediction": "spam",
        "sampling_weight": 1.0,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
    }


def test_no_text_of_the_request_is_in_the_spool(seen: Any, spool: Any) -> None:
    phrase = "zanzibar-parrot-1742"
    seen(answer(200, {"label": "a"}), hooks=HOOKS, chunks=[json.dumps({"text": phrase}).encode()])
    data = b"".join(path.read_bytes() for path in spool.rglob("*") if path.is_file())
    assert b"prediction" in data
    assert phrase.encode() not in data


@pytest.mark.parametrize(
    ("code", "status"),
    [(200, "ok"), (302, "ok"), (422, "client_error"), (408, "timeout"), (504, "timeout"), (503, "error")],
)
def test_status(seen: Any, code: int, status: str) -> None:
    (event,) = seen(answer(code, {"label": "x"}), hooks=HOOKS)
    assert event["status"] == status
    # hooks look at answers only; a service that answers 422 has no prediction
    assert ("prediction" in event) == (status == "ok")


def raising(error: BaseException, *, after: int = 0) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if after >= 1:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if after >= 2:
            await send({"type": "http.response.body", "body": b"{}", "more_body": False})
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("x"), "error"), (TimeoutError(), "timeout"), (asyncio.CancelledError(), "timeout")],
)
@pytest.mark.parametrize("after", [0, 1])
def test_exceptions_pass_through_and_are_events(seen: Any, error: Any, status: str, after: int) -> None:
    (event,) = seen(raising(error, after=after), tap=config(sample_rate=0.0))
    assert seen.done.error is error
    assert (event["status"], event["sampling_weight"]) == (status, 1.0)


def test_an_exception_after_the_response_is_not_the_requests(seen: Any) -> None:
    error = RuntimeError("in a background task")
    (event,) = seen(raising(error, after=2))
    assert seen.done.error is error
    assert event["status"] == "ok"


def test_a_client_that_goes_away(seen: Any) -> None:
    class GoneError(Exception):
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if (await receive())["type"] == "http.disconnect":
            raise GoneError

    (event,) = seen(app, gone=True)
    assert isinstance(seen.done.error, GoneError)
    assert event["status"] == "client_error"


def test_a_client_that_goes_away_while_the_response_is_sent(emitter: Any, read_back: Any) -> None:
    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise BrokenPipeError

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    tap = MlmonMiddleware(answer(200, {}), emitter, config())
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    with pytest.raises(BrokenPipeError):
        asyncio.run(tap(scope, receive, send))
    emitter.flush(5)
    assert [e["status"] for e in read_back().events] == ["client_error"]


def test_an_app_that_never_answers_is_an_error(seen: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    assert [event["status"] for event in seen(app)] == ["error"]


def test_a_task_cancelled_from_outside(emitter: Any, read_back: Any, call_type: Any) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(call_type().run(MlmonMiddleware(slow, emitter, config())))
        await asyncio.sleep(0.01)
        task.cancel()
        done = await task
        assert isinstance(done.error, asyncio.CancelledError)

    asyncio.run(main())
    emitter.flush(5)
    assert [e["status"] for e in read_back().events] == ["timeout"]


def test_sampling_keeps_what_the_hash_says_and_weighs_it(emitter: Any, read_back: Any, call: Any) -> None:
    rate = 0.2
    tap = MlmonMiddleware(answer(200, {"label": "x"}), emitter, config(sample_rate=rate), HOOKS)
    broken = MlmonMiddleware(answer(500, {}), emitter, config(sample_rate=rate), HOOKS)
    for i in range(300):
        call(tap, headers=[(b"x-request-id", b"ok-%d" % i)], chunks=[b'{"text": "a"}'])
    for i in range(40):
        call(broken, headers=[(b"x-request-id", b"bad-%d" % i)])
    assert emitter.flush(5)
    events = read_back().by_id
    sampler = Sampler(rate)
    expected = {f"ok-{i}" for i in range(300) if sampler.keep(f"ok-{i}")}
    assert {name for name, e in events.items() if e["status"] == "ok"} == expected
    assert {e["sampling_weight"] for e in events.values() if e["status"] == "ok"} == {sampler.weight}
    errors = [e for e in events.values() if e["status"] == "error"]
    assert len(errors) == 40
    assert {e["sampling_weight"] for e in errors} == {1.0}
    assert {e["characters"] for e in errors} == {None}  # alike, whether the hash chose them or not


def test_nothing_is_kept_of_a_request_that_is_not_sampled(emitter: Any, call: Any) -> None:
    looked: list[int] = []
    hooks = TapHooks(text=lambda body: looked.append(1) or "a")  # type: ignore[func-returns-value]
    call(MlmonMiddleware(answer(200, {}), emitter, config(sample_rate=0.0), hooks))
    emitter.flush(5)
    assert (emitter.stats().emitted, looked) == (0, [])


@pytest.mark.parametrize(
    ("paths", "path", "root", "watched"),
    [
        ((), "/anything", "", True),
        (("/predict",), "/predict", "", True),
        (("/predict",), "/predict/x", "", False),
        (("/v1/*", "/x"), "/v1/models/a", "", True),
        (("/v1/*",), "/v2/models/a", "", False),
        (("/predict",), "/api/predict", "/api", True),
    ],
)
def test_paths(seen: Any, paths: Any, path: str, root: str, watched: bool) -> None:
    events = seen(answer(200, {}), tap=config(paths=paths), path=path, root_path=root)
    assert len(events) == watched
    assert seen.done.sent[-1]["body"] == b""


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD"])
def test_requests_that_ask_nothing_of_the_model(seen: Any, method: str) -> None:
    assert seen(answer(200, {}), method=method) == []


def test_bodies_over_the_limit_are_not_looked_into(seen: Any, emitter: Any) -> None:
    body = json.dumps({"text": "x" * 500}).encode()
    chunks = [body[:200], body[200:400], body[400:]]
    (event,) = seen(
        answer(200, {"label": "y"}),
        hooks=TapHooks(text=text_from("text")),
        tap=config(max_body_bytes=300),
        chunks=chunks,
    )
    assert "characters" not in event
    assert emitter.stats().truncated_bodies == 1
    assert emitter.stats().tap_errors == 0


def test_bodies_that_are_not_json_are_counted_not_errors(seen: Any, emitter: Any) -> None:
    (event,) = seen(answer(200, b"\xff\x00 plain"), hooks=HOOKS, chunks=[b"a=b&c=\xff"])
    assert event["status"] == "ok"
    assert emitter.stats().unparsed_bodies == 2


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_compressed_bodies(seen: Any, encoding: bytes) -> None:
    squeeze = gzip.compress if encoding == b"gzip" else zlib.compress
    headers = [(b"Content-Encoding", encoding)]
    (event,) = seen(
        answer(200, squeeze(b'{"label": "spam"}'), headers),
        hooks=HOOKS,
        headers=headers,
        chunks=[squeeze(b'{"text": "abc"}')],
    )
    assert (event["characters"], event["prediction"]) == (3, "spam")


def test_a_compression_bomb_is_not_inflated(seen: Any, emitter: Any) -> None:
    bomb = gzip.compress(b'"' + b"x" * 10_000_000 + b'"')
    seen(answer(200, {"label": "a"}), hooks=HOOKS, headers=[(b"content-encoding", b"gzip")], chunks=[bomb])
    assert emitter.stats().unparsed_bodies == 1


class Boom:
    """Fails wherever it is called."""

    def __call__(self, *_: Any) -> Any:
        raise RuntimeError("boom")

    def measure(self, texts: Any) -> Any:
        raise RuntimeError("boom")

    def hash(self, texts: Any) -> Any:
        raise RuntimeError("boom")


@pytest.mark.parametrize(
    "hooks",
    [
        TapHooks(text=Boom()),
        TapHooks(extract=Boom()),
        TapHooks(text=text_from("text"), tokenizer=Boom()),
        TapHooks(text=text_from("text"), hasher=Boom()),  # type: ignore[arg-type]
        TapHooks(text=lambda body: 5),  # type: ignore[arg-type,return-value]
        TapHooks(text=lambda body: ["a", None]),  # type: ignore[list-item,return-value]
        TapHooks(extract=lambda a, b: 5),  # type: ignore[arg-type,return-value]
        TapHooks(extract=lambda a, b: {"no_such_field": 1}),
        TapHooks(extract=lambda a, b: {"event_id": "forged"}),
        TapHooks(extract=lambda a, b: {"confidence": "high"}),
    ],
)
def test_a_failing_hook_costs_only_its_fields(seen: Any, emitter: Any, call: Any, hooks: TapHooks) -> None:
    app = answer(200, {"label": "spam"}, [(b"x-a", b"b")])
    plain = call(app, chunks=[b'{"text": "a"}'])
    (event,) = seen(app, hooks=hooks, headers=[(b"x-request-id", b"r")], chunks=[b'{"text": "a"}'])
    assert seen.done.sent == plain.sent
    assert seen.done.error is None
    assert (event["event_id"], event["status"]) == ("r", "ok")
    assert emitter.stats().tap_errors == 1


def test_a_failing_extractor_leaves_the_text_and_the_other_way_round(seen: Any) -> None:
    (event,) = seen(
        answer(200, {"label": "spam"}),
        hooks=TapHooks(text=text_from("text"), extract=Boom()),
        chunks=[b'{"text": "abc"}'],
    )
    assert event["characters"] == 3
    events = seen(
        answer(200, {"label": "spam"}),
        hooks=TapHooks(text=Boom(), extract=lambda a, b: {"prediction": b["label"]}),
        chunks=[b'{"text": "abc"}'],
    )
    assert events[1]["prediction"] == "spam"


def test_a_tap_that_is_broken_through_and_through(call: Any) -> None:
    """Even an emitter that raises at every call changes nothing for the app."""

    class Broken:
        errors = 0

        def emit_deferred(self, job: Any, size: int) -> bool:
            raise MemoryError

        def count_tap_error(self, error: BaseException) -> None:
            self.errors += 1

    broken = Broken()
    app = answer(200, {"a": 1})
    tapped = call(MlmonMiddleware(app, broken, config()))  # type: ignore[arg-type]
    assert tapped.sent == call(app).sent
    assert tapped.error is None
    assert broken.errors == 1


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "http.response.start"},
        {"type": "nonsense"},
        None,
        {"type": "http.response.body", "body": 5},
    ],
)
def test_malformed_messages_reach_the_server_as_they_are(seen: Any, message: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(message)

    seen(app)
    assert seen.done.sent == [message]
    assert seen.done.error is None


def test_streams_stream(emitter: Any, call_type: Any) -> None:
    """Each chunk is with the server before the app makes the next, sampled or not."""
    for rate in (0.0, 1.0):
        request = call_type()
        lag: list[int] = []

        async def app(scope: Any, receive: Any, send: Any, request: Any = request, lag: Any = lag) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for i in range(5):
                await send({"type": "http.response.body", "body": b"x", "more_body": i < 4})
                lag.append(len(request.sent) - i - 2)

        asyncio.run(request.run(MlmonMiddleware(app, emitter, config(sample_rate=rate))))
        assert lag == [0] * 5


def test_body_buffers_that_are_reused_are_copied(seen: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        buffer = bytearray(b'{"label": "right"}')
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": buffer, "more_body": True})
        buffer[:] = b"x" * len(buffer)
        await send({"type": "http.response.body", "body": b""})

    (event,) = seen(app, hooks=HOOKS, chunks=[b'{"text": "a"}'])
    assert event["prediction"] == "right"


def test_extracted_values_travel_all_the_way(seen: Any) -> None:
    values = {
        "prediction": "b",
        "confidence": 0.75,
        "entropy": 0.5,
        "top_labels": ["b", "a"],
        "top_scores": [0.75, 0.25],
        "embedding": [0.5, -1.0],
        "numeric_features": {"length": 3.0},
        "categorical_features": {"channel": "web"},
        "segments": {"language": "en"},
        "inference_seconds": 0.01,
        "batch_size": 2,
        "model_name": "chosen",
    }
    (event,) = seen(answer(200, {}), hooks=TapHooks(extract=lambda a, b: values))
    event["segments"] = dict(event["segments"])
    event["embedding"] = list(map(float, event["embedding"]))
    assert {name: event[name] for name in values} == values


@pytest.mark.parametrize(
    "fields",
    [{"sample_rate": 2.0}, {"sample_rate": math.nan}, {"always_keep": ("teapot",)}, {"max_body_bytes": -1}],
)
def test_impossible_configurations_are_refused(emitter: Any, fields: Any) -> None:
    with pytest.raises(ConfigError):
        MlmonMiddleware(answer(), emitter, config(**fields))
