"""Every reason for which something is no event, with what is kept of it."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from mlmon.errors import DecodeError, DecodeReason
from mlmon.events import DecodeConfig, Decoder, Event, LogRecord, encode_arrow, encode_json, encode_msgpack
from mlmon.events.encode import encode_cloudevent, validate_event

R = DecodeReason
GOOD: dict[str, Any] = {
    "event_id": "1",
    "event_time": 1_700_000_000_000_000,
    "service": "s",
    "model_name": "m",
}


def as_json(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def deep(depth: int) -> bytes:
    return as_json()[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"


WHOLE: dict[str, tuple[bytes | None, DecodeReason]] = {
    "tombstone": (None, R.EMPTY),
    "no bytes": (b"", R.EMPTY),
    "schema registry": (b"\x00\x00\x00\x00\x07" + as_json(), R.SCHEMA_REGISTRY),
    "text": (b"hello", R.UNKNOWN_FORMAT),
    "one zero": (b"\x00", R.UNKNOWN_FORMAT),
    "spaces": (b"  ", R.UNKNOWN_FORMAT),
    "arrow file": (b"ARROW1\x00\x00rest", R.UNKNOWN_FORMAT),
    "cut json": (as_json()[:-1], R.MALFORMED),
    "json and more": (as_json() + b"{}", R.MALFORMED),
    "not utf-8": (b'{"event_id":"\xff"}', R.MALFORMED),
    "cut msgpack": (msgspec.msgpack.encode(GOOD)[:-1], R.MALFORMED),
    "array": (b"[" + as_json() + b"]", R.WRONG_TYPE),
    "number for a string": (as_json(service=1), R.WRONG_TYPE),
    "string for a number": (as_json(tokens="1"), R.WRONG_TYPE),
    "float for a count": (as_json(tokens=1.5), R.WRONG_TYPE),
    "boolean for a count": (as_json(tokens=True), R.WRONG_TYPE),
    "list for a map": (as_json(segments=["a"]), R.WRONG_TYPE),
    "null service": (as_json(service=None), R.WRONG_TYPE),
    "base64 of half a number": (as_json(embedding="AA=="), R.WRONG_TYPE),
    "no base64": (as_json(embedding="?"), R.WRONG_TYPE),
    "no service": (b'{"event_id":"1","event_time":1,"model_name":"m"}', R.MISSING_FIELD),
    "nothing at all": (b"{}", R.MISSING_FIELD),
    "empty service": (as_json(service=""), R.BAD_VALUE),
    "empty model": (as_json(model_name=""), R.BAD_VALUE),
    "unknown status": (as_json(status="fine"), R.BAD_VALUE),
    "unknown deployment": (as_json(deployment="blue"), R.BAD_VALUE),
    "negative count": (as_json(tokens=-1), R.BAD_VALUE),
    "huge count": (as_json(tokens=2**31), R.BAD_VALUE),
    "huge time": (as_json(event_time=2**80), R.BAD_VALUE),
    "negative latency": (as_json(latency_seconds=-0.001), R.BAD_VALUE),
    "confidence over one": (as_json(confidence=1.01), R.BAD_VALUE),
    "weight under one": (as_json(sampling_weight=0.5), R.BAD_VALUE),
    "absurd weight": (as_json(sampling_weight=1e12), R.BAD_VALUE),
    "long label": (as_json(prediction="x" * 257), R.BAD_VALUE),
    "long segment": (as_json(segments={"k": "x" * 257}), R.BAD_VALUE),
    "long embedding": (as_json(embedding=[0.0] * 8193), R.BAD_VALUE),
    "embedding beyond float16": (as_json(embedding=[1e6]), R.BAD_VALUE),
    "time in words": (as_json(event_time="yesterday"), R.BAD_VALUE),
    "time without zone": (as_json(event_time="2023-01-01T00:00:00"), R.BAD_VALUE),
    "seconds for microseconds": (as_json(event_time=1_700_000_000), R.BAD_VALUE),
    "label before its request": (
        as_json(label="a", prediction="a", request_time=GOOD["event_time"] + 1),
        R.BAD_VALUE,
    ),
    "label of a wrong unit": (
        as_json(label="a", prediction="a", request_time=1_700_000_000_000),
        R.BAD_VALUE,
    ),
    "label without prediction": (as_json(label="a", request_time=GOOD["event_time"]), R.MISSING_FIELD),
    "label event that says nothing": (
        as_json(prediction="a", request_time=GOOD["event_time"]),
        R.MISSING_FIELD,
    ),
    "request time in words": (as_json(label="a", prediction="a", request_time="noon"), R.BAD_VALUE),
    "more right than labelled": (as_json(labelled_masked_tokens=1, right_masked_tokens=2), R.BAD_VALUE),
    "right of nobody knows how many": (as_json(right_masked_tokens=2), R.MISSING_FIELD),
    "labelled and not judged": (as_json(labelled_masked_tokens=2), R.MISSING_FIELD),
    "the future": (as_json(event_time="2100-01-01T00:00:00Z"), R.FUTURE_TIME),
    "a later version": (as_json(schema_version=2, service=["new", "type"]), R.UNSUPPORTED_VERSION),
    "deep json": (deep(40), R.TOO_DEEP),
    "very deep json": (deep(200_000), R.TOO_DEEP),
    "very deep msgpack": (b"\x81\xa1x" + b"\x91" * 200_000 + b"\x01", R.TOO_DEEP),
    "deep cloudevent": (b'{"specversion":"1.0","x":' + b"[" * 99 + b"]" * 99 + b"}", R.TOO_DEEP),
    "cloudevent without data": (b'{"specversion":"1.0","id":"1","source":"s","type":"t"}', R.MISSING_FIELD),
    "cloudevent without id": (b'{"specversion":"1.0","source":"s","type":"t","data":{}}', R.MISSING_FIELD),
    "cloudevent 2.0": (
        b'{"specversion":"2.0","id":"1","source":"s","type":"t","data":{}}',
        R.UNSUPPORTED_VERSION,
    ),
    "cloudevent of text": (
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":"text"}',
        R.WRONG_TYPE,
    ),
    "too large": (as_json(x="y" * 20_000), R.TOO_LARGE),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_records(kit: Any, name: str) -> None:
    value, reason = WHOLE[name]
    good = encode_json(kit.event())
    config = DecodeConfig(max_record_bytes=16_384 if reason is R.TOO_LARGE else 1 << 20)
    for _ in range(2):
        decoded = kit.decode(good, value, good, config=config)
        (reject,) = decoded.rejects
        assert (reject.offset, reject.row, reject.reason) == (1, -1, reason), reject.detail
        assert reject.payload == (value or b"")
        assert reject.detail
        assert decoded.events == 2


@pytest.mark.parametrize("fields", [None, ["tokens"]])
def test_the_learned_way_refuses_the_same(kit: Any, fields: list[str] | None) -> None:
    decoder, learned = (Decoder(DecodeConfig(), fields) for _ in range(2))
    every = dict.fromkeys(("tokens", "words"), 0) | {"latency_seconds": 1.0, "embedding": [1.0]}
    learned.decode([kit.record(as_json(**every, segments={"a": "b"}, status="ok"))], kit.now_us)
    records = [kit.record(value, offset=i) for i, (value, _) in enumerate(WHOLE.values())]
    assert learned.decode(records, kit.now_us).rejects == decoder.decode(records, kit.now_us).rejects


def test_every_reason_is_reached(kit: Any) -> None:
    corrupt = Decoder(DecodeConfig()).decode(
        [LogRecord(9, -1, None, b"torn", [("mlmon-corrupt", b"checksum")])], kit.now_us
    )
    assert [(r.reason, r.detail, r.payload) for r in corrupt.rejects] == [
        (R.CORRUPT_FRAME, "checksum", b"torn")
    ]
    assert {reason for _, reason in WHOLE.values()} | {R.CORRUPT_FRAME} == set(DecodeReason)


def test_headers_come_back_with_a_refused_record(kit: Any) -> None:
    record = kit.record(b"{", "application/json", x=b"1")
    (reject,) = Decoder(DecodeConfig()).decode([record], kit.now_us).rejects
    assert reject.headers == record.headers


@pytest.mark.parametrize(
    "value", [as_json(), encode_arrow([Event(**GOOD)]), b"hello", b"\x00\x00\x00\x00\x01x"]
)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/avro", "application/cloudevents-batch+json"]
)
def test_content_types_that_are_not_read(kit: Any, content_type: str, value: bytes) -> None:
    (reject,) = kit.decode(value, content_type=content_type).rejects
    assert reject.reason is (R.SCHEMA_REGISTRY if value[0] == 0 else R.UNKNOWN_FORMAT)


def test_content_type_and_bytes_disagree(kit: Any) -> None:
    values = {
        "application/json": encode_arrow([Event(**GOOD)]),
        "application/msgpack": as_json(),
        "application/vnd.apache.arrow.stream": as_json(),
        "application/cloudevents+json": encode_msgpack(Event(**GOOD)),
    }
    for content_type, value in values.items():
        decoded = kit.decode(value, content_type=content_type)
        assert decoded.batch is None
        assert [r.reason for r in decoded.rejects] in ([R.MALFORMED], [R.WRONG_TYPE])


ROWS: dict[str, tuple[dict[str, Any], DecodeReason, str]] = {
    "status": ({"status": "fine"}, R.BAD_VALUE, "status: expected one of ok, client_error"),
    "deployment": ({"deployment": "blue"}, R.BAD_VALUE, "deployment: expected one of stable"),
    "service": ({"service": ""}, R.BAD_VALUE, "service: expected a name"),
    "no service": ({"service": None}, R.MISSING_FIELD, "service: the field is required"),
    "no id": ({"event_id": None}, R.MISSING_FIELD, "event_id: the field is required"),
    "old": ({"event_time": 946_684_799_999_999}, R.BAD_VALUE, "event_time: expected µs since 1970"),
    "very old": ({"event_time": -(2**62)}, R.BAD_VALUE, "event_time: expected µs since 1970"),
    "future": ({"event_time": 1_767_225_600_000_000 + 300_000_001}, R.FUTURE_TIME, "at most 300 s ahead"),
    "count": ({"words": -3}, R.BAD_VALUE, "words: expected a count of at least 0, got -3"),
    "infinite latency": ({"latency_seconds": float("inf")}, R.BAD_VALUE, "latency_seconds: .* got inf"),
    "negative part": ({"queue_seconds": -1.0}, R.BAD_VALUE, "queue_seconds: expected a number from 0"),
    "confidence": ({"confidence": 1.5}, R.BAD_VALUE, "confidence: expected a number from 0 to 1"),
    "entropy": ({"entropy": float("-inf")}, R.BAD_VALUE, "entropy: .* got -inf"),
    "weight": ({"sampling_weight": 0.9}, R.BAD_VALUE, "sampling_weight: .* got 0.9"),
    "label": ({"prediction": "é" * 257}, R.BAD_VALUE, "prediction: expected at most 256 characters"),
    "id": ({"event_id": "x" * 257}, R.BAD_VALUE, "event_id: expected at most 256 characters"),
    "top label": ({"top_labels": ["a", "x" * 257]}, R.BAD_VALUE, "top_labels: expected at most 256"),
    "top score": ({"top_scores": [0.5, float("inf")]}, R.BAD_VALUE, "top_scores: expected finite"),
    "token id": ({"token_ids": [1, -2]}, R.BAD_VALUE, "token_ids: expected ids of at least 0"),
    "segment value": ({"segments": {"a": "x" * 257}}, R.BAD_VALUE, "segments: expected at most 256"),
    "segment name": ({"segments": {"x" * 257: "a"}}, R.BAD_VALUE, "segments: expected at most 256"),
    "feature": ({"numeric_features": {"a": float("inf")}}, R.BAD_VALUE, "numeric_features: expected finite"),
    "text feature": ({"categorical_features": {"a": "x" * 257}}, R.BAD_VALUE, "categorical_features: exp"),
    "embedding": ({"embedding": [1.0, float("nan")]}, R.BAD_VALUE, "embedding: expected finite numbers"),
    "label early": (
        {"label": "a", "prediction": "b", "request_time": 1_767_225_600_000_000},
        R.BAD_VALUE,
        "request_time: expected a time at or before event_time.* got 1767225600000000",
    ),
    "label very early": (
        {"label": "a", "prediction": "b", "request_time": -5},
        R.BAD_VALUE,
        "request_time: expected µs since 1970.* got -5",
    ),
    "label of nothing": (
        {"label": "a", "request_time": 1_767_000_000_000_000},
        R.MISSING_FIELD,
        "prediction: a label event restates the prediction",
    ),
    "empty label event": (
        {"request_time": 1_767_000_000_000_000},
        R.MISSING_FIELD,
        "label: a label event says label, or labelled_masked_tokens",
    ),
    "right": (
        {"labelled_masked_tokens": 2, "right_masked_tokens": 3},
        R.BAD_VALUE,
        "right_masked_tokens: expected at most labelled_masked_tokens, got 3",
    ),
    "right alone": ({"right_masked_tokens": 3}, R.MISSING_FIELD, "labelled_masked_tokens: .* come together"),
    "labelled alone": ({"labelled_masked_tokens": 3}, R.MISSING_FIELD, "right_masked_tokens: .* come togeth"),
    "negative labelled": (
        {"labelled_masked_tokens": -2, "right_masked_tokens": 0},
        R.BAD_VALUE,
        "labelled_masked_tokens: expected a count of at least 0",
    ),
    "dimension": ({"embedding": [0.0] * 8193}, R.BAD_VALUE, "embedding: expected at most 8192 numbers"),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("companions", [{}, {"same column": True}], ids=["alone", "in company"])
def test_one_bad_row_costs_only_itself(kit: Any, name: str, companions: dict[str, bool]) -> None:
    fields, reason, detail = ROWS[name]
    good: dict[str, Any] = {"words": 1, "latency_seconds": 1.0, "status": "ok"} if companions else {}
    sent = [kit.event(i, **good) for i in range(5)]
    sent[2] = kit.event(2, **(good | fields))
    decoded = kit.decode(encode_arrow(sent))
    (reject,) = decoded.rejects
    assert (reject.offset, reject.row, reject.reason) == (0, 2, reason)
    assert re.search(detail, reject.detail), reject.detail
    assert kit.ids(decoded) == ["event-0", "event-1", "event-3", "event-4"]
    assert decoded.events == 4
    # The payload is that event, and is refused again for the same reason.
    table = pa.ipc.open_stream(reject.payload).read_all()
    assert table.num_rows == 1
    assert dict(reject.headers) == {"content-type": b"application/vnd.apache.arrow.stream"}
    again = Decoder(DecodeConfig()).decode(
        [LogRecord(0, -1, None, reject.payload, reject.headers)], kit.now_us
    )
    assert [(r.row, r.reason, r.detail) for r in again.rejects] == [(0, reason, reject.detail)]


@pytest.mark.parametrize("fields", [["tokens"], ["label"], ["labelled_masked_tokens"], ["prediction"]])
def test_a_rule_is_kept_only_where_all_its_fields_are_read(kit: Any, fields: list[str]) -> None:
    label = {"label": "a", "request_time": kit.now_us - 2_000_000, "right_masked_tokens": 3}
    decoder = Decoder(DecodeConfig(), fields)
    for value in (encode_arrow([kit.event(**label)]), encode_json(kit.event(**label))):
        decoded = decoder.decode([kit.record(value)], kit.now_us)
        assert decoded.rejects == []
        assert decoded.batch.label_rows().tolist() == [True]
    late = kit.event(**label | {"request_time": kit.now_us})
    decoded = decoder.decode([kit.record(encode_arrow([late])), kit.record(encode_json(late))], kit.now_us)
    assert [r.reason for r in decoded.rejects] == [R.BAD_VALUE, R.BAD_VALUE]


def test_a_label_may_come_with_its_request_or_at_once(kit: Any) -> None:
    sent = [
        kit.event(0, label="a"),
        kit.event(1, label="a", prediction="b", labelled_masked_tokens=0, right_masked_tokens=0),
        kit.event(2, label="", prediction="", request_time=kit.event(2).event_time),
        kit.event(3, labelled_masked_tokens=5, right_masked_tokens=5, request_time=kit.now_us - 5_000_000),
    ]
    for values in ([encode_arrow(sent)], list(map(encode_json, sent)), list(map(encode_msgpack, sent))):
        decoded = kit.decode(*values)
        assert decoded.rejects == []
        assert kit.rows(decoded.batch) == kit.expected(sent)
        assert decoded.batch.label_rows().tolist() == [False, False, True, True]


def test_a_row_with_many_faults_is_one_reject(kit: Any) -> None:
    sent = [kit.event(0), kit.event(1, status="x", words=-1, service="", latency_seconds=-1.0)]
    decoded = kit.decode(encode_arrow(sent))
    assert [(r.row, r.reason) for r in decoded.rejects] == [(1, R.BAD_VALUE)]


def test_a_record_of_bad_rows_only_is_kept_once_as_it_came(kit: Any) -> None:
    value = encode_arrow([kit.event(i, words=-1 - i) for i in range(100)])
    decoded = kit.decode(encode_arrow([kit.event()]), value)
    (reject,) = decoded.rejects
    assert (reject.offset, reject.row, reject.payload) == (1, -1, value)
    assert reject.detail == "all 100 rows refused, row 0: words: expected a count of at least 0, got -1"
    assert decoded.events == 1


def test_the_tolerance_is_exact_and_the_watermark_safe(kit: Any) -> None:
    edge = kit.now_us + 300_000_000
    for encode in (lambda event: encode_arrow([event]), encode_json, encode_msgpack, encode_cloudevent):
        decoded = kit.decode(encode(kit.event(1, event_time=edge)), encode(kit.event(2, event_time=edge + 1)))
        assert kit.ids(decoded) == ["event-1"]
        assert [r.reason for r in decoded.rejects] == [R.FUTURE_TIME]
        assert decoded.batch.times().max() == edge


def test_gaps_written_as_not_a_number_are_absent(kit: Any) -> None:
    gap = float("nan")
    fields = {"latency_seconds": gap, "confidence": gap, "numeric_features": {"a": gap, "b": 1.0}}
    sent = kit.event(1, **fields)
    for encode in (lambda event: encode_arrow([event]), encode_json, encode_msgpack):
        decoded = kit.decode(encode(sent))
        assert decoded.rejects == []
        (row,) = kit.rows(decoded.batch)
        assert "latency_seconds" not in row
        assert "confidence" not in row
        assert {k: v for k, v in row["numeric_features"].items() if v == v} == {"b": 1.0}
    weight = msgspec.msgpack.encode(GOOD | {"sampling_weight": gap})
    foreign = kit.table(sampling_weight=pa.array([1.0, gap, None]))
    decoded = kit.decode(weight, foreign)
    assert [(r.offset, r.row, r.reason) for r in decoded.rejects] == [
        (0, -1, R.BAD_VALUE),
        (1, 1, R.BAD_VALUE),
    ]


def test_rejects_are_in_the_order_of_the_log(kit: Any) -> None:
    rows = encode_arrow([kit.event(0, words=-1), kit.event(1), kit.event(2, words=-1)])
    decoded = kit.decode(b"x", rows, b"{", as_json(words=-1), rows, b"\xff\xff\xff\xff")
    assert [(r.offset, r.row) for r in decoded.rejects] == [
        *((0, -1), (1, 0), (1, 2), (2, -1), (3, -1), (4, 0), (4, 2), (5, -1)),
    ]


def test_validate_event_names_the_field(kit: Any) -> None:
    validate_event(kit.event(embedding=[1.0]))
    for fields, name in (
        ({"tokens": 1.5}, "tokens"),
        ({"tokens": "1"}, "tokens"),
        ({"event_time": 1.0}, "event_time"),
        ({"service": None}, "service"),
        ({"latency_seconds": "fast"}, "latency_seconds"),
        ({"segments": {"a": 1}}, "segments"),
        ({"segments": "a"}, "segments"),
        ({"embedding": ["a"]}, "embedding"),
        ({"embedding": 5}, "embedding"),
        ({"numeric_features": {"a": "b"}}, "numeric_features"),
        ({"prediction": 5}, "prediction"),
        ({"prediction": "\ud800"}, "prediction"),
        ({"top_labels": "abc"}, "top_labels"),
    ):
        with pytest.raises(DecodeError, match=name):
            validate_event(kit.event(**fields))
    with pytest.raises(ValueError, match="at least one event"):
        encode_arrow([])
