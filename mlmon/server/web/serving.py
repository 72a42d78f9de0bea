"""What all inference routes share: a place, the body, tokens, the wait for the device, the answer's "
"headers."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec
import numpy as np
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the endpoint's annotations
from starlette.responses import Response  # noqa: TC002 - as above

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.watch import note_of
from mlmon.server.web.headers import body_length, headers_of, lane_of, probe_of, seconds_of
from mlmon.server.web.replies import json_reply, refusal_reply
from mlmon.server.work.jobs import Job
from mlmon.server.work.pieces import Seen
from mlmon.server.work.text import LONG_CHARACTERS
from mlmon.server.work.windows import LongText

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mlmon.server.config import LimitsConfig, LongInputs
    from mlmon.server.meters import Meters
    from mlmon.server.watch import Note
    from mlmon.server.web.headers import Headers
    from mlmon.server.work.scheduler import Scheduler
    from mlmon.server.work.task import Setting, Task
    from mlmon.server.work.text import Text
    from mlmon.server.work.waiting import Waiting

    _TaskT = TypeVar("_TaskT", bound=Task)

_T = TypeVar("_T")

__all__ = ["Call", "Inputs", "Served", "Serving", "inference", "reply_to"]

#: Threads that encode long texts and write long answers; the interpreter lock lets no more be of use.
TEXT_THREADS = 2
_FLOATS, _IDS = np.empty((0, 0), np.float32), np.empty((0, 0), np.int64)
_NOTHING = Seen(_IDS, _FLOATS, _FLOATS.ravel(), _FLOATS.ravel(), _IDS.ravel(), _FLOATS)


@dataclass(frozen=True, slots=True)
class Served:
    """What is served, as every answer names it."""

    name: str
    version: str
    model_digest: str
    tokenizer_digest: str
    hidden_size: int
    created: int  #: when the server started, seconds since 1970

    @property
    def headers(self) -> dict[str, str]:
        """The names as headers."""
        return {
            "x-mlmon-model": quote(f"{self.name}/{self.version}", safe="/:@"),
            "x-mlmon-model-digest": self.model_digest,
            "x-mlmon-tokenizer-digest": self.tokenizer_digest,
        }


@dataclass(frozen=True, slots=True)
class Inputs:
    """The texts of a request: as text, or as token ids."""

    texts: Sequence[str] = ()
    ids: Sequence[Sequence[int]] = ()

    def __len__(self) -> int:
        return len(self.texts) or len(self.ids)

    @property
    def long(self) -> bool:
        """Whether they are worth a thread of their own."""
        return sum(map(len, self.texts)) >= LONG_CHARACTERS or sum(map(len, self.ids)) >= LONG_CHARACTERS


@dataclass(slots=True, eq=False)
class Call:
    """One request to an inference route.

    Attributes:
        request: as Starlette has it.
        note: for metrics, events and spans.
        deadline: monotonic seconds.
        headers: as `web.headers` reads them.
        long: whether its inputs are worth a thread.
        told: further headers of its answer.
    """

    request: Request
    note: Note
    deadline: float
    headers: Headers
    long: bool = False
    told: dict[str, str] | None = None


class Serving:
    """One model, as the routes use it. On one event loop.

    Args:
        served: its names.
        setting: what tasks are made with.
        limits: what a request may ask for.
        meters: what is counted.
        scheduler, waiting: the way to the device.
    """

    def __init__(
        self,
        served: Served,
        setting: Setting,
        limits: LimitsConfig,
        meters: Meters,
        work: tuple[Scheduler, Waiting],
    ) -> None:
        self.served, self.setting, self.limits, self.meters = served, setting, limits, meters
        self.headers = served.headers
        self.scheduler, self._waiting = work
        self._open = 0
        self._threads = ThreadPoolExecutor(TEXT_THREADS, "mlmon-text")
        self._decoders: dict[type, msgspec.json.Decoder[Any]] = {}
        self.on_error: Callable[[BaseException], None] = lambda _: None

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # A place, and what the headers say

    def enter(self, request: Request, route: str, task: str) -> Call:
        """Give a request a place; `leave` must follow.

        Raises:
            RefusalError: none is free, or a header is not as it should be. Then `leave` must not follow.
        """
        note = note_of(request.scope)
        note.route, note.task = route, task
        headers = headers_of(request)
        note.lane, note.probe = lane_of(headers), probe_of(headers)
        seconds = seconds_of(request, headers) or self.limits.timeout_seconds
        deadline = time.monotonic() + min(seconds, self.limits.timeout_seconds)
        if self._open >= self.limits.open_requests:
            self.meters.refused.labels(note.lane, "requests").inc()
            raise RefusalError(
                Refusal.FULL,
                f"at most {self.limits.open_requests} requests at once",
                "one too many",
                "come back in 1 s",
                retry_seconds=1,
            )
        self._open += 1
        self.meters.open_requests.set(self._open)
        return Call(request, note, deadline, headers)

    def leave(self) -> None:
        """Give the place back."""
        self._open -= 1
        self.meters.open_requests.set(self._open)

    # The body

    async def read(self, call: Call, body_type: type[_T]) -> _T:
        """The body, as the type that the route takes.

        Raises:
            RefusalError: it is too large, late, compressed, or not what the route takes.
        """
        data = await self._body(call)
        decoder = self._decoders.get(body_type)
        if decoder is None:
            decoder = self._decoders[body_type] = msgspec.json.Decoder(body_type)
        try:
            body: _T = decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # msgspec's own words end in the place, such as: at `$.parameters.top_k`
            raise RefusalError(
                Refusal.MALFORMED,
                f"JSON for {call.note.route} as /openapi.json has it",
                f"something else: {error}",
                "correct the body",
            ) from None
        return body

    async def _body(self, call: Call) -> bytes:
        request, limit = call.request, self.limits.body_bytes
        length = body_length(call.headers)
        if length > limit:
            raise _too_large(limit, f"{length} bytes")
        try:
            async with asyncio.timeout(call.deadline - time.monotonic()):
                chunks, size = [], 0
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise RefusalError(Refusal.GONE, "a body", "none", "send it")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > limit:
                        raise _too_large(limit, "more")
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            raise RefusalError(
                Refusal.TIMEOUT, "a body within the request's time", "part of one", "send it faster"
            ) from None

    # The work

    def long(self, how: LongInputs | None, stride: int | None) -> LongText:
        """What to do with long texts: as the request says, else as the server does."""
        return LongText(how or self.limits.long_inputs, stride)

    async def infer(
        self,
        call: Call,
        inputs: Inputs,
        long: LongText,
        make: Callable[[list[Text]], _TaskT],
        *,
        words: bool = False,
    ) -> tuple[_TaskT, Seen]:
        """Tokenize, make the task, and bring it through the model.

        Args:
            call: of which request.
            inputs: its texts.
            long: what to do with long ones.
            make: makes the task of the encoded texts.
            words: whether the task needs to know words.

        Raises:
            RefusalError: whatever keeps the request from being answered.
        """
        if len(inputs) > self.limits.inputs:
            raise RefusalError(
                Refusal.TOO_LARGE,
                f"at most {self.limits.inputs} texts in a request (limits.inputs)",
                f"{len(inputs)}",
                "send them in several requests",
            )
        call.long = inputs.long
        begun = time.monotonic()
        note = call.note
        texts = await self.compute(call, self._encode, inputs, long, words)
        note.tokenize = (begun, time.monotonic())
        note.texts, note.encoded = inputs.texts or None, texts
        self._count(texts)
        task = await self.compute(call, make, texts)
        if not task.pieces:
            return task, _NOTHING
        job = Job(task.pieces, note.lane, call.deadline)
        note.timing = job.timing
        await self._waiting.run(job, call.request.receive)
        seen = job.seen()
        if note.sampled:
            try:
                note.fields = task.fields(seen)
            except Exception as error:  # noqa: BLE001 - an event never costs a request its answer
                self.on_error(error)
        return task, seen

    def _encode(self, inputs: Inputs, long: LongText, words: bool) -> list[Text]:
        if inputs.texts:
            return self.setting.texts.encode(inputs.texts, long, words=words)
        return self.setting.texts.take_ids(inputs.ids, self.setting.vocabulary, long)

    async def compute(self, call: Call, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call a function: here, or in a thread where the inputs are long."""
        if not call.long:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _count(self, texts: list[Text]) -> None:
        cut = [len(text.ids) - text.kept for text in texts if text.kept < len(text.ids)]
        if cut:
            self.meters.truncated_texts.inc(len(cut))
            self.meters.truncated_tokens.inc(sum(cut))
        windowed = sum(len(text.windows) > 1 for text in texts)
        if windowed:
            self.meters.windowed_texts.inc(windowed)


def inference(
    serving: Serving,
    names: tuple[str, str],
    body_type: type[_T],
    handle: Callable[[Serving, Call, _T], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint: a place, the body, the handler, and a refusal for whatever is not right.

    Args:
        serving: the model.
        names: of the route, as in the metrics, and of the task, as in the events.
        body_type: what the route takes.
        handle: makes the answer.
    """

    async def endpoint(request: Request) -> Response:
        try:
            call = serving.enter(request, *names)
        except RefusalError as error:
            return refusal_reply(error, request.url.path)
        try:
            return await handle(serving, call, await serving.read(call, body_type))
        except RefusalError as error:
            return refusal_reply(error, request.url.path)
        finally:
            serving.leave()

    return endpoint


def reply_to(serving: Serving, call: Call, content: Any) -> Response:
    """An answer with the headers that every inference route sends."""
    note, parts = call.note, []
    if note.tokenize is not None:
        parts.append(f"tokenize;dur={1000 * (note.tokenize[1] - note.tokenize[0]):.3f}")
    if note.timing.ended:
        parts.append(f"queue;dur={1000 * note.timing.queue_seconds:.3f}")
        parts.append(f"inference;dur={1000 * note.timing.inference_seconds:.3f}")
    own = {"server-timing": ", ".join(parts), "x-mlmon-batch-size": str(note.timing.batch_jobs)}
    return json_reply(content, 200, serving.headers | own | (call.told or {}))


def _too_large(limit: int, got: str) -> RefusalError:
    return RefusalError(
        Refusal.TOO_LARGE,
        f"a body of at most {limit} bytes (limits.body_bytes)",
        got,
        "send less in a request",
    )
