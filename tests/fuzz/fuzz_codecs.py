"""Fuzz the decoder with atheris, or, where it is not installed, with mutated records.

    python tests/fuzz/fuzz_codecs.py -max_total_time=60

Arguments are libFuzzer's. What must hold for any bytes: `decode` returns; the good records around the bytes
are decoded, first and last; every record ends as events or as rejects; what was accepted can be read in full,
encoded again, and decoded to the same events.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pyarrow as pa

try:
    import atheris
except ImportError:
    atheris = None

# Coverage of the codecs guides the fuzzer, so they are instrumented while they are imported.
with atheris.instrument_imports(include=["mlmon.events"]) if atheris else nullcontext():
    import mlmon.events.codecs.decoder  # noqa: F401

from mlmon.events import (
    DecodeConfig,
    Decoder,
    Event,
    LogRecord,
    encode_arrow,
    encode_batch,
    encode_cloudevent,
    encode_json,
    encode_msgpack,
)

if TYPE_CHECKING:
    from mlmon.events import (
        EventBatch,
    )

NOW_US = 1_767_225_600_000_000
CONTENT_TYPES = (
    None,
    b"application/vnd.apache.arrow.stream",
    b"application/json",
    b"application/cloudevents+json",
    b"application/msgpack",
)
CONFIG = DecodeConfig(max_record_bytes=1 << 20, max_events_per_record=2000, max_features=8)
DECODER = Decoder(CONFIG)
NARROW = Decoder(CONFIG, ["tokens", "segments", "embedding"])


def sample(number: int, **fields: Any) -> Event:
    return Event(
        event_id=f"event-{number}", event_time=NOW_US - number, service="search", model_name="bert", **fields
    )


FULL: dict[str, Any] = {
    "status": "ok",
    "deployment": "canary",
    "latency_seconds": 0.5,
    "tokens": 5,
    "token_ids": [1, 2],
    "top_labels": ["a", "b"],
    "top_scores": [0.5, 0.25],
    "embedding": [1.0, 2.0],
    "numeric_features": {"a": 1.0},
    "categorical_features": {"b": "x"},
    "segments": {"language": "en"},
    "prediction": "x",
    "label": "y",
    "labelled_masked_tokens": 3,
    "right_masked_tokens": 2,
    "sampling_weight": 2.0,
}
GOOD = encode_arrow([sample(1, **FULL)])


def seeds() -> list[bytes]:
    """Records to begin from: every codec, and Arrow as other writers make it."""
    events = [sample(i, **FULL) for i in range(3)]
    table = pa.ipc.open_stream(encode_arrow(events)).read_all()
    foreign = table.set_column(
        table.schema.get_field_index("status"), "status", table["status"].dictionary_encode()
    )
    foreign = foreign.set_column(
        foreign.schema.get_field_index("tokens"), "tokens", foreign["tokens"].cast(pa.int64())
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, foreign.schema) as writer:
        writer.write_table(foreign, max_chunksize=2)
    return [
        GOOD,
        encode_arrow(events),
        encode_arrow([sample(0), sample(1, status="x")]),
        encode_arrow([sample(0, **FULL), sample(1, **FULL, request_time=NOW_US - 5)]),
        encode_json(sample(0, **FULL, request_time=NOW_US)),
        sink.getvalue().to_pybytes(),
        encode_json(events[0]),
        encode_msgpack(events[0]),
        encode_cloudevent(events[0]),
        b'{"schema_version":0,"id":"1","timestamp_ms":1700000000000,"service":"s","model":"m"}',
        b"\x00\x00\x00\x00\x01{}",
    ]


def check(data: bytes) -> None:
    """What must hold for any bytes. The first byte chooses the content type."""
    if not data:
        return
    content_type = CONTENT_TYPES[data[0] % len(CONTENT_TYPES)]
    headers = [] if content_type is None else [("content-type", content_type)]
    records = [
        LogRecord(0, -1, None, GOOD, []),
        LogRecord(1, -1, None, data[1:], headers),
        LogRecord(2, -1, None, GOOD, []),
    ]
    for decoder in (DECODER, NARROW):
        decoded = decoder.decode(records, NOW_US)
        assert decoded.batch is not None
        ids = decoded.batch.records.column("event_id").to_pylist()
        assert ids[0] == ids[-1] == "event-1"
        assert decoded.events == len(ids)
        assert all(reject.offset == 1 for reject in decoded.rejects)
        if any(reject.row == -1 for reject in decoded.rejects):
            assert len(decoded.rejects) == 1
            assert decoded.events == 2
            assert decoded.rejects[0].payload == data[1:]
        read_in_full(decoder, decoded.batch)


def read_in_full(decoder: Decoder, batch: EventBatch) -> None:
    batch.records.validate(full=True)
    again = decoder.decode([LogRecord(0, -1, None, encode_batch(batch), [])], NOW_US)
    assert again.rejects == []
    assert again.batch is not None
    # As text, since not-a-number is not equal to itself.
    assert repr(plain_rows(again.batch)) == repr(plain_rows(batch))


def plain_rows(batch: EventBatch) -> list[dict[str, Any]]:
    """The events without absent values, which a batch may hold as null or within a null struct."""
    out = []
    for row in batch.records.to_pylist():
        for name in ("numeric_features", "categorical_features"):
            row[name] = {k: v for k, v in (row.get(name) or {}).items() if v is not None} or None
        out.append({name: value for name, value in sorted(row.items()) if value is not None})
    return out


def mutate(value: bytes, rng: random.Random) -> bytes:
    out = bytearray(value)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(out)) if out else 0
        action = rng.randrange(5)
        if action == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            out[at : at + 4] = rng.choice((bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", rng.randbytes(4)))
        elif action == 2:
            del out[at : at + rng.randint(1, 16)]
        elif action == 3:
            out[at:at] = rng.randbytes(rng.randint(1, 16))
        else:
            del out[at:]
    return bytes(out)


def run_without_atheris(seconds: float) -> int:
    rng = random.Random(0)  # noqa: S311
    corpus, stop, runs = seeds(), time.monotonic() + seconds, 0
    while time.monotonic() < stop:
        check(bytes([rng.randrange(len(CONTENT_TYPES))]) + mutate(rng.choice(corpus), rng))
        runs += 1
    return runs


def main(arguments: list[str]) -> None:
    seconds = next((float(a.split("=")[1]) for a in arguments if a.startswith("-max_total_time=")), 60.0)
    for seed in seeds():
        for kind in range(len(CONTENT_TYPES)):
            check(bytes([kind]) + seed)
    if atheris is None:
        print(f"atheris is not installed; {run_without_atheris(seconds)} mutated records, all well")
        return

    corpus, rng = seeds(), random.Random(0)  # noqa: S311

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng.seed(seed)
        if rng.random() < 0.3:
            return bytes([seed % len(CONTENT_TYPES)]) + mutate(rng.choice(corpus), rng)[: max_size - 1]
        return bytes(atheris.Mutate(data, max_size))

    atheris.instrument_func(check)
    atheris.Setup([*sys.argv[:1], *arguments], check, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
