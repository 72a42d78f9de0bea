"""What decoding costs: events per CPU-second by codec, beside bare msgspec decode of the same JSON.

    python benchmarks/decode.py [--rounds 7] [--events 16384] [--json]

Every way decodes the same events, checks included, into one columnar batch per poll. `bare` is the best a
consumer in Python could do: msgspec's typed decode of each record, the objects of one poll kept in a list and
never looked at. Rounds are interleaved; the best of each is shown, in CPU time of the process (all threads).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import pyarrow as pa

from mlmon.events import DecodeConfig, Decoder, Event, LogRecord, encode_arrow, encode_json, encode_msgpack
from mlmon.events.encode import (
    ARROW_CONTENT_TYPE,
    CONTENT_TYPE_HEADER,
    JSON_CONTENT_TYPE,
    MSGPACK_CONTENT_TYPE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOW_US = 1_767_225_600_000_000
POLL_RECORDS = 512
#: What the monitors of traffic, tokenizer and versions read.
MONITOR_FIELDS = (
    *("model_version", "model_digest", "tokenizer_version", "tokenizer_digest", "deployment", "status"),
    *("latency_seconds", "queue_seconds", "tokenize_seconds", "inference_seconds", "batch_size"),
    *("gpu_utilization_ratio", "gpu_memory_used_bytes", "gpu_memory_total_bytes"),
    *("characters", "words", "tokens", "unknown_tokens", "continuation_tokens", "byte_fallback_tokens"),
    *("truncated_tokens", "masked_tokens", "segments", "sampling_weight", "trace_id"),
)


def make_events(count: int, *, large: bool) -> list[Event]:
    """Events as the tap makes them; large ones have digests, parts of the latency, top-k and features."""
    rng = np.random.default_rng(7)
    latency = rng.gamma(2.0, 0.02, count).round(6)
    tokens = rng.integers(4, 200, count)
    events = []
    for i in range(count):
        event = Event(
            event_id=rng.bytes(16).hex(),
            event_time=NOW_US - 60_000_000 + i * 500,
            service="search",
            model_name="bert-base-uncased",
            model_version="2026-01-07",
            tokenizer_version="wp-30522",
            deployment="stable",
            instance="search-6f7d9-x2x9v",
            task="classification",
            status="ok" if i % 97 else "error",
            latency_seconds=float(latency[i]),
            characters=int(tokens[i]) * 5,
            words=int(tokens[i]) * 3 // 4,
            tokens=int(tokens[i]),
            unknown_tokens=int(i % 13 == 0),
            continuation_tokens=int(tokens[i]) // 4,
            truncated_tokens=0,
            language=("en", "de", "mi")[i % 3],
            prediction=("spam", "ham")[i % 2],
            confidence=float(rng.random().__round__(6)),
            segments={"language": ("en", "de", "mi")[i % 3]},
            sampling_weight=20.0,
            trace_id=rng.bytes(16).hex(),
        )
        if large:
            _enlarge(event, i, rng)
        events.append(event)
    return events


def _enlarge(event: Event, i: int, rng: np.random.Generator) -> None:
    event.model_digest, event.tokenizer_digest, event.input_hash = "ab" * 32, "cd" * 32, rng.bytes(16).hex()
    event.queue_seconds, event.tokenize_seconds, event.inference_seconds = 0.001, 0.0005, 0.012
    event.batch_size, event.masked_tokens, event.byte_fallback_tokens = 1 + i % 8, 0, 0
    event.entropy, event.span_id = 0.3, rng.bytes(8).hex()
    event.top_labels, event.top_scores = ["spam", "ham", "other"], [0.5, 0.25, 0.125]
    event.numeric_features = {"title_length": float(i % 50), "links": float(i % 3), "age_days": i * 0.25}
    event.categorical_features = {"client": ("web", "app")[i % 2], "country": "NZ"}


def records_of(values: Sequence[bytes], content_type: str) -> list[list[LogRecord]]:
    """Polls of at most POLL_RECORDS records."""
    headers = [(CONTENT_TYPE_HEADER, content_type.encode())]
    records = [LogRecord(i, -1, None, value, list(headers)) for i, value in enumerate(values)]
    return [records[i : i + POLL_RECORDS] for i in range(0, len(records), POLL_RECORDS)]


def bare(values: Sequence[bytes]) -> Callable[[], int]:
    decode = msgspec.json.Decoder(Event).decode
    polls = [values[i : i + POLL_RECORDS] for i in range(0, len(values), POLL_RECORDS)]

    def run() -> int:
        return sum(len([decode(value) for value in poll]) for poll in polls)

    return run


def decoding(polls: list[list[LogRecord]], fields: Sequence[str] | None = None) -> Callable[[], int]:
    decoder = Decoder(DecodeConfig(), fields)

    def run() -> int:
        return sum(decoder.decode(poll, NOW_US).events for poll in polls)

    return run


def ways(events: list[Event]) -> tuple[float, dict[str, Callable[[], int]]]:
    """Bytes of a JSON record, and by name what is measured."""
    texts = [encode_json(event) for event in events]
    json_polls = records_of(texts, JSON_CONTENT_TYPE)
    found = {"bare msgspec JSON": bare(texts)}
    for size in (32, 256, 1024):
        packed = [encode_arrow(events[i : i + size]) for i in range(0, len(events), size)]
        found[f"Arrow {size}"] = decoding(records_of(packed, ARROW_CONTENT_TYPE))
        found[f"Arrow {size}, monitors' fields"] = decoding(
            records_of(packed, ARROW_CONTENT_TYPE), MONITOR_FIELDS
        )
    packs = records_of([encode_msgpack(event) for event in events], MSGPACK_CONTENT_TYPE)
    found["JSON"] = decoding(json_polls)
    found["JSON, monitors' fields"] = decoding(json_polls, MONITOR_FIELDS)
    found["MessagePack"] = decoding(packs)
    return float(np.mean([len(text) for text in texts])), found


def measure(found: dict[str, Callable[[], int]], rounds: int, expected: int) -> dict[str, float]:
    """Events per CPU-second, best of interleaved rounds; the first round is not counted."""
    best = dict.fromkeys(found, float("inf"))
    for round_ in range(rounds + 1):
        for name, run in found.items():
            start = time.process_time()
            count = run()
            spent = time.process_time() - start
            assert count == expected, (name, count)
            if round_:
                best[name] = min(best[name], spent)
    return {name: expected / spent for name, spent in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=16_384)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    report: dict[str, Any] = {}
    for label, large in (("small", False), ("large", True)):
        events = make_events(options.events, large=large)
        size, found = ways(events)
        rates = measure(found, options.rounds, len(events))
        base = rates["bare msgspec JSON"]
        report[label] = {"json_bytes": round(size), "events_per_cpu_second": rates}
        if options.json:
            continue
        print(f"\n{label} events, {size:.0f} bytes of JSON each\n")
        print(f"{'way':<30} {'events/CPU-s':>14} {'µs/event':>9} {'x bare':>7}")
        for name, rate in rates.items():
            print(f"{name:<30} {rate:>14,.0f} {1e6 / rate:>9.3f} {rate / base:>7.2f}")
    if options.json:
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
