"""`mlmon demo`: see it work in a minute."""

from __future__ import annotations

import sys

import click

__all__ = ["COMMANDS"]


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="Length of each of the two phases.")
@click.option("--port", default=9477, show_default=True, help="Of /metrics; 0 chooses a free one.")
@click.option("--stay/--no-stay", default=None, help="Go on until Ctrl-C; the default on a terminal.")
def demo(seconds: float, port: int, stay: bool | None) -> int:
    """Watch a real text service on this machine while a wrong tokenizer is deployed.

    Needs the server extra. Exit code 1 when the mistake was not seen.
    """
    from mlmon.demo.story import run_demo  # loads the tokenizers library, which no other command needs

    outcome = run_demo(seconds, port, stay=sys.stdout.isatty() if stay is None else stay)
    before, after = outcome
    click.echo(
        f"unknown tokens {100 * (before.unknown_ratio or 0):.2f} % -> "
        f"{100 * (after.unknown_ratio or 0):.2f} %, traffic on wrong versions {100 * (before.mismatch_ratio or 0):.0f} % -> "
        f"{100 * (after.mismatch_ratio or 0):.0f} %, errors {after.errors:.0f}, "
        f"dead letters {after.dead_letters:.0f}"
    )
    click.echo(
        "the wrong tokenizer was seen" if outcome.seen else "the wrong tokenizer was NOT seen",
        err=not outcome.seen,
    )
    return 0 if outcome.seen else 1


COMMANDS = (demo,)
