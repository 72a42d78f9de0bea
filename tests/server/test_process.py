"""`mlmon serve` as a process, and a real uvicorn: disconnects, load, TLS, an orderly end."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from server_kit import Connection, Held, configured, listening, process, read_metrics, sentences, until
from test_events import events_of

from mlmon.cli import cli
from mlmon.cli.serve import _cautions, _configured, _uvicorn, serve
from mlmon.errors import ConfigError, SourceError
from mlmon.server.app import build_server
from mlmon.server.config import ServerConfig
from mlmon.server.work.jobs import Lane
from mlmon.server.work.runner import Runner

if TYPE_CHECKING:
    from pathlib import Path

    from server_kit import Made, Process

    from mlmon.server.model import LoadedModel

MASK = {"inputs": "the [MASK] sat"}


CONFIG = """
[server]
name = "tiny"
shutdown_seconds = 20
[server.batch]
queue_jobs = 6
batch_tokens = 64
[server.events]
kind = "spool"
[server.events.spool]
directory = "{spool}"
"""


def ask_and_end(server: Process) -> httpx.Response:
    """Ask for many batches, and stop the server when some of them are through."""
    answers: list[httpx.Response] = []
    text = "the cat sat on the mat and the dog looked at it"
    body = {"inputs": [text] * 200, "parameters": {"method": "pll"}}

    with httpx.Client(base_url=server.url, timeout=60) as client:

        def batches() -> float:
            return read_metrics(client.get("/metrics").text)["mlmon_server_batches_total", ()]

        before = batches()
        thread = threading.Thread(target=lambda: answers.append(client.post("/score", json=body)))
        thread.start()
        until(lambda: batches() > before)
        assert not answers
        assert server.end() == 0
        thread.join(60)
    return answers[0]


def test_a_process_under_more_load_than_it_takes_only_ever_says_429_and_ends_in_order(
    models: dict[str, Made], tmp_path: Path
) -> None:
    config = tmp_path / "server.toml"
    config.write_text(CONFIG.format(spool=tmp_path / "spool"))
    texts = [f"{text} [MASK]" for text in sentences(50)]

    async def storm(url: str, count: int) -> dict[int, int]:
        """40 clients at once, each sending one request after the other."""
        statuses: dict[int, int] = {}
        work = iter(range(count))

        async def client() -> None:
            async with Connection.to(url) as connection:
                for number in work:
                    status, headers, _ = await connection.post("/fill-mask", {"inputs": texts[number % 50]})
                    statuses[status] = statuses.get(status, 0) + 1
                    if status == 429:
                        assert int(headers["retry-after"]) >= 1

        await asyncio.gather(*(client() for _ in range(40)))
        return statuses

    with process("--model", str(models["bert"].directory), "--config", str(config)) as server:
        asyncio.run(storm(server.url, 1500))  # the first events load Arrow
        before = server.resident_bytes
        statuses = asyncio.run(storm(server.url, 1500))
        assert set(statuses) == {200, 429}, statuses
        assert sum(statuses.values()) == 1500
        assert server.resident_bytes - before < 80 * 2**20, "a leak of 60 kB a request"
        text = httpx.get(f"{server.url}/metrics", timeout=60).text
        seen = read_metrics(text)
        refused = seen["mlmon_server_refused_requests_total", ("interactive", "jobs")]
        answered = seen["mlmon_server_requests_total", ("200", "interactive", "/fill-mask")]
        assert refused >= statuses[429]
        assert answered + refused == 3000
        assert seen["mlmon_server_queue_jobs", ("interactive",)] == 0
        assert seen["mlmon_server_open_requests", ()] == 0
        assert "_created" not in text
        last = ask_and_end(server)
        assert last.status_code == 200, "what was accepted is answered after SIGTERM"
        assert len(last.json()) == 200
    events = events_of(tmp_path / "spool")
    assert len(events) == 3001, "every request became an event, also those of the last moment"
    ok = [event for event in events.values() if event["status"] == "ok"]
    assert len(ok) == answered + 1
    assert max(event["batch_size"] for event in ok) > 1, "requests share batches"


def send_and_leave(url: str, held: Held, path: str, body: Any, *, entered: bool) -> socket.socket:
    """Send a request over a socket of its own; wait until it is on the device where it gets there."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nx-request-id: {path[1:]}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + data)
    if entered:
        assert held.entered.acquire(timeout=60)
    return connection


def test_a_client_that_goes_away_frees_its_place(bert: LoadedModel, tmp_path: Path) -> None:
    held = Held(Runner(bert.encoder, bert.head))
    events = {"kind": "spool", "spool": {"directory": str(tmp_path / "s")}}
    server = build_server(bert, configured(events=events), runner=held)
    held.entered.acquire()
    held.batches.clear()
    scheduler = server.serving.scheduler
    with listening(server) as url:
        held.open.clear()
        on_device = send_and_leave(url, held, "/fill-mask", MASK, entered=True)
        waiting = send_and_leave(url, held, "/embed", MASK, entered=False)
        until(lambda: scheduler.waiting(Lane.INTERACTIVE)[0] == 1)
        waiting.close()
        until(lambda: scheduler.waiting(Lane.INTERACTIVE) == (0, 0))
        on_device.close()

        def metric(name: str, *labels: str) -> float:
            return read_metrics(httpx.get(f"{url}/metrics", timeout=60).text).get((name, labels), 0.0)

        until(lambda: metric("mlmon_server_given_up_jobs_total", "interactive", "disconnect") == 2)
        until(lambda: metric("mlmon_server_open_requests") == 0)
        assert metric("mlmon_server_requests_total", "499", "interactive", "/embed") == 1
        assert metric("mlmon_server_requests_total", "499", "interactive", "/fill-mask") == 1
        held.open.set()
        assert httpx.post(f"{url}/fill-mask", json=MASK, timeout=60).status_code == 200
    assert len(held.batches) == 2, "what waited was never begun"
    statuses = {name: event["status"] for name, event in events_of(tmp_path / "s").items()}
    assert statuses["fill-mask"] == statuses["embed"] == "client_error"


def test_tls_and_a_token(bert: LoadedModel, tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*make.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    (tmp_path / "token").write_text("0123456789abcdef")
    config = configured(
        token_file=str(tmp_path / "token"),
        tls_cert_file=certificate,
        tls_key_file=key,
        tls_client_ca_file=certificate,
    )
    server = build_server(bert, config)
    context = ssl.create_default_context(cafile=certificate)
    with listening(server, _uvicorn(config, server.app, uvicorn.Config)) as url:
        with (
            httpx.Client(base_url=url, verify=context, timeout=60) as client,
            pytest.raises(httpx.TransportError),
        ):
            client.get("/health/ready")  # without a certificate that the CA signed
        context.load_cert_chain(certificate, key)
        with httpx.Client(base_url=url, verify=context, timeout=60) as client:
            assert client.get("/health/ready").status_code == 200
            assert client.post("/fill-mask", json=MASK).status_code == 401
            right = {"authorization": "Bearer 0123456789abcdef"}
            assert client.post("/fill-mask", json=MASK, headers=right).status_code == 200


def options(**given: Any) -> dict[str, Any]:
    """What the command line hands on: every option, None where it was not given."""
    names = {parameter.name for parameter in serve.params} - {"config_path"}
    return dict.fromkeys(names) | given


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[server]\nmodel = "a"\nport = 1\ntoken_env = "T"\n[server.loading]\ndevice = "cuda"\n')
    assert _configured(str(file), options()).loading.device == "cuda"
    given = options(port=2, device="cpu", batch_tokens=512, token_file="x", events_spool="d", version_="7")  # noqa: S106 - a path
    config = _configured(str(file), given)
    assert (config.model, config.port, config.version) == ("a", 2, "7")
    assert (config.token_env, config.token_file) == (None, "x")
    assert (config.loading.device, config.batch.batch_tokens) == ("cpu", 512)
    assert (config.events.kind, config.events.spool.directory) == ("spool", "d")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1", "did you mean `port`"),
        ("[server.batch]\nbatch_tokens = 1", "16"),
        ('[server]\ntls_cert_file = "x"', "expected both or neither"),
        ('[server]\ntoken_env = "A"\ntoken_file = "B"', "at most one of them"),
        ("[servers]", "did you mean `server`"),
    ],
)
def test_a_mistake_in_the_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        _configured(str(file), options())


def test_mistakes_of_the_command_line_are_told(bert: LoadedModel, tmp_path: Path) -> None:
    def run(*arguments: str) -> BaseException:
        error = CliRunner().invoke(cli, ["serve", *arguments]).exception
        assert error is not None
        return error

    assert "no model: expected --model DIR|ID" in str(run())
    assert "expected a readable TOML file" in str(run("--config", str(tmp_path / "nothing")))
    assert "price_per_gpu_hour" in str(run("--model", "x", "--price-per-gpu-hour", "-1"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        error = run("--model", "x", "--port", str(taken.getsockname()[1]))
    assert isinstance(error, SourceError)
    assert "choose another with --host and --port" in str(error)
    config = configured(batch={"batch_tokens": 20})
    with pytest.raises(ConfigError, match="expected room for the model's longest sequence, 40 tokens"):
        build_server(bert, config)
    with pytest.raises(ConfigError, match="expected at most batch_tokens, 64"):
        build_server(bert, configured(batch={"batch_tokens": 64, "shadow_batch_tokens": 65}))


def test_letting_other_machines_in_without_a_token_is_warned_of() -> None:
    def cautions(**given: Any) -> list[str]:
        return _cautions(ServerConfig(**given))

    for host in ("127.0.0.1", "::1", "localhost", "127.8.0.1"):
        assert cautions(host=host) == []
    for host in ("0.0.0.0", "::", "10.0.0.1", "gpu-1"):  # noqa: S104 - what is warned of
        open_to_all = cautions(host=host)
        assert len(open_to_all) == 2
        assert "--token-env" in open_to_all[0]
        assert "without TLS" in open_to_all[1]
        assert len(cautions(host=host, token_env="T")) == 1  # noqa: S106 - a name
        assert cautions(host=host, token_env="T", tls_cert_file="c", tls_key_file="k") == []  # noqa: S106 - as above
