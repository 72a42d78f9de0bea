"""`mlmon grafana`: dashboards, annotations and contact points into a Grafana, and back out."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlmon.errors import ConfigError
from mlmon.grafana import render_dashboards
from mlmon.grafana.client import TOKEN_VARIABLE, Access, connect, read_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlmon.grafana.client import Grafana
    from mlmon.grafana.sync import Wanted

__all__ = ["COMMANDS"]


@click.group()
def grafana() -> None:
    """Dashboards into a Grafana, and back out.

    The token of a service account comes from the environment variable MLMON_GRAFANA_TOKEN or --token-file.
    """


def _access(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where a Grafana is."""
    options = (
        click.option(
            "--url",
            envvar="MLMON_GRAFANA_URL",
            default="http://127.0.0.1:3000",
            show_default=True,
            help="Of the Grafana; also MLMON_GRAFANA_URL.",
        ),
        click.option("--token-file", metavar="FILE", help=f"With the token; else {TOKEN_VARIABLE}."),
        click.option("--ca-file", metavar="FILE", help="Certificates to trust instead of the system's."),
        click.option(
            "--allow-plain-http",
            "plain_http",
            is_flag=True,
            help="Send the token unencrypted to another host.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _contents(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what it should have."""
    options = (
        click.option(
            "--dashboards", metavar="DIR", help="Dashboards from these files; else those of this version."
        ),
        click.option("--contact-points", metavar="FILE", help="A YAML list of contact points."),
        click.option(
            "--folder", default="mlmon", show_default=True, help="Title of the folder, if it is made."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def _open(url: str, token_file: str | None, ca_file: str | None, *, plain_http: bool) -> Iterator[Grafana]:
    server = connect(Access(url, read_token(token_file), ca_file, plain_http))
    try:
        yield server
    finally:
        server.close()


def _wanted(dashboards: str | None, contact_points: str | None, folder: str) -> Wanted:
    from mlmon.grafana.sync import Wanted, read_boards, read_points

    texts = render_dashboards() if dashboards is None else _files(Path(dashboards))
    points = [] if contact_points is None else read_points(Path(contact_points))
    return Wanted(read_boards(texts), points, folder)


def _files(folder: Path) -> dict[str, str]:
    texts = {str(path): path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))}
    if not texts:
        raise ConfigError(f"{folder}: expected a folder with dashboards (*.json), found none")
    return texts


@grafana.command()
@_access
@_contents
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
def push(
    dashboards: str | None, contact_points: str | None, folder: str, *, dry_run: bool, **access: Any
) -> int:
    """Make a Grafana have them. What is right already is left alone; nothing is deleted.

    Exit code 1 where something may not be changed there (provisioned from a file).
    """
    from mlmon.grafana.sync import apply, plan

    wanted = _wanted(dashboards, contact_points, folder)
    with _open(**access) as server:
        # all of it is looked at before anything is changed
        changes = list(plan(server, wanted))
        if dry_run:
            for change in changes:
                click.echo(change)
            return 0
        return 0 if apply(server, changes, click.echo) else 1


@grafana.command()
@_access
@_contents
def diff(dashboards: str | None, contact_points: str | None, folder: str, **access: Any) -> int:
    """Say what a push would change. Exit code 1 if anything."""
    from mlmon.grafana.sync import plan

    wanted = _wanted(dashboards, contact_points, folder)
    different = False
    with _open(**access) as server:
        for change in plan(server, wanted):
            click.echo(change)
            different |= change.action != "keep"
    return 1 if different else 0


@grafana.command()
@_access
@click.argument("directory", metavar="DIR")
@click.option("--uid", "uids", multiple=True, help="Of a dashboard; else those of this version.")
def pull(directory: str, uids: tuple[str, ...], **access: Any) -> int:
    """Write the dashboards that a Grafana has into DIR, to see or keep what was changed there.

    Exit code 1 where one is not there.
    """
    from mlmon.grafana.sync import pull as pull_boards
    from mlmon.grafana.sync import read_boards

    chosen = uids or [board["uid"] for board in read_boards(render_dashboards())]
    missing = False
    with _open(**access) as server:
        for uid, happened in pull_boards(server, chosen, Path(directory)):
            click.echo(f"{happened:<10} {uid}")
            missing |= happened == "not there"
    return 1 if missing else 0


@grafana.command()
@_access
@click.argument("text")
@click.option("--tag", "tags", multiple=True, help="Beside `mlmon`; `release` shows it on the dashboards.")
@click.option("--start", type=int, help="ms since 1970; else now.")
@click.option("--end", type=int, help="ms since 1970; else it is a moment.")
def annotate(text: str, tags: tuple[str, ...], start: int | None, end: int | None, **access: Any) -> None:
    """Mark a time on the dashboards. The same text, tags and start mark it once."""
    began = time.time_ns() // 1_000_000 if start is None else start
    if end is not None and end < began:
        raise ConfigError(f"--end {end}: expected a time after the start, {began}")
    with _open(**access) as server:
        number = server.annotate(text, ("mlmon", *tags), began, end)
    click.echo(f"annotation {number}")


COMMANDS = (grafana,)
