"""A closed window as chunks: what is in them, how large they get, and what damage does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from history_kit import DAY_US, SERIES, parcel, readings_of, summaries_of, window_at
from monitor_kit import batch_of

from mlmon.baseline.model import FieldSpec, Parameters, ScopeKey
from mlmon.catalog import drift as catalog
from mlmon.errors import HistoryError
from mlmon.history.directions import KEPT_DIRECTIONS, leading_directions
from mlmon.history.outbox import MAX_CELLS, drift_fields, encode_window
from mlmon.history.tables import MAX_CHUNK_BYTES, TABLES, parcel_of
from mlmon.monitors.base import Reading
from mlmon.monitors.samples import SamplesConfig, SamplesMonitor
from mlmon.stats.sketch import QuantileSketch
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from mlmon.monitors.base import SeriesKey

WINDOW = window_at(0)


def tables_of(chunks: list[bytes]) -> Mapping[str, pa.Table]:
    found = parcel_of(chunks)
    assert found.window == WINDOW
    return found.tables


def test_readings_keep_all_they_say() -> None:
    rows = tables_of(encode_window(WINDOW, readings_of(WINDOW, 7), {}))["readings"].to_pylist()
    first, pager, distance = rows
    assert first["metric"] == "mlmon_drift_effect"
    assert [first[name] for name in ("service", "model", "version", "deployment", "segment")] == [*SERIES]
    assert [first[name] for name in ("monitor", "field", "value", "n", "n_eff", "threshold", "p_value")] == [
        *("features", "amount", 7.0, 100, 80.5, 0.2, 0.04)
    ]
    assert (first["lower"], first["upper"], first["attributes"]) == (0.1, 0.9, [("bin 3", "0.25")])
    assert (first["window_start"].timestamp(), first["window_end"].timestamp()) == (
        DAY_US / 1e6,
        DAY_US / 1e6 + 60,
    )
    assert pager["version"] is pager["field"] is pager["threshold"] is None
    assert (distance["labels"], first["labels"]) == ([("measure", "psi")], [])


def test_latency_is_kept_as_a_sketch_with_its_quantiles() -> None:
    summaries = summaries_of(0)
    (row,) = tables_of(encode_window(WINDOW, [], summaries))["latency"].to_pylist()
    assert (row["part"], row["n"], row["weight"], row["n_eff"]) == ("total", 12, 24.0, 12.0)
    sketch = QuantileSketch.from_bytes(row["sketch"])
    assert sketch.to_bytes() == summaries["traffic"][SERIES].sketches[0].to_bytes()
    assert row["p50"] == pytest.approx(6 / 16, rel=0.02)
    assert row["p99"] == pytest.approx(12 / 16, rel=0.02)


def test_events_are_the_sample_of_all_segments_together() -> None:
    monitor = SamplesMonitor(SamplesConfig(rows=4))
    keys = [SERIES, SERIES._replace(segment="language=de")]
    whole, parts = monitor.summary(), {key: monitor.summary() for key in keys}
    for index in range(60):
        row = {"event_id": f"{index}", "event_time": DAY_US + index, "embedding": [index / 4, 1.0]}
        for summary in (whole, parts[keys[index % 2]]):
            summary.update(batch_of([row]))
    before = [part.to_bytes() for part in parts.values()]
    rows = tables_of(encode_window(WINDOW, [], {"samples": parts}))["events"].to_pylist()
    assert [row["rank"] for row in rows] == [rank for rank, _ in whole.rows()]
    assert {row["window_events"] for row in rows} == {60}
    assert all(row["embedding"][1] == 1.0 for row in rows)
    assert [row["event_time"].microsecond / 4 for row in rows] == [row["embedding"][0] for row in rows]
    assert [part.to_bytes() for part in parts.values()] == before


class Watcher:
    """A monitor with drift fields, as the protocol has them."""

    name = "watcher"

    def drift(self, summary: Any) -> Mapping[str, FieldSums]:
        return summary


def sums_of(values: np.ndarray) -> FieldSums:
    sums = FieldSums(values.shape[1])
    sums.add_values(values, np.ones(len(values)))
    return sums


def distributions(specs: dict[str, FieldSpec], sums: dict[str, FieldSums]) -> dict[str, dict[str, Any]]:
    wanted = ScopeKey("search", "intent", "1")
    found = Parameters("digest", {}, specs)
    fields = drift_fields([Watcher()], lambda name, scope: found if scope == wanted else None)  # type: ignore[list-item]
    others: dict[SeriesKey, Any] = {SERIES: sums, SERIES._replace(version="2"): sums}
    chunks = encode_window(WINDOW, [], {"watcher": others, "other": {SERIES: sums}}, fields)
    rows = tables_of(chunks)["distributions"].to_pylist() if chunks else []
    return {row["field"]: row for row in rows}


def test_fields_with_a_baseline_are_kept_as_sums() -> None:
    cells = sums_of(np.eye(3)[[0, 2, 2]])
    rows = distributions(
        {"c": FieldSpec("cells", 3), "e": FieldSpec("rate", 1)}, {"c": cells, "e": FieldSums(1)}
    )
    assert list(rows) == ["c"], "without events, without a baseline or a monitor with drift: no row"
    assert rows["c"]["cells"] == [1.0, 0.0, 2.0]
    assert [rows["c"][name] for name in ("kind", "monitor", "n", "weight", "n_eff")] == [
        *("cells", "watcher", 3, 3.0, 3.0)
    ]


def test_wide_fields_are_folded_and_keep_their_total() -> None:
    wide = sums_of(np.ones((1, MAX_CELLS + 500)))
    row = distributions({"w": FieldSpec("cells", MAX_CELLS + 500)}, {"w": wide})["w"]
    assert len(row["cells"]) == MAX_CELLS
    assert (row["cells"][-1], sum(row["cells"])) == (501.0, MAX_CELLS + 500)


def test_embeddings_are_kept_along_the_leading_directions_of_the_reference() -> None:
    make = np.random.default_rng(3)
    basis = np.linalg.qr(make.standard_normal((48, 48)))[0]
    spread = np.linspace(5.0, 0.1, 48)
    reference = make.standard_normal((4000, 48)) * spread @ basis.T
    values, vectors = np.linalg.eigh(np.cov(reference.T))
    whiten = (vectors / np.sqrt(values)) @ vectors.T  # symmetric: its columns say nothing of the order
    sums = sums_of(reference[:100])
    spec = FieldSpec("vector", 48, whiten=whiten.astype(np.float32))
    rows = distributions({"v": spec, "bare": FieldSpec("vector", 48)}, {"v": sums, "bare": sums})
    assert list(rows) == ["v"]
    assert rows["v"]["kind"] == "directions"
    expected = np.abs(sums.total @ vectors[:, ::-1][:, :KEPT_DIRECTIONS]) / np.sqrt(
        values[::-1][:KEPT_DIRECTIONS]
    )
    np.testing.assert_allclose(np.abs(rows["v"]["cells"]), expected, rtol=1e-2)


def test_directions_leave_out_what_the_whitening_leaves_out() -> None:
    whiten = np.zeros((5, 5))
    whiten[1, 1], whiten[3, 3], whiten[4, 4] = 1.0, 0.25, 4.0
    found = leading_directions(whiten)
    expected = np.zeros((5, 3))
    expected[3, 0], expected[1, 1], expected[4, 2] = 0.25, 1.0, 4.0
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_large_window_is_cut_into_chunks_that_fit_and_come_back_whole() -> None:
    make = np.random.default_rng(0)
    readings = [
        Reading(
            catalog.EFFECT,
            (*SERIES, "features", f"{index:08d}"),
            make.random(),
            WINDOW,
            index,
            make.random(),
            attributes={f"{make.random()}": f"{make.random()}"},
        )
        for index in range(20_000)
    ]
    chunks = encode_window(WINDOW, readings, summaries_of(0))
    assert len(chunks) > 1
    assert max(map(len, chunks)) <= MAX_CHUNK_BYTES
    tables = tables_of(chunks)
    assert tables["readings"].column("value").to_pylist() == [reading.value for reading in readings]
    assert {name: table.num_rows for name, table in tables.items()} == {
        "readings": 20_000,
        "latency": 1,
        "events": 4,
    }


def test_a_row_is_bounded_whatever_a_reading_carries() -> None:
    make = np.random.default_rng(0)
    noise = "".join(chr(256 + int(code)) for code in make.integers(0, 20_000, 200_000))
    attributes = {f"{noise[start : start + 900]}": noise for start in range(0, 180_000, 900)}
    reading = Reading(catalog.PAGER_ALARM, ("s", "m"), 1.0, WINDOW, 1, 1.0, attributes=attributes)
    (chunk,) = encode_window(WINDOW, [reading], {})
    assert len(chunk) <= MAX_CHUNK_BYTES
    (row,) = tables_of([chunk])["readings"].to_pylist()
    assert len(row["attributes"]) == 64
    assert max(len(value) for pair in row["attributes"] for value in pair) == 512


def test_nothing_to_keep_makes_no_chunk() -> None:
    assert (
        encode_window(
            WINDOW, [], {"traffic": {}, "samples": {SERIES: SamplesMonitor(SamplesConfig()).summary()}}
        )
        == []
    )


def test_every_table_has_its_schema() -> None:
    tables = tables_of(parcel(0))
    assert {name: table.schema for name, table in tables.items()} == {
        name: TABLES[name] for name in ("readings", "latency", "events")
    }


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_damaged_chunk_is_refused(at: int) -> None:
    (chunk,) = parcel(0)
    with pytest.raises(HistoryError, match="chunk"):
        parcel_of([chunk[: at * 3]])
    turned = bytearray(chunk)
    turned[at * len(chunk) // 60] ^= 0x55
    try:
        found = parcel_of([bytes(turned)])
    except HistoryError:
        return
    assert found.tables.keys() <= TABLES.keys()


def test_chunks_of_two_windows_are_refused() -> None:
    with pytest.raises(HistoryError, match="2 windows"):
        parcel_of([*parcel(0), *parcel(1)])
