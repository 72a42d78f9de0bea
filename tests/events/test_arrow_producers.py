"""Arrow streams as other writers make them: other types, dictionaries, several batches, unknown columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlmon.errors import DecodeReason
from mlmon.events import DecodeConfig, encode_arrow
from mlmon.events.schema import FIELD_BY_NAME

R = DecodeReason
N = 3
STRINGS = ["ok", None, "timeout"]
US, UTC = pa.timestamp("us", "UTC"), "UTC"
TIME = 1_700_000_000_000_000


def lists(kind: pa.DataType, values: list[Any]) -> pa.Array:
    return pa.array(values, pa.list_(kind))


TOLERATED: dict[str, tuple[str, pa.Array, list[Any]]] = {
    "dictionary": ("status", pa.array(STRINGS).dictionary_encode(), STRINGS),
    "dictionary of large strings": (
        "status",
        pa.array(STRINGS, pa.large_string()).dictionary_encode(),
        STRINGS,
    ),
    "large strings": ("status", pa.array(STRINGS, pa.large_string()), STRINGS),
    "string views": ("status", pa.array(STRINGS, pa.string_view()), STRINGS),
    "int64": ("tokens", pa.array([1, None, 3], pa.int64()), [1, None, 3]),
    "int16": ("tokens", pa.array([1, None, 3], pa.int16()), [1, None, 3]),
    "uint8": ("tokens", pa.array([1, None, 3], pa.uint8()), [1, None, 3]),
    "counts in floats": ("tokens", pa.array([1.0, float("nan"), 3.0]), [1, None, 3]),
    "counts in halves": ("tokens", pa.array(np.array([1, np.nan, 3], np.float16)), [1, None, 3]),
    "float32": ("latency_seconds", pa.array([0.5, None, 0.25], pa.float32()), [0.5, None, 0.25]),
    "float16": ("latency_seconds", pa.array(np.array([0.5, 1, 2], np.float16)), [0.5, 1.0, 2.0]),
    "seconds in integers": ("latency_seconds", pa.array([1, None, 3], pa.int64()), [1.0, None, 3.0]),
    "milliseconds": ("event_time", pa.array([TIME // 1000] * N, pa.timestamp("ms", UTC)), [TIME] * N),
    "seconds": ("event_time", pa.array([TIME // 10**6] * N, pa.timestamp("s")), [TIME] * N),
    "nanoseconds": ("event_time", pa.array([TIME * 1000 + 999] * N, pa.timestamp("ns", UTC)), [TIME] * N),
    "another zone": ("event_time", pa.array([TIME] * N, pa.timestamp("us", "Asia/Tokyo")), [TIME] * N),
    "an odd zone": ("event_time", pa.array([TIME] * N, pa.timestamp("us", "Nowhere/Else")), [TIME] * N),
    "integer time": ("event_time", pa.array([TIME] * N, pa.int64()), [TIME] * N),
    "int64 ids": ("token_ids", lists(pa.int64(), [[1], None, [2, 3]]), [[1], None, [2, 3]]),
    "large list": ("token_ids", pa.array([[1], None, []], pa.large_list(pa.int32())), [[1], None, []]),
    "float64 scores": ("top_scores", lists(pa.float64(), [[0.5], None, []]), [[0.5], None, []]),
    "large labels": ("top_labels", lists(pa.large_string(), [["a"], None, []]), [["a"], None, []]),
    "fixed embedding": (
        "embedding",
        pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float16(), 2)),
        [[1.0, 2.0], None, [3.0, 4.0]],
    ),
    "float32 embedding": (
        "embedding",
        pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        [[1.0, 2.0], None, [3.0, 4.0]],
    ),
    "float64 embedding": ("embedding", lists(pa.float64(), [[1.5], None, []]), [[1.5], None, []]),
    "large map": (
        "segments",
        pa.array([[("a", "b")], None, []], pa.map_(pa.large_string(), pa.large_string())),
        [{"a": "b"}, None, {}],
    ),
    "features of other types": (
        "numeric_features",
        pa.array([{"a": 1, "b": True}, None, {"a": None, "b": False}]),
        [{"a": 1.0, "b": 1.0}, None, {"b": 0.0}],
    ),
    "no features": ("numeric_features", pa.array([{}, None, {}], pa.struct([])), [None, None, None]),
    "dictionary features": (
        "categorical_features",
        pa.StructArray.from_arrays([pa.array(["x", None, "y"]).dictionary_encode()], names=["a"]),
        [{"a": "x"}, None, {"a": "y"}],
    ),
    "all null": ("status", pa.nulls(N), [None] * N),
}


@pytest.mark.parametrize("name", TOLERATED)
def test_types_that_are_taken_in(kit: Any, name: str) -> None:
    field, column, values = TOLERATED[name]
    base = {"event_time": pa.array([TIME] * N, US)}
    decoded = kit.decode(kit.table(**(base | {field: column})))
    assert decoded.rejects == []
    assert [row.get(field) for row in kit.rows(decoded.batch)] == values
    got = decoded.batch.column(field)
    if got is not None and FIELD_BY_NAME[field].type is not None:
        assert got.type == FIELD_BY_NAME[field].type


@pytest.mark.parametrize("name", TOLERATED)
def test_they_join_with_the_contract_s_own(kit: Any, name: str) -> None:
    field, column, values = TOLERATED[name]
    foreign = kit.table(**({"event_time": pa.array([TIME] * N, US)} | {field: column}))
    own = encode_arrow([kit.event(i, status="ok", numeric_features={"z": 1.0}) for i in range(2)])
    decoded = kit.decode(own, foreign, own, foreign)
    assert decoded.rejects == []
    assert decoded.events == 10
    assert [row.get(field) for row in kit.rows(decoded.batch)][2:5] == values
    assert [row.get(field) for row in kit.rows(decoded.batch)][7:] == values


WRONG: dict[str, tuple[str, pa.Array]] = {
    "number for a string": ("service", pa.array([1, 2, 3])),
    "bytes for a string": ("service", pa.array([b"a", b"b", b"c"])),
    "numbers in a dictionary": ("service", pa.array([1, 2, 3]).dictionary_encode()),
    "string for a count": ("tokens", pa.array(["1", "2", "3"])),
    "string for a float": ("latency_seconds", pa.array(["1", "2", "3"])),
    "boolean for a count": ("tokens", pa.array([True, False, True])),
    "string for a time": ("event_time", pa.array(["2024-01-01T00:00:00Z"] * N)),
    "date for a time": ("event_time", pa.array([1, 2, 3], pa.date32())),
    "string for an embedding": ("embedding", pa.array(["AAA="] * N)),
    "lists of strings": ("embedding", lists(pa.string(), [["a"]] * N)),
    "struct for a map": ("segments", pa.array([{"a": "b"}] * N)),
    "map of numbers": ("segments", pa.array([[("a", 1)]] * N, pa.map_(pa.string(), pa.int64()))),
    "map for features": (
        "numeric_features",
        pa.array([[("a", 1.0)]] * N, pa.map_(pa.string(), pa.float64())),
    ),
    "string in numbers": ("numeric_features", pa.array([{"a": "x"}] * N)),
    "number in strings": ("categorical_features", pa.array([{"a": 1}] * N)),
    "decimal": ("latency_seconds", pa.array([1, 2, 3]).cast(pa.decimal128(30, 2))),
}


@pytest.mark.parametrize("name", WRONG)
def test_types_that_are_not(kit: Any, name: str) -> None:
    field, column = WRONG[name]
    value = kit.table(**{field: column})
    decoded = kit.decode(value, encode_arrow([kit.event()]), value)
    assert [(r.offset, r.row, r.reason) for r in decoded.rejects] == [
        (0, -1, R.WRONG_TYPE),
        (2, -1, R.WRONG_TYPE),
    ]
    assert decoded.rejects[0].payload == value
    assert field in decoded.rejects[0].detail or "feature 'a'" in decoded.rejects[0].detail
    assert decoded.events == 1


OUT_OF_RANGE: dict[str, tuple[str, pa.Array]] = {
    "count": ("tokens", pa.array([1, 2**40, 3])),
    "unsigned count": ("tokens", pa.array([1, 2**64 - 1, 3], pa.uint64())),
    "half a token": ("tokens", pa.array([1.0, 2.5, 3.0])),
    "infinitely many": ("tokens", pa.array([1.0, float("inf"), 3.0])),
    "id": ("token_ids", lists(pa.int64(), [[1], [5, 2**40], [3]])),
    "seconds": ("event_time", pa.array([TIME // 10**6, 2**62, TIME // 10**6], pa.timestamp("s"))),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_value_that_does_not_fit_costs_its_row(kit: Any, name: str) -> None:
    field, column = OUT_OF_RANGE[name]
    decoded = kit.decode(kit.table(**{field: column}))
    assert [(r.row, r.reason) for r in decoded.rejects] == [(1, R.WRONG_TYPE)]
    assert decoded.rejects[0].detail.startswith(f"{field}: expected a value that fits")
    assert kit.ids(decoded) == ["event-0", "event-2"]
    assert pa.ipc.open_stream(decoded.rejects[0].payload).read_all()[field].type == column.type


def test_several_batches_in_one_record(kit: Any) -> None:
    parts = [pa.ipc.open_stream(kit.table(n)).read_all() for n in (1, 3, 2)]
    table = pa.concat_tables(parts)
    assert table.column(0).num_chunks == 3
    decoded = kit.decode(encode_arrow([kit.event(9)]), kit.stream(table))
    assert decoded.rejects == []
    assert kit.ids(decoded) == [
        *("event-9", "event-0", "event-0", "event-1", "event-2", "event-0", "event-1"),
    ]


def test_batches_with_a_growing_dictionary(kit: Any) -> None:
    base = pa.ipc.open_stream(kit.table(2)).read_all()
    parts = [
        base.append_column("status", pa.array(v).dictionary_encode()) for v in (["ok"] * 2, ["error", "ok"])
    ]
    decoded = kit.decode(kit.stream(pa.concat_tables(parts)))
    assert [row["status"] for row in kit.rows(decoded.batch)] == ["ok", "ok", "error", "ok"]


def test_a_row_of_several_batches_is_numbered_through(kit: Any) -> None:
    parts = [pa.ipc.open_stream(kit.table(tokens=pa.array(v))).read_all() for v in ([1, 2], [3, -4, 5])]
    decoded = kit.decode(kit.stream(pa.concat_tables(parts)))
    assert [(r.row, r.reason) for r in decoded.rejects] == [(3, R.BAD_VALUE)]
    assert [row["tokens"] for row in kit.rows(decoded.batch)] == [1, 2, 3, 5]


def test_a_stream_without_events_is_none(kit: Any) -> None:
    schema = pa.ipc.open_stream(kit.table(1)).schema
    nothing = pa.RecordBatch.from_pylist([], schema=schema)
    for batches in ([], [nothing], [nothing] * 3):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        value = sink.getvalue().to_pybytes()
        decoded = kit.decode(value)
        assert (decoded.batch, decoded.rejects, decoded.events) == (None, [], 0)


def test_unknown_columns_are_ignored_whatever_they_are(kit: Any) -> None:
    odd = {
        "colour": pa.array(["r", "g", "b"]).dictionary_encode(),
        "nested": pa.array([[{"a": [1]}]] * N),
        "runs": pa.RunEndEncodedArray.from_arrays([3], [1]),
        "union": pa.UnionArray.from_sparse(pa.array([0, 0, 0], pa.int8()), [pa.array([1, 2, 3])]),
    }
    for name, column in odd.items():
        decoded = kit.decode(kit.table(**{name: column, "tokens": pa.array([1, -1, 3])}))
        assert [r.row for r in decoded.rejects] == [1], name
        assert [row["tokens"] for row in kit.rows(decoded.batch)] == [1, 3]
        assert pa.ipc.open_stream(decoded.rejects[0].payload).schema.get_field_index(name) == -1


def test_columns_in_any_order_and_twice(kit: Any) -> None:
    table = pa.ipc.open_stream(kit.table()).read_all()
    decoded = kit.decode(kit.stream(table.select([3, 1, 0, 2])))
    assert kit.ids(decoded) == ["event-0", "event-1", "event-2"]
    twice = table.append_column("service", table["service"])
    (reject,) = kit.decode(kit.stream(twice)).rejects
    assert (reject.reason, reject.detail) == (R.WRONG_TYPE, "service: expected one column, got 2")


def test_a_missing_column(kit: Any) -> None:
    for name in ("event_id", "event_time", "service", "model_name"):
        table = pa.ipc.open_stream(kit.table()).read_all().drop_columns(name)
        (reject,) = kit.decode(kit.stream(table)).rejects
        assert (reject.row, reject.reason) == (-1, R.MISSING_FIELD)
        assert name in reject.detail


@pytest.mark.parametrize("stated", [b"2", b"0", b"one", b"9" * 99])
def test_versions(kit: Any, stated: bytes) -> None:
    table = pa.ipc.open_stream(kit.table()).read_all()
    assert kit.decode(kit.stream(table, {b"mlmon.schema_version": b"1"})).events == 3
    (reject,) = kit.decode(kit.stream(table, {b"mlmon.schema_version": stated})).rejects
    assert (reject.row, reject.reason) == (-1, R.UNSUPPORTED_VERSION)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_bodies_are_refused(kit: Any, codec: str) -> None:
    for table in (
        pa.ipc.open_stream(kit.table()).read_all(),
        pa.ipc.open_stream(kit.table(status=pa.array(["ok"] * 40).dictionary_encode())).read_all(),
    ):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(
            sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)
        ) as writer:
            writer.write_table(table)
        (reject,) = kit.decode(sink.getvalue().to_pybytes()).rejects
        assert reject.reason is R.BAD_VALUE
        assert "compress" in reject.detail


def test_a_long_value_in_a_dictionary_costs_the_rows_that_use_it(kit: Any) -> None:
    column = pa.DictionaryArray.from_arrays([0, 1, 0, 2], ["short", "x" * 100_000, "é" * 256])
    decoded = kit.decode(kit.table(prediction=column))
    assert [(r.row, r.reason) for r in decoded.rejects] == [(1, R.BAD_VALUE)]
    assert [row["prediction"] for row in kit.rows(decoded.batch)] == ["short", "short", "é" * 256]


def test_too_many_events_in_a_record(kit: Any) -> None:
    config = DecodeConfig(max_events_per_record=10)
    good, bad = kit.table(10), kit.table(11)
    many = kit.stream(pa.concat_tables([pa.ipc.open_stream(kit.table(6)).read_all()] * 2))
    decoded = kit.decode(good, bad, many, config=config)
    assert [(r.offset, r.row, r.reason) for r in decoded.rejects] == [
        (1, -1, R.TOO_LARGE),
        (2, -1, R.TOO_LARGE),
    ]
    assert decoded.events == 10


def test_a_schema_beyond_all_bounds(kit: Any) -> None:
    wide = kit.table(1, **{f"column{i}": pa.array([1]) for i in range(5000)})
    (reject,) = kit.decode(wide).rejects
    assert reject.reason is R.TOO_LARGE
    assert "schema" in reject.detail


def test_a_fixed_embedding_beyond_the_limit(kit: Any) -> None:
    config = DecodeConfig(max_embedding_dim=4)
    good = pa.array([[1.0] * 4], pa.list_(pa.float16(), 4))
    bad = pa.array([[1.0] * 5], pa.list_(pa.float16(), 5))
    decoded = kit.decode(kit.table(embedding=good), kit.table(embedding=bad), config=config)
    assert [(r.offset, r.reason) for r in decoded.rejects] == [(1, R.BAD_VALUE)]
    assert decoded.events == 1


def test_a_null_struct_hands_its_null_down(kit: Any) -> None:
    struct = pa.StructArray.from_arrays(
        [pa.array([1.0, float("inf"), 3.0])], names=["a"], mask=pa.array([False, True, False])
    )
    decoded = kit.decode(kit.table(numeric_features=struct))
    assert decoded.rejects == []
    assert decoded.batch.column("numeric_features").field(0).to_pylist() == [1.0, None, 3.0]
