"""Emitters on a real spool, what they wrote read back, and a way to call an ASGI app."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mlmon.attach import Emitter, EmitterConfig, SpoolSink
from mlmon.events.codecs.config import DecodeConfig
from mlmon.events.codecs.decoder import Decoder
from mlmon.sources.spool import SpoolConfig, SpoolSource, SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass
class ReadBack:
    """What is in a spool."""

    events: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0
    sizes: list[int] = field(default_factory=list)

    @property
    def by_id(self) -> dict[str, dict[str, Any]]:
        """Events by id; fails where one is there twice."""
        found = {event["event_id"]: event for event in self.events}
        assert len(found) == len(self.events)
        return found


def read_spool(directory: Path) -> ReadBack:
    """Everything in a spool, through the real source and decoder."""
    found = ReadBack()
    decoder = Decoder(DecodeConfig())
    source = SpoolSource(SpoolConfig(str(directory), stop_at_end=True))
    while not source.finished:
        polled = source.poll(0.0)
        for partition in polled.assigned:
            source.seek(partition, None)
        for chunk in polled.chunks:
            decoded = decoder.decode(list(chunk.records), time.time_ns() // 1000)
            assert not decoded.rejects
            found.dropped += decoded.dropped
            found.sizes += [len(record.value or b"") for record in chunk.records]
            if decoded.batch is not None:
                found.events += decoded.batch.records.to_pylist()
    source.close()
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def read_back(spool: Path) -> Callable[[], ReadBack]:
    return lambda: read_spool(spool)


@pytest.fixture
def make_emitter(spool: Path) -> Iterator[Callable[..., Emitter]]:
    made: list[Emitter] = []

    def make(**config: Any) -> Emitter:
        config.setdefault("batch_age_seconds", 0.05)
        made.append(Emitter(SpoolSink(SpoolWriterConfig(str(spool))), EmitterConfig(**config)))
        return made[-1]

    yield make
    for emitter in made:
        emitter.close(5)


@pytest.fixture
def emitter(make_emitter: Callable[..., Emitter]) -> Emitter:
    return make_emitter()


@dataclass
class Call:
    """One request to an ASGI app, in process.

    `received` are the messages the app is given in turn; then it waits for ever, as behind a real server,
    unless `gone`, when it is told of the disconnect.
    """

    path: str = "/predict"
    method: str = "POST"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=lambda: [b"{}"])
    root_path: str = ""
    gone: bool = False
    sent: list[Any] = field(default_factory=list)
    error: BaseException | None = None

    async def run(self, app: Any) -> Call:
        last = len(self.chunks) - 1
        messages = [
            {"type": "http.request", "body": chunk, "more_body": i < last}
            for i, chunk in enumerate(self.chunks)
        ]
        if self.gone:
            messages[-1] = {"type": "http.disconnect"}

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            self.sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": self.root_path,
            "query_string": b"",
            "headers": self.headers,
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        try:
            await app(scope, receive, send)
        except BaseException as error:  # noqa: BLE001 - what came through is what is tested
            self.error = error
        return self


@pytest.fixture
def call() -> Callable[..., Call]:
    """Call an app once: `call(app, path=..., headers=..., ...)`."""
    return lambda app, **request: asyncio.run(Call(**request).run(app))


@pytest.fixture
def call_type() -> type[Call]:
    return Call
