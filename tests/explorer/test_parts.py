"""What pages are made of, where a page's own test would not notice a mistake in it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rows_kit import MINUTE_US, SERIES, START_US, write_window, writer

from mlmon.attach.mirror_record import MirrorRecord
from mlmon.attach.mirror_spool import MirrorFiles, MirrorSpoolConfig
from mlmon.baseline.model import ScopeKey
from mlmon.baseline.store import BaselineStore
from mlmon.cli.explore import explore
from mlmon.config import parse_config
from mlmon.errors import BaselineError, ConfigError
from mlmon.explorer import compare, embedding_view, fields, tokenizer, whatif
from mlmon.explorer.compare import Side
from mlmon.explorer.source import Bounds, HistorySource
from mlmon.explorer.texts import Asked, find_texts
from mlmon.explorer.view import View, read_query
from mlmon.stats.sketch import QuantileSketch

if TYPE_CHECKING:
    from pathlib import Path

    import explorer_kit

ALL = Bounds(START_US, START_US + 1000 * MINUTE_US)


# The address


def test_a_view_survives_its_address() -> None:
    view = View(
        service="shop", span="7d", show="pca-window", other_version="all", budget="0.5", start_us=10**15
    )
    read = read_query(view.to_query())
    assert read.complaints == ()
    assert read.view == replace(view, span="24h")  # a moment of its own makes the span idle


# Tokenizer


def test_tokens_that_moved() -> None:
    shown = fields.Distribution(("7", "12", "other"), (0.5, 0.1, 0.4), (0.1, 0.1, 0.8), 10, 20)
    moved = tokenizer.moved_tokens(shown, {7: "##ing", 12: "the"})
    assert moved["token"].tolist() == ["##ing", ""]
    assert moved["id"].tolist() == ["7", "other"]
    assert moved["times"].tolist() == pytest.approx([5.0, 0.5])
    # (.4)²/.6 and (.4)²/1.2
    assert moved["part"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert tokenizer.moved_tokens(shown)["token"].tolist() == ["", ""]
    assert len(tokenizer.moved_tokens(shown, most=1)) == 1


def test_a_band_is_the_baselines_ratio(
    explored: explorer_kit.Explored, source: HistorySource, bounds: Bounds
) -> None:
    store = BaselineStore.load([str(explored.baseline)])
    rows = tokenizer.readings(source, bounds, {"version": "1"})
    sample = next(iter(store.scopes.values())).sample
    assert sample is not None
    sums = {name: float(np.sum(sample[name].to_numpy())) for name in ("tokens", "words", "unknown_tokens")}
    expected = {
        "mlmon_tokens_per_word": sums["tokens"] / sums["words"],
        "mlmon_unknown_token_ratio": sums["unknown_tokens"] / sums["tokens"],
    }
    for measure in tokenizer.MEASURES:
        if measure.metric in expected:
            found = tokenizer.band(store, rows, measure, "")
            assert found is not None
            band, key = found
            assert key == ("shop", "intent", "1")
            assert band.mean == pytest.approx(expected[measure.metric], rel=0.02, abs=2e-4)
            assert 0 <= band.low < band.mean < band.high
            quiet = rows[(rows["metric"] == measure.metric) & (rows["segment"] == "language=en")]
            assert quiet["value"].between(band.low, band.high).mean() > 0.95


def test_no_baseline_no_band(source: HistorySource, bounds: Bounds) -> None:
    rows = tokenizer.readings(source, bounds, {})
    assert tokenizer.band(None, rows, tokenizer.MEASURES[0], "") is None
    assert tokenizer.band(BaselineStore(), rows, tokenizer.MEASURES[0], "") is None


def test_a_tokenizer_file_decodes(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 4}}}), encoding="utf-8")
    config = parse_config(f'[registry.tokenizers]\n"intent/2" = "{path}"\n')
    assert tokenizer.vocabulary(config, ScopeKey("shop", "intent", "2")) == {0: "a", 4: "b"}
    assert tokenizer.vocabulary(config, ScopeKey("shop", "intent", "1")) is None
    assert tokenizer.vocabulary(None, ScopeKey("shop", "intent", "2")) is None


# Embeddings


def test_directions_are_the_baselines_own() -> None:
    rng = np.random.default_rng(1)
    baseline = rng.normal(size=(500, 6)) * np.array([0.1, 5.0, 0.1, 3.0, 0.1, 0.1])
    now = np.zeros((1, 6))
    now[0, 1] = 10.0
    flat = embedding_view.flatten(now.astype(np.float32), baseline.astype(np.float32), "pca")
    assert flat.share == pytest.approx((25 + 9) / (25 + 9 + 0.04), abs=0.01)
    assert flat.now[0] == pytest.approx([10.0, 0.0], abs=1.0)
    assert flat.baseline.std(0) == pytest.approx([5.0, 3.0], rel=0.15)
    alone = embedding_view.flatten(baseline.astype(np.float32), None, "pca")
    assert (alone.now.shape, alone.baseline.shape) == ((500, 2), (0, 2))


def test_a_sample_of_a_segment(source: HistorySource, bounds: Bounds) -> None:
    cloud = embedding_view.current_cloud(source, bounds, {"segment": "language=de"})
    assert cloud is not None
    assert set(cloud.events["language"]) == {"de"}
    assert cloud.vectors.shape == (len(cloud.events), 16)
    for hostile in ("language=de' or '1'='1", "x'=y", "other"):
        assert embedding_view.current_cloud(source, bounds, {"segment": hostile}) is None


def test_the_sample_is_that_of_lowest_rank(
    source: HistorySource, bounds: Bounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = source.query(
        "events", "select rank, input_hash from rows where version = '1' order by rank", bounds
    )
    monkeypatch.setattr(embedding_view, "MOST", 50)
    monkeypatch.setattr(embedding_view, "_POOL", 10_000)
    cloud = embedding_view.current_cloud(source, bounds, {})
    assert cloud is not None
    assert cloud.events["input_hash"].tolist() == rows["input_hash"][:50].tolist()
    monkeypatch.setattr(embedding_view, "_POOL", 200)
    some = embedding_view.current_cloud(source, bounds, {})
    assert some is not None
    assert 0 < len(some.events) <= 50
    assert some.events["time"].max() - some.events["time"].min() > pd.Timedelta(minutes=30)


@pytest.mark.parametrize("colour", embedding_view.COLOURS)
def test_every_event_has_one_colour(source: HistorySource, bounds: Bounds, colour: str) -> None:
    cloud = embedding_view.current_cloud(source, bounds, {})
    assert cloud is not None
    events = cloud.events.copy()
    events.loc[:4, ["prediction", "confidence"]] = [None, np.nan]
    rows = np.concatenate([group.rows for group in embedding_view.groups(events, colour)])
    assert sorted(rows.tolist()) == list(range(len(events)))


def test_rare_categories_are_pooled() -> None:
    events = pd.DataFrame({"prediction": [f"class {number}" for number in range(20)]})
    found = embedding_view.groups(events, "prediction")
    assert (len(found), found[-1].name, len(found[-1].rows)) == (8, "13 others", 13)


def test_neighbours_are_the_nearest(source: HistorySource, bounds: Bounds) -> None:
    cloud = embedding_view.current_cloud(source, bounds, {})
    assert cloud is not None
    near = embedding_view.neighbours(cloud, [3, 8], cloud, count=2)
    assert near["rank"].tolist() == [1, 2, 1, 2]
    assert near["distance"][0] == pytest.approx(0.0, abs=1e-3)  # itself
    away = np.linalg.norm(cloud.vectors - cloud.vectors[8], axis=1)
    assert near["distance"][3] == pytest.approx(float(np.sort(away)[1]), rel=1e-3)
    assert near["event"][2] == cloud.events["input_hash"][8]


# Texts


def record(number: int, text: str) -> bytes:
    return MirrorRecord(
        event_id=str(number), event_time=START_US + number, service="shop", model_name="intent", text=text
    ).encoded()


def test_texts_are_those_of_the_events(tmp_path: Path) -> None:
    place = tmp_path / "mirror"
    files = MirrorFiles(MirrorSpoolConfig(directory=str(place)))
    files.write(b"", [record(1, "one"), record(2, "x" * 600), record(3, "a"), record(3, "b"), b"{broken"])
    files.close()
    asked = {Asked("shop", "intent", START_US + number) for number in (1, 2, 3, 4)}
    found = find_texts(place, asked | {Asked("bank", "intent", START_US + 1)})
    assert {key.time_us - START_US: text for key, text in found.items()} == {1: "one", 2: "x" * 500 + " ..."}


def test_texts_that_others_may_read_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(ConfigError, match="mode 0700"):
        find_texts(tmp_path, set())
    with pytest.raises(ConfigError, match="expected the directory of a mirror"):
        find_texts(tmp_path / "none", set())


@pytest.mark.parametrize("half", [["--texts", "mirror"], ["--show-text"]])
def test_texts_need_both_a_place_and_leave(half: list[str]) -> None:
    result = CliRunner().invoke(explore, half)
    assert isinstance(result.exception, ConfigError)
    assert "--texts DIR and --show-text" in str(result.exception)


# Compare


def test_latency_of_a_side_is_that_of_all_its_sketches(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    history, values = writer(tmp_path), rng.lognormal(-3, 1, (4, 300))
    for number, part in enumerate(values):
        sketch = QuantileSketch()
        sketch.add(part, np.ones(len(part)))
        row = {**SERIES, "part": "total", "sketch": sketch.to_bytes(), "n": 300, "weight": 300.0}
        write_window(history, number, latency=[row])
    source = HistorySource(tmp_path)
    side = Side("left", Bounds(START_US, START_US + 2 * MINUTE_US), (("service", "shop"),))
    found = compare.latency(source, side).set_index("reading")["value"]
    expected = np.quantile(values[:2], [0.5, 0.99], method="inverted_cdf")
    assert [found["latency total, p50"], found["latency total, p99"]] == pytest.approx(expected, rel=0.02)
    assert compare.latency(source, side._replace(filters=(("service", "x' or '1'='1"),))).empty


def test_many_sketches_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history, sketch = writer(tmp_path), QuantileSketch()
    sketch.add(np.ones(5), np.ones(5))
    for number in range(6):
        row = {**SERIES, "part": "total", "sketch": sketch.to_bytes(), "n": 5, "weight": 5.0}
        write_window(history, number, latency=[row])
    monkeypatch.setattr(compare, "_MOST_SKETCHES", 3)
    found = compare.latency(HistorySource(tmp_path), Side("left", ALL, ()))
    assert found["n"].tolist() == [15] * 4


def test_readings_are_weighted_by_their_events(source: HistorySource, bounds: Bounds) -> None:
    found = compare.levels(source, Side("left", bounds, (("version", "1"),))).set_index("reading")
    rows = source.query(
        "readings",
        "select value, n from rows where metric = 'mlmon_tokens_per_word' and version = '1'",
        bounds,
    )
    expected = np.average(rows["value"], weights=rows["n"])
    assert found.loc["tokens per word", "value"] == pytest.approx(expected)


def test_the_largest_difference_comes_first() -> None:
    one = pd.DataFrame({"reading": ["a", "b", "c"], "unit": "", "value": [1.0, 3.0, 5.0], "n": 1})
    other = pd.DataFrame({"reading": ["a", "b", "d"], "unit": "", "value": [1.0, 1.0, 5.0], "n": 1})
    table = compare.beside(one, other)
    assert table["reading"].tolist() == ["b", "a", "c", "d"]
    assert table.loc[0, ["difference", "change"]].tolist() == [2.0, 2.0]


def test_the_day_before_is_a_day_before() -> None:
    assert compare.other_bounds(ALL, "the day before", (None, None)).start_us == START_US - 86_400_000_000
    assert compare.other_bounds(ALL, "another time", (5, 9)) == (5, 9)
    assert compare.other_bounds(ALL, "another time", (9, 5)).end_us == START_US


# What if


def test_the_configuration_to_copy_can_be_read() -> None:
    setting = whatif.Setting(0.25, 300, 0.2, 0.5)
    text = whatif.toml_of(setting)
    assert tomllib.loads(text)["monitors"]["embeddings"]["shift_tolerance"] == 0.2
    config = parse_config(text)
    assert config == whatif.changed(None, setting)
    assert whatif.present(config) == whatif.Setting(0.25, 300, 0.2, 1.0)


def test_events_follow_window_and_sampling(explored: explorer_kit.Explored) -> None:
    scope = next(iter(BaselineStore.load([str(explored.baseline)]).scopes.values()))
    one = whatif.events_of(scope, whatif.Setting(1.0, 60, 0.1, 1.0))
    assert whatif.events_of(scope, whatif.Setting(1.0, 120, 0.1, 0.5)) == pytest.approx(one)
    assert whatif.events_of(scope, whatif.Setting(1.0, 60, 0.1, 0.001)) == 20.0


def test_without_a_sample_nothing_is_simulated(explored: explorer_kit.Explored) -> None:
    scope = next(iter(BaselineStore.load([str(explored.baseline)]).scopes.values()))
    setting = whatif.Setting(1.0, 60, 0.1, 1.0)
    for sample in (None, scope.sample.slice(0, 100) if scope.sample else None):
        with pytest.raises(BaselineError, match="sample"):
            whatif.simulate(replace(scope, sample=sample), None, setting, lambda _share: None)
