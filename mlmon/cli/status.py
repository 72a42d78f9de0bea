"""`mlmon status`: exact totals by partition, from the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from mlmon.app.build import open_for_reading
from mlmon.app.status import report
from mlmon.cli.common import config_option, print_table, read_config, time_text

if TYPE_CHECKING:
    from mlmon.app.status import StatusReport

__all__ = ["COMMANDS", "show_report"]


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def status(config_path: str, as_json: bool) -> None:
    """Show exact totals by partition, as of the last commits.

    Read from the checkpoint (Kafka or SQLite), so it needs no running sidecar and sees all of a group.
    """
    checkpoint = open_for_reading(read_config(config_path))
    try:
        found = report(checkpoint.scan())
    finally:
        checkpoint.close()
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        show_report(found)


def show_report(found: StatusReport) -> None:
    """Print partitions, series, and a warning for each split series."""
    if not found.partitions:
        click.echo("nothing is committed yet: start  mlmon run  and send events")
        return
    print_table(
        "Partitions (totals since the first commit)",
        ("partition", "next", "records", "events", "late", "rejected", "dropped", "lost", "newest", "owner"),
        [
            (
                p.partition,
                p.next_offset,
                p.records,
                p.events,
                p.late,
                p.rejects,
                p.dropped,
                p.lost,
                time_text(p.newest_event_us),
                p.owner,
            )
            for p in found.partitions
        ],
    )
    print_table(
        "Series",
        ("service", "model", "version", "deployment", "segment", "events", "first seen", "newest"),
        [
            (
                s.service,
                s.model,
                s.version,
                s.deployment,
                s.segment,
                s.events,
                time_text(s.first_us),
                time_text(s.last_us),
            )
            for s in found.series
        ],
    )
    for s in found.split:
        click.echo(
            f"warning: {s.service}/{s.model} {s.version} arrives in partitions of several sidecars "
            f"({', '.join(s.partitions)}): its window readings are partial; key its records by service and "
            "model"
        )


COMMANDS = (status,)
