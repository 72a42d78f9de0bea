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
@click.option("--live", is_flag=True, help="Another one: a masked language model, beside a reference.")
def demo(seconds: float, port: int, stay: bool | None, *, keep: bool, live: bool) -> int:
    """Watch a real text service on this machine while its traffic, model and tokenizer change.

    With --live, watch a masked language model whose weights are swapped: its answers are compared with those
    of a second server. Needs the extra `demo`, with --live `server`. Exit code 1 when a change was not seen,
    or a page came without one.
    """
    from mlmon.demo.live import run_live_demo
    from mlmon.demo.story import Options, run_demo  # loads the tokenizers library, as no other command does

    staying = sys.stdout.isatty() if stay is None else stay
    options = Options(seconds, port, stay=staying, keep=keep)
    outcome = run_live_demo(options) if live else run_demo(options)
    verdict = "everything was seen" if outcome.seen else "NOT everything was as it should be"
    click.echo(verdict, err=not outcome.seen)
    return 0 if outcome.seen else 1


COMMANDS = (demo,)
