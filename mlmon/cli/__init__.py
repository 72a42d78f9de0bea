"""The command line.

Exit codes: 0 success; 1 a check found something to fix; 2 wrong usage or configuration; 3 a log, broker,
server or port cannot be reached; 4 state or a baseline cannot be used (locked, newer format, damaged); 130
interrupted. `mlmon canary check` ends with 5 while nothing can be said yet.
A mistake of the user's ends in one message that says what was expected, what came and what to do.
"""

from __future__ import annotations

import sys

import mlmon.cli.threads  # noqa: F401 - before anything loads NumPy

# isort: split
import click

from mlmon import __version__, errors
from mlmon.cli.baseline import COMMANDS as BASELINE
from mlmon.cli.canary import COMMANDS as CANARY
from mlmon.cli.data import COMMANDS as DATA
from mlmon.cli.demo import COMMANDS as DEMO
from mlmon.cli.explore import COMMANDS as EXPLORE
from mlmon.cli.grafana import COMMANDS as GRAFANA
from mlmon.cli.history import COMMANDS as HISTORY
from mlmon.cli.labels import COMMANDS as LABELS
from mlmon.cli.release import COMMANDS as RELEASE
from mlmon.cli.render import COMMANDS as RENDER
from mlmon.cli.report import COMMANDS as REPORT
from mlmon.cli.run import COMMANDS as RUN
from mlmon.cli.serve import COMMANDS as SERVE
from mlmon.cli.shadow import COMMANDS as SHADOW
from mlmon.cli.simulate import COMMANDS as SIMULATE
from mlmon.cli.status import COMMANDS as STATUS

__all__ = ["EXIT_CODES", "cli", "exit_code", "main"]

EXIT_CODES: tuple[tuple[type[errors.MlmonError], int], ...] = (
    (errors.ConfigError, 2),
    (errors.MissingExtraError, 2),
    (errors.SourceError, 3),
    (errors.RemoteError, 3),
    (errors.CheckpointError, 4),
    (errors.HistoryError, 4),
    (errors.BaselineError, 4),
    (errors.IncompatibleStateError, 4),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mlmon")
def cli() -> None:
    """Monitoring for masked-language-model services.

    Start with `mlmon demo`, or `mlmon init` to write a configuration and `mlmon run` to use it.
    """


_COMMANDS = (*RUN, *STATUS, *BASELINE, *DATA, *LABELS, *HISTORY, *DEMO, *REPORT, *SIMULATE, *SERVE)
for command in (*_COMMANDS, *CANARY, *EXPLORE, *SHADOW, *GRAFANA, *RELEASE, *RENDER):
    cli.add_command(command)


def exit_code(error: errors.MlmonError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def main() -> None:
    """Entry point of the `mlmon` program."""
    try:
        code = cli(standalone_mode=False)
    except errors.MlmonError as error:
        click.echo(f"mlmon: {error}", err=True)
        sys.exit(exit_code(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
