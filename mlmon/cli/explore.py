"""`mlmon explore`: the explorer in a browser."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from mlmon.cli.common import read_config
from mlmon.errors import ConfigError, MissingExtraError
from mlmon.publish.http import is_loopback

__all__ = ["COMMANDS"]

_FOLDER = Path(__file__).parents[1] / "explorer"
#: Settings that not every Streamlit has, which only as variables it may not know. A colour of `theme` itself
#: would make everything light, whatever the browser asks for.
_BY_ENVIRONMENT = {
    "STREAMLIT_THEME_LIGHT_PRIMARY_COLOR": "#0072B2",
    "STREAMLIT_THEME_DARK_PRIMARY_COLOR": "#56B4E9",
    "STREAMLIT_CLIENT_SHOW_ERROR_LINKS": "false",
}


@click.command()
@click.option(
    "-c", "--config", "config_path", metavar="FILE", help="The sidecar's, for history and baselines."
)
@click.option("--history", metavar="DIR", help="The history to look into; default mlmon-data/history.")
@click.option("--baseline", "baselines", multiple=True, metavar="FILE", help="Baselines beside it.")
@click.option("--texts", metavar="DIR", help="A mirror's directory, whose texts selected events have.")
@click.option("--show-text", is_flag=True, help="Show those texts to whoever opens it.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8501,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Of the explorer; 0: one that is free.",
)
@click.option(
    "--refresh",
    default=30,
    show_default=True,
    type=click.IntRange(1, 86_400),
    metavar="SECONDS",
    help="How often a page that is told to refresh itself does.",
)
@click.option("--browser/--no-browser", default=False, help="Open it in this machine's browser.")
def explore(
    config_path: str | None,
    history: str | None,
    baselines: tuple[str, ...],
    **options: Any,
) -> NoReturn:
    """Look into drift: from a page to its cause, over the history that the sidecar keeps.

    Needs the extra `explorer`. It listens on this machine alone; for others, put it behind OIDC: a file
    .streamlit/secrets.toml with a section [auth] makes it ask everyone to log in.
    """
    host, port = options["host"], options["port"]
    _check(host, texts=options["texts"], show_text=options["show_text"])
    environment = os.environ | _BY_ENVIRONMENT
    if config_path is not None:
        config = read_config(config_path)
        history = history or config.history.directory
        baselines = baselines or config.baseline.files
        environment["MLMON_EXPLORE_CONFIG"] = str(Path(config_path).absolute())
    directory = Path(history or "mlmon-data/history").absolute()
    for path in baselines:
        if not Path(path).is_file():
            raise ConfigError(
                f"baseline {path}: expected a file that `mlmon baseline build` wrote; there is none"
            )
    environment["MLMON_EXPLORE_HISTORY"] = str(directory)
    environment["MLMON_EXPLORE_BASELINES"] = os.pathsep.join(str(Path(path).absolute()) for path in baselines)
    environment["MLMON_EXPLORE_TEXTS"] = str(Path(options["texts"]).absolute()) if options["texts"] else ""
    environment["MLMON_EXPLORE_SHOW_TEXT"] = "1" if options["show_text"] else ""
    environment["MLMON_EXPLORE_REFRESH"] = str(options["refresh"])
    port = port or _free_port(host)
    click.echo(f"the history in {directory}: http://{host}:{port}", err=True)
    sys.stderr.flush()
    command = _command(host, port, browser=options["browser"])
    # in this process's place: whoever ends this one ends the server
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own app, without a shell


def _check(host: str, *, texts: str | None, show_text: bool) -> None:
    """Refuse what cannot be, and warn of what lets others in."""
    for package in ("streamlit", "plotly", "duckdb", "pandas"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "explorer")
    if bool(texts) != show_text:
        raise ConfigError(
            "texts are shown where both --texts DIR and --show-text are given; got one of them alone"
        )
    if not is_loopback(host):
        click.echo(
            f"warning: whoever reaches {host} sees the history; set up a login ([auth] in "
            ".streamlit/secrets.toml), or listen on 127.0.0.1",
            err=True,
        )


def _command(host: str, port: int, *, browser: bool) -> list[str]:
    """How Streamlit is run: nothing is watched, and nothing is told to others."""
    settings = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "false" if browser else "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
    }
    command = [sys.executable, "-m", "streamlit", "run", str(_script())]
    for name, value in settings.items():
        command += [f"--{name}", value]
    return command


def _script() -> Path:
    """What Streamlit is to run: our server where it can be one."""
    found = importlib.util.find_spec("streamlit")
    # looked for as a file, since a search for a submodule would import all of Streamlit into this process
    own = (
        found is not None
        and found.origin is not None
        and Path(found.origin).with_name("starlette.py").exists()
    )
    return _FOLDER / ("serve.py" if own else "app.py")


def _free_port(host: str) -> int:
    """A port that nobody listens at now."""
    family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.bind(address)
        return int(probe.getsockname()[1])


COMMANDS: tuple[click.Command, ...] = (explore,)
