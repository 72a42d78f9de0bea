"""`mlmon canary`: whether a new deployment is as good as the one that serves."""

from __future__ import annotations

import http.client
import os
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import click
import msgspec
from rich.console import Console
from rich.progress import track

from mlmon.app.canary_route import CanaryRoute, question_of
from mlmon.canary.config import CanaryConfig
from mlmon.canary.simulate import Rollout, rollouts
from mlmon.canary.verdict import State
from mlmon.cli.common import print_table, read_config
from mlmon.clock import SystemClock
from mlmon.config import Config
from mlmon.errors import ConfigError, RemoteError

if TYPE_CHECKING:
    from mlmon.canary.verdict import Check, Verdict

__all__ = ["COMMANDS"]

_EXIT = {State.PASS: 0, State.FAIL: 1, State.INCONCLUSIVE: 5}
#: Holds the bearer token for the webhook.
TOKEN_VARIABLE = "MLMON_CANARY_TOKEN"  # noqa: S105 - its name
_TIMEOUT_SECONDS = 15.0


@click.group()
def canary() -> None:
    """Compare a new deployment with the one that serves; ask as often as you like."""


@canary.command()
@click.option("-c", "--config", "config_path", metavar="FILE", help="The sidecar's; else the defaults.")
@click.option("--directory", metavar="DIR", help="The history to read, instead of the configured one.")
@click.option("--service", required=True, help="Name of the service.")
@click.option("--model", default="", help="Name of the model; else all of the service.")
@click.option(
    "--stable", default="deployment=stable", show_default=True, metavar="COLUMN=VALUE", help="What serves."
)
@click.option(
    "--canary", "new", default="deployment=canary", show_default=True, metavar="COLUMN=VALUE", help="The new."
)
@click.option("--since", metavar="TIME", help="When the canary began: a time in UTC, or such as 30m ago.")
@click.option("--wait", default=0.0, type=click.FloatRange(0), help="Seconds to wait for a verdict.")
@click.option("--every", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Seconds.")
@click.option("--on-fail", metavar="URL", help="POST the verdict there when the canary fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def check(config_path: str | None, directory: str | None, on_fail: str | None, **options: Any) -> int:
    """Say whether the canary passes (exit code 0), fails (1), or cannot be told yet (5).

    The verdict is read from the history; looking again and again does not make it more often wrong. The
    webhook of --on-fail gets the bearer token in MLMON_CANARY_TOKEN, where there is one.
    """
    config = Config() if config_path is None else read_config(config_path)
    if directory is not None:
        history = msgspec.structs.replace(config.history, directory=directory)
        config = msgspec.structs.replace(config, history=history)
    clock = SystemClock()
    query = urlencode(
        {
            "service": options["service"],
            "model": options["model"],
            "stable": options["stable"],
            "canary": options["new"],
            "since": options["since"] or "",
        }
    )
    try:
        question = question_of(query, clock.now_us())
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    route, deadline = CanaryRoute(config, clock), time.monotonic() + options["wait"]
    verdict = route.verdict(question)
    while verdict.verdict is State.INCONCLUSIVE and time.monotonic() + options["every"] <= deadline:
        clock.sleep(options["every"])
        verdict = route.verdict(question)
    _print(verdict, as_json=options["as_json"])
    if verdict.verdict is State.FAIL and on_fail is not None:
        _tell(on_fail, verdict)
    return _EXIT[verdict.verdict]


def _print(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(verdict).decode())
        return
    print_table(
        f"{verdict.canary} beside {verdict.stable}: {verdict.verdict}",
        ("check", "says", "stable", "canary", "difference", "allowed", "events"),
        [_row(check) for check in verdict.checks],
    )
    for reason in verdict.reasons:
        click.echo(f"  {reason}")


def _row(check: Check) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    between = "-" if check.low is None else f"{shown(check.low)} to {shown(check.high)}"
    events = f"{check.stable_events:,.0f} / {check.canary_events:,.0f}"
    figures = shown(check.stable), shown(check.canary), between, shown(check.margin)
    return check.name, check.state, *figures, events


def _tell(url: str, verdict: Verdict) -> None:
    """Send a verdict to a webhook; its address and token are not logged."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--on-fail: expected an http or https address, got {parts.scheme!r}://…")
    token = os.environ.get(TOKEN_VARIABLE)
    if token and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigError(f"--on-fail would send {TOKEN_VARIABLE} unencrypted to {parts.hostname}: use https")
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", path, msgspec.json.encode(verdict), headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise RemoteError(
            f"the webhook at {parts.hostname} was not told that the canary failed: {error}"
        ) from error
    finally:
        connection.close()
    if status >= 300:
        raise RemoteError(f"the webhook at {parts.hostname} answered {status} to the failed verdict")
    click.echo(f"  told {parts.hostname} ({status})", err=True)


@canary.command()
@click.option("-c", "--config", "config_path", metavar="FILE", help="For [canary]; else the defaults.")
@click.option("--stable", default=0.02, show_default=True, type=click.FloatRange(0, 1), help="Share bad.")
@click.option(
    "--budget", default=0.02, show_default=True, type=click.FloatRange(1e-6, 0.9), help="1 - target."
)
@click.option("--events", default=20_000, show_default=True, type=click.IntRange(100), help="Of both.")
@click.option(
    "--traffic", default=0.1, show_default=True, type=click.FloatRange(0.001, 0.999), help="Canary's."
)
@click.option("--looks", default=200, show_default=True, type=click.IntRange(1, 10_000), help="Evenly.")
@click.option("--runs", default=200, show_default=True, type=click.IntRange(1), help="Rollouts each.")
@click.option("--seed", default=1, show_default=True, help="Of everything that is drawn.")
def simulate(config_path: str | None, **options: Any) -> None:
    """Draw rollouts of canaries of known quality: how many pass, how many fail, how soon."""
    config = CanaryConfig() if config_path is None else read_config(config_path).canary
    margin = config.margin_budget_share * options["budget"]
    rows = []
    console = Console(stderr=True)
    for factor in track((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0), "canaries", console=console, transient=True):
        bad = min(1.0, options["stable"] + factor * margin)
        drawn = Rollout(
            options["stable"], bad, options["budget"], options["events"], options["traffic"], options["looks"]
        )
        found = rollouts(drawn, config, options["runs"], options["seed"])
        half = "-" if found.median_events != found.median_events else f"{found.median_events:,.0f}"
        rows.append((f"{bad:.4g}", f"{factor:g}", f"{found.passed:.1%}", f"{found.failed:.1%}", half))
    print_table(
        f"{options['runs']} rollouts each, {options['looks']} looks at {options['events']:,} events",
        ("share bad", "margins worse", "pass", "fail", "events until half have a verdict"),
        rows,
    )


COMMANDS: tuple[click.Command, ...] = (canary,)
