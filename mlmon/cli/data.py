"""`mlmon emit`, `tail` and `dlq`: events into a log, out of it, and those that were refused."""

from __future__ import annotations

import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

import click
import msgspec
import pyarrow as pa

from mlmon.app.build import build_source
from mlmon.app.letters import read_configured_letters
from mlmon.app.transfer import open_sink, write_batch
from mlmon.cli.common import config_option, print_table, read_config, reading_progress, time_text
from mlmon.clock import SystemClock
from mlmon.events.codecs import Decoder
from mlmon.events.record import LogRecord
from mlmon.sources.replay import ReplayConfig, ReplaySource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.checkpoint.letters import Letter
    from mlmon.config import Config
    from mlmon.events.batch import EventBatch
    from mlmon.events.record import Reject
    from mlmon.sources.base import Source

__all__ = ["COMMANDS"]

#: Faults named one by one; the rest are only counted.
_LISTED = 20
_TAIL_COLUMNS = (
    "event_time",
    "service",
    "model_name",
    "model_version",
    "status",
    "latency_seconds",
    "tokens",
    "unknown_tokens",
    "prediction",
    "confidence",
    "label",
)


@click.command()
@click.argument("files", nargs=-1, required=True)
@config_option
def emit(files: tuple[str, ...], config_path: str) -> int:
    """Write events from FILES (JSON lines, Parquet, Arrow) to the configured spool or topic.

    Events that are not valid are listed with their place and left out; exit code 1 then.
    """
    config = read_config(config_path)
    clock = SystemClock()
    decoder = Decoder(config.decode)
    source = ReplaySource(ReplayConfig(paths=files), clock)
    sink = open_sink(config)
    written = refused = 0
    try:
        with reading_progress(source) as advance:
            for partition, records in _read(source):
                advance()
                decoded = decoder.decode(records, clock.now_us())
                for reject in decoded.rejects:
                    refused += 1
                    if refused <= _LISTED:
                        where = f"{partition}: {_place(reject)}"
                        click.echo(f"{where}: {reject.reason}: {reject.detail}", err=True)
                if decoded.batch is not None:
                    written += write_batch(sink, decoded.batch)
    finally:
        sink.close(30.0)
        source.close()
    if refused > _LISTED:
        click.echo(f"... and {refused - _LISTED:,} more", err=True)
    click.echo(f"wrote {written:,} events, refused {refused:,}")
    return 1 if refused else 0


def _place(reject: Reject) -> str:
    return f"record {reject.offset}" + (f", row {reject.row}" if reject.row >= 0 else "")


def _read(source: Source) -> Iterator[tuple[str, Any]]:
    """Records of a source, chunk by chunk, until it is finished."""
    while not source.finished:
        polled = source.poll(0.5)
        for partition in polled.assigned:
            source.seek(partition, None)
        for chunk in polled.chunks:
            yield chunk.partition, chunk.records


@click.command()
@config_option
@click.option("-n", "--number", type=int, help="Stop after so many events.")
@click.option("--json", "as_json", is_flag=True, help="Whole events, one JSON object a line.")
def tail(config_path: str, number: int | None, as_json: bool) -> None:
    """Show new events as they arrive, until Ctrl-C. Changes nothing: no position is committed."""
    config = read_config(config_path)
    source = build_source(_from_the_end(config), SystemClock())
    decoder = Decoder(config.decode)
    shown = 0
    try:
        for partition, records in _read(source):
            decoded = decoder.decode(records, SystemClock().now_us())
            for reject in decoded.rejects:
                click.echo(f"# {partition} {_place(reject)}: {reject.reason}: {reject.detail}", err=True)
            for line in _lines(decoded.batch, as_json=as_json):
                click.echo(line)
                shown += 1
                if shown == number:
                    return
    finally:
        source.close()


def _from_the_end(config: Config) -> Config:
    """The same log from its end, in a consumer group of its own."""
    replace = msgspec.structs.replace
    source = replace(
        config.source,
        spool=replace(config.source.spool, start="latest"),
        kafka=replace(
            config.source.kafka,
            group=f"{config.source.kafka.group}-tail-{uuid.uuid4().hex[:8]}",
            group_instance_id=None,
            auto_offset_reset="latest",
        ),
    )
    return replace(config, source=source)


def _lines(batch: EventBatch | None, *, as_json: bool) -> Iterator[str]:
    if batch is None:
        return
    records = batch.records
    if not as_json:
        records = records.select([name for name in _TAIL_COLUMNS if batch.has(name)])
    for row in pa.Table.from_batches([records]).to_pylist():
        if as_json:
            yield msgspec.json.encode(
                {k: v for k, v in row.items() if v is not None}, enc_hook=float
            ).decode()
        else:
            time = row.pop("event_time").strftime("%H:%M:%S.%f")[:-3]
            yield " ".join([time, *(f"{name}={_short(v)}" for name, v in row.items() if v is not None)])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@click.group()
def dlq() -> None:
    """What was refused: the dead letters."""


@dlq.command()
@config_option
@click.option("--reason", help="Only those of this reason.")
@click.option("-n", "--number", default=50, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Whole letters with their bytes (base64).")
def show(config_path: str, reason: str | None, number: int, as_json: bool) -> None:
    """List dead letters, the newest last."""
    letters: deque[Letter] = deque(maxlen=number)
    found = 0
    for letter in read_configured_letters(read_config(config_path)):
        if reason in (None, letter.reason):
            letters.append(letter)
            found += 1
    if as_json:
        for letter in letters:
            click.echo(msgspec.json.encode(letter).decode())
        return
    print_table(
        f"Dead letters: {found:,}, the newest {len(letters):,}",
        ("received", "partition", "offset", "row", "reason", "bytes", "detail"),
        [
            (
                time_text(x.received_us),
                x.partition,
                x.offset,
                "-" if x.row < 0 else x.row,
                x.reason,
                x.payload_bytes,
                x.detail,
            )
            for x in letters
        ],
    )


@dlq.command()
@config_option
@click.option("--reason", help="Only those of this reason.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent.")
def replay(config_path: str, reason: str | None, dry_run: bool) -> int:
    """Send dead letters that can be decoded now to the log again.

    For after a fix: a raised limit, a newer mlmon. Letters that still cannot be decoded are listed; exit code
    1 then. The letters themselves stay where they are, so send each once.
    """
    config = read_config(config_path)
    decoder = Decoder(config.decode)
    sink = None if dry_run else open_sink(config)
    sent = left = 0
    try:
        for letter in read_configured_letters(config):
            if reason not in (None, letter.reason):
                continue
            batch = _decode_again(decoder, letter)
            if batch is None:
                left += 1
                click.echo(f"{letter.partition} record {letter.offset}: still {letter.reason}", err=True)
                continue
            sent += len(batch) if sink is None else write_batch(sink, batch)
    finally:
        if sink is not None:
            sink.close(30.0)
    click.echo(f"{'would send' if dry_run else 'sent'} {sent:,} events, {left:,} letters cannot be decoded")
    return 1 if left else 0


def _decode_again(decoder: Decoder, letter: Letter) -> EventBatch | None:
    if len(letter.payload) < letter.payload_bytes:
        return None
    record = LogRecord(letter.offset, letter.received_us // 1000, None, letter.payload, letter.headers)
    decoded = decoder.decode([record], SystemClock().now_us())
    return None if decoded.rejects else decoded.batch


COMMANDS = (emit, tail, dlq)
