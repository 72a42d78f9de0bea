"""Which events belong to a window; what the history's and the log's events become."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_kit import HOUR_US, KEY, START_US, batches, events

from mlmon.catalog.drift import PAGER_CAUSE, PAGER_EVIDENCE
from mlmon.errors import ConfigError, SourceError
from mlmon.events.batch import EventBatch
from mlmon.events.encode import ARROW_CONTENT_TYPE, encode_batch
from mlmon.history.config import HistoryConfig
from mlmon.history.outbox import encode_window
from mlmon.history.store import History
from mlmon.monitors.base import Reading, SeriesKey
from mlmon.monitors.samples import SamplesConfig, SamplesMonitor
from mlmon.reports import Chosen, HistoryEvents, LoggedEvents, WindowEvents, report_extractors
from mlmon.reports.window import Seen, parse_segment
from mlmon.sources.spool import SpoolWriter, SpoolWriterConfig
from mlmon.stats.sums import FieldSums
from mlmon.testing import ManualClock
from mlmon.windows import Window

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.baseline.store import BaselineStore
    from mlmon.reports import Events, Gathered

EVERYTHING = Chosen(KEY)


def gather(store: BaselineStore, chosen: Chosen, table: pa.Table, rows: int = 5000) -> WindowEvents:
    window = WindowEvents(chosen, report_extractors(store, chosen.scope), rows)
    for batch in batches(table):
        window.add(batch)
    return window


def gathered(window: WindowEvents) -> Gathered:
    found = window.gathered()
    assert found is not None
    return found


def replaced(table: pa.Table, name: str, values: list[object]) -> pa.Table:
    column = pa.array(
        values, None if table.schema.get_field_index(name) < 0 else table.schema.field(name).type
    )
    return table.drop_columns([name] if name in table.column_names else []).append_column(name, column)


def test_sums_are_those_of_the_extractors_over_the_chosen_events(store: BaselineStore) -> None:
    table = events(2000, 2)
    start, end = START_US + 100 * 250_000, START_US + 1600 * 250_000
    found = gathered(gather(store, EVERYTHING._replace(start_us=start, end_us=end), table))
    inside = EventBatch(table.slice(100, 1500).combine_chunks().to_batches()[0])
    for monitor, extractor in report_extractors(store, KEY).items():
        expected = {name: FieldSums(spec.width) for name, spec in extractor.fields.items()}
        extractor.extract(inside, expected)
        for name, sums in expected.items():
            np.testing.assert_allclose(
                found.sums[f"{monitor}/{name}"].total, sums.total, rtol=1e-4, atol=0.02
            )
    assert found.sums["features/amount"].n == found.events == found.sample.num_rows == 1500
    assert found.weight == 30_000
    assert (found.first_us, found.last_us) == (start, end - 250_000)


def test_a_segment_is_chosen_by_all_its_keys(store: BaselineStore) -> None:
    table = events(500, 3)
    count = table.column("language").to_pylist().count("de")
    assert gathered(gather(store, EVERYTHING._replace(segment="language=de"), table)).events == count
    assert gather(store, EVERYTHING._replace(segment="language=de,tenant=a"), table).gathered() is None
    assert parse_segment("language=de,tenant=a=b") == {"language": "de", "tenant": "a=b"}


def test_other_deployments_versions_and_golden_probes_are_no_part_of_it(store: BaselineStore) -> None:
    table = events(6, 4)
    table = replaced(table, "deployment", ["canary", None, "stable", "stable", "stable", "stable"])
    table = replaced(table, "model_version", ["7", "7", "8", "7", "7", "7"])
    table = replaced(table, "probe_id", [None, None, None, "p", None, None])
    table = replaced(table, "status", [None, None, None, None, "error", "ok"])
    window = gather(store, EVERYTHING, table)
    assert gathered(window).events == 2
    assert window.seen.counts == {
        ("bank", "intent", "7", "canary"): 1,
        ("bank", "intent", "7", "stable"): 4,
        ("bank", "intent", "8", "stable"): 1,
    }


def test_what_is_remembered_of_others_is_bounded() -> None:
    seen = Seen()
    table = replaced(events(400, 5), "model_version", [f"v{i}" for i in range(400)])
    for batch in batches(table):
        seen.add(batch)
    assert len(seen.counts) == 51
    assert seen.counts[None] == 350
    assert seen.counts.total() == 400


def read_all(source: Events, chosen: Chosen = EVERYTHING) -> list[EventBatch]:
    shares: list[float] = []
    found = list(source.batches(chosen, shares.append))
    assert shares[-1] == pytest.approx(1.0)
    assert shares == sorted(shares)
    return found


def test_files_and_spools_are_read_together(tmp_path: Path) -> None:
    pq.write_table(events(300, 1), tmp_path / "a.parquet")
    (tmp_path / "bad.jsonl").write_text('{"service": 7}\nnothing\n')
    writer = SpoolWriter(SpoolWriterConfig(str(tmp_path / "spool")))
    for batch in batches(events(200, 2, start_us=START_US + HOUR_US)):
        writer.append(encode_batch(batch), [("content-type", ARROW_CONTENT_TYPE.encode())])
    writer.close()
    source = LoggedEvents([str(tmp_path / "*.parquet"), str(tmp_path / "bad.jsonl"), str(tmp_path / "spool")])
    assert sum(map(len, read_all(source))) == 500
    assert source.refused.total() == 2
    (note,) = source.notes(EVERYTHING)
    assert note.startswith("2 records were no events and are left out (")
    assert sum(map(len, read_all(source))) == 500  # as often as wanted
    assert source.refused.total() == 2
    assert source.newest_us() == START_US + HOUR_US + 199 * 250_000


def test_label_events_are_no_part_of_a_report(tmp_path: Path) -> None:
    times = pa.timestamp("us", tz="UTC")
    newer = events(200, 2, start_us=START_US + HOUR_US)
    labels = newer.append_column("request_time", pa.array([START_US] * 200, times))
    labels = replaced(labels, "label", labels.column("prediction").to_pylist())
    both = pa.concat_tables([events(300, 1), labels], promote_options="permissive")
    pq.write_table(both.take(np.random.default_rng(1).permutation(500)), tmp_path / "mixed.parquet")
    pq.write_table(labels, tmp_path / "labels.parquet")
    source = LoggedEvents([str(tmp_path / "*.parquet")])
    assert sum(map(len, read_all(source))) == 300
    assert source.refused.total() == 0
    assert source.newest_us() == START_US + 299 * 250_000


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file matches"):
        LoggedEvents([str(tmp_path / "*.parquet")]).newest_us()
    with pytest.raises(ConfigError, match=r"does not exist: name the directory of \[history\]"):
        HistoryEvents(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"has no events: its sidecar must run with \[history\] enabled"):
        HistoryEvents(str(tmp_path))


def keep(directory: Path, table: pa.Table, window: Window, key: str) -> None:
    """Write the sample of a window as the sidecar does."""
    monitor = SamplesMonitor(SamplesConfig(rows=40))
    summary = monitor.summary()
    for batch in batches(table):
        summary.update(batch)
    series = SeriesKey(*KEY, "stable", "")
    chunks = encode_window(window, [], {"samples": {series: summary}})
    history = History(HistoryConfig(directory=str(directory)), ManualClock(window.end_us))
    history.write(key, chunks)


def test_rows_of_the_history_stand_for_their_windows_traffic(tmp_path: Path, store: BaselineStore) -> None:
    """A busy window and a quiet one keep as many rows; each row weighs what it stands for."""
    for index, count in enumerate((4000, 1000)):
        start = START_US + index * HOUR_US
        keep(tmp_path, events(count, index, start_us=start), Window(start, start + HOUR_US), str(index))
    source = HistoryEvents(str(tmp_path))
    found = read_all(source)
    assert sum(map(len, found)) == 80
    weights = np.concatenate([batch.weights() for batch in found])
    assert weights.sum() == pytest.approx(5000 * 20)
    assert sorted(set(np.round(weights))) == [1000 * 20 / 40, 4000 * 20 / 40]
    window = WindowEvents(EVERYTHING, report_extractors(store, KEY), 5000)
    for batch in found:
        window.add(batch)
    whole = gathered(window)
    # Evidently's rows represent traffic alike: of the quiet window only a quarter of the rows stay
    times = whole.sample.column("event_time").cast(pa.int64()).to_numpy()
    assert (times < START_US + HOUR_US).sum() == 40
    assert (times >= START_US + HOUR_US).sum() < 25
    assert whole.sums["features/amount"].n == whole.sums["embeddings/shift"].n == 80
    assert whole.sums["predictions/class"].n_eff < 80
    newest = source.newest_us()
    assert newest is not None
    assert newest == max(int(batch.times().max()) for batch in found)


def test_only_the_days_asked_for_are_read(tmp_path: Path) -> None:
    day = 24 * HOUR_US
    for index in range(3):
        start = START_US + index * day
        keep(tmp_path, events(50, index, start_us=start), Window(start, start + HOUR_US), str(index))
    source = HistoryEvents(str(tmp_path))
    chosen = EVERYTHING._replace(start_us=START_US + day, end_us=START_US + day + HOUR_US)
    (batch,) = read_all(source, chosen)
    assert int(batch.times().min()) >= START_US + day
    others = EVERYTHING._replace(scope=KEY._replace(model="other"))
    assert list(source.batches(others, lambda _: None)) == []


def test_what_the_pager_said_at_the_time_is_noted(tmp_path: Path) -> None:
    window = Window(START_US, START_US + HOUR_US)
    labels = (KEY.service, KEY.model)
    readings = [
        Reading(PAGER_EVIDENCE, labels, 12.5, window, 0, 0.0, threshold=720.0),
        Reading(PAGER_CAUSE, (*labels, "7", "", "features", "features/amount"), 1.0, window, 0, 0.0),
        Reading(PAGER_EVIDENCE, ("other", KEY.model), 999.0, window, 0, 0.0, threshold=720.0),
    ]
    history = History(HistoryConfig(directory=str(tmp_path)), ManualClock(window.end_us))
    history.write("a", encode_window(window, readings, {}))
    keep(tmp_path, events(50, 1), window, "b")
    notes = HistoryEvents(str(tmp_path)).notes(EVERYTHING)
    assert "reached 12.5 in this time; a page is due at 720." in notes[1]
    assert notes[2].endswith("UTC; likely cause: features (features/amount).")
    assert len(notes) == 3
    later = EVERYTHING._replace(start_us=window.end_us)
    assert len(HistoryEvents(str(tmp_path)).notes(later)) == 1


def test_a_window_closed_in_parts_weighs_each_part_by_its_own_rows(tmp_path: Path) -> None:
    """A late partition closes the window again: its few events must not be taken for half the window."""
    window = Window(START_US, START_US + HOUR_US)
    keep(tmp_path, events(3000, 1), window, "first")
    keep(tmp_path, events(10, 2), window, "late")
    (batch,) = read_all(HistoryEvents(str(tmp_path)))
    assert sorted(batch.weights().tolist()) == [20.0] * 10 + [1500.0] * 40
