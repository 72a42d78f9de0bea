"""`mlmon history`: what the history holds, rows of it as CSV or Parquet, and its upkeep by hand."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console

from mlmon.cli.common import config_option, print_table, read_config, time_text
from mlmon.clock import SystemClock
from mlmon.history.read import Selection, read
from mlmon.history.report import report
from mlmon.history.store import History
from mlmon.history.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["COMMANDS"]

_FILTERS = ("service", "model", "version", "deployment")

directory_option = click.option(
    "--directory", metavar="DIR", help="The history to read, instead of the configured one."
)


def _directory(config_path: str, directory: str | None) -> Path:
    return Path(directory or read_config(config_path).history.directory)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Tell of files that cannot be read, one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        click.echo(f"warning: {warning.message}", err=True)


@click.group()
def history() -> None:
    """Closed windows on disk: readings, distributions, latency, outcomes, sampled events."""


@history.command()
@config_option
@directory_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(config_path: str, directory: str | None, as_json: bool) -> None:
    """Show what there is, by date and table."""
    place = _directory(config_path, directory)
    with _warnings_shown():
        found = report(place)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    if not found.dates:
        click.echo(f"{place} holds no windows yet: they are written when windows close")
        return
    print_table(
        f"{place}: {found.windows:,} windows, {found.bytes / 1e6:,.1f} MB",
        ("date", "table", "windows", "rows", "files", "bytes", "first window", "last window"),
        [
            (
                d.date,
                d.table,
                d.windows,
                d.rows,
                d.files,
                d.bytes,
                time_text(d.first_us),
                time_text(d.last_us),
            )
            for d in found.dates
        ],
    )


def _time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """A time as text, in µs since 1970 UTC."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r}: expected a date or time such as 2026-01-31 or 2026-01-31T12:30Z"
        ) from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return int(time.timestamp() * 1_000_000)


@history.command()
@config_option
@directory_option
@click.option("--table", type=click.Choice(list(TABLES)), default="readings", show_default=True)
@click.option("--from", "start_us", callback=_time, help="Windows that start then or later (UTC).")
@click.option("--to", "end_us", callback=_time, help="Windows that start before then (UTC).")
@click.option("--metric", "metrics", multiple=True, help="Only this metric; may be given several times.")
@click.option(
    "--only", multiple=True, metavar="COLUMN=VALUE", help="Only rows with this value, such as service=search."
)
@click.option("-o", "--output", required=True, metavar="FILE", help="FILE.csv or FILE.parquet.")
def export(
    config_path: str, directory: str | None, table: str, output: str, only: tuple[str, ...], **selected: Any
) -> None:
    """Write rows of a table into one file.

    In CSV, maps and lists are written as JSON and a latency sketch as hexadecimal digits.
    """
    where: dict[str, list[str]] = {}
    for pair in only:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r}: expected COLUMN=VALUE", param_hint="--only")
        where.setdefault(name, []).append(value)
    with _warnings_shown():
        rows = read(_directory(config_path, directory), table, Selection(**selected, where=where))
    if output.endswith(".csv"):
        pyarrow.csv.write_csv(_flat(rows), output)
    elif output.endswith(".parquet"):
        pyarrow.parquet.write_table(rows, output, compression="zstd")
    else:
        raise click.BadParameter(
            f"{output!r}: expected a name that ends in .csv or .parquet", param_hint="-o"
        )
    click.echo(f"wrote {rows.num_rows:,} rows of {table} to {output}")


def _flat(rows: pa.Table) -> pa.Table:
    """The table with columns that CSV can hold."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_map(field.type):
            texts = [
                _json(None if value is None else dict(value)) for value in rows.column(index).to_pylist()
            ]
        elif pa.types.is_nested(field.type):
            texts = [_json(value) for value in rows.column(index).to_pylist()]
        elif pa.types.is_binary(field.type):
            texts = [None if value is None else value.hex() for value in rows.column(index).to_pylist()]
        else:
            continue
        rows = rows.set_column(index, field.name, pa.array(texts, pa.string()))
    return rows


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, default=float)


@history.command()
@config_option
def compact(config_path: str) -> None:
    """Do the upkeep now: delete what is too old or too much, and join small files.

    A running sidecar does the same by itself, a step every few seconds; both may run at once.
    """
    config = read_config(config_path).history
    store = History(config, SystemClock())
    place = Path(config.directory)
    with _warnings_shown():
        before = report(place)
        with Console(stderr=True).status("upkeep") as status:
            steps = 0
            while store.maintain():
                steps += 1
                status.update(f"upkeep: step {steps:,}")
        after = report(place)
    click.echo(
        f"{before.files:,} files, {before.bytes:,} bytes, {before.windows:,} windows before; "
        f"{after.files:,} files, {after.bytes:,} bytes, {after.windows:,} windows now"
    )


COMMANDS = (history,)
