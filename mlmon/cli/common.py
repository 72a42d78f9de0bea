"""What the commands share: where the configuration is, and how tables and times are printed."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mlmon.config import load_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mlmon.config import Config, LogConfig

__all__ = ["config_option", "print_table", "read_config", "reading_progress", "set_up_logging", "time_text"]

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    default="mlmon.toml",
    show_default=True,
    metavar="FILE",
    help="The configuration; `mlmon init` writes one.",
)


def read_config(path: str) -> Config:
    """Load the configuration a command was given."""
    return load_config(path)


def time_text(time_us: int | None) -> str:
    """A time for a person: UTC to the second, or a dash."""
    if time_us is None:
        return "-"
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns after the first are right-aligned where they hold numbers."""
    table = Table(title=title, title_justify="left", header_style="bold")
    filled = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in filled:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


class _JsonLines(logging.Formatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def set_up_logging(config: LogConfig) -> None:
    """Send mlmon's log to standard error; the Kafka client's own is kept to its warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonLines()
        if config.format == "json"
        else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    logging.getLogger("kafka").setLevel(max(logging.WARNING, logging.root.level))


class Readable(Protocol):
    """What is read and knows how far."""

    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes there are."""
        ...


@contextmanager
def reading_progress(source: Readable) -> Iterator[Callable[[], bool]]:
    """A bar of bytes read, on standard error; the callable moves it and answers False."""
    columns = (
        TextColumn("reading"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=None)

        def advance() -> bool:
            done, total = source.progress()
            bar.update(task, completed=done, total=total)
            return False

        yield advance
