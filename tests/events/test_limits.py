"""What is bounded: features, schemas kept, headers; and CloudEvents in binary mode, all in headers."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from mlmon import events
from mlmon.errors import DecodeReason
from mlmon.events import DecodeConfig, Decoder, encode_arrow, encode_json, encode_msgpack
from mlmon.events.codecs import arrow

R = DecodeReason


def numbers(*names: int) -> dict[str, float]:
    return {f"f{name}": float(name) for name in names}


@pytest.mark.parametrize("codec", ["json", "msgpack", "arrow", "mixed"])
def test_features_are_bounded_by_distinct_names_per_poll(kit: Any, codec: str) -> None:
    def encode(i: int, event: Any) -> bytes:
        arrow_turn = codec == "arrow" or (codec == "mixed" and i % 2)
        other = encode_msgpack if codec == "msgpack" else encode_json
        return encode_arrow([event]) if arrow_turn else other(event)

    sent = [
        kit.event(
            i, numeric_features=numbers(*range(i * 10, i * 10 + 10)), categorical_features={f"c{i}": "x"}
        )
        for i in range(6)
    ]
    decoded = kit.decode(
        *(encode(i, event) for i, event in enumerate(sent)), config=DecodeConfig(max_features=25)
    )
    assert decoded.rejects == []
    assert decoded.events == 6
    kept = decoded.batch.column("numeric_features").type
    assert kept.num_fields == 25
    values = sum(len(row.get("numeric_features", {})) for row in kit.rows(decoded.batch))
    assert (values, decoded.surplus_features) == (25, 35)
    assert decoded.batch.column("categorical_features").type.num_fields == 6


def test_a_flood_of_names_in_one_record(kit: Any) -> None:
    flood = numbers(*range(3000))
    value = encode_json(kit.event(1, numeric_features=flood | {"x" * 300: 1.0}))
    decoded = kit.decode(value, value)
    assert (decoded.events, decoded.surplus_features) == (2, 2 * 2873)
    wide = encode_arrow([kit.event(1, numeric_features=flood)])
    decoded = kit.decode(wide, wide)
    assert (decoded.events, decoded.surplus_features) == (2, 2 * 2872)
    assert decoded.batch.column("numeric_features").type.num_fields == 128


def test_mixed_features_are_sorted_by_type(kit: Any) -> None:
    def encoded(encode: Any, **fields: Any) -> bytes:
        return encode(msgspec.to_builtins(kit.event(1)) | fields)

    for encode in (msgspec.json.encode, msgspec.msgpack.encode):
        decoded = kit.decode(
            encoded(encode, features={"a": 1, "b": "x", "c": None}),
            encoded(encode, features={"a": 2, "d": 1.5}, numeric_features={"a": 3.0, "e": None}),
            encoded(encode, features={}, categorical_features={"b": "y"}),
            encoded(encode),
        )
        assert decoded.rejects == []
        assert [
            (r.get("numeric_features"), r.get("categorical_features")) for r in kit.rows(decoded.batch)
        ] == [
            ({"a": 1.0}, {"b": "x"}),
            ({"a": 3.0, "d": 1.5}, None),
            (None, {"b": "y"}),
            (None, None),
        ]
        (reject,) = kit.decode(encoded(encode, features={"a": True})).rejects
        assert reject.reason is R.WRONG_TYPE


def test_schemas_kept_are_bounded(kit: Any) -> None:
    decoder = Decoder(DecodeConfig())
    for round_ in range(2):
        for i in range(100):
            record = kit.record(encode_arrow([kit.event(i, numeric_features={f"f{i}": 1.0})]))
            assert decoder.decode([record], kit.now_us).events == 1, round_
    assert len(decoder._arrow._plans) == arrow._MAX_PLANS


def test_one_decoder_reads_many_schemas_in_one_call(kit: Any) -> None:
    sent = [kit.event(i, numeric_features={f"f{i % 50}": float(i)}) for i in range(200)]
    decoded = kit.decode(*(encode_arrow([event]) for event in sent))
    assert kit.rows(decoded.batch) == kit.expected(sent)


@pytest.mark.parametrize(
    ("header", "count"),
    [
        (b"7", 7),
        (b"0", 0),
        (b"1000000000000", 10**12),
        (b"1000000000001", 0),
        (b"9" * 400, 0),
        (b"-1", 0),
        (b"1.5", 0),
        (b" 7", 0),
        (b"\xd9\xa7", 0),
        (b"", 0),
        (None, 0),
        (b"many", 0),
    ],
)
def test_dropped_events_are_summed(kit: Any, header: Any, count: int) -> None:
    values = [encode_json(kit.event(1)), encode_arrow([kit.event(2)]), b"not an event", None]
    records = [kit.record(value, mlmon__dropped=header) for value in values]
    records += [kit.record(encode_json(kit.event(3)), "application/json", mlmon__dropped=b"5")] * 2
    decoder = Decoder(DecodeConfig())
    for _ in range(2):
        assert decoder.decode(records, kit.now_us).dropped == 4 * count + 10


def test_content_types_of_any_spelling(kit: Any) -> None:
    value = encode_msgpack(kit.event(1))
    for name in (
        "application/msgpack",
        "application/x-msgpack",
        "APPLICATION/vnd.msgpack ; v=1",
        "",
        "application/octet-stream",
    ):
        assert kit.decode(value, content_type=name).events == 1, name
    decoder = Decoder(DecodeConfig())
    record = kit.record(value)._replace(headers=[("Content-Type", b"application/msgpack")])
    assert decoder.decode([record, record._replace(headers=None)], kit.now_us).events == 2


CE = {"ce_specversion": b"1.0", "ce_id": b"ce-1", "ce_source": b"from-source", "ce_type": b"t"}


def binary(kit: Any, data: bytes, content_type: str | None = "application/json", **extra: bytes) -> Any:
    record = kit.record(data, content_type, **(CE | extra))
    return Decoder(DecodeConfig()).decode([record], kit.now_us)


def test_cloudevents_in_headers_fill_what_the_data_lacks(kit: Any) -> None:
    time = {"ce_time": b"2023-11-14T22:13:20.5Z"}
    for encode in (msgspec.json.encode, msgspec.msgpack.encode):
        for content_type in ("json" if encode is msgspec.json.encode else "msgpack", None):
            kind = content_type and f"application/{content_type}"
            decoded = binary(kit, encode({"model_name": "bert", "tokens": 3}), kind, **time)
            assert decoded.rejects == []
            assert kit.rows(decoded.batch) == [
                {
                    "event_id": "ce-1",
                    "event_time": 1_700_000_000_500_000,
                    "service": "from-source",
                    "model_name": "bert",
                    "tokens": 3,
                }
            ]
    own = kit.event(5)
    assert kit.rows(binary(kit, encode_json(own), **time).batch) == kit.expected([own])


def test_cloudevents_in_headers_with_faults(kit: Any) -> None:
    data = msgspec.json.encode({"model_name": "bert"})
    full = encode_json(kit.event(1))
    for decoded, reason in (
        (binary(kit, data), R.MISSING_FIELD),
        (binary(kit, full, ce_specversion=b"2.0"), R.UNSUPPORTED_VERSION),
        (binary(kit, full, ce_time=b"noon"), R.BAD_VALUE),
        (binary(kit, full, ce_time=b"2023-01-01T00:00:00"), R.BAD_VALUE),
        (binary(kit, data, ce_time=b"2023-01-01T00:00:00Z", ce_source=b"x" * 300), R.BAD_VALUE),
        (binary(kit, b"{"), R.MALFORMED),
        (binary(kit, b'"text"'), R.WRONG_TYPE),
        (binary(kit, b'{"a":' * 99), R.TOO_DEEP),
    ):
        assert [(r.row, r.reason) for r in decoded.rejects] == [(-1, reason)], decoded.rejects
    incomplete = kit.record(full, "application/json", ce_specversion=b"1.0")
    (reject,) = Decoder(DecodeConfig()).decode([incomplete], kit.now_us).rejects
    assert reject.reason is R.MISSING_FIELD


def test_cloudevents_with_data_in_base64(kit: Any) -> None:
    own = kit.event(5)
    envelope = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    for kind, data in (("application/msgpack", encode_msgpack(own)), ("application/json", encode_json(own))):
        value = envelope | {"datacontenttype": kind, "data_base64": base64.b64encode(data).decode()}
        assert kit.rows(kit.decode(msgspec.json.encode(value)).batch) == kit.expected([own])
    for change, reason in (
        ({"datacontenttype": "text/plain", "data_base64": "AAAA"}, R.UNKNOWN_FORMAT),
        ({"datacontenttype": "application/vnd.apache.arrow.stream", "data_base64": "AAAA"}, R.UNKNOWN_FORMAT),
        ({"data_base64": "?"}, R.MALFORMED),
    ):
        (reject,) = kit.decode(msgspec.json.encode(envelope | change)).rejects
        assert reject.reason is reason


def test_an_empty_call(kit: Any) -> None:
    decoded = kit.decode()
    assert decoded == events.Decoded(None, [], 0, 0, 0)


def test_public_names_are_real() -> None:
    assert sorted(events.__all__, key=str.casefold) == sorted(set(events.__all__), key=str.casefold)
    for name in events.__all__:
        assert getattr(events, name) is not None


def test_limits_have_units_and_descriptions() -> None:
    info = msgspec.json.schema(DecodeConfig)["$defs"]["DecodeConfig"]["properties"]
    assert all(field["description"].endswith(".") for field in info.values())
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"max_record_bytes": 0}, DecodeConfig)


def test_arrow_threads_are_not_needed(kit: Any) -> None:
    before = pa.cpu_count()
    kit.decode(encode_arrow([kit.event(1)]))
    assert pa.cpu_count() == before
