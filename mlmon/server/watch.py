"""A request as it passes: counted, timed, traced, and made an event of. Outermost around the app.

Latency, status, sampling and identity are those of `mlmon.attach`'s tap. What the tap would have to read from
bodies the server knows itself and notes: so no body is kept or parsed a second time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmon.attach.asgi import request_id
from mlmon.attach.build import build_event
from mlmon.attach.exchange import BASE_BYTES, Exchange
from mlmon.server.work.jobs import Lane, Timing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence

    from mlmon.attach.tap import Tap
    from mlmon.events.event import Event
    from mlmon.events.privacy import InputHasher
    from mlmon.server.meters import Meters
    from mlmon.server.nvml import GpuCollector
    from mlmon.server.tracing import Part, Tracing
    from mlmon.server.work.text import Text
    from mlmon.stats.tokens import TokenTable

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["Counting", "Note", "Watch", "note_of"]

_KEY = "mlmon.note"
#: Tasks with an answer that a reference can be asked for too.
_MIRRORED = ("fill-mask", "embedding")
#: HTTP has no status for a client that went away; this is the one in use for it.
_GONE = 499


@dataclass(slots=True, eq=False)
class Note:
    """What the server knows of a request besides HTTP; filled on its way.

    Attributes:
        route: as in the metrics.
        sampled: whether its event may carry contents.
        lane: of the request.
        task: as in the events.
        probe: name of a golden probe; None for traffic.
        texts: the inputs, where they came as text.
        encoded: their tokens.
        tokenize: when tokenizing began and ended, monotonic seconds.
        timing: of the job.
        fields: what the answer says, by event field; small.
        sequence: the text that the answer gives back, where it does: of the first text and mask, the best.
    """

    route: str = "other"
    sampled: bool = False
    lane: Lane = Lane.INTERACTIVE
    task: str | None = None
    probe: str | None = None
    texts: Sequence[str] | None = None
    encoded: Sequence[Text] = ()
    tokenize: tuple[float, float] | None = None
    timing: Timing = field(default_factory=Timing)
    fields: Mapping[str, Any] = field(default_factory=dict)
    sequence: str | None = None

    @property
    def bytes(self) -> int:
        """About what it keeps in memory."""
        size = sum(4 * len(text) for text in (*(self.texts or ()), self.sequence or ""))
        size += sum(2 * text.ids.nbytes for text in self.encoded)
        return size + 8 * len(self.fields.get("embedding", ()))


@dataclass(frozen=True, slots=True, eq=False)
class Counting:
    """What the contents of an event are made with; used in the emitter's thread.

    Attributes:
        table: counts by token ids.
        tokenizer_digest: of the tokenizer that was used.
        hasher: names the inputs.
        gpu: the device's state; None where it has none to tell.
    """

    table: TokenTable
    tokenizer_digest: str
    hasher: InputHasher
    gpu: GpuCollector | None

    def contents(self, note: Note) -> dict[str, Any]:
        """What an event says of a request that was answered."""
        fields = self._tokens(note) if note.encoded else {}
        fields |= note.fields
        if note.texts is not None:
            fields["input_hash"] = self.hasher.hash(note.texts)
        if isinstance(fields.get("embedding"), np.ndarray):
            fields["embedding"] = fields["embedding"].tolist()
        if note.timing.ended:
            fields["queue_seconds"] = note.timing.queue_seconds
            fields["inference_seconds"] = note.timing.inference_seconds
            fields["batch_size"] = note.timing.batch_jobs
        if note.tokenize is not None:
            fields["tokenize_seconds"] = note.tokenize[1] - note.tokenize[0]
        if self.gpu is not None:
            reading = self.gpu.reading()
            fields["gpu_utilization_ratio"] = reading.utilization_ratio
            fields["gpu_memory_used_bytes"] = reading.memory_used_bytes
            fields["gpu_memory_total_bytes"] = reading.memory_total_bytes
        return fields

    def _tokens(self, note: Note) -> dict[str, Any]:
        """Counts summed over the texts: of what is left of them after truncation, and what is not."""
        kept = [text.ids[: text.kept] for text in note.encoded]
        bounds = np.zeros(len(kept) + 1, np.int64)
        np.cumsum([len(ids) for ids in kept], out=bounds[1:])
        counts = self.table.count(np.concatenate(kept), bounds)
        fields: dict[str, Any] = {name: int(values.sum()) for name, values in counts.items()}
        whole = sum(len(text.ids) for text in note.encoded)
        fields["truncated_tokens"] = whole - int(bounds[-1])
        fields["tokenizer_digest"] = self.tokenizer_digest
        if note.texts is not None:
            fields["characters"] = sum(map(len, note.texts))
        return fields


class _Passing(Exchange):
    """One request that becomes an event: the tap's exchange, without bodies and with a note."""

    __slots__ = ("_counting", "_note")

    def __init__(
        self, events: tuple[Tap, Counting], scope: Scope, channel: tuple[Receive, Send], note: Note
    ) -> None:
        tap, self._counting = events
        super().__init__(tap, scope, *channel, request_id(scope["headers"]))
        note.sampled = self._seen.request is not None
        self._seen.request = self._seen.response = None
        self._note = note

    def _finish(self, status: str) -> None:
        self._done = True
        tap, seen, note = self._tap, self._seen, self._note
        if note.task is None:
            return  # no inference: a probe, a wrong path, a client without a token
        if status not in tap.sampler.always_keep:
            if not note.sampled:
                return
            seen.weight = tap.sampler.weight
        seen.status = status
        seen.latency_seconds = time.perf_counter() - self._start
        if status != "ok":
            note.texts, note.encoded, note.fields, note.sequence = None, (), {}, None
        tap.emitter.emit_deferred(self._event, BASE_BYTES + note.bytes)

    def _event(self) -> Event:
        event, note = build_event(self._seen), self._note
        fields = self._counting.contents(note) if event.status == "ok" else {}
        fields["task"] = note.task
        if note.lane is Lane.SHADOW:
            fields["deployment"] = "shadow"
        fields["probe_id"] = note.probe
        for name, value in fields.items():
            if value is not None:
                setattr(event, name, value)
        mirror = self._tap.hooks.mirror
        if mirror is not None and note.texts and note.probe is None and note.task in _MIRRORED:
            mirror.offer(event, note.texts[0], note.sequence)
        return event


class _Sending:
    """The `send` of a request: notes its status and when its last byte went."""

    __slots__ = ("_send", "code", "done_at")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.code = 0
        self.done_at = 0.0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.done_at = time.monotonic()


def note_of(scope: Mapping[str, Any]) -> Note:
    """The note of a request."""
    note: Note = scope[_KEY]
    return note


class Watch:
    """An ASGI app around the server's.

    Args:
        app: the server's.
        meters: its metrics.
        tracing: makes spans.
        events: identity, sampling, emitter and mirror of the events, and what they are filled with; None:
            none are made.
    """

    def __init__(
        self, app: App, meters: Meters, tracing: Tracing, events: tuple[Tap, Counting] | None = None
    ) -> None:
        self._app, self._meters, self._tracing, self._events = app, meters, tracing, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any type."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, wall = time.monotonic(), time.time_ns()
        note = scope[_KEY] = Note()
        passing = None
        if self._events is not None and scope["method"] == "POST":
            passing = _Passing(self._events, scope, (receive, send), note)
            receive, send = passing.receive, passing.send
        sending = _Sending(send)
        error: BaseException | None = None
        try:
            await self._app(scope, receive, sending)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if passing is not None:
                passing.ended(error)
            self._meter(note, sending, begun)
            if note.task is not None:
                self._trace(scope, note, sending, begun, wall)

    def _meter(self, note: Note, sending: _Sending, begun: float) -> None:
        meters, lane = self._meters, note.lane
        code = sending.code if sending.done_at else _GONE
        meters.requests.labels(note.route, lane, code).inc()
        if code != 200:
            return
        meters.latency.labels(note.route, lane).observe(sending.done_at - begun)
        if note.tokenize is not None:
            meters.tokenize.labels(lane).observe(note.tokenize[1] - note.tokenize[0])
        if note.timing.ended:
            meters.queue.labels(lane).observe(note.timing.queue_seconds)
            meters.inference.labels(lane).observe(note.timing.inference_seconds)

    def _trace(self, scope: Scope, note: Note, sending: _Sending, begun: float, wall: int) -> None:
        def at(moment: float) -> int:
            return wall + round((moment - begun) * 1e9)

        parts: list[Part] = []
        if note.tokenize is not None:
            parts.append(("tokenize", at(note.tokenize[0]), at(note.tokenize[1])))
        timing = note.timing
        if timing.begun:
            parts.append(("queue", at(timing.queued), at(timing.begun)))
        if timing.ended:
            parts.append(("inference", at(timing.begun), at(timing.ended)))
        attributes = {
            "http.request.method": scope["method"],
            "http.route": note.route,
            "http.response.status_code": sending.code,
            "mlmon.lane": str(note.lane),
            "mlmon.batch_size": timing.batch_jobs,
        }
        ended = at(sending.done_at or time.monotonic())
        name = f"{scope['method']} {note.route}"
        self._tracing.record(name, scope["headers"], (wall, ended), parts, attributes)
