"""`mlmon demo`: see it work in two minutes."""

from __future__ import annotations

import sys

import click

__all__ = ["COMMANDS"]


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="How long nothing changes at first.")
@click.option("--port", default=9477, show_default=True, help="Of /metrics; 0 chooses a free one.")
@click.option("--stay/--no-stay", default=None, help="Go on until Ctrl-C; the default on a terminal.")
@click.option("--keep", is_flag=True, help="Leave the folder with events, baseline and history.")
def demo(seconds: float, port: int, stay: bool | None, keep: bool) -> int:
    """Watch a real text service on this machine while its traffic, model and tokenizer change.

    Needs the server extra. Exit code 1 when a change was not seen, or a page came without one.
    """
    from mlmon.demo.story import Options, run_demo  # loads the tokenizers library, as no other command does

    staying = sys.stdout.isatty() if stay is None else stay
    outcome = run_demo(Options(seconds, port, stay=staying, keep=keep))
    verdict = "everything was seen" if outcome.seen else "NOT everything was as it should be"
    click.echo(verdict, err=not outcome.seen)
    return 0 if outcome.seen else 1


COMMANDS = (demo,)
