"""The clients of `server_http.py`, in a process of their own: they write bytes, read bytes, note the time.

Reads one JSON line for each measurement from standard input, and writes one to standard output. Every client
has one connection and one request at a time, so that no request waits unseen. Answers count from the moment
when each interactive client has had its first; then the crowd is as it stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mlmon.demo.corpus import docstring_sentences

#: After a refusal a client waits so long; a polite one would wait as long as it was told to.
PAUSE_SECONDS = 0.05
#: The whole crowd has had an answer by then, or something is wrong.
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A text with one mask, and how many tokens it brings through the model."""

    text: str
    tokens: int


def samples_of(directory: Path, most_tokens: int = 126) -> list[Sample]:
    """Sentences of the standard library's documentation, one word of each masked; always the same."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    mask = next(name for name in ("[MASK]", "<mask>") if tokenizer.token_to_id(name) is not None)
    found = []
    for number, sentence in enumerate(docstring_sentences()):
        words = sentence.split()
        words[number * 7 % len(words)] = mask
        ids = tokenizer.encode(" ".join(words)).ids
        if ids.count(tokenizer.token_to_id(mask)) == 1 and len(ids) <= most_tokens:
            found.append(Sample(" ".join(words), len(ids)))
    return found


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it is sent."""

    data: bytes
    texts: int
    tokens: int


def messages_of(samples: list[Sample], per_request: int, lane: str) -> list[Message]:
    """All texts, so many to a request."""
    made = []
    for at in range(0, len(samples) - per_request + 1, per_request):
        part = samples[at : at + per_request]
        texts = [sample.text for sample in part]
        body = json.dumps({"inputs": texts if per_request > 1 else texts[0]}).encode()
        head = (
            f"POST /fill-mask HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            f"x-mlmon-lane: {lane}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        made.append(Message(head.encode() + body, per_request, sum(sample.tokens for sample in part)))
    return made


@dataclass(slots=True)
class Group:
    """Clients of one lane, and what they saw while it counted.

    Attributes:
        messages: what they send, in turns.
        size: how many they are.
        over: whether nothing more is to be sent.
        counting: whether answers count.
        answered: clients that have had an answer.
    """

    messages: list[Message]
    size: int
    over: bool = False
    counting: bool = False
    answered: int = 0
    latencies: list[float] = field(default_factory=list)
    texts: int = 0
    tokens: int = 0
    refused: int = 0


class Client(asyncio.Protocol):
    """One connection: a request, its answer, the next one."""

    def __init__(self, group: Group, number: int) -> None:
        self._group = group
        self._next = number * len(group.messages) // group.size
        self._buffer = b""
        self._needed = 0  # bytes of the whole answer; 0 until its head is there
        self._fresh = True
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the server closed the connection"))

    def send(self) -> None:
        if self._group.over:
            self.ended.set_result(None)
            self._transport.close()
            return
        self._message = self._group.messages[self._next % len(self._group.messages)]
        self._next += 1
        self._begun = time.perf_counter()
        self._transport.write(self._message.data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self._buffer.index(b"content-length:", 0, end) + 15
            self._needed = end + 4 + int(self._buffer[at : self._buffer.index(b"\r", at)])
        if len(self._buffer) >= self._needed:
            self._answered(int(self._buffer[9:12]))

    def _answered(self, status: int) -> None:
        seconds, group, body = time.perf_counter() - self._begun, self._group, self._buffer
        self._buffer, self._needed = b"", 0
        if status not in (200, 429, 503):
            self.ended.set_exception(RuntimeError(body.decode()))
            self._transport.close()
            return
        if self._fresh:
            self._fresh = False
            group.answered += 1
        if group.counting and status == 200:
            group.latencies.append(seconds)
            group.texts += self._message.texts
            group.tokens += self._message.tokens
        if status == 200:
            self.send()
        else:
            group.refused += group.counting
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.send)


def cpu_seconds(process: int) -> float:
    """CPU time of a process, all threads, so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(url: tuple[str, int], groups: list[Group], seconds: float, server: int) -> dict[str, Any]:
    """Let all groups ask; the last is the interactive one, of which every client must be answered once."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    for group in groups:
        for number in range(group.size):
            _, client = await loop.create_connection(lambda g=group, n=number: Client(g, n), *url)
            clients.append(client)
    patience = time.perf_counter() + PATIENCE_SECONDS
    while groups[-1].answered < groups[-1].size:
        failed = [client.ended for client in clients if client.ended.done()]
        if failed:
            await failed[0]
        if time.perf_counter() > patience:
            raise TimeoutError(f"{groups[-1].answered} of {groups[-1].size} clients were answered")
        await asyncio.sleep(0.01)
    begun, own, theirs = time.perf_counter(), time.process_time(), cpu_seconds(server)
    for group in groups:
        group.counting = True
    # answers of a full batch come together: a window shorter than its time would see none, or too many
    while time.perf_counter() - begun < seconds or len(groups[-1].latencies) < groups[-1].size:
        await asyncio.sleep(0.01)
    took, own, theirs = (
        time.perf_counter() - begun,
        time.process_time() - own,
        cpu_seconds(server) - theirs,
    )
    for group in groups:
        group.counting, group.over = False, True
    await asyncio.gather(*(client.ended for client in clients))
    told = [
        {name: getattr(group, name) for name in ("latencies", "texts", "tokens", "refused")}
        for group in groups
    ]
    return {"groups": told, "seconds": took, "clients_cpu": own / took, "server_cpu": theirs}


def main() -> None:
    """Measure what each line of standard input asks for."""
    address, directory = sys.argv[1:]
    host, _, port = address.removeprefix("http://").rpartition(":")
    samples = samples_of(Path(directory))
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        groups = [
            Group(messages_of(samples, group["per_request"], group["lane"]), group["clients"])
            for group in asked["groups"]
        ]
        found = asyncio.run(measure((host, int(port)), groups, asked["seconds"], asked["server"]))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
