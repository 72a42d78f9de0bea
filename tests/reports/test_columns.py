"""Events as columns: values against NumPy, what is left out and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from report_kit import DIMENSION, events, lists

from mlmon.reports import columns
from mlmon.reports.columns import OTHER, Column, Columns, Projection, flatten, select

if TYPE_CHECKING:
    import pytest


def int32(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int32())


def test_ratios_are_of_each_event_and_count_tokens_before_truncation() -> None:
    table = pa.table(
        {
            "tokens": int32(10, 0, 8, None),
            "truncated_tokens": int32(2, None, None, 1),
            "words": int32(6, 0, 4, 1),
            "characters": int32(48, 0, 40, 9),
            "unknown_tokens": int32(1, 0, 0, 0),
            "continuation_tokens": int32(5, 0, 2, 1),
        }
    )
    found = flatten(table).columns
    nan = np.nan
    expected = {
        "tokens_per_word": [12 / 6, nan, 8 / 4, nan],
        "characters_per_token": [48 / 12, nan, 40 / 8, nan],
        "unknown_token_ratio": [0.1, nan, 0.0, nan],
        "continuation_ratio": [0.5, nan, 0.25, nan],
        "tokens": [10, 0, 8, nan],
    }
    for name, values in expected.items():
        assert found[name].numbers is not None
        np.testing.assert_allclose(found[name].numbers, values)
    assert "byte_fallback_ratio" not in found
    assert found["tokens"].unit == "tokens"


def test_what_is_not_finite_is_missing() -> None:
    features = pa.StructArray.from_arrays([pa.array([1.0, np.inf, np.nan, None])], names=["x"])
    found = flatten(pa.table({"numeric_features": features, "entropy": [0.1, -np.inf, None, 2.0]})).columns
    np.testing.assert_array_equal(found["numeric_features.x"].numbers, [1.0, np.nan, np.nan, np.nan])
    assert found["numeric_features.x"].present() == 1
    assert found["entropy"].present() == 2


def test_a_null_struct_hands_null_to_its_features() -> None:
    struct = pa.array([{"a": "x"}, None, {"a": None}], pa.struct([("a", pa.string())]))
    assert flatten(pa.table({"categorical_features": struct})).columns["categorical_features.a"] == Column(
        "", None, ["x", None, None]
    )


def test_embeddings_of_the_most_frequent_dimension_are_projected() -> None:
    vectors = [[1.0, 2.0, 2.0], None, [3.0], [0.0, 4.0, 3.0], [np.nan, 0.0, 0.0], []]
    table = pa.table({"embedding": pa.array(vectors, pa.list_(pa.float16()))}).slice(0, 6)
    projection = Projection(np.array([0, 1, 0], np.float32), np.array([[2], [1], [0]], np.float32))
    found = flatten(table, projection)
    np.testing.assert_allclose(
        found.columns["embedding.norm"].numbers, [3, np.nan, np.nan, 5, np.nan, np.nan]
    )
    np.testing.assert_allclose(
        found.columns["embedding.direction_1"].numbers, [3, np.nan, np.nan, 3, np.nan, np.nan]
    )
    np.testing.assert_allclose(found.embeddings, [[1, 2, 2], [0, 4, 3]])


def test_another_dimension_than_the_baselines_is_not_projected() -> None:
    projection = Projection(np.zeros(4, np.float32), np.eye(4, dtype=np.float32))
    found = flatten(pa.table({"embedding": lists(np.ones((3, DIMENSION), np.float16))}), projection)
    assert list(found.columns) == ["embedding.norm"]


def test_no_events_no_columns() -> None:
    assert flatten(events(5, 1).slice(0, 0)) == Columns({}, None)


def test_what_cannot_be_compared_is_left_out_with_the_reason() -> None:
    many = Column("", np.arange(50.0))
    baseline = {
        "both": many,
        "gone": many,
        "few": Column("", np.arange(3.0)),
        "empty": Column("", np.full(9, np.nan)),
        "changed": many,
    }
    window = {"both": many, "new": many, "few": many, "empty": many, "changed": Column("", None, ["a"] * 50)}
    found = select(Columns(baseline, None), Columns(window, None))
    assert list(found.baseline) == list(found.window) == ["both"]
    assert found.left_out == {
        "changed": "numbers on one side, categories on the other",
        "empty": "no values in the baseline",
        "few": "fewer than 20 values (3 in the baseline, 50 in the window)",
        "gone": "no values in the window",
        "new": "no values in the baseline",
    }


def test_columns_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_COLUMNS", 2)
    side = Columns({name: Column("", np.arange(30.0)) for name in "cab"}, None)
    found = select(side, side)
    assert list(found.baseline) == ["a", "b"]
    assert found.left_out == {"c": "more than 2 columns"}


def test_rare_categories_of_both_sides_are_joined_alike() -> None:
    frequent = [f"c{i}" for i in range(49)]
    baseline = Column("", None, [*frequent * 3, "only-baseline", None])
    window = Column("", None, [*frequent, "only-window", "c0"])
    found = select(Columns({"c": baseline}, None), Columns({"c": window}, None))
    before, now = found.baseline["c"].categories, found.window["c"].categories
    assert before is not None
    assert now is not None
    assert before[-2:] == [OTHER, None]
    assert now[-2:] == [OTHER, "c0"]
    assert len({*before, *now} - {None}) == 50
