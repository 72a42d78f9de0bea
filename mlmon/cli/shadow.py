"""`mlmon shadow`: replay mirrored requests to a reference, and remove what has been mirrored long enough."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mlmon.attach.mirror_spool import MirrorSpoolConfig, private_directory, sweep
from mlmon.cli.common import print_table, set_up_logging, time_text
from mlmon.clock import SystemClock
from mlmon.config import LogConfig
from mlmon.config.reader import read_toml
from mlmon.errors import ConfigError
from mlmon.shadow.config import ShadowConfig, ShadowFile
from mlmon.shadow.run import build_shadow

if TYPE_CHECKING:
    from mlmon.shadow.report import Mean, WindowReport

__all__ = ["COMMANDS"]

_KINDS = ("mlmon", "hf", "oip", "openai")


@click.group()
def shadow() -> None:
    """Compare answers with those of a reference that is sent the same texts."""


@shadow.command()
@click.option("-c", "--config", "config_path", metavar="FILE", help="TOML file with a table [shadow].")
@click.option("--mirror", metavar="DIR", help="Directory of mirrored requests.")
@click.option("--reference", metavar="URL", help="The server to compare with.")
@click.option("--reference-kind", type=click.Choice(_KINDS), help="What it speaks.")
@click.option("--production", metavar="URL", help="The server to ask again.")
@click.option("--production-kind", type=click.Choice(_KINDS), help="What it speaks.")
@click.option("--events", metavar="DIR", help="Spool that the evaluations go to.")
@click.option("--no-events", is_flag=True, help="Write no evaluations; the report is all there is.")
@click.option("--report", metavar="FILE", help="Append each window's report, a line of JSON.")
@click.option("--once", is_flag=True, help="End when everything mirrored is evaluated; exit code 1 if found.")
def run(config_path: str | None, *, once: bool, **options: Any) -> int:
    """Replay mirrored requests to the reference until told to stop.

    Options win over the file. Each replay becomes an event in the log that the sidecar reads. With --once the
    exit code is 1 where agreement or echo is surely below its target.
    """
    config = _configured(config_path, options)
    set_up_logging(LogConfig())
    reports: list[WindowReport] = []
    running = build_shadow(config, tell=reports.append)
    stopped: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    try:
        while not stopped:
            if not running.step(0.0 if once else 1.0) and once:
                break
            if not once:
                _show(reports)
    except KeyboardInterrupt:
        stopped.append(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, previous)
        running.finish()
        running.close()
    found = any(report.findings for report in reports)
    _show(reports)
    return int(once and found)


@shadow.command()
@click.argument("directory")
@click.option(
    "--older-than",
    "seconds",
    type=click.FloatRange(60),
    default=86_400.0,
    show_default=True,
    metavar="SECONDS",
    help="The retention.",
)
def purge(directory: str, seconds: float) -> None:
    """Remove texts in DIRECTORY that were mirrored longer ago: for a timer, where nothing else runs."""
    if not Path(directory).is_dir():
        raise ConfigError(f"{directory}: expected the directory of a mirror, got no directory")
    private_directory(directory)
    config = MirrorSpoolConfig(directory=directory, retention_seconds=seconds, max_bytes=1 << 40)
    click.echo(f"{sweep(config, SystemClock().now_us())} files removed")


def _configured(config_path: str | None, options: dict[str, Any]) -> ShadowConfig:
    """The file's configuration, with what the options say instead; checked as one."""
    config = ShadowConfig()
    if config_path is not None:
        try:
            text = Path(config_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config_path}: expected a readable TOML file: {error}") from None
        config = read_toml(text, ShadowFile, config_path).shadow
    values: dict[str, Any] = msgspec.to_builtins(config)
    _override(values, options)
    try:
        return msgspec.convert(values, ShadowConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"mlmon shadow: {error}; correct the option or key of that name") from None


def _override(values: dict[str, Any], options: dict[str, Any]) -> None:
    if options["mirror"] is not None:
        values["mirror"]["kind"] = "spool"
        values["mirror"]["spool"]["directory"] = options["mirror"]
    for side in ("reference", "production"):
        for option, key in ((side, "url"), (f"{side}_kind", "kind")):
            if options[option] is not None:
                values[side][key] = options[option]
    if options["events"] is not None:
        values["events"]["kind"] = "spool"
        values["events"]["spool"]["directory"] = options["events"]
    if options["no_events"]:
        values["events"]["kind"] = "none"
    if options["report"] is not None:
        values["report"] = options["report"]


def _show(reports: list[WindowReport]) -> None:
    """Print reports, and forget them."""
    for report in reports:
        rows = [(name, *_row(mean)) for name, mean in {**report.shares, **report.means}.items()]
        rows += [(f"agreement, {one.segment}", *_row(one.agreement)) for one in report.segments]
        if report.cka is not None:
            rows.append(("linear CKA", f"{report.cka:.4f}", "-", "-"))
        for server, masked in report.masked.items():
            rows.append((f"masked tokens, {server}", f"{masked.accuracy:.4f}", "-", f"{masked.tokens}"))
            rows.append((f"masked loss, {server}", f"{masked.loss:.4f}", "-", f"{masked.tokens}"))
        errors = report.calibration.items()
        rows += [(f"calibration error, {what}", f"{error:.4f}", "-", "-") for what, error in errors]
        title = f"{report.service}/{report.model} beside {report.reference}"
        print_table(title, ("measure", "value", "95 %", "replays"), rows)
        between = f"{time_text(report.start_us)} to {time_text(report.end_us)} UTC"
        click.echo(f"  {report.evaluated} of {report.replayed} evaluated, requests of {between}")
        for reason, count in report.void.items():
            click.echo(f"  {count} void: {reason}")
        for finding in report.findings:
            click.echo(f"  found: {finding}")
    reports.clear()


def _row(mean: Mean) -> tuple[str, str, str]:
    between = "-" if mean.low is None or mean.high is None else f"{mean.low:.4f} to {mean.high:.4f}"
    return f"{mean.value:.4f}", between, str(mean.n)


COMMANDS: tuple[click.Command, ...] = (shadow,)
