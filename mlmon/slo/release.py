"""A planned release: nobody is told of the service's alerts while it goes on.

Alertmanager's silence is the release's record: who starts one again moves its end, and who stops it needs
nothing but the service's name. Alerts fire all the same and budgets burn, except of objectives that say
`mlmon.io/release: excused`; those read the gauge, which needs node_exporter's textfile collector.

Why a textfile: the sidecar must not be told by a person, and Alertmanager says nothing of single silences in
its metrics.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from mlmon.catalog import release as gauges
from mlmon.errors import ConfigError
from mlmon.slo.release_alertmanager import Alertmanager, Silence

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

__all__ = [
    "AUTHOR",
    "LONGEST_SECONDS",
    "RELEASE_END",
    "Alertmanager",
    "Silence",
    "hide",
    "show",
    "start",
    "stop",
]

#: Whose silences are releases.
AUTHOR = "mlmon release"
#: A release that takes longer is started again.
LONGEST_SECONDS = 86_400
#: Gauge of the planned end, which the rules of excused objectives read.
RELEASE_END = gauges.END.name


def start(alertmanager: Alertmanager, service: str, seconds: int, comment: str, now: datetime) -> Silence:
    """Begin a planned release, or move the end of the one that goes on.

    Args:
        alertmanager: is told to be silent.
        service: the label `service` of the alerts.
        seconds: how long it will take at most; then people are told again.
        comment: why; kept from the first start.
        now: aware.

    Raises:
        ConfigError: no service, or a duration that is none.
        RemoteError: Alertmanager cannot be reached or refuses.
    """
    if not service:
        raise ConfigError("expected the name of a service, got an empty text")
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ConfigError(
            f"expected a duration from 1m to 1d, got {seconds} s: start a longer release again when it is due"
        )
    ends = now + timedelta(seconds=seconds)
    known = alertmanager.active(service, AUTHOR)
    wanted = replace(known[0], ends=ends) if known else Silence(service, now, ends, AUTHOR, comment)
    return alertmanager.put(wanted)


def stop(alertmanager: Alertmanager, service: str) -> list[Silence]:
    """End the planned releases of a service; those that were going on."""
    found = alertmanager.active(service, AUTHOR)
    for silence in found:
        alertmanager.expire(silence)
    return found


def show(folder: Path, silence: Silence) -> Path:
    """Write the gauges for node_exporter's textfile collector: a file for each service, whole or not at all.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    path = _file(folder, silence.service)
    label = silence.service.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    values = ((gauges.ACTIVE, "1"), (gauges.END, f"{silence.ends.timestamp():.3f}"))
    text = "".join(
        f"# HELP {gauge.name} {gauge.help}\n# TYPE {gauge.name} {gauge.kind}\n"
        f'{gauge.name}{{service="{label}"}} {value}\n'
        for gauge, value in values
    )
    # node_exporter reads *.prom only, so never a half-written one
    half = path.with_suffix(f".{os.getpid()}")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise ConfigError(f"{folder}: expected node_exporter's textfile directory: {error}") from error
    return path


def hide(folder: Path, service: str) -> None:
    """Remove the gauges of a service."""
    try:
        _file(folder, service).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: expected node_exporter's textfile directory: {error}") from error


def _file(folder: Path, service: str) -> Path:
    return folder / f"mlmon_release_{quote(service, safe='')}.prom"
