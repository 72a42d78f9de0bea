"""`mlmon labels send`: what turned out to be true of requests, from a file into the log."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mlmon.app.transfer import open_sink, write_batch
from mlmon.cli.common import config_option, read_config, reading_progress
from mlmon.cli.label_files import LABEL_FIELDS, is_label_field, label_row, open_label_file
from mlmon.clock import SystemClock
from mlmon.errors import ConfigError, SourceError
from mlmon.events.codecs import Decoder
from mlmon.events.encode import CONTENT_TYPE_HEADER, JSON_CONTENT_TYPE
from mlmon.events.record import LogRecord
from mlmon.events.schema import DEPLOYMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlmon.attach.sinks import Sink
    from mlmon.cli.label_files import LabelFile, Row

__all__ = ["COMMANDS"]

#: Faults named one by one; the rest are only counted.
_LISTED = 20
#: Rows written together: as many as fit one record, so that an interruption leaves few in doubt.
_LOT = 256
_HEADERS = [(CONTENT_TYPE_HEADER, JSON_CONTENT_TYPE.encode())]
_NEEDED = ("event_id", "request_time", "service", "model_name")
_TRUTHS = (("label", "prediction"), ("labelled_masked_tokens", "right_masked_tokens"))


@click.group()
def labels() -> None:
    """The truth about requests, where it is known."""


def _columns(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    """Fields by column, from FIELD=COLUMN."""
    names = {}
    for pair in given:
        field, mark, column = pair.partition("=")
        if not (mark and column and is_label_field(field)):
            expected = f"expected FIELD=COLUMN with a field of {', '.join(LABEL_FIELDS)} or segments.NAME"
            raise click.BadParameter(f"{expected}, got {pair!r}")
        names[column] = field
    return names


_OPTIONS = (
    click.option("--service", help="Service of rows that name none."),
    click.option("--model", "model_name", help="Model of rows that name none."),
    click.option("--model-version", help="Model version of rows that name none."),
    click.option("--deployment", type=click.Choice(DEPLOYMENTS), help="Deployment of rows that name none."),
    click.option(
        "--sampling-weight",
        type=click.FloatRange(1.0, 1e9),
        help="What each request stood for, where only sampled ones are labelled: 1 / sample_rate of the tap.",
    ),
)


def _defaults(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@labels.command()
@click.argument("file")
@config_option
@_defaults
@click.option(
    "--column",
    "names",
    multiple=True,
    callback=_columns,
    metavar="FIELD=COLUMN",
    help="Where a column is named otherwise; may be given several times.",
)
@click.option(
    "--after", type=click.IntRange(0), default=0, help="Pass over lines (Parquet: rows) up to this one."
)
@click.option("--dry-run", is_flag=True, help="Check every row and send nothing.")
def send(file: str, config_path: str, **options: Any) -> int:
    """Send the labels in FILE (CSV, JSON lines or Parquet) to the configured spool or topic.

    A row is one label: event_id and request_time of the request, service, model_name, label and prediction
    (what the server had answered), or labelled_masked_tokens and right_masked_tokens; model_version,
    deployment, sampling_weight and segments.NAME where they are known. Times are µs since 1970, or ISO 8601
    with a zone. Other columns are not sent.

    The labels come now, whenever their requests were. Nothing remembers labels: a row that is sent twice
    counts twice. After an interruption --after goes on where it stopped. Rows that are no label are listed
    with their line and left out; exit code 1 then.
    """
    config = read_config(config_path)
    names, after, dry_run = (options.pop(name) for name in ("names", "after", "dry_run"))
    defaults = {name: value for name, value in options.items() if value is not None}
    with closing(open_label_file(file, names)) as source, ExitStack() as stack:
        _check_columns(file, source, defaults)
        sink = None
        if not dry_run:
            sink = open_sink(config)
            stack.callback(sink.close, 30.0)
        sending = _Sending(file, source.unit, Decoder(config.decode, LABEL_FIELDS), sink)
        with sending.places_told(), reading_progress(source) as advance:
            for lot in _lots(source, after):
                advance()
                sending.send(lot, defaults)
    return sending.report()


def _check_columns(path: str, source: LabelFile, defaults: Mapping[str, Any]) -> None:
    """Refuse a file none of whose rows could be a label, before anything is sent."""
    if source.columns is None:
        return
    there = {*source.columns, *defaults}
    lacking = [name for name in _NEEDED if name not in there]
    if not any(there.issuperset(pair) for pair in _TRUTHS):
        lacking.append("label and prediction (or labelled_masked_tokens and right_masked_tokens)")
    if lacking:
        raise ConfigError(
            f"{path}: expected columns {', '.join(lacking)}, got {', '.join(source.columns)}: say which "
            "column holds a field with --column FIELD=COLUMN, what all rows share with --service and --model"
        )
    unsent = [name for name in source.columns if not is_label_field(name)]
    if unsent:
        click.echo(f"{path}: not sent, since a label has no such field: {', '.join(unsent)}", err=True)


def _lots(source: LabelFile, after: int) -> Iterator[list[Row]]:
    rows = (row for row in source.rows() if row[0] > after)
    while lot := list(islice(rows, _LOT)):
        yield lot


def _event(values: Mapping[str, Any] | str, defaults: Mapping[str, Any], now_us: int) -> dict[str, Any]:
    """The label event of a row.

    Raises:
        ValueError: the row is none.
    """
    if isinstance(values, str):
        raise ValueError(values)  # noqa: TRY004 - a fault of the file, found before
    row = {"event_time": now_us, **defaults, **label_row(values)}
    if "request_time" not in row:
        raise ValueError("request_time: expected the time of the labelled request, got nothing")
    return row


class _Sending:
    """Makes label events of rows, writes them, and keeps count.

    Args:
        path: of the file, for messages.
        unit: what its places count.
        decoder: checks the events as a sidecar would.
        sink: the log; None for a rehearsal.
    """

    def __init__(self, path: str, unit: str, decoder: Decoder, sink: Sink | None) -> None:
        self._path, self._unit = path, unit
        self._decoder, self._sink = decoder, sink
        self._clock = SystemClock()
        self._sent = self._refused = 0
        self._done = self._begun = 0

    def send(self, lot: Sequence[Row], defaults: Mapping[str, Any]) -> None:
        """Send some rows; faults are listed.

        Raises:
            SourceError: the log does not take them.
        """
        now_us = self._clock.now_us()
        faults: list[tuple[int, str]] = []
        records = []
        for place, values in lot:
            try:
                value = msgspec.json.encode(_event(values, defaults, now_us))
            except ValueError as error:
                faults.append((place, str(error)))
            else:
                records.append(LogRecord(place, -1, None, value, _HEADERS))
        decoded = self._decoder.decode(records, now_us)
        faults += [(reject.offset, reject.detail) for reject in decoded.rejects]
        self._list(sorted(faults))
        self._begun = lot[-1][0]
        if decoded.batch is not None and self._sink is not None:
            write_batch(self._sink, decoded.batch)
        self._sent += decoded.events
        self._done = self._begun

    def report(self) -> int:
        """Say what was done; returns the exit code."""
        if self._refused > _LISTED:
            click.echo(f"... and {self._refused - _LISTED:,} more", err=True)
        did, again = ("sent", "; sent again they would count again") if self._sink else ("would send", "")
        click.echo(f"{did} {self._sent:,} labels, refused {self._refused:,}{again if self._sent else ''}")
        return 1 if self._refused else 0

    def _list(self, faults: Sequence[tuple[int, str]]) -> None:
        for place, fault in faults:
            self._refused += 1
            if self._refused <= _LISTED:
                click.echo(f"{self._path}, {self._unit} {place}: {fault}", err=True)

    @contextmanager
    def places_told(self) -> Iterator[None]:
        """Say how to go on where sending is cut short."""
        try:
            yield
        except (SourceError, KeyboardInterrupt):
            if self._sink is not None:
                click.echo(self._cut_short(), err=True)
            raise

    def _cut_short(self) -> str:
        done, begun = self._done, self._begun
        told = f"{self._path}: sent up to {self._unit} {done}; go on with --after {done}"
        if begun == done:
            return told
        doubt = (
            f"some of what follows up to {self._unit} {begun} may be in the log and would then count twice"
        )
        return f"{told}; {doubt} ({begun} in its place may leave some out)"


COMMANDS = (labels,)
