"""`mlmon release`: nobody is paged about a service that is being changed on purpose."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlmon.grafana.client import Grafana
    from mlmon.slo.release import Silence

__all__ = ["COMMANDS"]

#: Tags by which dashboards find the annotation.
_TAGS = ("mlmon", "release")

_OPTIONS = (
    click.option("--service", required=True, help="Label `service` of its alerts."),
    click.option(
        "--alertmanager",
        "alertmanager_url",
        default="http://127.0.0.1:9093",
        show_default=True,
        metavar="URL",
        help="Alertmanager to silence.",
    ),
    click.option("--grafana", "grafana_url", metavar="URL", help="Grafana to mark the release in."),
    click.option(
        "--token-file", metavar="FILE", help="Grafana's token; else the environment's MLMON_GRAFANA_TOKEN."
    ),
    click.option(
        "--textfile-dir",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="node_exporter's textfile directory, for the gauge that excuses budgets.",
    ),
)


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def release() -> None:
    """Planned releases: nobody is told of a service's alerts; its budget burns all the same."""


@release.command()
@_common
@click.option("--for", "duration", default="30m", show_default=True, help="At most so long: 30m, 2h, 1d.")
@click.option("--comment", default="", help="Why, for those who see the silence.")
def start(
    service: str, duration: str, comment: str, textfile_dir: Path | None, **addresses: str | None
) -> None:
    """Begin a planned release, or move the end of the one that goes on."""
    from mlmon.slo import release as releases
    from mlmon.slo.reader import duration_seconds

    seconds = duration_seconds(duration)
    if seconds is None:
        raise click.BadParameter(
            f"expected a duration such as 30m or 2h, got {duration!r}", param_hint="--for"
        )
    grafana = _grafana(addresses)
    alertmanager = releases.Alertmanager(str(addresses["alertmanager_url"]))
    reason = f"planned release of {service}" + (f": {comment}" if comment else "")
    silence = releases.start(alertmanager, service, seconds, reason, datetime.now(UTC))
    click.echo(f"silent until {silence.ends:%Y-%m-%d %H:%M:%S} UTC: alerts of {service} ({silence.number})")
    if textfile_dir is not None:
        click.echo(f"gauge: {releases.show(textfile_dir, silence)}")
    _mark(grafana, [silence], None)


@release.command()
@_common
def stop(service: str, textfile_dir: Path | None, **addresses: str | None) -> None:
    """End a planned release: people are told again."""
    from mlmon.slo import release as releases

    grafana = _grafana(addresses)
    found = releases.stop(releases.Alertmanager(str(addresses["alertmanager_url"])), service)
    if textfile_dir is not None:
        releases.hide(textfile_dir, service)
    if not found:
        click.echo(f"no planned release of {service} is going on")
        return
    click.echo(f"alerts of {service} are told again")
    _mark(grafana, found, datetime.now(UTC))


def _grafana(addresses: dict[str, Any]) -> Grafana | None:
    """Made before anything is silenced, so that a wrong token or a missing extra changes nothing."""
    if addresses["grafana_url"] is None:
        return None
    from mlmon.grafana.client import Access, connect, read_token

    return connect(Access(addresses["grafana_url"], read_token(addresses["token_file"])))


def _mark(grafana: Grafana | None, silences: Iterable[Silence], ended: datetime | None) -> None:
    """Mark the releases in Grafana, to their planned end or to the one they came to."""
    if grafana is None:
        return
    try:
        for silence in silences:
            start_ms, end_ms = (_milliseconds(time) for time in (silence.starts, ended or silence.ends))
            tags = (*_TAGS, f"service:{silence.service}")
            number = grafana.annotate(silence.comment, tags, start_ms, end_ms)
            click.echo(f"marked in Grafana: annotation {number}")
    finally:
        grafana.close()


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


COMMANDS = (release,)
