"""`mlmon report`: what happened, as a page for people."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mlmon.app.build import token_tables
from mlmon.baseline.model import ScopeKey
from mlmon.baseline.store import BaselineStore
from mlmon.cli.common import read_config, time_text
from mlmon.clock import SystemClock
from mlmon.errors import BaselineError, ConfigError
from mlmon.monitors.tokenizer import no_tables
from mlmon.reports import (
    Chosen,
    HistoryEvents,
    LoggedEvents,
    Making,
    WindowEvents,
    build_report,
    find_reference,
    render,
    report_extractors,
    require_evidently,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlmon.reports import DriftReport, Events, Gathered, Seen

    #: Told what is being done, and what share of it is (None: not known).
    Tell: TypeAlias = Callable[[str, float | None], None]

__all__ = ["COMMANDS"]

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LISTED = 10


@click.group()
def report() -> None:
    """Reports for people: a page that needs no server."""


@report.command()
@click.argument("more", nargs=-1, metavar="[PATH]...")
@click.option("--baseline", "baseline_path", required=True, metavar="FILE", help="What to compare with.")
@click.option("--history", metavar="DIR", help="The window's events from this history.")
@click.option("--events", multiple=True, metavar="PATH", help="Or from files, patterns, spools.")
@click.option("--service", help="Of the baseline's; needed where it has several.")
@click.option("--model", help="Likewise.")
@click.option("--version", help="Version of the window's events; the baseline's, where it has one.")
@click.option("--deployment", default="stable", show_default=True, help="stable, canary or shadow.")
@click.option("--segment", default="", help="As in metrics, such as language=de; all of them without.")
@click.option("--from", "start", metavar="TIME", help="First event time, such as 2026-11-20T14:00 (UTC).")
@click.option("--to", "end", metavar="TIME", help="Event time after the last.")
@click.option("--last", metavar="1h", help="Instead: so long before the newest event.")
@click.option("--output", default="report.html", show_default=True, metavar="FILE", help="The page.")
@click.option("--json", "json_path", metavar="FILE", help="The same as JSON.")
@click.option(
    "--sample",
    type=click.IntRange(100, 1_000_000),
    default=10_000,
    show_default=True,
    help="Events of each side that Evidently is given.",
)
@click.option(
    "-c", "--config", "config_path", metavar="FILE", help="Names tokenizers, where events carry token ids."
)
def drift(more: tuple[str, ...], baseline_path: str, **options: Any) -> None:
    """Compare a stretch of time with a baseline: our verdicts beside Evidently's.

    Events come from the history of a sidecar, or from recorded files and spools (--events PATH [PATH]...).
    """
    for written in filter(None, (options["output"], options["json_path"])):
        _check_place(written)
    store = BaselineStore.load([baseline_path])
    events = _events(options["history"], (*options["events"], *more))
    chosen = _chosen(store, options)
    path = options["config_path"]
    tables = token_tables(read_config(path).registry.tokenizers) if path else no_tables
    with _progress() as tell:
        tell("importing Evidently", None)
        require_evidently()
        reference = find_reference(store, chosen)
        chosen = _within(chosen, options, events, tell)
        window = WindowEvents(chosen, report_extractors(store, chosen.scope, tables), options["sample"])
        for batch in events.batches(chosen, lambda share: tell("reading events", share)):
            window.add(batch)
        making = Making(
            events.source,
            SystemClock().now_us(),
            options["sample"],
            tuple(events.notes(chosen)),
            lambda step: tell(step, None),
        )
        made = build_report(reference, chosen, _gathered(window, chosen, events), making)
        tell("writing", None)
        _write(options["output"], render(made.report, made.evidently_page))
        if options["json_path"]:
            _write(options["json_path"], msgspec.json.format(msgspec.json.encode(made.report)).decode())
    _summary(made.report, options["output"], options["json_path"])


def _events(history: str | None, paths: tuple[str, ...]) -> Events:
    if bool(history) == bool(paths):
        raise ConfigError(
            f"got {'both' if history else 'neither'} --history and --events: expected one of them"
        )
    return HistoryEvents(history) if history else LoggedEvents(paths)


def _chosen(store: BaselineStore, options: dict[str, Any]) -> Chosen:
    """Which events are wanted; what was not said is what the baseline has."""
    wanted = {name: options[name] for name in ScopeKey._fields}
    known = dict(zip(ScopeKey._fields, zip(*store.scopes, strict=True), strict=True)) if store.scopes else {}
    scopes = sorted(store.scopes)
    for name, value in wanted.items():
        if value is not None and (name != "version" or value in known.get(name, ())):
            scopes = [scope for scope in scopes if getattr(scope, name) == value]
    if not scopes:
        said = ", ".join(f"--{name} {value}" for name, value in wanted.items() if value is not None)
        raise BaselineError(f"the baseline has nothing for {said}: it covers {_listed(store)}")
    left = {name: {getattr(scope, name) for scope in scopes} for name in ScopeKey._fields}
    open_ = [name for name, values in left.items() if wanted[name] is None and len(values) > 1]
    if open_:
        raise ConfigError(
            f"the baseline covers {_listed(store)}: choose with {', '.join(f'--{name}' for name in open_)}"
        )
    scope = ScopeKey(*(wanted[name] or next(iter(left[name])) for name in ScopeKey._fields))
    return Chosen(scope, options["deployment"], options["segment"])


def _listed(store: BaselineStore) -> str:
    names = [" / ".join(part or "-" for part in scope) for scope in sorted(store.scopes)]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _within(chosen: Chosen, options: dict[str, Any], events: Events, tell: Tell) -> Chosen:
    """Add the time that was asked for."""
    start, end, last = options["start"], options["end"], options["last"]
    if last and (start or end):
        raise ConfigError("got --last beside --from or --to: expected one way to say the time")
    if last:
        span = _span_us(last)
        tell("looking for the newest event", None)
        newest = events.newest_us()
        if newest is None:
            raise ConfigError(f"{events.source} has no events")
        return chosen._replace(start_us=newest - span + 1, end_us=newest + 1)
    chosen = chosen._replace(
        start_us=chosen.start_us if start is None else _time_us(start),
        end_us=chosen.end_us if end is None else _time_us(end),
    )
    if chosen.start_us >= chosen.end_us:
        raise ConfigError(f"--from {start} is not before --to {end}")
    return chosen


def _time_us(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time: expected such as 2026-11-20 or 2026-11-20T14:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def _span_us(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None or not int(found[1]):
        raise ConfigError(f"--last {text!r}: expected a length of time such as 30m, 1h or 7d")
    return int(found[1]) * _UNITS[found[2]] * 1_000_000


def _gathered(window: WindowEvents, chosen: Chosen, events: Events) -> Gathered:
    """The window, or an error that says what there was instead."""
    found = window.gathered()
    if found is not None:
        return found
    what = f"no events of {' / '.join(part or '-' for part in (*chosen.scope, chosen.deployment))}"
    if chosen.segment:
        what += f", segment {chosen.segment!r},"
    raise ConfigError(f"{what} in {events.source}{_instead(window.seen, events)}")


def _instead(seen: Seen, events: Events) -> str:
    if seen.counts:
        listed = [
            f"{'others' if key is None else ' / '.join(part or '-' for part in key)}: {count:,}"
            for key, count in seen.counts.most_common(_LISTED)
        ]
        return f" within the time; there are events of {'; '.join(listed)}. Choose with --version, --segment"
    if seen.last_us >= seen.first_us:
        first, last = time_text(int(seen.first_us)), time_text(int(seen.last_us))
        return f" within the time: its events are from {first} to {last} UTC. Choose with --from and --to"
    refused = sum(events.refused.values())
    return f": {refused:,} records in it are no events" if refused else ": there is no event at all"


def _check_place(path: str) -> None:
    """Fail before the work, not after it."""
    folder = Path(path).absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(path).is_dir():
        raise ConfigError(f"{path} cannot be written: name a file in a directory that exists and is yours")


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _progress() -> Iterator[Tell]:
    """A bar on standard error: the step, and how much of it is done where that is known."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda step, share: bar.update(
            task, description=step, total=None if share is None else 1.0, completed=share or 0.0
        )


def _summary(report: DriftReport, output: str, json_path: str | None) -> None:
    ours, peer = report.ours, report.evidently
    drifted = [row for row in ours.fields if row.state == "drifted"]
    click.echo(
        f"{len(drifted)} of {ours.judged} fields drifted; Evidently: "
        f"{sum(column.drifted for column in peer.columns)} of {len(peer.columns)} columns"
    )
    for row in drifted[:_LISTED]:
        click.echo(f"  {row.field}: effect {row.effect:.3g}, tolerance {row.tolerance:.3g}")
    if len(drifted) > _LISTED:
        click.echo(f"  and {len(drifted) - _LISTED} more")
    click.echo(f"wrote {output}" + (f" and {json_path}" if json_path else ""))


COMMANDS = (report,)
