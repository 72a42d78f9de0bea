"""Evidently at work: its verdicts as scipy has them, its page harmless, its noise kept in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from mlmon.reports.columns import Column, Columns, Selected, select
from mlmon.reports.evidently import EMBEDDING, compare

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.reports.evidently import Page

HOSTILE = '</script><script>alert("x")</script>'


def chosen(count: int, seed: int = 1) -> Selected:
    rng = np.random.default_rng(seed)

    def side(shift: float, flip: float) -> Columns:
        missing = np.where(rng.random(count) < 0.2, np.nan, rng.normal(size=count))
        words = rng.choice(["a", "b", HOSTILE], count, p=[0.5 - flip, 0.4 + flip, 0.1])
        return Columns(
            {
                "moved": Column("tokens", rng.normal(shift, 1, count)),
                "still": Column("", missing),
                f"categorical_features.{HOSTILE}": Column("", None, words.tolist()),
            },
            None,
        )

    return select(side(0, 0), side(0.5, 0.02))


@pytest.fixture(scope="module")
def large() -> tuple[Selected, Page]:
    selected = chosen(1500)
    rng = np.random.default_rng(5)
    pair = rng.normal(size=(1200, 4)).astype(np.float32), rng.normal(1, 1, (1100, 4)).astype(np.float32)
    return selected, compare(selected, pair)


def test_of_many_rows_a_distance_is_compared_with_a_threshold(large: tuple[Selected, Page]) -> None:
    selected, page = large
    columns = {column.column: column for column in page.peer.columns}
    before, now = selected.baseline["moved"].numbers, selected.window["moved"].numbers
    assert before is not None
    moved = columns["moved"]
    expected = stats.wasserstein_distance(before, now) / np.std(before)
    assert moved.score == pytest.approx(expected, rel=1e-6)
    assert (moved.threshold, moved.drifted, moved.kind, moved.unit) == (0.1, True, "numeric", "tokens")
    assert moved.method == "Wasserstein distance (normed)"
    assert not columns["still"].drifted
    assert columns["still"].window_values == selected.window["still"].present() < 1500
    category = columns[f"categorical_features.{HOSTILE}"]
    assert (category.kind, category.drifted) == ("categorical", False)


def test_the_classifier_tells_embeddings_apart(large: tuple[Selected, Page]) -> None:
    _, page = large
    column = page.peer.columns[-1]
    assert (column.column, column.kind, column.drifted, column.threshold) == (
        EMBEDDING,
        "embedding",
        True,
        0.55,
    )
    # two normals one sd apart in four dimensions: the best classifier has an AUC of Phi(2/sqrt 2)
    assert column.score == pytest.approx(stats.norm.cdf(2 / np.sqrt(2)), abs=0.03)
    assert (column.baseline_values, column.window_values) == (1200, 1100)


def test_of_few_rows_a_p_value_is() -> None:
    selected = chosen(400)
    page = compare(selected)
    columns = {column.column: column for column in page.peer.columns}
    assert columns["moved"].method == "K-S p_value"
    expected = stats.ks_2samp(selected.baseline["moved"].numbers, selected.window["moved"].numbers).pvalue
    assert columns["moved"].score == pytest.approx(expected, rel=1e-6)
    assert columns["moved"].drifted
    assert page.peer.dataset_drifted is (sum(column.drifted for column in page.peer.columns) >= 1.5)


def test_its_page_holds_no_name_or_category_that_ends_its_script(large: tuple[Selected, Page]) -> None:
    _, page = large
    assert HOSTILE not in page.html
    assert "alert" in page.html  # it is shown, though
    assert not page.html.count("</script><script>alert")
    assert page.peer.report["metrics"]
    json.dumps(page.peer.report, allow_nan=True)


def test_its_page_asks_nothing_of_a_network(large: tuple[Selected, Page]) -> None:
    found: list[tuple[str, str]] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend((tag, name) for name, _ in attrs if name in ("src", "href"))

    Links().feed(large[1].html)
    assert found == []


def test_random_state_and_filters_of_warnings_are_left_as_they_were() -> None:
    before, filters = np.random.get_state()[1].tolist(), list(warnings.filters)  # type: ignore[union-attr]
    rng = np.random.default_rng(3)
    two: Any = rng.normal(size=(2, 60, 2)).astype(np.float32)
    page = compare(Selected({}, {}, {"x": "no values in the window"}), (two[0], two[1]))
    assert page.html == ""
    assert page.peer.left_out == {"x": "no values in the window"}
    (column,) = page.peer.columns
    assert column.threshold is None  # resampled below 1000 rows
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr]
    assert warnings.filters == filters


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def blocked(*packages: str) -> str:
    """A program that makes packages unfindable, then asks for Evidently."""
    return f"""
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
import mlmon.reports
from mlmon.errors import MissingExtraError
try:
    mlmon.reports.require_evidently()
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize("package", ["evidently", "pandas"])
def test_what_is_missing_is_named_with_the_command(package: str) -> None:
    done = python(blocked(package))
    assert done.stdout == f'{package} is not installed: run  pip install "mlmon[reports]"\n', done.stderr


def test_nothing_heavy_is_imported_with_the_package() -> None:
    done = python("import sys, mlmon.reports, mlmon.cli; print({'pandas', 'evidently'} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stderr


def test_a_pandas_that_evidently_does_not_import_with_is_named_with_its_version(tmp_path: Path) -> None:
    (tmp_path / "pandas").mkdir()
    (tmp_path / "pandas" / "__init__.py").write_text('__version__ = "3.1.1"\n')
    done = python(blocked(), tmp_path)
    assert done.stdout.startswith("a pandas that evidently 0.7."), done.stderr
    assert "at least 2.2, below 3.1; found 3.1.1: " in done.stdout
    assert 'run  pip install "mlmon[reports]"' in done.stdout
