"""Tiny models with real tokenizers, saved as checkpoints are, and a server of them without a port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import torch
import transformers
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlmon.server.app import build_server
from mlmon.server.config import ServerConfig
from mlmon.server.model import load_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence

    from mlmon.server.app import Server
    from mlmon.server.model import LoadedModel
    from mlmon.server.work.halving import Landing, Model
    from mlmon.server.work.pieces import Piece

LONGEST = 40
KINDS = ("bert", "roberta", "distilbert")
_WORDS = (
    "the cat sat on the mat and the dog looked at it . a bird sings in the morning , unbelievably early ! "
    "we were playing chess yesterday ; reading is more interesting than working , isn't it ? prices rose by "
    "twelve percent in march . she wrote a letter to her sister in paris . the river flows to the sea"
)
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@dataclass(frozen=True)
class Made:
    """A saved model.

    Attributes:
        mask: its mask token.
    """

    kind: str
    directory: Path
    mask: str

    def load(self) -> LoadedModel:
        return load_model(self.directory)

    def pipeline(self, **options: Any) -> Any:
        """The transformers pipeline of it."""
        return transformers.pipeline("fill-mask", model=str(self.directory), **options)


def sentences(count: int, seed: int = 1) -> list[str]:
    """Texts of 3 to 12 words out of those the tokenizers know."""
    generator = torch.Generator().manual_seed(seed)
    words = _WORDS.split()

    def draw(most: int) -> int:
        return int(torch.randint(most, (1,), generator=generator))

    return [" ".join(words[draw(len(words))] for _ in range(3 + draw(10))) for _ in range(count)]


def make(kind: str, directory: Path) -> Made:
    """Make a tokenizer, draw weights, save both."""
    byte_level = kind == "roberta"
    tokenizer = _byte_level() if byte_level else _word_piece()
    tokenizer.save(str(directory / "tokenizer.json"))
    names = ("<s>", "</s>", "<pad>", "<unk>", "<mask>") if byte_level else ()
    cls, sep, pad, unk, mask = names or ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")
    told = {"cls_token": cls, "sep_token": sep, "pad_token": pad, "unk_token": unk, "mask_token": mask}
    told |= {"bos_token": cls, "eos_token": sep} if byte_level else {}
    told |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(told | {"model_max_length": LONGEST}))
    _model(kind, tokenizer).save_pretrained(directory)
    return Made(kind, directory, mask)


def _vocabulary(tokens: Iterable[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def _word_piece() -> Tokenizer:
    """Letters, short words, and long words in two parts. Made, not trained: training breaks ties at "
    "random."""
    words = sorted(set(re.findall(r"\w+", _WORDS)))
    letters = sorted(set("".join(words)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    parts = [part for word in words for part in ([word] if len(word) < 6 else [word[:4], "##" + word[4:]])]
    vocabulary = _vocabulary([*special, *".,;!?'", *letters, *(f"##{letter}" for letter in letters), *parts])
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _byte_level() -> Tokenizer:
    """Bytes, and the beginnings of words up to five letters."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    merges: dict[tuple[str, str], None] = {}
    for word in sorted({"\u0120" + word for word in re.findall(r"\w+", _WORDS)}):
        for end in range(1, min(5, len(word))):
            merges[word[:end], word[end]] = None
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = _vocabulary([*special, *alphabet, *(left + right for left, right in merges)])
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def _model(kind: str, tokenizer: Tokenizer) -> Any:
    size = tokenizer.get_vocab_size()
    torch.manual_seed(11)
    match kind:
        case "bert":
            config: Any = transformers.BertConfig(
                vocab_size=size + 6, max_position_embeddings=LONGEST, initializer_range=0.3, **_SIZES
            )
        case "roberta":
            config = transformers.RobertaConfig(
                vocab_size=size,
                max_position_embeddings=LONGEST + 2,
                type_vocab_size=1,
                initializer_range=0.3,
                pad_token_id=tokenizer.token_to_id("<pad>"),
                **_SIZES,
            )
        case _:
            config = transformers.DistilBertConfig(
                vocab_size=size,
                dim=32,
                n_layers=2,
                n_heads=4,
                hidden_dim=64,
                max_position_embeddings=LONGEST,
                initializer_range=0.3,
            )
    name = type(config).__name__.removesuffix("Config")
    return getattr(transformers, f"{name}ForMaskedLM")(config).eval()


def configured(**tables: Any) -> ServerConfig:
    """A configuration from its tables: `configured(batch={"batch_tokens": 64})`."""
    return msgspec.convert(tables, ServerConfig)


@contextlib.asynccontextmanager
async def talking(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose lifespan runs; there is no port."""
    ended, begun = asyncio.Event(), asyncio.Event()
    messages: list[str] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            messages.append("startup")
            return {"type": "lifespan.startup"}
        await ended.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        messages.append(message["type"])
        begun.set()

    life = asyncio.create_task(server.app({"type": "lifespan"}, receive, send))
    await begun.wait()
    assert "lifespan.startup.complete" in messages
    try:
        transport = httpx.ASGITransport(server.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
            yield client
    finally:
        ended.set()
        await life
    assert "lifespan.shutdown.complete" in messages


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine; a test that hangs fails."""
    return asyncio.run(asyncio.wait_for(work, 120))


def ask(made: LoadedModel, *requests: tuple[str, Any], **tables: Any) -> list[httpx.Response]:
    """Answers of a server to POSTs, one after the other: `ask(loaded, ("/embed", {...}))`."""

    async def work() -> list[httpx.Response]:
        async with talking(build_server(made, configured(**tables))) as client:
            return [await client.post(path, json=body) for path, body in requests]

    found: list[httpx.Response] = run(work())
    return found


def read_metrics(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and the values of their labels, in the order of the labels' names."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Held:
    """A model that waits for a sign before each batch, so that a test decides what happens meanwhile.

    Attributes:
        entered: batches that were begun.
        batches: of each, the ids of its sequences.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.depth = 1
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[Piece]] = []

    def begin(self, pieces: Sequence[Piece]) -> Landing:
        self.batches.append(list(pieces))
        self.entered.release()
        assert self.open.wait(60)
        return self._model.begin(pieces)

    def free(self) -> None:
        self._model.free()


class Narrow:
    """A real model on a device with memory for so many tokens at once."""

    def __init__(self, model: Model, most: int) -> None:
        self._model, self._most = model, most
        self.depth = 1
        self.freed = 0

    def begin(self, pieces: Sequence[Piece]) -> Landing:
        tokens = sum(piece.tokens for piece in pieces)
        if tokens > self._most:
            raise torch.OutOfMemoryError(f"no room for {tokens} tokens")
        return self._model.begin(pieces)

    def free(self) -> None:
        self.freed += 1


class Faulty:
    """A real model that raises on a sign."""

    depth = 1

    def __init__(self, model: Model) -> None:
        self._model = model
        self.error: Exception | None = None
        self.only = 0

    def begin(self, pieces: Sequence[Piece]) -> Landing:
        if self.error is not None and (not self.only or any(p.tokens == self.only for p in pieces)):
            raise self.error
        return self._model.begin(pieces)

    def free(self) -> None:
        raise AssertionError("memory did not run out")


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition; fail when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextlib.contextmanager
def listening(server: Server, config: uvicorn.Config | None = None) -> Iterator[str]:
    """A real uvicorn in a thread, on a port of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = config or uvicorn.Config(server.app, log_config=None, access_log=False)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: running.started or not thread.is_alive())
        assert running.started
        try:
            yield f"{'https' if config.is_ssl else 'http'}://127.0.0.1:{port}"
        finally:
            running.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


class Connection:
    """A client that costs little, so that many of them are a load: one connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of the answer."""
        data = json.dumps(body).encode()
        self._writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n".encode())
        self._writer.write(data)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(line.split(": ", 1) for line in lines if line)
        return int(first.split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))

    @staticmethod
    @contextlib.asynccontextmanager
    async def to(url: str) -> AsyncIterator[Connection]:
        """Connect."""
        host, port = url.removeprefix("http://").split(":")
        connection = Connection(*await asyncio.open_connection(host, int(port)))
        try:
            yield connection
        finally:
            connection._writer.close()
            await connection._writer.wait_closed()


class Process:
    """A running `mlmon serve`."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        # importing torch and transformers takes a while on a busy machine
        until(lambda: any("serving" in line for line in self.lines) or child.poll() is not None, 120)
        said = next((line for line in self.lines if "serving" in line), "")
        assert said, self.lines
        self.url = re.search(r"https?://\S+", said).group()  # type: ignore[union-attr]
        # it says so when it has the port, and takes connections a moment later
        until(self._listens)

    def _listens(self) -> bool:
        host, port = self.url.partition("://")[2].split(":")
        try:
            socket.create_connection((host, int(port)), timeout=60).close()
        except ConnectionRefusedError:
            return False
        return True

    def _read(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.lines.append(line)

    @property
    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> int:
        self.child.send_signal(signal.SIGTERM)
        code = self.child.wait(60)
        self._reader.join(10)
        return code


@contextlib.contextmanager
def process(*options: str) -> Iterator[Process]:
    """Start `mlmon serve` with these options, on a port it chooses."""
    command = [sys.executable, "-m", "mlmon.cli", "serve", "--port", "0", *options]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        yield Process(child)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(30)
        assert child.stderr is not None
        child.stderr.close()
