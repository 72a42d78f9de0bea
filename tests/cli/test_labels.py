"""`mlmon labels send` on real files and a real spool: what arrives, what is refused where, how to go on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from contextlib import closing, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from kafka import KafkaConsumer, TopicPartition

from mlmon.cli import cli, labels
from mlmon.cli.label_files import open_label_file
from mlmon.config import default_toml, parse_config
from mlmon.errors import ConfigError, SourceError
from mlmon.events import DecodeConfig, Decoder
from mlmon.sources.spool import SpoolConfig, SpoolSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

    from mlmon.attach import OutRecord
    from mlmon.attach.sinks import Sink
    from mlmon.config import Config

ARRIVED = 1_767_225_600_000_000  # 2026-01-01
HEADER = "event_id,request_time,service,model_name,prediction,label"
ROW = f"r-1,{ARRIVED},shop,intent,order,refund"


@cache
def config() -> Config:
    """The configuration of all tests, which takes longer to read than most of them."""
    return parse_config('[source.spool]\ndirectory = "spool"\n')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the commands run in, with its spool."""
    monkeypatch.setattr(labels, "read_config", lambda _path: config())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def send(*words: str, fails: type[Exception] | None = None) -> Result:
    result = CliRunner().invoke(cli, ["labels", "send", *words], standalone_mode=False)
    if fails is None:
        assert result.exception is None, result.exception
    else:
        assert isinstance(result.exception, fails), result.exception
    return result


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def spooled(folder: Path) -> list[dict[str, Any]]:
    """All events in the configured spool, through the real source and decoder."""
    found: list[dict[str, Any]] = []
    decoder = Decoder(DecodeConfig())
    source = SpoolSource(SpoolConfig(str(folder / "spool"), stop_at_end=True))
    while not source.finished:
        polled = source.poll(0.0)
        for partition in polled.assigned:
            source.seek(partition, None)
        for chunk in polled.chunks:
            decoded = decoder.decode(list(chunk.records), time.time_ns() // 1000)
            assert not decoded.rejects
            if decoded.batch is not None:
                found += decoded.batch.records.to_pylist()
    source.close()
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Events without what is absent; when they came is checked and left out."""
    now = time.time()
    rows = []
    for event in spooled(folder):
        assert now - 60 < event.pop("event_time").timestamp() <= now
        row = {name: value for name, value in event.items() if value is not None}
        row["request_time"] = int(row["request_time"].timestamp() * 1_000_000)
        if "segments" in row:
            row["segments"] = dict(row["segments"])
        rows.append(row)
    return rows


EXPECTED = [
    {
        "event_id": "r-1",
        "request_time": ARRIVED,
        "service": "shop",
        "model_name": "intent",
        "model_version": "7",
        "deployment": "canary",
        "prediction": "order",
        "label": "refund, again",
        "segments": {"language": "de"},
        "sampling_weight": 20.0,
    },
    {
        "event_id": "2",
        "request_time": ARRIVED + 1_500_000,
        "service": "shop",
        "model_name": "fill",
        "labelled_masked_tokens": 3,
        "right_masked_tokens": 2,
    },
]
FILES = {
    "csv": "\ufeffevent_id,request_time,service,model_name,model_version,deployment,prediction,label,"
    "segments.language,sampling_weight,labelled_masked_tokens,right_masked_tokens,text\n"
    '\nr-1,2026-01-01T00:00:00Z,shop,intent,7,canary,order,"refund, again",de,20,,,private\n'
    "2,1767225601500000,shop,fill,,,,,,,3,2,private\n",
    "semicolons": "event_id;request_time;service;model_name;model_version;deployment;prediction;label;"
    "segments.language;sampling_weight;labelled_masked_tokens;right_masked_tokens\n"
    "r-1;2026-01-01 01:00:00+01:00;shop;intent;7;canary;order;refund, again;de;20.0;;\n"
    "2;1767225601500000;shop;fill;;;;;;;3;2\n",
    "jsonl": '{"event_id": "r-1", "request_time": "2026-01-01T00:00:00+00:00", "service": "shop", '
    '"text": "private", "model_name": "intent", "model_version": 7, "deployment": "canary", '
    '"prediction": "order", "label": "refund, again", "segments": {"language": "de"}, '
    '"sampling_weight": 20}\n\n'
    '{"event_id": 2, "request_time": 1767225601500000, "service": "shop", "model_name": "fill", '
    '"label": null, "labelled_masked_tokens": 3, "right_masked_tokens": 2.0}\n',
}


@pytest.mark.parametrize("kind", FILES)
def test_text_files_become_label_events(folder: Path, kind: str) -> None:
    (folder / "labels").write_text(FILES[kind])
    result = send("labels")
    assert result.return_value == 0
    assert result.stdout == "sent 2 labels, refused 0; sent again they would count again\n"
    assert rows_of(folder) == EXPECTED
    assert b"private" not in b"".join(path.read_bytes() for path in (folder / "spool").rglob("*.log"))
    assert ("not sent, since a label has no such field: text" in result.stderr) == (kind == "csv")


@pytest.mark.parametrize("unit", ["us", "ns", "naive", "numbers"])
def test_parquet_becomes_label_events(folder: Path, unit: str) -> None:
    times = pa.array([ARRIVED, ARRIVED + 1_500_000])
    kinds = {
        "us": pa.timestamp("us", "UTC"),
        "ns": pa.timestamp("ns", "Europe/Berlin"),
        "naive": pa.timestamp("us"),
    }
    if unit == "ns":
        times = pa.array([time * 1000 for time in times.to_pylist()])
    table = pa.table(
        {
            "request_time": times.cast(kinds[unit]) if unit in kinds else times,
            "event_id": ["r-1", "2"],
            "service": pa.array(["shop"] * 2).dictionary_encode(),
            "model_name": ["intent", "fill"],
            "model_version": pa.array([7.0, None]),  # as data frames write a gap
            "deployment": ["canary", None],
            "prediction": ["order", None],
            "label": ["refund, again", None],
            "segments": pa.array([[("language", "de")], None], pa.map_(pa.string(), pa.string())),
            "sampling_weight": [20.0, float("nan")],
            "labelled_masked_tokens": [None, 3],
            "right_masked_tokens": [float("nan"), 2.0],
            "embedding": [[1.0] * 8] * 2,
        }
    )
    pq.write_table(table, "labels.parquet")
    assert send("labels.parquet").stdout.startswith("sent 2 labels, refused 0")
    assert rows_of(folder) == EXPECTED


def test_columns_of_other_names_and_what_all_rows_have_in_common(folder: Path) -> None:
    file = write(folder / "a.csv", "id,ts,truth,prediction,label", f"r-1,{ARRIVED},refund,order,a remark")
    lacking = str(send(file, fails=ConfigError).exception)
    assert "expected columns event_id, request_time, service, model_name, got id, ts, truth" in lacking
    assert "--column FIELD=COLUMN" in lacking
    words = ("--column", "event_id=id", "--column", "request_time=ts", "--column", "label=truth")
    common = ("--service", "shop", "--model", "intent", "--model-version", "7", "--sampling-weight", "20")
    assert "one column for each of label, got several" in str(
        send(file, *words, *common, fails=ConfigError).exception
    )
    write(folder / "a.csv", "id,ts,truth,prediction", f"r-1,{ARRIVED},refund,order")
    assert send(file, *words, *common, "--deployment", "canary").return_value == 0
    (row,) = rows_of(folder)
    assert (row["label"], row["service"], row["model_name"], row["model_version"]) == (
        "refund",
        "shop",
        "intent",
        "7",
    )
    assert (row["deployment"], row["sampling_weight"]) == ("canary", 20.0)
    wrong = send(file, "--column", "label=nowhere", fails=ConfigError).exception
    assert "expected a column of the file, which has id, ts, truth, prediction" in str(wrong)
    lines = write(
        folder / "a.jsonl",
        json.dumps({"event_id": "2", "ts": ARRIVED, "truth": "x", "prediction": "y", "label": 5}),
    )
    assert send(lines, *words[2:], *common).return_value == 0
    assert rows_of(folder)[1]["label"] == "x", "what --column names wins"


def test_faults_are_listed_by_line_and_cost_only_themselves(folder: Path) -> None:
    lines = [
        HEADER,
        ROW,
        "",
        f"r-2,{ARRIVED},shop,intent,order,",
        f'r-3,{ARRIVED},shop,intent,order,"two',
        'lines"',
        "r-4,yesterday,shop,intent,order,refund",
        "r-5,1767225600,shop,intent,order,refund",
        "r-6,2999-01-01T00:00:00Z,shop,intent,order,refund",
        "r-7,,shop,intent,order,refund",
        f"r-8,{ARRIVED},shop,intent,order",
        f"r-9,{ARRIVED},,intent,order,refund",
        ROW.replace("r-1", "r-10"),
    ]
    result = send(write(folder / "a.csv", *lines))
    assert result.return_value == 1
    assert "sent 3 labels, refused 7" in result.stdout
    assert [row["event_id"] for row in rows_of(folder)] == ["r-1", "r-3", "r-10"]
    said = [line for line in result.stderr.splitlines() if "a.csv, line" in line]
    for place, (number, text) in enumerate(
        [
            (4, "label: a label event says label, or labelled_masked_tokens"),
            (7, "request_time: expected µs since 1970 or a time with its zone"),
            (8, "request_time: expected µs since 1970, not before 2000-01-01"),
            (9, "request_time: expected a time at or before event_time"),
            (10, "request_time: expected the time of the labelled request, got nothing"),
            (11, "expected 6 cells as in the header, got 5"),
            (12, "missing required field `service`"),
        ]
    ):
        assert f"a.csv, line {number}: " in said[place]
        assert text in said[place]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label": ["a"]}, "label: expected text, got ['a']"),
        ({"label": 0.5}, "label: expected text, got 0.5"),
        ({"prediction": True}, "prediction: expected text, got True"),
        ({"prediction": None}, "prediction: a label event restates the prediction"),
        (
            {"request_time": "2026-01-01T00:00:00"},
            "a time with its zone like 2026-01-01T08:00:00Z, got '2026",
        ),
        ({"request_time": [1]}, "request_time: expected µs since 1970 or a time with its zone"),
        ({"sampling_weight": "many"}, "sampling_weight: expected a number, got 'many'"),
        ({"sampling_weight": 0.5}, "sampling_weight"),
        ({"right_masked_tokens": 1.5}, "right_masked_tokens: expected a whole number, got 1.5"),
        (
            {"right_masked_tokens": 5, "labelled_masked_tokens": 4},
            "expected at most labelled_masked_tokens, got 5",
        ),
        ({"segments": "de"}, "segments: expected an object of names and texts, got 'de'"),
        ({"segments": {"language": ["de"]}}, "segments.language: expected text, got ['de']"),
        ({"deployment": "blue"}, "deployment"),
        ({"service": ""}, "service"),
        ({"label": "x" * 300}, "label"),
    ],
)
def test_what_is_wrong_with_an_object_is_said(folder: Path, change: dict[str, Any], text: str) -> None:
    good = dict(zip(HEADER.split(","), ROW.split(","), strict=True)) | {"request_time": ARRIVED}
    file = write(folder / "a.jsonl", json.dumps(good), json.dumps(good | change), '{"event_id": 1', "7")
    result = send(file)
    assert "sent 1 labels, refused 3" in result.stdout
    faults = [line for line in result.stderr.splitlines() if line.startswith(f"{file}, line ")]
    assert [fault.removeprefix(f"{file}, line ")[:3] for fault in faults] == ["2: ", "3: ", "4: "]
    assert text in faults[0]
    assert all("expected a JSON object" in fault for fault in faults[1:])


def test_many_faults_are_counted_and_the_first_are_named(folder: Path) -> None:
    result = send(write(folder / "a.csv", HEADER, *[f"{i},x,shop,intent,a,b" for i in range(600)]))
    assert result.stderr.count("request_time: expected") == 20
    assert "... and 580 more" in result.stderr
    assert "sent 0 labels, refused 600\n" in result.stdout


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "expected CSV with a header, JSON lines or Parquet, got nothing"),
        (b"\n\n", "got nothing"),
        (b"[{}]", "expected one JSON object a line, got an array"),
        (b"\x1f\x8b\x08rest", "compressed as a whole"),
        (b"PAR1 cut", "cannot be read"),
        (f"{HEADER}\n{ROW}\nr-2,\xff".encode("latin-1"), "line 3: expected UTF-8, got byte 0xff"),
        (f'{HEADER}\n{ROW}\n"r-2'.encode(), "line 3: expected CSV"),
        (
            f'{HEADER}\n{ROW}\n"r-2'.encode() + b"x" * 2_000_000,
            "line 3: expected at most 1,048,576 bytes a line",
        ),
        (f'{HEADER}\n{ROW}\n"r-2'.encode() + b"x\n" * 200_000, "expected CSV: field larger"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_place(
    folder: Path, content: bytes, text: str
) -> None:
    (folder / "a").write_bytes(content)
    assert text in str(send("a", fails=SourceError).exception)
    assert "cannot be read" in str(send("nowhere.csv", fails=SourceError).exception)


def test_a_rehearsal_checks_and_sends_nothing(folder: Path) -> None:
    result = send(write(folder / "a.csv", HEADER, ROW, ROW.replace(",shop", "")), "--dry-run")
    assert (result.stdout, result.return_value) == ("would send 1 labels, refused 1\n", 1)
    assert not (folder / "spool").exists()


def test_what_is_sent_twice_is_there_twice(folder: Path) -> None:
    file = write(folder / "a.csv", HEADER, ROW)
    send(file)
    send(file)
    assert [row["event_id"] for row in rows_of(folder)] == ["r-1", "r-1"]


class Failing:
    """A real sink, of which one write fails or is interrupted."""

    def __init__(self, inner: Sink, fails_at: int, error: BaseException) -> None:
        self._inner, self._left, self._error = inner, fails_at, error

    def write(self, record: OutRecord) -> None:
        self._left -= 1
        if not self._left:
            raise self._error
        self._inner.write(record)

    def close(self, timeout_seconds: float) -> None:
        self._inner.close(timeout_seconds)


@contextmanager
def cut_short(monkeypatch: pytest.MonkeyPatch, fails_at: int, error: BaseException) -> Iterator[None]:
    whole = labels.open_sink
    with monkeypatch.context() as patch:
        patch.setattr(labels, "open_sink", lambda config: Failing(whole(config), fails_at, error))
        yield


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("error", [SourceError("the broker is gone"), KeyboardInterrupt()])
def test_sending_goes_on_where_it_was_cut_short(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: BaseException
) -> None:
    """Records of 256 labels of one series: what failed is not in the log, all before it is."""
    ids = [f"r-{i}" for i in range(1000)]
    if kind == "csv":
        file, unit, done = (
            write(folder / "a.csv", HEADER, *[ROW.replace("r-1", one) for one in ids]),
            "line",
            513,
        )
    else:
        columns = dict(zip(HEADER.split(","), ROW.split(","), strict=True)) | {"request_time": ARRIVED}
        table = pa.table({name: [value] * 1000 for name, value in columns.items()} | {"event_id": ids})
        pq.write_table(table, folder / "a.parquet")
        file, unit, done = str(folder / "a.parquet"), "row", 512
    with cut_short(monkeypatch, 3, error):
        result = CliRunner().invoke(cli, ["labels", "send", file], standalone_mode=False)
    assert result.exception is not None
    assert f"sent up to {unit} {done}; go on with --after {done}" in result.stderr
    assert f"some of what follows up to {unit} {done + 256} may be in the log" in result.stderr
    assert len(rows_of(folder)) == 512
    assert "sent 488 labels" in send(file, "--after", str(done)).stdout
    assert [row["event_id"] for row in rows_of(folder)] == ids


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(folder: Path, kind: str) -> None:
    peaks = []
    for count in (2_000, 16_000):
        columns = dict(zip(HEADER.split(","), ROW.split(","), strict=True)) | {"request_time": ARRIVED}
        file = str(folder / f"{count}.{kind}")
        if kind == "csv":
            write(folder / f"{count}.csv", HEADER, *[ROW] * count)
        elif kind == "jsonl":
            write(folder / f"{count}.jsonl", *[json.dumps(columns)] * count)
        else:
            pq.write_table(pa.table({name: [value] * count for name, value in columns.items()}), file)
        with closing(open_label_file(file, {})) as source:
            tracemalloc.start()
            sizes = [len(lot) for lot in labels._lots(source, 0)]
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert (sum(sizes), max(sizes)) == (count, 256)
    assert peaks[1] < peaks[0] + 300_000, peaks


@pytest.mark.kafka
def test_as_typed_into_a_topic_keyed_as_the_requests_are(tmp_path: Path, kafka_broker: Any) -> None:
    kafka_broker.create_topic("labels-send", 4)
    text = default_toml("kafka").replace("127.0.0.1:9092", kafka_broker.bootstrap)
    text = text.replace('topics = ["mlmon.events"]', 'topics = ["labels-send"]')
    (tmp_path / "mlmon.toml").write_text(text)
    write(tmp_path / "a.csv", HEADER, ROW, ROW.replace("r-1", "r-2").replace("intent", "fill"), ROW)
    command = [sys.executable, "-m", "mlmon.cli", "labels", "send", "a.csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout[:26]) == (0, "sent 3 labels, refused 0; "), done.stderr
    consumer = KafkaConsumer(bootstrap_servers=kafka_broker.bootstrap, consumer_timeout_ms=60_000)
    consumer.assign([TopicPartition("labels-send", number) for number in range(4)])
    consumer.seek_to_beginning()
    found = [next(consumer) for _ in range(2)]
    consumer.close()
    decoder, now_us = Decoder(DecodeConfig()), time.time_ns() // 1000
    events = {record.key: decoder.decode([record], now_us) for record in found}
    ids = {key: decoded.batch.records.column("event_id").to_pylist() for key, decoded in events.items()}
    assert ids == {b"shop/intent": ["r-1", "r-1"], b"shop/fill": ["r-2"]}
    assert all(decoded.batch.label_rows().all() for decoded in events.values())
