"""The tap in a real server: uvicorn, FastAPI and the example service, over loopback."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket  # noqa: TC002 - FastAPI reads annotations
from fastapi.responses import StreamingResponse

from mlmon.attach import Emitter, EmitterConfig, MlmonMiddleware, SpoolSink, TapConfig, TapHooks, text_from
from mlmon.attach.kafka_sink import KafkaSink, KafkaSinkConfig
from mlmon.sources.spool import SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def service() -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: dict[str, Any], tasks: BackgroundTasks) -> dict[str, Any]:
        tasks.add_task(lambda: None)
        if body.get("fail"):
            raise RuntimeError("as asked")
        return {"label": "spam", "score": 0.5, "echo": body}

    @app.post("/stream")
    async def stream(request: Request) -> StreamingResponse:
        parts = [b"[", b"1,", b"2", b"]"]

        async def chunks() -> Any:
            for part in parts:
                yield part

        return StreamingResponse(chunks(), media_type="application/json")

    @app.websocket("/ws")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    return app


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/predict", {"json": {"text": "hello"}}),
    ("POST", "/predict", {"json": {"text": "x" * 300_000}}),
    ("POST", "/predict", {"content": b"not json", "headers": {"content-type": "application/json"}}),
    ("POST", "/predict", {"json": {"fail": True}}),
    ("POST", "/predict", {"json": ["wrong"]}),
    ("POST", "/stream", {"json": {}}),
    ("GET", "/predict", {}),
    ("GET", "/nowhere", {}),
    ("OPTIONS", "/predict", {}),
    ("HEAD", "/predict", {}),
]


def responses(base: str) -> list[tuple[int, list[tuple[bytes, bytes]], bytes]]:
    found = []
    for method, path, options in REQUESTS:
        # a connection for each: uvicorn closes the one on which an app raised
        response = httpx.request(method, base + path, **options)
        headers = [(k, v) for k, v in response.headers.raw if k.lower() != b"date"]
        found.append((response.status_code, headers, response.content))
    return found


def boom(*_: Any) -> Any:
    raise RuntimeError("boom")


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize(
    "hooks",
    [
        TapHooks(text=text_from("text"), extract=lambda _, out: {"prediction": out["label"]}),
        TapHooks(text=boom, extract=boom),
    ],
    ids=["good hooks", "failing hooks"],
)
def test_responses_are_the_same_byte_for_byte(emitter: Emitter, hooks: TapHooks, rate: float) -> None:
    with serving(service()) as plain:
        expected = responses(plain)
    config = TapConfig(service="s", model_name="m", sample_rate=rate)
    app = service()
    app.add_middleware(MlmonMiddleware, emitter=emitter, config=config, hooks=hooks)
    with serving(app) as tapped:
        assert responses(tapped) == expected
    assert emitter.flush(60)
    assert [status for status, _, _ in expected] == [200, 200, 422, 500, 422, 200, 405, 404, 405, 405]
    # the failure is always an event; OPTIONS and HEAD never are
    assert emitter.stats().sent_events == (1 if rate == 0 else len(REQUESTS) - 2)


def test_events_of_a_real_server(emitter: Emitter, read_back: Any) -> None:
    app = service()
    config = TapConfig(service="s", model_name="m", paths=("/predict", "/stream"))
    hooks = TapHooks(text=text_from("text"), extract=lambda _, out: {"prediction": out["label"]})
    app.add_middleware(MlmonMiddleware, emitter=emitter, config=config, hooks=hooks)
    with serving(app) as base, httpx.Client(base_url=base, timeout=60) as client:
        for i in range(20):
            client.post("/predict", json={"text": "ab"}, headers={"x-request-id": f"r{i}"})
        client.post("/predict", json={"fail": True}, headers={"x-request-id": "bad"})
        client.get("/docs")
    assert emitter.flush(60)
    events = read_back().by_id
    assert len(events) == 21
    assert events["r3"]["prediction"] == "spam"
    assert events["r3"]["characters"] == 2
    assert events["bad"]["status"] == "error"
    assert events["r3"]["instance"].endswith(f":{os.getpid()}")


def test_a_dead_broker_keeps_nobody_waiting() -> None:
    sink = KafkaSink(
        KafkaSinkConfig(bootstrap_servers=(f"127.0.0.1:{free_port()}",), connect_timeout_seconds=0.5)
    )
    emitter = Emitter(sink, EmitterConfig(queue_events=20, batch_events=5, flush_timeout_seconds=0.2))
    app = service()
    app.add_middleware(MlmonMiddleware, emitter=emitter, config=TapConfig(service="s", model_name="m"))
    with serving(app) as base, httpx.Client(base_url=base) as client:
        for _ in range(100):
            assert client.post("/predict", json={"text": "a"}, timeout=60).status_code == 200
        deadline = time.monotonic() + 60
        while not emitter.stats().sink_errors:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stats = emitter.stats()
        assert stats.dropped >= 70
        assert stats.queue_items <= 20
        assert stats.sent_events == 0
    assert not emitter.close(0.2)


def test_workers_write_to_slots_of_their_own(spool: Path, read_back: Any) -> None:
    """Two emitters on one directory, as two workers have them."""
    emitters = [Emitter(SpoolSink(SpoolWriterConfig(str(spool)))) for _ in range(2)]
    for number, emitter in enumerate(emitters):
        app = service()
        app.add_middleware(MlmonMiddleware, emitter=emitter, config=TapConfig(service="s", model_name="m"))
        with serving(app) as base:
            httpx.post(f"{base}/predict", json={}, headers={"x-request-id": f"w{number}"})
        emitter.flush(60)
    assert sorted(read_back().by_id) == ["w0", "w1"]
    for emitter in emitters:
        assert emitter.close(5)


# The example


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("mlmon_example_app", EXAMPLE / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mlmon_example_app"] = module  # its models refer to it by name
    spec.loader.exec_module(module)
    return module


def test_the_example_classifies_and_is_watched(
    example: Any, tmp_path: Path, read_back: Any, spool: Path
) -> None:
    app = example.create_app(example.Settings(spool=str(spool)))
    with serving(app) as base:
        answer = httpx.post(f"{base}/classify", json={"text": "my debit card was stolen at the hotel"}).json()
        assert answer["label"] == "card blocked"
        assert httpx.post(f"{base}/classify", json={"text": ""}).status_code == 422
        assert httpx.get(f"{base}/healthz").json() == {"status": "ok"}
        app.state.emitter.flush(60)
        assert "mlmon_tap_sent_events_total 2.0" in httpx.get(f"{base}/metrics").text
    good, bad = read_back().events
    assert (good["prediction"], good["unknown_tokens"], good["words"]) == ("card blocked", 0, 8)
    assert good["confidence"] == pytest.approx(answer["scores"]["card blocked"])
    assert 0 < sum(good["top_scores"]) <= 1.001
    assert len(good["input_hash"]) == 32
    assert (bad["status"], bad["prediction"]) == ("client_error", None)


def test_the_example_with_a_wrong_tokenizer(
    example: Any, tmp_path: Path, read_back: Any, spool: Path
) -> None:
    wrong = tmp_path / "wrong.json"
    example.train_tokenizer(["0123456789 . , ?"], 40).save(str(wrong))
    app = example.create_app(example.Settings(spool=str(spool), tokenizer=str(wrong), tokenizer_version="2"))
    with serving(app) as base:
        assert httpx.post(f"{base}/classify", json={"text": "my debit card was stolen"}).status_code == 200
    app.state.emitter.close(5)
    (event,) = read_back().events
    assert event["unknown_tokens"] == event["tokens"] == 5
    assert event["tokenizer_version"] == "2"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_server_stopped_by_a_signal_flushes(read_back: Callable[[], Any], spool: Path, how: int) -> None:
    port = free_port()
    environment = os.environ | {"MLMON_EXAMPLE_SPOOL": str(spool), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"],
        cwd=EXAMPLE,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    client.get("/healthz")
                    break
                assert time.monotonic() < deadline
                assert server.poll() is None
                time.sleep(0.05)
            for i in range(30):
                client.post("/classify", json={"text": "hello"}, headers={"x-request-id": f"{i}"})
        server.send_signal(how)
        server.wait(60)
    finally:
        server.kill()
        server.wait()
    assert sorted(map(int, read_back().by_id)) == list(range(30))
