"""`mlmon run`, `replay`, `check` and `init`: from a configuration to a running sidecar."""

from __future__ import annotations

import signal
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import msgspec

from mlmon.app.build import build
from mlmon.app.status import report
from mlmon.checkpoint.sqlite import SqliteCheckpointConfig
from mlmon.cli.common import config_option, read_config, reading_progress, set_up_logging
from mlmon.cli.status import show_report
from mlmon.config import Config, LogConfig, SourceConfig, cautions, default_toml
from mlmon.errors import ConfigError
from mlmon.publish.http import HttpConfig
from mlmon.sources.replay import ReplayConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlmon.config import SourceKind
    from mlmon.sources.replay import ReplaySource

__all__ = ["COMMANDS"]


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and Ctrl-C ask the loop to commit and leave; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command()
@config_option
def run(config_path: str) -> None:
    """Read events and publish metrics until told to stop.

    SIGTERM and Ctrl-C commit what was counted and leave.
    """
    config = read_config(config_path)
    set_up_logging(config.log)
    for caution in cautions(config):
        click.echo(f"mlmon: note: {caution}", err=True)
    with _stop_on_signals() as stop:
        running = build(config)
        click.echo(f"mlmon: metrics at {running.server.url}/metrics", err=True)
        running.run(stop)


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--speed", default=0.0, show_default=True, help="Of the recording; 0 is as fast as it goes.")
@click.option("--port", type=int, help="Serve metrics on this port meanwhile; 0 chooses one.")
@click.option("--json", "as_json", is_flag=True, help="Print the totals as JSON.")
@click.option("-c", "--config", "config_path", metavar="FILE", help="Windows, series and monitors from here.")
def replay(
    files: tuple[str, ...], speed: float, port: int | None, as_json: bool, config_path: str | None
) -> None:
    """Count recorded events (JSON lines, Parquet or Arrow FILES) and print the totals.

    Leaves nothing behind: state and dead letters are kept in a temporary directory.
    """
    config = Config() if config_path is None else read_config(config_path)
    set_up_logging(LogConfig(level="warning"))
    with tempfile.TemporaryDirectory(prefix="mlmon-replay-") as folder, _stop_on_signals() as stop:
        config = msgspec.structs.replace(
            config,
            source=SourceConfig(kind="replay", replay=ReplayConfig(paths=files, speed_ratio=speed)),
            checkpoint=msgspec.structs.replace(
                config.checkpoint,
                kind="sqlite",
                sqlite=SqliteCheckpointConfig(path=f"{folder}/checkpoint.sqlite"),
            ),
            dead_letters=msgspec.structs.replace(config.dead_letters, directory=f"{folder}/dead-letters"),
            history=msgspec.structs.replace(config.history, enabled=False),
            http=msgspec.structs.replace(config.http, port=port) if port is not None else HttpConfig(port=0),
        )
        running = build(config)
        if port is not None:
            click.echo(f"mlmon: metrics at {running.server.url}/metrics", err=True)
        with reading_progress(cast("ReplaySource", running.source)) as advance:
            running.run(lambda: advance() or stop())
        checkpoint = running.checkpoint
        found = report(checkpoint.scan())
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        show_report(found)
    if not found.partitions:
        raise ConfigError(f"no events were found in {', '.join(files)}: name files that hold some")


@click.command()
@config_option
def check(config_path: str) -> int:
    """Validate the configuration and what it connects to; say what to fix.

    Exit code 1 when something is to be fixed.
    """
    from mlmon.app.check import check as run_checks

    config = read_config(config_path)
    click.echo(f"ok    {config_path} is valid")
    for caution in cautions(config):
        click.echo(f"note  {caution}")
    wrong = 0
    for finding in run_checks(config):
        click.echo(f"{'ok   ' if finding.ok else 'fix  '} {finding.what}")
        if not finding.ok:
            wrong += 1
            click.echo(f"      {finding.remedy}")
    return 1 if wrong else 0


@click.command()
@click.argument("path", default="mlmon.toml")
@click.option("--source", type=click.Choice(["spool", "kafka", "replay"]), default="spool", show_default=True)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
def init(path: str, source: str, force: bool) -> None:
    """Write a commented configuration with every key and its default to PATH."""
    target = Path(path)
    if target.exists() and not force:
        raise ConfigError(f"{path} exists already: name another file, or replace it with --force")
    try:
        target.write_text(default_toml(cast("SourceKind", source)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; name another place") from error
    click.echo(f"wrote {path}; look through it, then  mlmon check -c {path}  and  mlmon run -c {path}")


COMMANDS = (run, replay, check, init)
