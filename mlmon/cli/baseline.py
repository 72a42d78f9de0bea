"""`mlmon baseline`: build baselines, show what is in them, compare and check them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mlmon.app.baseline_check import check_baseline
from mlmon.app.build import token_tables
from mlmon.app.reference import (
    ReferenceEvents,
    event_fields,
    files_source,
    live_source,
    range_source,
    spool_source,
)
from mlmon.baseline.diff import diff_baselines
from mlmon.baseline.file import SUFFIX, is_there, load_baseline, save_baseline
from mlmon.calibration import CalibrationOptions, Origin, build, drift_monitors
from mlmon.calibration.compare import judge_sample
from mlmon.cli.baseline_tables import diff_rows, show_baseline, show_diff, summary
from mlmon.cli.common import config_option, read_config
from mlmon.clock import SystemClock
from mlmon.config import Config
from mlmon.errors import BaselineError, ConfigError
from mlmon.events.codecs import Decoder
from mlmon.monitors import Surroundings, build_monitors
from mlmon.sources.kafka_range import parse_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlmon.app.reference import ReadOnce
    from mlmon.baseline.model import Baseline, ScopeKey
    from mlmon.calibration.compare import Judged
    from mlmon.clock import Clock
    from mlmon.monitors.base import Monitor

__all__ = ["COMMANDS"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_optional_config = click.option(
    "-c",
    "--config",
    "config_path",
    default=None,
    metavar="FILE",
    help="The configuration; mlmon.toml where there is one, else the defaults.",
)


@click.group()
def baseline() -> None:
    """What drift is judged by: build, show, compare and check baselines."""


@baseline.command(name="build")
@click.argument("name")
@click.argument("files", nargs=-1)
@click.option("--spool", metavar="DIR", help="From all that is in this spool.")
@click.option("--topic", "topics", multiple=True, help="From a range of this topic; may be repeated.")
@click.option("--from", "first", default="earliest", show_default=True, help="Where the range begins.")
@click.option("--to", "last", default="latest", show_default=True, help="Where it ends, exclusive.")
@click.option("--for", "period", metavar="1h", help="From what arrives in the configured log from now on.")
@click.option(
    "--sample", type=click.IntRange(0, 100_000), default=5_000, show_default=True, help="Events kept."
)
@click.option("--temp", metavar="DIR", help="Where temporary files go; about as large as the events.")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@_optional_config
def build_command(name: str, files: tuple[str, ...], **options: Any) -> None:
    """Build NAME.baseline.safetensors (or at a URL) from recorded FILES, a spool, a topic or a live period.

    Ends of a range are offsets, times of the records (2025-03-01T08:00, UTC), earliest or latest. Nothing is
    changed in the log: no group is joined and no position committed. Segments and monitors are those of the
    configuration.
    """
    path = name if name.endswith(SUFFIX) else name + SUFFIX
    if not options["force"] and is_there(path):
        raise ConfigError(f"{path} exists already: name another file, or replace it with --force")
    config = _config(options["config_path"])
    clock = SystemClock()
    seconds = _seconds(options["period"]) if options["period"] else None
    source, origin = _source(config, clock, files, options)
    monitors = _monitors(config)
    decoder = Decoder(config.decode, event_fields(config, monitors))
    reader = ReferenceEvents(source, decoder, clock, seconds)
    settings = CalibrationOptions(
        config.series.segment_by,
        config.series.max_segments,
        sample_rows=options["sample"],
        directory=options["temp"],
    )
    try:
        with _progress(reader) as progress:
            made = build(reader.batches(), monitors, settings, Origin(origin, clock.now_us()), progress)
    finally:
        source.close()
    if reader.refused:
        click.echo(f"refused {sum(reader.refused.values()):,} records that are no events", err=True)
    show_baseline(save_baseline(made, path), path, fields=False)
    click.echo(f"wrote {path}; use it with  [baseline] files = [{path!r}]".replace("'", '"'))


@baseline.command()
@click.argument("path")
@click.option("--segment", default="", help="Fields of this segment instead of all together.")
@click.option("--json", "as_json", is_flag=True, help="Everything but arrays, as JSON.")
def show(path: str, segment: str, as_json: bool) -> None:
    """Show what is in the baseline at PATH: scopes, segments, fields, their null, and warnings."""
    made = load_baseline(path)
    if segment and not any(segment in scope.segments for scope in made.scopes.values()):
        names = sorted({name for scope in made.scopes.values() for name in scope.segments if name})
        raise ConfigError(f"{path} has no segment {segment!r}: expected one of {names[:20]}")
    if as_json:
        click.echo(msgspec.json.encode(summary(made)).decode())
    else:
        show_baseline(made, path, segment=segment)


@baseline.command()
@click.argument("old")
@click.argument("new")
@click.option("-n", "--number", type=click.IntRange(1), default=10, show_default=True, help="Fields shown.")
@click.option("--json", "as_json", is_flag=True, help="All fields, as JSON.")
@_optional_config
def diff(old: str, new: str, number: int, as_json: bool, config_path: str | None) -> None:
    """Show how the baseline NEW differs from OLD, and whether its sample would alarm by OLD."""
    before, after = load_baseline(old), load_baseline(new)
    found = diff_baselines(before, after)
    judged = _judged(before, after, _config(config_path))
    if as_json:
        click.echo(msgspec.json.encode(diff_rows(before, after, found, judged)).decode())
    else:
        show_diff(found, judged, number)


@baseline.command()
@click.argument("paths", nargs=-1)
@config_option
def check(paths: tuple[str, ...], config_path: str) -> int:
    """Check baselines at PATHS (those of the configuration): whole, fitting the configuration, and good.

    Exit code 1 when something is to be fixed.
    """
    config = read_config(config_path)
    paths = paths or config.baseline.files
    if not paths:
        raise ConfigError("there is no baseline to check: name one, or add it to [baseline] files")
    wrong = 0
    for path in paths:
        for finding in check_baseline(path, config):
            click.echo(f"{'ok   ' if finding.ok else 'fix  '} {finding.what}")
            if not finding.ok:
                wrong += 1
                click.echo(f"      {finding.remedy}")
    return 1 if wrong else 0


def _config(path: str | None) -> Config:
    if path is None and not Path("mlmon.toml").exists():
        return Config()
    return read_config(path or "mlmon.toml")


def _monitors(config: Config) -> tuple[Monitor, ...]:
    return build_monitors(config.monitor_configs, Surroundings(token_tables(config.registry.tokenizers)))


def _seconds(text: str) -> float:
    """A duration such as 90s, 30m, 1h or 2d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"--for {text!r}: expected a duration such as 90s, 30m, 1h or 2d")
    return seconds


def _source(
    config: Config, clock: Clock, files: tuple[str, ...], options: dict[str, Any]
) -> tuple[ReadOnce, str]:
    """What is read, and how the baseline names it."""
    spool, topics, period = options["spool"], options["topics"], options["period"]
    ways = [way for way in (files, spool, topics, period) if way]
    if len(ways) != 1:
        raise ConfigError(
            f"got {len(ways)} kinds of events to build from: expected one of FILES, --spool, --topic or --for"
        )
    if files:
        return files_source(files, clock), f"files {', '.join(files)}"
    if spool:
        return spool_source(spool, clock), f"spool {spool}"
    if topics:
        first, last = parse_bound(options["first"]), parse_bound(options["last"])
        text = f"topic {', '.join(topics)} from {options['first']} to {options['last']}"
        return range_source(config, topics, first, last), text
    return live_source(config, clock), f"{config.source.kind}, live for {period}"


@contextmanager
def _progress(reader: ReferenceEvents) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar on standard error: reading by what the source knows, calibrating by events."""
    columns = (
        TextColumn("{task.description:>11}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[events]:,} events"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        reading = bar.add_task("reading", total=None, events=0)
        working: list[Any] = []

        def advance(what: str, done: int, total: int | None) -> None:
            if what == "reading":
                passed, whole = reader.progress()
                bar.update(reading, completed=passed, total=whole, events=done)
                return
            if not working:
                bar.update(reading, total=1, completed=1)
                working.append(bar.add_task(what, total=total, events=reader.events))
            bar.update(working[0], completed=done)

        yield advance


def _judged(old: Baseline, new: Baseline, config: Config) -> dict[ScopeKey, list[Judged]]:
    """The sample of the new one judged by the old one, where both have the scope and there is a sample."""
    monitors = drift_monitors(_monitors(config))
    found = {}
    for key, scope in old.scopes.items():
        other = new.scopes.get(key)
        if other is None or other.sample is None:
            continue
        try:
            found[key] = judge_sample(scope, other.sample, monitors)
        except (KeyError, ValueError, TypeError) as error:
            raise BaselineError(
                f"the baseline cannot be used by this mlmon ({type(error).__name__}: {error}): build it again"
            ) from error
    return found


COMMANDS = (baseline,)
