"""`mlmon serve`: the reference server of masked language models."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mlmon.cli.common import set_up_logging
from mlmon.config import LogConfig
from mlmon.config.reader import read_toml
from mlmon.errors import ConfigError, MissingExtraError, SourceError
from mlmon.server.config import ServerConfig, ServerFile

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COMMANDS"]

_LOOPBACK = ("localhost",)
_KEEP_ALIVE_SECONDS = 75
#: Options that stand in a table below [server].
_TABLES = {
    "device": "loading",
    "dtype": "loading",
    "revision": "loading",
    "offline": "loading",
    "batch_tokens": "batch",
}


@click.command()
@click.option("--model", metavar="DIR|ID", help="Directory with safetensors weights, or an id on the hub.")
@click.option("-c", "--config", "config_path", metavar="FILE", help="TOML file with a table [server].")
@click.option("--host", help="Address to listen on; the default lets only this machine in.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on; 0 chooses one.")
@click.option("--name", help="Name under which the model is served.")
@click.option("--version", "version_", help="Version under which it is served.")
@click.option("--device", help="cpu, cuda or cuda:N; by default a GPU where there is one.")
@click.option("--dtype", help="float32, bfloat16 or float16; by default bfloat16 on a GPU.")
@click.option("--revision", help="Commit, tag or branch on the hub.")
@click.option("--offline", is_flag=True, default=None, help="Take nothing from the hub but what is cached.")
@click.option("--batch-tokens", type=click.IntRange(16), help="Most tokens in a batch.")
@click.option("--token-env", metavar="NAME", help="Environment variable with the bearer token to ask for.")
@click.option("--token-file", metavar="PATH", help="File with the bearer token to ask for.")
@click.option("--tls-cert-file", metavar="PATH", help="Certificate chain, PEM; turns TLS on.")
@click.option("--tls-key-file", metavar="PATH", help="Its private key, PEM.")
@click.option("--price-per-gpu-hour", type=float, help="Turns the cost metrics on; in any currency.")
@click.option("--events-spool", metavar="DIR", help="Write an event for each request to this spool.")
@click.option("--mirror-spool", metavar="DIR", help="Keep a sample of the texts there, for mlmon shadow.")
def serve(config_path: str | None, **options: Any) -> None:
    """Serve a masked language model: fill-mask, embeddings and scores over HTTP.

    Options win over the file. Needs the server extra. SIGTERM and Ctrl-C let accepted requests end.
    """
    config = _configured(config_path, options)
    set_up_logging(LogConfig(level=config.log_level, format=config.log_format))
    if config.model is None:
        raise ConfigError("no model: expected --model DIR|ID, or model in the table [server] of --config")
    for caution in _cautions(config):
        click.echo(f"mlmon: note: {caution}", err=True)
    _run(config)


def _configured(config_path: str | None, options: dict[str, Any]) -> ServerConfig:
    """The file's configuration, with what the options say instead; checked as one."""
    config = ServerConfig()
    if config_path is not None:
        try:
            text = Path(config_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config_path}: expected a readable TOML file: {error}") from None
        config = read_toml(text, ServerFile, config_path).server
    values: dict[str, Any] = msgspec.to_builtins(config)
    options["version"] = options.pop("version_")
    for place in ("events", "mirror"):
        spool = options.pop(f"{place}_spool")
        if spool is not None:
            values[place]["kind"] = "spool"
            values[place]["spool"]["directory"] = spool
    given = {name: value for name, value in options.items() if value is not None}
    if {"token_env", "token_file"} & given.keys():
        values["token_env"] = values["token_file"] = None
    for name, value in given.items():
        table = values[_TABLES[name]] if name in _TABLES else values
        table[name] = value
    try:
        return msgspec.convert(values, ServerConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"mlmon serve: {error}; correct the option of that name") from None


def _cautions(config: ServerConfig) -> list[str]:
    """What can be run but may not be what was meant."""
    found = []
    if not _only_here(config.host):
        if config.token_env is None and config.token_file is None:
            found.append(
                f"{config.host} lets other machines in, and whoever reaches it may ask: give a token with "
                "--token-env or --token-file"
            )
        if config.tls_cert_file is None:
            found.append(
                f"{config.host} is served without TLS: texts and tokens can be read on the way, unless "
                "something in front has it"
            )
    return found


def _only_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK


def _run(config: ServerConfig) -> None:
    """Load the model, listen, and serve until told to stop."""
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "uvicorn", "server") from None
    from prometheus_client import disable_created_metrics

    from mlmon.server.app import build_server
    from mlmon.server.work.interpreter import settle

    disable_created_metrics()  # type: ignore[no-untyped-call]
    with _listening(config) as listener:
        server = build_server(_loaded(config), config)
        host, port = listener.getsockname()[:2]
        scheme = "http" if config.tls_cert_file is None else "https"
        shown = f"[{host}]" if ":" in host else host
        said = f"mlmon: serving {server.serving.served.name} at {scheme}://{shown}:{port}"
        running = uvicorn.Server(_uvicorn(config, server.app, uvicorn.Config))
        listener.listen(running.config.backlog)  # whoever reads that it serves can connect
        click.echo(said, err=True)
        # uvicorn raises the signal that stopped it once more when everything has ended: then it is no news
        signal.signal(signal.SIGTERM, lambda *_: None)
        settle()
        running.run(sockets=[listener])


def _listening(config: ServerConfig) -> socket.socket:
    """The port, taken before the model is loaded: whoever can't have it learns that at once.

    Raises:
        SourceError: it cannot be had.
    """
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise SourceError(
            f"{config.host}:{config.port} cannot be listened on: {error.strerror or error}; choose another "
            "with --host and --port"
        ) from None
    return listener


def _loaded(config: ServerConfig) -> Any:
    """The model, with the threads it is to have."""
    import torch

    from mlmon.server.model import LoadConfig, load_model

    loading = msgspec.structs.asdict(config.loading)
    threads = loading.pop("cpu_threads") or len(os.sched_getaffinity(0))
    assert config.model is not None  # noqa: S101 - `serve` has seen to it
    loaded = load_model(config.model, LoadConfig(**loading))
    # the command line sets one thread for the sidecar's sake; a model on a CPU is served by all it may use
    torch.set_num_threads(threads if loaded.info.device == "cpu" else 1)
    info = loaded.info
    logging.getLogger(__name__).info(
        "loaded %s: %s, %s on %s, %d million parameters",
        *(info.name, info.architecture, info.dtype, info.device, info.parameters // 1_000_000),
    )
    return loaded


def _uvicorn(config: ServerConfig, app: Any, make: Callable[..., Any]) -> Any:
    settings: dict[str, Any] = {}
    if config.tls_cert_file is not None:
        settings |= {"ssl_certfile": config.tls_cert_file, "ssl_keyfile": config.tls_key_file}
    if config.tls_client_ca_file is not None:
        import ssl

        settings |= {"ssl_ca_certs": config.tls_client_ca_file, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return make(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        backlog=4096,
        # longer than clients and balancers keep idle connections: where the server closes one first, a
        # request that is on its way is lost
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(config.shutdown_seconds) + 5,
        **settings,
    )


COMMANDS = (serve,)
