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
    after = outcome.after
    unknown = [100 * (figures.unknown_ratio or 0.0) for figures in outcome]
    wrong = [100 * (figures.mismatch_ratio or 0.0) for figures in outcome]
    click.echo(
        f"unknown tokens {unknown[0]:.2f} % -> {unknown[1]:.2f} %, "
        f"traffic on wrong versions {wrong[0]:.0f} % -> {wrong[1]:.0f} %, "
        f"errors {after.errors:.0f}, dead letters {after.dead_letters:.0f}"
    )
    verdict = "the wrong tokenizer was seen" if outcome.seen else "the wrong tokenizer was NOT seen"
    click.echo(verdict, err=not outcome.seen)
    return 0 if outcome.seen else 1


COMMANDS = (demo,)
