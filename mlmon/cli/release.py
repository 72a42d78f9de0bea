"""`mlmon release`: nobody is paged about a service that is being changed on purpose."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlmon.slo.release_access import (
    PASSWORD_VARIABLE,
    TOKEN_VARIABLE,
    USER_VARIABLE,
    SecretFiles,
    read_credentials,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlmon.grafana.client import Grafana
    from mlmon.slo.release import Alertmanager, Silence

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
    click.option(
        "--alertmanager-token-file", metavar="FILE", help=f"Alertmanager's token; else {TOKEN_VARIABLE}."
    ),
    click.option("--alertmanager-user", metavar="NAME", help=f"Alertmanager's user; else {USER_VARIABLE}."),
    click.option(
        "--alertmanager-password-file", metavar="FILE", help=f"The user's password; else {PASSWORD_VARIABLE}."
    ),
    click.option("--grafana", "grafana_url", metavar="URL", help="Grafana to mark the release in."),
    click.option("--token-file", metavar="FILE", help="Grafana's token; else MLMON_GRAFANA_TOKEN."),
    click.option(
        "--ca-file", metavar="FILE", help="Certificates to trust instead of the system's, for both."
    ),
    click.option(
        "--allow-plain-http", "plain_http", is_flag=True, help="Send secrets unencrypted to another host."
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
def start(service: str, duration: str, comment: str, textfile_dir: Path | None, **access: Any) -> None:
    """Begin a planned release, or move the end of the one that goes on."""
    from mlmon.slo import release as releases
    from mlmon.slo.reader import duration_seconds

    seconds = duration_seconds(duration)
    if seconds is None:
        raise click.BadParameter(
            f"expected a duration such as 30m or 2h, got {duration!r}", param_hint="--for"
        )
    grafana = _grafana(access)
    alertmanager = _alertmanager(access)
    reason = f"planned release of {service}" + (f": {comment}" if comment else "")
    silence = releases.start(alertmanager, service, seconds, reason, datetime.now(UTC))
    click.echo(f"silent until {silence.ends:%Y-%m-%d %H:%M:%S} UTC: alerts of {service} ({silence.number})")
    if textfile_dir is not None:
        click.echo(f"gauge: {releases.show(textfile_dir, silence)}")
    _mark(grafana, [silence], None)


@release.command()
@_common
def stop(service: str, textfile_dir: Path | None, **access: Any) -> None:
    """End a planned release: people are told again."""
    from mlmon.slo import release as releases

    grafana = _grafana(access)
    found = releases.stop(_alertmanager(access), service)
    if textfile_dir is not None:
        releases.hide(textfile_dir, service)
    if not found:
        click.echo(f"no planned release of {service} is going on")
        return
    click.echo(f"alerts of {service} are told again")
    _mark(grafana, found, datetime.now(UTC))


def _alertmanager(access: dict[str, Any]) -> Alertmanager:
    from mlmon.slo.release import Alertmanager

    files = SecretFiles(
        access["alertmanager_token_file"], access["alertmanager_user"], access["alertmanager_password_file"]
    )
    credentials = read_credentials(files, access["ca_file"], plain_http=access["plain_http"])
    return Alertmanager(access["alertmanager_url"], credentials)


def _grafana(access: dict[str, Any]) -> Grafana | None:
    """Made before anything is silenced, so that a wrong token or a missing extra changes nothing."""
    if access["grafana_url"] is None:
        return None
    from mlmon.grafana.client import Access, connect, read_token

    token = read_token(access["token_file"])
    return connect(Access(access["grafana_url"], token, access["ca_file"], access["plain_http"]))


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
