"""`mlmon baseline` on real files, a real spool, a real topic, with all monitors of the configuration."""

from __future__ import annotations

import itertools
import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mlmon.attach.sinks import SpoolSink
from mlmon.baseline.file import load_baseline, save_baseline
from mlmon.cli import cli
from mlmon.config import default_toml
from mlmon.errors import BaselineError, ConfigError, SourceError
from mlmon.sources.spool_writer import SpoolWriterConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from calibration_kit import make_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from mlmon.baseline import Baseline
    from mlmon.errors import MlmonError
    from mlmon.events.batch import EventBatch

pytestmark = pytest.mark.slow

COUNT = 3_000
ALL = '["traffic", "features", "predictions", "tokenizer", "embeddings"]'


def labelled(seed: int = 0, shares: tuple[float, ...] = (0.5, 0.3, 0.2), **columns: Any) -> EventBatch:
    """Events with what tokenizer, features and predictions read, in two languages."""
    rng = np.random.default_rng(seed)
    words = rng.integers(3, 30, COUNT)
    languages = rng.choice(["de", "en"], COUNT, p=[0.4, 0.6])
    made = {
        "tokens": pa.array(words + rng.poisson(words * 0.2), pa.int32()),
        "words": pa.array(words, pa.int32()),
        "characters": pa.array(words * 6 + rng.integers(0, 9, COUNT), pa.int32()),
        "prediction": pa.array(rng.choice(["a", "b", "c"], COUNT, p=shares)),
        "confidence": pa.array(rng.beta(8, 2, COUNT)),
        "segments": pa.array([[("language", one)] for one in languages], pa.map_(pa.string(), pa.string())),
    }
    return make_events(COUNT, seed=seed, **(made | columns))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration by language and a recording."""
    monkeypatch.chdir(tmp_path)
    text = default_toml().replace("segment_by = []", 'segment_by = ["language"]')
    assert 'segment_by = ["language"]' in text
    Path("mlmon.toml").write_text(text)
    pq.write_table(pa.Table.from_batches([labelled().records]), "events.parquet")
    return tmp_path


def mlmon(*words: str, fails: type[MlmonError] | None = None) -> Result:
    result = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=True)
    if fails is None and result.exception is not None:
        raise result.exception
    if fails is not None:
        assert isinstance(result.exception, fails), result.exception
    return result


def spool_of(directory: str, batch: EventBatch) -> None:
    from mlmon.app.transfer import write_batch

    sink = SpoolSink(SpoolWriterConfig(directory=directory))
    assert write_batch(sink, batch) == len(batch)
    sink.close(5.0)


def content(path: str) -> Baseline:
    return load_baseline(path)


# build


def test_build_from_files_writes_a_baseline_and_says_what_is_in_it(folder: Path) -> None:
    result = mlmon("baseline", "build", "shop", "events.parquet")
    made = content("shop.baseline.safetensors")
    ((key, scope),) = made.scopes.items()
    assert key == ("shop", "intent", "1")
    assert set(scope.parameters) >= {"tokenizer", "features", "predictions"}
    assert set(scope.segments) == {"", "language=de", "language=en"}
    assert scope.segments[""].events == COUNT
    assert scope.sample.num_rows == COUNT
    assert made.source == "files events.parquet"
    assert made.digest in result.stdout
    assert "3,000" in result.stdout
    assert '[baseline] files = ["shop.baseline.safetensors"]' in result.stdout
    assert not list(folder.glob("mlmon-data"))


def test_the_same_events_give_the_same_content_from_files_and_spool(folder: Path) -> None:
    spool_of("spool", labelled())
    mlmon("baseline", "build", "files", "events.parquet", "--sample", "100")
    mlmon("baseline", "build", "spool", "--spool", "spool", "--sample", "100")
    one, two = content("files.baseline.safetensors"), content("spool.baseline.safetensors")
    assert two.source == "spool spool"
    (first,), (second,) = one.scopes.values(), two.scopes.values()
    assert {n: p.digest for n, p in first.parameters.items()} == {
        n: p.digest for n, p in second.parameters.items()
    }
    for name, segment in first.segments.items():
        for field, reference in segment.fields.items():
            other = second.segments[name].fields[field]
            np.testing.assert_array_equal(reference.sums.total, other.sums.total)
            assert (reference.trace, reference.wander) == (other.trace, other.wander)
    assert first.sample["event_id"].to_pylist() == second.sample["event_id"].to_pylist()


def test_building_twice_gives_the_same_digest(folder: Path) -> None:
    mlmon("baseline", "build", "one", "events.parquet")
    mlmon("baseline", "build", "two", "events.parquet")
    one, two = (content(f"{name}.baseline.safetensors") for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.created_us < two.created_us


def test_a_file_is_replaced_only_by_force(folder: Path) -> None:
    mlmon("baseline", "build", "shop", "events.parquet")
    before = Path("shop.baseline.safetensors").read_bytes()
    result = mlmon("baseline", "build", "shop", "events.parquet", fails=ConfigError)
    assert "exists already" in str(result.exception)
    pq.write_table(pa.Table.from_batches([labelled(seed=5).records]), "events.parquet")
    mlmon("baseline", "build", "shop", "events.parquet", "--force")
    assert Path("shop.baseline.safetensors").read_bytes() != before


def test_a_baseline_in_object_storage(folder: Path) -> None:
    try:
        mlmon("baseline", "build", "memory://bucket/shop", "events.parquet")
        result = mlmon("baseline", "show", "memory://bucket/shop.baseline.safetensors")
        assert "predictions/class" in result.stdout
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_what_is_no_event_is_counted(folder: Path) -> None:
    rows = labelled().records.to_pylist()
    lines = [
        json.dumps({**row, "event_time": row["event_time"].isoformat(), "segments": dict(row["segments"])})
        for row in rows
    ]
    Path("events.jsonl").write_text("\n".join([*lines, "{}", "nonsense"]) + "\n")
    result = mlmon("baseline", "build", "shop", "events.jsonl")
    assert "refused 2 records" in result.stderr
    (scope,) = content("shop.baseline.safetensors").scopes.values()
    assert scope.segments[""].events == COUNT


def test_a_live_period_reads_what_comes_and_leaves_no_trace(folder: Path) -> None:
    spool_of("mlmon-data/spool", labelled(seed=1))
    stop = threading.Event()
    sent: list[int] = []

    def emit() -> None:
        time.sleep(0.3)
        for seed in itertools.count(2):
            if stop.wait(0.1):
                return
            spool_of("mlmon-data/spool", labelled(seed=seed))
            sent.append(seed)

    thread = threading.Thread(target=emit)
    thread.start()
    try:
        mlmon("baseline", "build", "live", "--for", "2s")
    finally:
        stop.set()
        thread.join()
    made = content("live.baseline.safetensors")
    (scope,) = made.scopes.values()
    ids = {one.split("-")[0] for one in scope.sample["event_id"].to_pylist()}
    assert ids
    assert "1" not in ids, "what was there before is not of the period"
    assert ids <= set(map(str, sent))
    assert made.source == "spool, live for 2s"
    assert [path.name for path in Path("mlmon-data").iterdir()] == ["spool"]


@pytest.mark.kafka
def test_from_a_range_of_a_topic(folder: Path, kafka_broker: Any) -> None:
    from kafka import KafkaProducer

    from mlmon.app.transfer import records

    kafka_broker.create_topic("baseline-range", 1)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
    sent = [record for seed in (1, 2) for record in records(labelled(seed=seed))]
    for record in sent:
        producer.send("baseline-range", record.value, headers=list(record.headers), partition=0)
    producer.flush(20)
    producer.close()
    text = default_toml("kafka").replace("127.0.0.1:9092", kafka_broker.bootstrap)
    assert kafka_broker.bootstrap in text
    Path("mlmon.toml").write_text(text)
    half = str(len(sent) // 2)
    mlmon("baseline", "build", "part", "--topic", "baseline-range", "--from", half, "--sample", "9000")
    (scope,) = content("part.baseline.safetensors").scopes.values()
    assert {one.split("-")[0] for one in scope.sample["event_id"].to_pylist()} == {"2"}
    assert scope.segments[""].events == COUNT


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        ((), ConfigError, "got 0 kinds of events"),
        (("events.parquet", "--spool", "x"), ConfigError, "got 2 kinds of events"),
        (("--for", "1w"), ConfigError, "expected a duration such as 90s"),
        (("--for", "0s"), ConfigError, "expected a duration such as 90s"),
        (("--topic", "t", "--from", "soon"), ConfigError, "expected an offset, a time"),
        (("--spool", "nowhere"), SourceError, "does not exist"),
        (("nothing*.jsonl",), SourceError, ""),
    ],
)
def test_what_cannot_be_built_from(
    folder: Path, words: tuple[str, ...], error: type[MlmonError], text: str
) -> None:
    assert text in str(mlmon("baseline", "build", "shop", *words, fails=error).exception)
    assert not Path("shop.baseline.safetensors").exists()


def test_too_few_events_say_how_many_are_needed(folder: Path) -> None:
    pq.write_table(pa.Table.from_batches([labelled().records.slice(0, 100)]), "few.parquet")
    result = mlmon("baseline", "build", "shop", "few.parquet", fails=BaselineError)
    assert "600 are needed; give more events" in str(result.exception)


# show


def test_show_lists_fields_of_all_and_of_a_segment(folder: Path) -> None:
    mlmon("baseline", "build", "shop", "events.parquet")
    path = "shop.baseline.safetensors"
    whole = mlmon("baseline", "show", path).stdout
    assert "language=de" in whole
    assert re.search(r"predictions/class +│ cells", whole)
    part = mlmon("baseline", "show", path, "--segment", "language=de").stdout
    assert "Fields of shop / intent / 1, language=de" in part
    shown = mlmon("baseline", "show", path, "--segment", "language=fr", fails=ConfigError)
    assert "expected one of ['language=de', 'language=en']" in str(shown.exception)


def test_show_as_json_holds_the_numbers(folder: Path) -> None:
    mlmon("baseline", "build", "shop", "events.parquet")
    made = content("shop.baseline.safetensors")
    told = json.loads(mlmon("baseline", "show", "shop.baseline.safetensors", "--json").stdout)
    assert told["digest"] == made.digest
    (scope,) = told["scopes"]
    assert (scope["service"], scope["model"], scope["version"]) == ("shop", "intent", "1")
    (whole,) = [one for one in scope["segments"] if one["segment"] == ""]
    fields = {one["name"]: one for one in whole["fields"]}
    held = next(iter(made.scopes.values())).segments[""].fields
    assert fields.keys() == held.keys()
    assert fields["predictions/class"]["trace"] == held["predictions/class"].trace
    assert fields["predictions/class"]["n"] == COUNT


# diff


def test_diff_tells_what_moved_and_that_it_would_alarm(folder: Path) -> None:
    pq.write_table(pa.Table.from_batches([labelled(1, (0.1, 0.2, 0.7)).records]), "moved.parquet")
    pq.write_table(pa.Table.from_batches([labelled(2).records]), "still.parquet")
    for name in ("events", "moved", "still"):
        mlmon("baseline", "build", name, f"{name}.parquet")
    names = [f"{name}.baseline.safetensors" for name in ("events", "moved", "still")]
    told = json.loads(mlmon("baseline", "diff", names[0], names[1], "--json").stdout)
    (scope,) = told["scopes"]
    moved = {one["field"]: one for one in scope["fields"]}["predictions/class"]
    assert moved["measure"] == "js"
    assert {cell["name"]: round(cell["new"], 1) for cell in moved["moved"]}["a"] == 0.1
    judged = {one["field"]: one for one in scope["judged"]}
    assert scope["judged"][0]["field"] == "predictions/class"
    assert judged["predictions/class"]["log_e"] > 20
    assert judged["features/x0"]["log_e"] < np.log(20)
    still = json.loads(mlmon("baseline", "diff", names[0], names[2], "--json").stdout)
    assert max(one["log_e"] for one in still["scopes"][0]["judged"]) < np.log(20)
    text = mlmon("baseline", "diff", names[0], names[1]).stdout
    assert "predictions/class" in text
    assert "judged by the old one" in text


# check


def test_check_passes_what_fits_and_is_good(folder: Path) -> None:
    mlmon("baseline", "build", "shop", "events.parquet")
    path = "shop.baseline.safetensors"
    made = content(path)
    # warnings, and monitors that these events have nothing for, are other tests' matter
    save_baseline(made.__class__(made.scopes, made.created_us, made.source), path)
    _configure(files=path, enabled='["traffic", "tokenizer", "features", "predictions"]')
    result = mlmon("baseline", "check")
    assert result.return_value == 0, result.stdout
    assert "fix" not in result.stdout
    assert "2 segments by language" in result.stdout


def _configure(
    files: str, enabled: str | None = None, segment_by: str = '["language"]', extra: str = ""
) -> None:
    text = Path("mlmon.toml").read_text()
    text = text.replace("\nfiles = []", f'\nfiles = ["{files}"]')
    assert files in text
    if enabled is not None:
        text = re.sub(r"\nenabled = \[[^\]]*\]", f"\nenabled = {enabled}", text, count=1)
    text = text.replace('segment_by = ["language"]', f"segment_by = {segment_by}")
    Path("mlmon.toml").write_text(text.replace("\ndigests = {}", f"\ndigests = {extra or '{}'}"))


def _pin(_path: str) -> dict[str, str]:
    return {"extra": '{ "shop.baseline.safetensors" = "' + "0" * 64 + '" }'}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda _: {"segment_by": '["tenant"]'}, "built with segments such as language=de"),
        (lambda _: {"enabled": '["traffic", "features"]'}, "not enabled"),
        (
            lambda _: {"enabled": ALL},
            "nothing for the monitor embeddings",
        ),
        (_pin, "pinned is 0000"),
    ],
)
def test_check_names_what_does_not_fit(
    folder: Path, change: Callable[[str], dict[str, Any]], text: str
) -> None:
    mlmon("baseline", "build", "shop", "events.parquet")
    _configure("shop.baseline.safetensors", **change(""))
    result = mlmon("baseline", "check")
    assert result.return_value == 1
    assert text in result.stdout


def test_check_of_a_file_that_is_damaged_or_not_used(folder: Path) -> None:
    mlmon("baseline", "build", "shop", "events.parquet")
    unused = mlmon("baseline", "check", "shop.baseline.safetensors")
    assert unused.return_value == 1
    assert "not used by the configuration" in unused.stdout
    data = Path("shop.baseline.safetensors").read_bytes()
    Path("shop.baseline.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    damaged = mlmon("baseline", "check", "shop.baseline.safetensors")
    assert damaged.return_value == 1
    assert "damaged or was changed" in damaged.stdout


def test_check_without_a_baseline(folder: Path) -> None:
    assert "there is no baseline" in str(mlmon("baseline", "check", fails=ConfigError).exception)


def test_segment_names_are_told_from_other_keys() -> None:
    from mlmon.app.baseline_check import _is_segment

    assert _is_segment("language=de,tenant=a,b", ("language", "tenant"))
    assert _is_segment("tenant=a=b,c", ("tenant",))
    assert not _is_segment("language=de", ("tenant",))
    assert not _is_segment("language=de,tenant=a", ("tenant", "language"))
    assert not _is_segment("language=de", ("language", "tenant"))
    assert not _is_segment("language=de", ())
