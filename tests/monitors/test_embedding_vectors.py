"""Embeddings out of Arrow's buffers: half to single precision, and any mixture of lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.monitors.embedding_vectors import blocks, select, usual_dimension, vectors


def test_every_half_is_widened_exactly_and_what_is_not_finite_is_told() -> None:
    bits = np.arange(65_536, dtype=np.uint16).reshape(-1, 1)
    values, squares = vectors(bits)
    halves = bits.view(np.float16).astype(np.float32)
    finite = np.isfinite(halves)
    assert np.array_equal(values[finite], halves[finite])
    assert np.array_equal(np.isinf(squares), ~finite[:, 0])


def test_long_finite_vectors_are_not_taken_for_infinite() -> None:
    large = np.full((2, 3000), 60_000, np.float16)
    large[1, 7] = np.inf
    _, squares = vectors(large.view(np.uint16))
    assert squares[0] == pytest.approx(3000 * float(np.float16(60_000)) ** 2)
    assert squares[1] == np.inf


ROWS = st.lists(
    st.none() | st.lists(st.sampled_from([0.5, -1.0, 2.0, None]), max_size=4), min_size=1, max_size=12
)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, data=st.data())
def test_chosen_vectors_are_found_in_any_column(rows: list[Any], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows) - 1))
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))[start:]
    halves = [None if row is None else [None if x is None else np.float16(x) for x in row] for row in rows]
    column = pa.array(halves, pa.list_(pa.float16())).slice(start)
    found = select(column, chosen, 2)
    rows = rows[start:]
    of_two = [i for i, row in enumerate(rows) if chosen[i] and row is not None and len(row) == 2]
    assert found.events.tolist() == of_two
    expected = np.array([rows[i] for i in of_two], np.float16).reshape(-1, 2)
    assert np.array_equal(found.bits.view(np.float16), expected, equal_nan=True)
    assert found.wrong.tolist() == [
        i for i, row in enumerate(rows) if chosen[i] and row is not None and len(row) != 2
    ]


def test_a_null_list_that_holds_numbers_is_still_null() -> None:
    values = pa.array(np.arange(6, dtype=np.float16))
    offsets, mask = pa.array([0, 2, 4, 6], pa.int32()), pa.array([False, True, False])
    column = pa.ListArray.from_arrays(offsets, values, mask=mask)
    found = select(column, np.ones(3, np.bool_), 2)
    assert found.bits.view(np.float16).tolist() == [[0, 1], [4, 5]]
    assert found.events.tolist() == [0, 2]
    assert len(found.wrong) == 0


def test_numbers_that_begin_within_a_buffer_are_found() -> None:
    values = pa.array(np.arange(9, dtype=np.float16)).slice(3)
    column = pa.ListArray.from_arrays(pa.array([0, 2, 4, 6], pa.int32()), values).slice(1)
    found = select(column, np.ones(2, np.bool_), 2)
    assert found.bits.view(np.float16).tolist() == [[5, 6], [7, 8]]


def test_the_usual_dimension_is_the_most_frequent() -> None:
    column = pa.array([[1], None, [1, 2], [], [3, 4]], pa.list_(pa.float64())).cast(pa.list_(pa.float16()))
    assert usual_dimension(column) == 2
    assert usual_dimension(column.slice(3, 1)) is None


def test_blocks_cover_all_rows_and_stay_small() -> None:
    for count, width in ((0, 8), (1, 4096), (5000, 384), (70, 1)):
        parts = list(blocks(count, width))
        assert [i for part in parts for i in range(count)[part]] == list(range(count))
        assert all((part.stop - part.start) * width * 4 <= 1 << 20 for part in parts)
