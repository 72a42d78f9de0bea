"""decode(encode(x)) = x for every codec, alone and mixed, in the order of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.events import DecodeConfig, Decoder, EventBatch
from mlmon.events.encode import (
    ARROW_CONTENT_TYPE,
    CLOUDEVENTS_CONTENT_TYPE,
    JSON_CONTENT_TYPE,
    MSGPACK_CONTENT_TYPE,
    encode_arrow,
    encode_batch,
    encode_cloudevent,
    encode_json,
    encode_msgpack,
)
from mlmon.events.event import Event
from mlmon.events.schema import FIELDS
from mlmon.testing.strategies import events

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

ONE: dict[str, Callable[[Event], bytes]] = {
    JSON_CONTENT_TYPE: encode_json,
    CLOUDEVENTS_CONTENT_TYPE: encode_cloudevent,
    MSGPACK_CONTENT_TYPE: encode_msgpack,
    ARROW_CONTENT_TYPE: lambda event: encode_arrow([event]),
}
FULL: dict[str, Any] = {
    "model_version": "1",
    "latency_seconds": 0.25,
    "token_ids": [1, 2, 3],
    "top_labels": ["a", "b"],
    "top_scores": [0.5, 0.25],
    "embedding": [1.0, -2.5, 0.125],
    "numeric_features": {"length": 3.5},
    "categorical_features": {"country": "NZ"},
    "segments": {"language": "mi", "route": "/v1"},
    "prediction": "spam",
    "label": "ham",
    "request_time": 1_767_000_000_000_000,
    "labelled_masked_tokens": 4,
    "right_masked_tokens": 3,
    "sampling_weight": 20.0,
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "sniffed"])
@pytest.mark.parametrize("content_type", ONE)
@settings(max_examples=40, deadline=None)
@given(st.lists(events(), min_size=1, max_size=6))
def test_one_event_per_record(kit: Any, content_type: str, named: bool, sent: list[Event]) -> None:
    values = [ONE[content_type](event) for event in sent]
    decoder = Decoder(DecodeConfig())
    records = [kit.record(value, content_type if named else None) for value in values]
    for _ in range(2):  # the second time by the way learned in the first
        decoded = decoder.decode(records, kit.now_us)
        assert decoded.rejects == []
        assert kit.rows(decoded.batch) == kit.expected(sent)
        assert decoded.events == len(sent)


@settings(max_examples=40, deadline=None)
@given(st.lists(events(), min_size=1, max_size=20))
def test_many_events_in_one_arrow_record(kit: Any, sent: list[Event]) -> None:
    decoded = kit.decode(encode_arrow(sent))
    assert decoded.rejects == []
    assert kit.rows(decoded.batch) == kit.expected(sent)
    again = kit.decode(encode_batch(decoded.batch))
    assert kit.rows(again.batch) == kit.expected(sent)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(events(), st.sampled_from(sorted(ONE)), st.booleans()), min_size=1, max_size=12))
def test_mixed_formats_keep_the_order_of_the_log(kit: Any, sent: list[tuple[Event, str, bool]]) -> None:
    records = [
        kit.record(ONE[content_type](event), content_type if named else None)
        for event, content_type, named in sent
    ]
    decoded = Decoder(DecodeConfig(max_features=4096)).decode(records, kit.now_us)
    assert decoded.rejects == []
    assert kit.rows(decoded.batch) == kit.expected([event for event, _, _ in sent])


@settings(max_examples=40, deadline=None)
@given(st.lists(events(), min_size=1, max_size=8), st.data())
def test_however_cut_into_calls(kit: Any, sent: list[Event], data: st.DataObject) -> None:
    records = [kit.record(encode_json(event)) for event in sent]
    decoder, got = Decoder(DecodeConfig()), []
    while records:
        size = data.draw(st.integers(1, len(records)))
        got += kit.rows(decoder.decode(records[:size], kit.now_us).batch)
        records = records[size:]
    assert got == kit.expected(sent)


def test_columns_have_the_types_of_the_contract(kit: Any) -> None:
    sent = [kit.event(i, **FULL) for i in range(3)]
    for encode in ONE.values():
        schema = kit.decode(*map(encode, sent)).batch.records.schema
        for field in FIELDS:
            if field.type is not None and field.name in schema.names:
                assert schema.field(field.name).type == field.type, field.name
        assert schema.field("numeric_features").type == pa.struct([("length", pa.float64())])
        assert schema.field("categorical_features").type == pa.struct([("country", pa.string())])


def test_an_event_has_the_fields_of_the_schema_in_its_order() -> None:
    assert Event.__struct_fields__ == tuple(field.name for field in FIELDS)


def test_absent_columns_are_absent(kit: Any) -> None:
    batch = kit.decode(encode_json(kit.event(1)), encode_json(kit.event(2, status="ok"))).batch
    assert batch.records.schema.names == [
        *("event_id", "event_time", "service", "model_name", "status", "tokens"),
    ]


def test_equal_sets_of_fields_have_equal_schema_bytes(kit: Any) -> None:
    first = encode_arrow([kit.event(1, **FULL)])
    second = encode_arrow([kit.event(i, **FULL, event_time=kit.now_us) for i in range(2, 40)])
    prefix = 8 + int.from_bytes(first[4:8], "little")
    assert first[:prefix] == second[:prefix]


def test_embeddings_travel_as_a_fixed_size_list_where_they_can(kit: Any) -> None:
    def wire_type(*embeddings: list[float] | None) -> pa.DataType:
        sent = [kit.event(i, embedding=embedding) for i, embedding in enumerate(embeddings)]
        return pa.ipc.open_stream(encode_arrow(sent)).schema.field("embedding").type

    assert wire_type([1.0, 2.0], [3.0, 4.0]) == pa.list_(pa.float16(), 2)
    assert wire_type([1.0, 2.0], [3.0]) == pa.list_(pa.float16())
    assert wire_type([1.0, 2.0], None) == pa.list_(pa.float16())


def test_base64_embeddings(kit: Any) -> None:
    text = "AEAAwgA4"  # 2.0, -3.0, 0.5 as little-endian float16
    for encode in (encode_json, encode_msgpack, encode_cloudevent, lambda event: encode_arrow([event])):
        decoded = kit.decode(encode(kit.event(embedding=text)), encode(kit.event(embedding=[1.0])))
        assert [row["embedding"] for row in kit.rows(decoded.batch)] == [[2.0, -3.0, 0.5], [1.0]]


def test_numpy_values_of_an_extractor_are_encoded(kit: Any) -> None:
    event = kit.event(confidence=np.float32(0.5), tokens=np.int64(7), embedding=np.array([1, 2], np.float32))
    for encode in ONE.values():
        (row,) = kit.rows(kit.decode(encode(event)).batch)
        assert (row["confidence"], row["tokens"], row["embedding"]) == (0.5, 7, [1.0, 2.0])


def test_schema_version_is_stated(kit: Any) -> None:
    event = kit.event(**FULL)
    assert msgspec.json.decode(encode_json(event))["schema_version"] == 1
    assert msgspec.msgpack.decode(encode_msgpack(event))["schema_version"] == 1
    assert msgspec.msgpack.decode(encode_msgpack(kit.event()))["schema_version"] == 1
    metadata = pa.ipc.open_stream(encode_arrow([event])).schema.metadata
    assert metadata == {b"mlmon.schema_version": b"1"}


def test_a_sliced_batch_is_encoded_as_sliced(kit: Any) -> None:
    sent = [kit.event(i, **FULL) for i in range(10)]
    batch = kit.decode(encode_arrow(sent)).batch
    part = EventBatch(batch.records.slice(3, 4))
    assert kit.rows(kit.decode(encode_batch(part)).batch) == kit.expected(sent[3:7])


def test_only_wanted_fields_are_decoded(kit: Any) -> None:
    sent = [kit.event(i, **FULL) for i in range(4)]
    values = [
        encode_json(sent[0]),
        encode_arrow(sent[1:2]),
        encode_msgpack(sent[2]),
        encode_cloudevent(sent[3]),
    ]
    records = [kit.record(value) for value in values]
    decoder = Decoder(DecodeConfig(), fields=["tokens", "segments"])
    for _ in range(2):
        decoded = decoder.decode(records, kit.now_us)
        assert decoded.rejects == []
        assert decoded.batch.records.schema.names == [
            *("event_id", "event_time", "service", "model_name", "tokens", "segments", "request_time")
        ]
        assert [row["tokens"] for row in kit.rows(decoded.batch)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="event contract, got colour"):
        Decoder(DecodeConfig(), fields=["colour"])
