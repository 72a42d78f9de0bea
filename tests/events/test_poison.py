"""Bad records among good ones: every good event counted in order, every bad one kept, the process alive."""

from __future__ import annotations

import random
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.errors import DecodeReason
from mlmon.events import (
    DecodeConfig,
    Decoder,
    LogRecord,
    encode_arrow,
    encode_cloudevent,
    encode_json,
    encode_msgpack,
)
from mlmon.testing.strategies import mutations

FIELDS: dict[str, Any] = {
    "status": "ok",
    "latency_seconds": 0.25,
    "token_ids": [1, 2],
    "top_labels": ["a"],
    "top_scores": [0.5],
    "embedding": [1.0, 2.0],
    "numeric_features": {"a": 1.0},
    "categorical_features": {"b": "x"},
    "segments": {"language": "en"},
}


def test_arrow_cut_at_every_length(kit: Any) -> None:
    value = encode_arrow([kit.event(i, **FIELDS) for i in range(3)])
    good = encode_arrow([kit.event(9)])
    cuts = [value[:size] for size in range(len(value))]
    decoded = kit.decode(good, *cuts, good)
    assert [r.offset for r in decoded.rejects] == list(range(1, len(value) + 1))
    assert [r.payload for r in decoded.rejects] == cuts
    assert {r.reason for r in decoded.rejects} == {
        *(DecodeReason.EMPTY, DecodeReason.UNKNOWN_FORMAT, DecodeReason.MALFORMED)
    }
    assert kit.ids(decoded) == ["event-9", "event-9"]


@pytest.mark.parametrize("encode", [encode_json, encode_msgpack, encode_cloudevent])
def test_single_events_cut_at_every_length(kit: Any, encode: Any) -> None:
    value = encode(kit.event(1, **FIELDS))
    decoded = kit.decode(*(value[:size] for size in range(len(value) + 1)))
    assert [r.offset for r in decoded.rejects] == list(range(len(value)))
    assert kit.ids(decoded) == ["event-1"]


@pytest.mark.parametrize("encode", [encode_json, encode_msgpack, encode_cloudevent, None])
def test_every_bit_flipped(kit: Any, encode: Any) -> None:
    """Each flip leaves either the record's events or rejects of it: nothing is lost, nothing doubled."""
    sent = [kit.event(i, **FIELDS) for i in range(2 if encode is None else 1)]
    value = encode_arrow(sent) if encode is None else encode(sent[0])
    step = 7 if encode is None else 1
    flipped = []
    for bit in range(0, len(value) * 8, step):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    good = encode_arrow([kit.event(77)])
    decoder = Decoder(DecodeConfig())
    for start in range(0, len(flipped), 64):
        chunk = flipped[start : start + 64]
        records = [LogRecord(i, -1, None, v, ()) for i, v in enumerate([good, *chunk, good])]
        check_accounting(kit, decoder.decode(records, kit.now_us), records, len(sent))


def check_accounting(kit: Any, decoded: Any, records: list[LogRecord], events: int) -> None:
    """The first and last record are good; the others hold up to `events` events each, good or bad."""
    whole = [r for r in decoded.rejects if r.row == -1]
    rows = [r for r in decoded.rejects if r.row >= 0]
    assert len({(r.offset, r.row) for r in decoded.rejects}) == len(decoded.rejects)
    assert not {r.offset for r in whole} & {r.offset for r in rows}
    assert [(r.offset, r.row) for r in decoded.rejects] == sorted((r.offset, r.row) for r in decoded.rejects)
    assert all(r.payload == records[r.offset].value for r in whole)
    accepted = len(records) - len(whole) - 2
    # A flip in a length may leave fewer rows, never more than were sent.
    assert decoded.events + len(rows) <= accepted * events + 2
    assert decoded.events == (0 if decoded.batch is None else len(decoded.batch))
    ids = kit.rows(decoded.batch)
    assert (ids[0]["event_id"], ids[-1]["event_id"]) == ("event-77", "event-77")
    if events == 1:
        assert decoded.events + len(rows) == accepted + 2


def test_a_great_mix(kit: Any) -> None:
    """Good records of every codec among poison of every kind, the good ones known beforehand."""
    rng = random.Random(3)  # noqa: S311
    encoders = (encode_json, encode_msgpack, encode_cloudevent, None)
    records, good, bad = [], [], []
    for offset in range(1500):
        kind = rng.randrange(12)
        if kind < 6:
            encode = rng.choice(encoders)
            sent = [
                kit.event(offset * 10 + i, **FIELDS)
                for i in range(rng.randint(1, 9) if encode is None else 1)
            ]
            good += [event.event_id for event in sent]
            value = encode_arrow(sent) if encode is None else encode(sent[0])
        else:
            value = poison(kit, kind, rng)
            bad.append(offset)
        records.append(LogRecord(offset, -1, None, value, ()))
    decoder, ids, refused = Decoder(DecodeConfig(max_record_bytes=200_000)), [], []
    while records:
        size = rng.randint(1, 200)
        decoded = decoder.decode(records[:size], kit.now_us)
        ids += kit.ids(decoded)
        refused += [r.offset for r in decoded.rejects]
        assert all(r.row == -1 for r in decoded.rejects)
        records = records[size:]
    assert ids == good
    assert refused == bad


def poison(kit: Any, kind: int, rng: random.Random) -> bytes | None:
    whole = encode_arrow([kit.event(i, **FIELDS) for i in range(5)])
    return {
        6: lambda: rng.randbytes(rng.randint(1, 300)),
        7: lambda: whole[: rng.randrange(len(whole))],
        8: lambda: b"\x00\x00\x00\x00\x07" + encode_json(kit.event()),
        9: lambda: b'{"x":' + b"[" * 50_000,
        10: lambda: encode_json(kit.event()).replace(b'"search"', rng.choice([b"5", b'""', b"[]"])),
        11: lambda: rng.choice(
            [None, b"", b"[]", b"{}", bytes(5), b"x" * 200_001, b'{"a":"' + b"y" * 300_000]
        ),
    }[kind]()


@settings(max_examples=150)
@given(st.data())
def test_mutated_records(kit: Any, data: st.DataObject) -> None:
    sent = [kit.event(i, **FIELDS) for i in range(3)]
    encoders = (encode_json, encode_msgpack, encode_cloudevent, None)
    encode = data.draw(st.sampled_from(encoders))
    value = encode_arrow(sent) if encode is None else encode(sent[0])
    changed = data.draw(st.lists(mutations(value), min_size=1, max_size=6))
    good = encode_arrow([kit.event(77)])
    records = [LogRecord(i, -1, None, v, ()) for i, v in enumerate([good, *changed, good])]
    for fields in (None, ["tokens", "embedding"]):
        decoded = Decoder(DecodeConfig(), fields).decode(records, kit.now_us)
        whole = [r.offset for r in decoded.rejects if r.row == -1]
        assert 0 not in whole
        assert len(records) - 1 not in whole
        assert kit.ids(decoded)[0] == kit.ids(decoded)[-1] == "event-77"
        if encode is not None:
            assert decoded.events + len(decoded.rejects) == len(records)


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_random_bytes(kit: Any, values: list[bytes]) -> None:
    decoded = kit.decode(*values)
    assert decoded.events + len(decoded.rejects) == len(values)


@pytest.mark.parametrize(
    ("buffer", "content"),
    [
        (1, b"\xff\xff\xff\x7f" * 16),  # offsets far beyond the data
        (1, b"\x05\x00\x00\x00\x01\x00\x00\x00" * 8),  # offsets that fall
        (1, b"\xff\xff\xff\xff" * 16),  # negative offsets
        (2, b"\xff" * 64),  # no UTF-8
    ],
)
def test_hostile_buffers_are_never_followed(kit: Any, buffer: int, content: bytes) -> None:
    value = encode_arrow([kit.event(i) for i in range(8)])
    column = pa.ipc.open_stream(value).read_all().column("event_id").chunk(0)
    original = column.buffers()[buffer].to_pybytes()
    assert value.count(original) == 1
    bad = value.replace(original, content[: len(original)])
    decoded = kit.decode(encode_arrow([kit.event(77)]), bad, encode_arrow([kit.event(78)]))
    assert [(r.offset, r.row, r.reason) for r in decoded.rejects] == [(1, -1, DecodeReason.MALFORMED)]
    assert kit.ids(decoded) == ["event-77", "event-78"]


def test_overlapping_buffers_are_refused(kit: Any) -> None:
    """Many columns over one buffer would make a copy far larger than the record."""
    value = encode_arrow([kit.event(i, instance="x" * 200, task="y" * 100) for i in range(200)])
    columns = pa.ipc.open_stream(value).read_all()
    instance, task = (columns.column(name).chunk(0).buffers()[2] for name in ("instance", "task"))
    body = min(b.address for c in columns.columns for b in c.chunk(0).buffers() if b is not None)
    places = [struct.pack("<qq", buffer.address - body, buffer.size) for buffer in (instance, task)]
    assert [value.count(place) for place in places] == [1, 1]
    decoded = kit.decode(value.replace(places[1], places[0]))
    assert decoded.batch is None
    (reject,) = decoded.rejects
    assert (reject.row, reject.reason) == (-1, DecodeReason.BAD_VALUE)
    assert "overlap" in reject.detail
