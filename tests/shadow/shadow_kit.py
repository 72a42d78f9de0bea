"""Traffic that is mirrored: texts, a served model's answers to them, and what became of both."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mlmon.attach import Mirror, MirrorConfig, MirrorFiles, MirrorSpoolConfig
from mlmon.burn.bounds import burns
from mlmon.events.codecs.config import DecodeConfig
from mlmon.events.codecs.decoder import Decoder
from mlmon.events.event import Event
from mlmon.monitors.slo import SloConfig, SloMonitor
from mlmon.shadow.clients import client_for
from mlmon.shadow.config import EndpointConfig, EventsConfig, MirrorPlace, ShadowConfig
from mlmon.sources.spool import SpoolConfig, SpoolSource
from mlmon.sources.spool_writer import SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlmon.events.batch import EventBatch
    from mlmon.shadow.clients import Answer

START_US = 1_767_225_600_000_000
PLENTY = MirrorConfig(tokens_per_second=1e6, burst_tokens=1e6)


def event(number: int, answer: Answer | None = None, **more: Any) -> Event:
    """The event of a request, with the answer's part filled in."""
    said: dict[str, Any] = {"task": "fill-mask"}
    if answer is not None and answer.rankings:
        labels, scores = list(answer.first.labels), list(answer.first.scores)
        said |= {"top_labels": labels, "top_scores": scores, "prediction": labels[0], "confidence": scores[0]}
    if answer is not None and answer.embedding is not None:
        said["embedding"] = answer.embedding.tolist()
    names = {"service": "shop", "model_name": "words", "model_version": "1", "deployment": "stable"}
    return Event(event_id=f"r-{number}", event_time=START_US + number * 1000, **names | said | more)


def masked(texts: Sequence[str]) -> list[str]:
    """Each text with one of its words masked."""
    found = []
    for number, text in enumerate(texts):
        words = text.split()
        words[number % len(words)] = "[MASK]"
        found.append(" ".join(words))
    return found


def place(root: Path) -> MirrorPlace:
    return MirrorPlace(spool=MirrorSpoolConfig(directory=str(root / "mirror")))


def mirror_answers(root: Path, texts: Sequence[str], answers: Sequence[Answer], **more: Any) -> None:
    """What a tap would have mirrored of these requests."""
    mirror = Mirror(MirrorFiles(place(root).spool), PLENTY)
    for number, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        segments = {"language": ("de", "en", "fr")[number % 3]}
        assert mirror.offer(event(number, answer, segments=segments, **more), text, answer.sequence)
    assert mirror.close(30)
    assert mirror.stats().written == len(texts)


def answers_of(url: str, texts: Sequence[str], task: str = "fill-mask") -> list[Answer]:
    client = client_for(EndpointConfig(url=url), lane=False)
    try:
        return [client.ask([text], task, 5)[0] for text in texts]
    finally:
        client.close()


def configuration(root: Path, url: str, **more: Any) -> ShadowConfig:
    return ShadowConfig(
        mirror=place(root),
        reference=EndpointConfig(url=url, name="reference 7", **more.pop("endpoint", {})),
        events=EventsConfig(spool=SpoolWriterConfig(str(root / "spool"))),
        **more,
    )


def logged_batches(root: Path) -> list[EventBatch]:
    """The events in the log, through the sidecar's source and decoder."""
    source = SpoolSource(SpoolConfig(str(root / "spool"), stop_at_end=True))
    decoder, batches = Decoder(DecodeConfig()), []
    while not source.finished:
        polled = source.poll(0.0)
        for partition in polled.assigned:
            source.seek(partition, None)
        for chunk in polled.chunks:
            decoded = decoder.decode(list(chunk.records), time.time_ns() // 1000)
            assert not decoded.rejects
            if decoded.batch is not None:
                batches.append(decoded.batch)
    source.close()
    return batches


def logged(root: Path) -> list[dict[str, Any]]:
    """The same as rows."""
    if not (root / "spool").exists():
        return []
    return [row for batch in logged_batches(root) for row in batch.records.to_pylist()]


class JsonServer:
    """A server on a port whose answers a function gives: (path, body, headers) to (status, headers, body)."""

    def __init__(self, answer: Callable[[str, Any, Any], tuple[int, dict[str, str], Any]]) -> None:
        self.seen: list[tuple[str, Any]] = []
        kept = self.seen

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = msgspec.json.decode(self.rfile.read(int(self.headers["content-length"])))
                kept.append((self.path, body))
                status, headers, reply = answer(self.path, body, self.headers)
                data = reply if isinstance(reply, bytes) else msgspec.json.encode(reply)
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> JsonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def burn_of(root: Path, objective: str) -> float:
    """Lower bound of an objective's burn over all that is in the log, as the sidecar's pages test it."""
    monitor = SloMonitor(SloConfig())
    summary = monitor.summary()
    for batch in logged_batches(root):
        summary.update(batch)
    for found, (good, bad) in summary.outcomes():
        if found == objective:
            budget = next(one.budget for one in monitor.judging.objectives if one.name == objective)
            sums = np.array([*(good + bad), *bad[1:]])
            return float(burns(sums, np.array(budget), np.array(0.95)).lower)
    raise AssertionError(f"no events of {objective}")
