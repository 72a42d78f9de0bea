"""Buckets in three lengths: sums over any window are those of the events in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.burn.table import CHUNK_BUCKETS, History, Table
from mlmon.monitors.slo_objectives import Tiers, tiers_of

TIERS = tiers_of((300, 21_600, 259_200), 20 * 86_400, 7200)
WINDOWS = ((5, 0), (360, 0), (1440, 1), (4320, 1), (20 * 1440, 2))
END = 28_333_333 * 60


@settings(max_examples=150, deadline=None)
@given(
    ages=st.lists(st.integers(1, 22 * 1440), max_size=30),
    shift=st.integers(0, 400),
    lots=st.integers(1, 3),
)
def test_sums_over_windows_are_those_of_the_events_in_them(ages: list[int], shift: int, lots: int) -> None:
    end = END + shift
    units = np.array([end - age for age in ages], np.int64)
    sums = np.arange(2.0 * len(ages)).reshape(-1, 2)
    history = History(TIERS, 2)
    for lot in range(lots):
        history.add(0, units[lot::lots], sums[lot::lots])
    found = history.sums(end, WINDOWS)
    for (size, tier), row in zip(WINDOWS, found, strict=True):
        start = (end - size) // TIERS.lengths[tier] * TIERS.lengths[tier]
        assert row.tolist() == sums[(units >= start) & (units < end)].sum(axis=0).tolist()


def test_what_is_newer_than_the_end_is_not_in_any_window() -> None:
    """Labels that come before the delay is over wait: also in the long bucket that the end is in."""
    history = History(TIERS, 1)
    end = END + 90
    history.add(0, np.array([end - 1, end, end + 1, end + 50]), np.ones((4, 1)))
    assert history.sums(end, WINDOWS).ravel().tolist() == [1.0] * 5


def test_long_buckets_alone_hold_what_came_too_late_for_short_ones() -> None:
    history = History(TIERS, 1)
    history.add(1, np.array([END // 5 - 100]), np.ones((1, 1)))
    history.add(2, np.array([END // 60 - 100]), np.ones((1, 1)))
    assert history.sums(END, WINDOWS).ravel().tolist() == [0.0, 0.0, 1.0, 1.0, 2.0]


def test_coarser_first_buckets_end_at_their_own_edges() -> None:
    history = History(Tiers((5, 15, 120), (50_000, 60_000, 600_000)), 1)
    history.add(0, np.arange(END // 5 - 100, END // 5), np.ones((100, 1)))
    found = history.sums(END // 5 * 5, ((7, 0), (60, 0), (90, 1), (1440, 2)))
    assert found.ravel().tolist() == [2.0, 12.0, 18.0 + END // 5 * 5 % 15 // 5, 100.0]


def test_chunks_are_let_go_when_no_window_reaches_them_and_not_before() -> None:
    history = History(TIERS, 1)
    start = END
    history.add(0, np.array([start]), np.ones((1, 1)))
    stored = [list(table.changes()) for table in history.tables]
    assert [len(changes) for changes in stored] == [1, 1, 1]
    longest = WINDOWS[-1][0] + 120 + 1
    for later in range(0, TIERS.reach[2] + 72 * 60 + 60, 97):
        history.expire(start + later)
        within = later <= longest
        if within:
            assert history.sums(start + later - 120, WINDOWS[-1:])[0, 0] == (1.0 if later > 120 else 0.0)
    assert history.empty
    gone = [change for table in history.tables for change in table.changes()]
    assert [(change.rows, change.sums) for change in gone] == [(None, None)] * 3
    assert [(c.length, c.chunk) for c in gone] == [(c.length, c.chunk) for changes in stored for c in changes]
    assert not [change for table in history.tables for change in table.changes()]


def test_only_what_changed_is_written_and_comes_back_as_it_was() -> None:
    table = Table(1, CHUNK_BUCKETS[0], 2)
    table.add(np.array([3, 3, 59, 60, 600]), np.arange(10.0).reshape(5, 2))
    first = list(table.changes())
    assert [change.chunk for change in first] == [0, 1, 10]
    assert not list(table.changes())
    table.add(np.array([61]), np.ones((1, 2)))
    (second,) = table.changes()
    assert second.chunk == 1
    assert second.rows is not None
    assert second.rows.tolist() == [0, 1]
    twin = Table(1, CHUNK_BUCKETS[0], 2)
    for change in (*first, second):
        assert change.rows is not None
        assert change.sums is not None
        twin.restore(change.chunk, change.rows, change.sums)
    assert np.array_equal(twin.between(0, 700), table.between(0, 700))
    assert not list(twin.changes())
    twin.expire(60)
    assert [(change.chunk, change.rows) for change in twin.changes()] == [(0, None)]


def test_a_chunk_that_went_and_came_back_is_written() -> None:
    table = Table(1, 60, 1)
    table.add(np.array([5]), np.ones((1, 1)))
    assert len(list(table.changes())) == 1
    table.expire(60)
    table.add(np.array([7]), np.ones((1, 1)))
    (change,) = table.changes()
    assert change.rows is not None
    assert change.rows.tolist() == [7]
    table.expire(60)
    assert [change.rows for change in table.changes()] == [None]


@pytest.mark.parametrize("bucket", [-1, 0, 59, 60, -60])
def test_time_before_1970_has_buckets_too(bucket: int) -> None:
    table = Table(1, 60, 1)
    table.add(np.array([bucket]), np.ones((1, 1)))
    assert table.between(bucket - 70, bucket + 70)[70, 0] == 1.0
    assert table.between(bucket - 70, bucket + 70).sum() == 1.0
