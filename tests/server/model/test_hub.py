"""Models from a hub: a small one that speaks enough of its protocol, and the cache without a network."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypeAlias

import huggingface_hub.constants
import pytest

from mlmon.errors import ConfigError
from mlmon.server.model import LoadConfig, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from model_kit import Made

Make: TypeAlias = "Callable[[str], Made]"
COMMIT = "5" * 40
NAME = "somebody/small-bert"


class Hub:
    """A hub with one model of two branches' names, one commit."""

    def __init__(self, directory: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in directory.iterdir()}
        self.files |= {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx", "modeling.py": b"1 / 0"}
        self.files["onnx/config.json"] = b"{}"
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.split("?")[0]
        self.asked.append(path)
        prefix = f"/{NAME}/resolve/{COMMIT}/"
        if path in {f"/api/models/{NAME}/revision/{name}" for name in ("main", "v1", COMMIT)}:
            siblings = [{"rfilename": name} for name in self.files]
            data = json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": f"{abs(hash(name)):040x}"}
                for name, data in self.files.items()
            ]
            data = json.dumps(tree).encode()
        elif path.startswith(prefix):
            data = self.files[path.removeprefix(prefix)]
        else:
            request.send_response(404)
            request.send_header("X-Error-Code", "RepoNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(200)
        for key, value in {"ETag": f'"{abs(hash(path)):040x}"', "X-Repo-Commit": COMMIT}.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)


@pytest.fixture
def hub(made: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub(made("bert").directory)
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.url)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        found.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def test_only_what_is_needed_and_safe_is_fetched(made: Make, hub: Hub, tmp_path: Path) -> None:
    config: dict[str, Any] = {"cache_dir": str(tmp_path)}
    fetched = load_model(NAME, LoadConfig(**config, revision="v1"))
    local = load_model(made("bert").directory)
    assert (fetched.info.name, fetched.info.revision) == (NAME, COMMIT)
    assert fetched.info.model_digest == local.info.model_digest
    assert fetched.info.tokenizer_digest == local.info.tokenizer_digest
    asked = {path.rsplit("/resolve/", 1)[1].split("/", 1)[1] for path in hub.asked if "/resolve/" in path}
    assert asked == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    count = len(hub.asked)
    again = load_model(NAME, LoadConfig(**config, revision="v1", offline=True))
    assert again.info == fetched.info
    assert len(hub.asked) == count


def test_a_model_that_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model 'somebody/else' cannot be fetched from the hub"):
        load_model("somebody/else", LoadConfig(cache_dir=str(tmp_path)))


def test_without_a_network_the_cache_is_all_there_is(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not in the cache; expected a directory or a hub id"):
        load_model(NAME, LoadConfig(cache_dir=str(tmp_path), offline=True))
    assert hub.asked == []


def test_names_that_are_no_hub_ids(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be fetched from the hub"):
        load_model("some body", LoadConfig(cache_dir=str(tmp_path), offline=True))
    for name in ("", "a/b/c", "../x", "/x"):
        with pytest.raises(ConfigError, match="there is no such directory"):
            load_model(name, LoadConfig(cache_dir=str(tmp_path), offline=True))
