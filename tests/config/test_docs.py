"""The generated pages say what the code says, and the committed ones are not stale."""

from __future__ import annotations

from pathlib import Path

from mlmon.catalog import METRICS
from mlmon.cli.docs import PAGES, events_markdown, generate, metrics_markdown
from mlmon.events.schema import FIELDS

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_pages_are_not_stale() -> None:
    assert generate(ROOT, check=True) == [], "run  make docs  and commit the result"


def test_what_differs_is_written_and_then_does_not_differ(tmp_path: Path) -> None:
    assert generate(tmp_path, check=True) == [tmp_path / name for name in PAGES]
    assert not (tmp_path / "docs").exists()
    assert generate(tmp_path, check=False) == [tmp_path / name for name in PAGES]
    assert generate(tmp_path, check=True) == []
    page = tmp_path / "docs/metrics.md"
    page.write_text(page.read_text(encoding="utf-8") + "edited\n", encoding="utf-8")
    assert generate(tmp_path, check=False) == [page]
    assert "edited" not in page.read_text(encoding="utf-8")


def test_every_metric_has_one_row_under_its_exposed_name() -> None:
    rows = [line for line in metrics_markdown().splitlines() if line.startswith("| `mlmon_")]
    suffix = {"counter": "_total", "info": "_info"}
    names = [row.split("`")[1] for row in rows]
    assert sorted(names) == sorted(m.name + suffix.get(m.kind, "") for m in METRICS.values())
    row = next(row for row in rows if row.startswith("| `mlmon_late_events_total` "))
    assert "| counter |" in row
    assert "`partition`" in row


def test_every_field_has_one_row() -> None:
    rows = [line for line in events_markdown().splitlines() if line.startswith("| `")]
    names = [row.split("`")[1] for row in rows]
    assert [name for name in names if name in {f.name for f in FIELDS}] == [f.name for f in FIELDS]
    (row,) = (row for row in rows if row.startswith("| `event_time` "))
    assert row.split(" | ")[1:5] == ["timestamp[us, tz=UTC]", "µs since 1970 UTC", "yes", "tap"]
