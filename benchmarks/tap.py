"""What the tap adds to a request: the same app with and without it, interleaved, medians of rounds.

    python benchmarks/tap.py                 in-process ASGI calls
    python benchmarks/tap.py --uvicorn       also over loopback HTTP through uvicorn

The app is FastAPI's, parses a JSON body and answers with a prediction; the tap has a WordPiece tokenizer, an
extractor and an input hash, and writes to a spool. Reported per request: the wall time the caller sees (the
median request, and the mean, in which requests that met the emitter's thread at work weigh in), and the CPU
time of the whole process, the emitter's thread and its final flush included.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import json
import os
import platform
import socket
import statistics
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from mlmon.attach import (
    Emitter,
    EmitterConfig,
    HfTokenizerStatistics,
    MlmonMiddleware,
    SpoolSink,
    TapConfig,
    TapHooks,
    text_from,
)
from mlmon.demo.corpus import labelled_queries
from mlmon.events.privacy import InputHasher
from mlmon.sources.spool import SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = [text for _, text in labelled_queries()]
RATES = (0.0, 0.05, 1.0)


class Query(BaseModel):
    text: str


def make_app() -> FastAPI:
    app = FastAPI()

    @app.post("/classify")
    async def classify(query: Query) -> dict[str, object]:
        return {"label": "card", "score": 0.75, "length": len(query.text)}

    return app


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - not a password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def hooks() -> TapHooks:
    return TapHooks(
        text=text_from("text"),
        extract=lambda _, out: {"prediction": out["label"], "confidence": out["score"]},
        tokenizer=HfTokenizerStatistics(make_tokenizer()),
        hasher=InputHasher(b"0123456789abcdef"),
    )


def variants(directory: str) -> tuple[dict[str, Any], dict[str, Emitter]]:
    apps: dict[str, Any] = {"no tap": make_app()}
    emitters = {}
    for rate in RATES:
        name = f"tap, {rate:.0%} sampled"
        sink = SpoolSink(SpoolWriterConfig(f"{directory}/{rate}", max_bytes=64 << 20))
        emitters[name] = Emitter(sink, EmitterConfig())
        config = TapConfig(
            service="bench", model_name="m", model_version="1", sample_rate=rate, paths=("/classify",)
        )
        apps[name] = MlmonMiddleware(make_app(), emitters[name], config, hooks())
    return apps, emitters


HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"accept", b"*/*"),
    (b"user-agent", b"bench/1"),
    (b"content-type", b"application/json"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]


def make_bodies(count: int) -> list[bytes]:
    return [json.dumps({"text": TEXTS[i % len(TEXTS)]}).encode() for i in range(count)]


async def call(app: Any, body: bytes) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/classify",
        "raw_path": b"/classify",
        "query_string": b"",
        "root_path": "",
        "headers": [*HEADERS, (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
        "state": {},
    }
    sent = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent


def in_process(rounds: int, requests: int) -> None:
    bodies = make_bodies(requests)
    with tempfile.TemporaryDirectory() as directory:
        apps, emitters = variants(directory)
        times: dict[str, list[float]] = {name: [] for name in apps}
        means: dict[str, list[float]] = {name: [] for name in apps}
        cpu: dict[str, list[float]] = {name: [] for name in apps}

        async def one_round(name: str, *, keep: bool) -> None:
            app, samples = apps[name], []
            clock = time.perf_counter
            cpu_before = time.process_time()
            for body in bodies:
                start = clock()
                await call(app, body)
                samples.append(clock() - start)
                await asyncio.sleep(0)
            if name in emitters:
                emitters[name].flush(60)  # its thread's work belongs to this round
            if keep:
                times[name].append(statistics.median(samples))
                means[name].append(statistics.fmean(samples))
                cpu[name].append((time.process_time() - cpu_before) / len(bodies))

        async def main() -> None:
            names = list(apps)
            for number in range(rounds + 1):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    await one_round(name, keep=number > 0)

        gc.collect()
        gc.freeze()
        asyncio.run(main())
        report(f"in process, {rounds} rounds of {len(bodies)}", times, {"mean": means, "CPU": cpu})
        for name, emitter in emitters.items():
            emitter.close(60)
            stats = emitter.stats()
            assert stats.dropped == stats.tap_errors == 0, (name, stats)
            assert stats.sent_events == stats.emitted, (name, stats)


Series = dict[str, list[float]]


def report(title: str, medians: Series, others: dict[str, Series]) -> None:
    print(f"\n{title}; Python {platform.python_version()}, {os.cpu_count()} cores")
    heads = [f"{name} +µs" for name in ("median", *others)]
    print(f"{'':22s}{'median µs':>11s}" + "".join(f"{head:>12s}" for head in heads))
    for name, values in medians.items():
        line = f"{name:22s}{statistics.median(values) * 1e6:11.1f}"
        for series in (medians, *others.values()):
            # each round is compared with its own neighbour, so that slow drifts of the machine cancel
            pairs = zip(series[name], series["no tap"], strict=True)
            line += f"{statistics.median(a - b for a, b in pairs) * 1e6:12.1f}"
        print(line)


class Server:
    def __init__(self, app: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, log_level="warning", access_log=False, lifespan="off"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port)

    def post(self, body: bytes) -> None:
        self.connection.request("POST", "/classify", body, {"content-type": "application/json"})
        response = self.connection.getresponse()
        response.read()
        assert response.status == 200

    def stop(self) -> None:
        self.connection.close()
        self.server.should_exit = True
        self.thread.join()


def over_http(rounds: int, requests: int) -> None:
    """Client and servers share the process, so the client's part of the wall time is in the base too."""
    bodies = make_bodies(requests)
    with tempfile.TemporaryDirectory() as directory:
        apps, emitters = variants(directory)
        servers = {name: Server(app) for name, app in apps.items()}
        times: dict[str, list[float]] = {name: [] for name in apps}
        means: dict[str, list[float]] = {name: [] for name in apps}
        names = list(servers)
        for number in range(rounds + 1):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                samples = [timed(servers[name].post, body) for body in bodies]
                if name in emitters:
                    emitters[name].flush(60)
                if number:
                    times[name].append(statistics.median(samples))
                    means[name].append(statistics.fmean(samples))
        report(f"uvicorn over loopback, {rounds} rounds of {len(bodies)}", times, {"mean": means})
        for server in servers.values():
            server.stop()
        for emitter in emitters.values():
            emitter.close(60)


def timed(function: Callable[[bytes], None], body: bytes) -> float:
    start = time.perf_counter()
    function(body)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--uvicorn", action="store_true")
    options = parser.parse_args()
    in_process(options.rounds, options.requests)
    if options.uvicorn:
        over_http(options.rounds, options.requests)


if __name__ == "__main__":
    main()
