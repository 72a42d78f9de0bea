"""Decode + windows + three monitors + state changes, in events per CPU-second, beside a bare JSON decode.

    python benchmarks/pipeline.py [--events 200000] [--gather 8192]

Every row handles the same events: 25 columns, one service, three windows. The bar is msgspec's typed decode
of the same events as JSON, which does nothing with them. CPU time of the whole process, all threads.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mlmon.engine import Engine, EngineConfig, Intake
from mlmon.events.codecs import DecodeConfig, Decoder
from mlmon.events.encode import (
    ARROW_CONTENT_TYPE,
    JSON_CONTENT_TYPE,
    MSGPACK_CONTENT_TYPE,
    encode_arrow,
    encode_json,
    encode_msgpack,
)
from mlmon.events.event import Event
from mlmon.events.record import LogRecord
from mlmon.monitors import MONITORS, build_monitors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START = 1_780_000_000_000_000
GATHER_EVENTS = 8_192
ROUNDS = 3


def make_events(count: int, *, services: int = 4) -> list[Event]:
    """Events as the ASGI tap makes them."""
    rng = np.random.default_rng(1)
    latency = rng.lognormal(-3.5, 0.6, count)
    tokens = rng.poisson(24, count) + 1
    return [
        Event(
            event_id=f"{i:032x}",
            event_time=START + i * 600,
            service="checkout" if services == 1 else f"service-{i % services}",
            model_name="intent-bert",
            model_version="2026-11-01",
            tokenizer_digest="5f2b8c0e9d",
            deployment="stable",
            instance="host-7:4242",
            task="classification",
            status="error" if i % 97 == 0 else "ok",
            latency_seconds=float(latency[i]),
            inference_seconds=float(latency[i]) * 0.8,
            batch_size=1,
            characters=int(tokens[i]) * 4,
            words=int(tokens[i]) - 1,
            tokens=int(tokens[i]),
            unknown_tokens=int(i % 50 == 0),
            continuation_tokens=int(tokens[i]) // 5,
            truncated_tokens=0,
            masked_tokens=0,
            input_hash=f"{i * 7919:032x}",
            prediction=f"intent_{i % 12}",
            confidence=0.9,
            entropy=0.3,
            sampling_weight=20.0,
            trace_id=f"{i:032x}",
            span_id=f"{i:016x}",
        )
        for i in range(count)
    ]


def record(offset: int, value: bytes, content_type: str) -> LogRecord:
    """A record as a source delivers it."""
    return LogRecord(offset, START // 1000, None, value, [("content-type", content_type.encode())])


def arrow_records(events: list[Event], size: int) -> list[LogRecord]:
    """The events in Arrow records of `size`, one service to a record as the emitter packs them."""
    by_service: dict[str, list[Event]] = {}
    records: list[LogRecord] = []
    for event in events:
        held = by_service.setdefault(event.service, [])
        held.append(event)
        if len(held) == size:
            records.append(record(len(records), encode_arrow(held), ARROW_CONTENT_TYPE))
            held.clear()
    records += [
        record(len(records), encode_arrow(held), ARROW_CONTENT_TYPE) for held in by_service.values() if held
    ]
    return records


def gathers(records: list[LogRecord], per_record: int, gather: int) -> Iterator[list[LogRecord]]:
    """What the loop counts in one go."""
    step = max(1, gather // per_record)
    for start in range(0, len(records), step):
        yield records[start : start + step]


def pipeline(records: list[LogRecord], per_record: int, expected: int, gather: int = GATHER_EVENTS) -> None:
    """Everything the sidecar does with records between the log and the checkpoint's disk."""
    monitors = build_monitors({name: entry.config() for name, entry in MONITORS.items()})
    engine = Engine(EngineConfig(), monitors, "bench")
    decoder = Decoder(DecodeConfig(), engine.fields)
    engine.assign("p", 0, {}, 0.0)
    for part in gathers(records, per_record, gather):
        decoded = decoder.decode(part, START + 10**12)
        engine.process("p", Intake(part[-1].offset + 1, decoded.batch, len(part)), 0.0)
    engine.changes(START, 0.0, {"p": 1})
    engine.committed()
    assert engine.partitions["p"].meta.events == expected


def cpu_seconds(work: Callable[[], None]) -> float:
    """CPU seconds of the best of a few rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--gather", type=int, default=GATHER_EVENTS, help="events counted in one go")
    options = parser.parse_args()
    count = options.events
    events = make_events(count, services=1)
    json_records = [record(i, encode_json(e), JSON_CONTENT_TYPE) for i, e in enumerate(events)]
    msgpack_records = [record(i, encode_msgpack(e), MSGPACK_CONTENT_TYPE) for i, e in enumerate(events)]
    values = [r.value for r in json_records]
    decode = msgspec.json.Decoder(Event).decode

    def bare() -> None:
        for value in values:
            decode(value)

    bar = count / cpu_seconds(bare)
    size = sum(map(len, values)) / count
    print(f"{count:,} events, {size:.0f} bytes each as JSON\n")
    print(f"{'what':<34}{'events/CPU-s':>14}{'beside bare':>13}  goal")
    print(f"{'bare msgspec decode of the JSON':<34}{bar:>14,.0f}{1.0:>12.2f}x")
    rows = [
        (f"Arrow, {n} events a record", arrow_records(events, n), n, "3x" if n == 256 else "")
        for n in (32, 256, 1024)
    ]
    rows += [("JSON, one event a record", json_records, 1, "0.5x"), ("MessagePack", msgpack_records, 1, "")]
    for name, records, per_record, goal in rows:
        rate = count / cpu_seconds(lambda r=records, n=per_record: pipeline(r, n, count, options.gather))  # type: ignore[misc]
        print(f"{name:<34}{rate:>14,.0f}{rate / bar:>12.2f}x  {goal}")


if __name__ == "__main__":
    main()
