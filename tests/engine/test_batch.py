"""Views of a batch against plain Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.events.batch import EventBatch, encode_strings

VALUES = st.lists(st.sampled_from(["", "a", "b", "ab", "ba", "é", "aaaa", None]), min_size=1, max_size=12)


@settings(deadline=None)
@given(VALUES, st.integers(0, 11), st.integers(1, 12), st.booleans())
def test_codes_say_what_the_column_says_whatever_its_offset(
    values: list[str | None], start: int, repeat: int, alike: bool
) -> None:
    rows = [values[0]] * (len(values) * repeat) if alike else values * repeat
    column = pa.array(rows, pa.string()).slice(min(start, len(rows) - 1))
    codes, names = encode_strings(column, len(column), "none")
    assert [names[code] for code in codes] == ["none" if v is None else v for v in column.to_pylist()]


def test_slices_share_what_was_computed_and_missing_columns_cost_nothing() -> None:
    batch = EventBatch(
        pa.record_batch(
            {
                "event_time": pa.array([3, 1, 2], pa.timestamp("us", tz="UTC")),
                "tokens": pa.array([1, None, 3], pa.int32()),
                "sampling_weight": pa.array([None, 2.0, 3.0]),
            }
        )
    )
    assert batch.times().tolist() == [3, 1, 2]
    tokens = batch.floats("tokens")
    assert tokens is not None
    part = batch.slice(1, 2)
    view = part.floats("tokens")
    assert view is not None
    assert np.shares_memory(view, tokens)
    assert np.isnan(view[0])
    assert view[1] == 3
    assert part.weights().tolist() == [2.0, 3.0]
    assert batch.weights().tolist() == [1.0, 2.0, 3.0]
    assert batch.floats("latency_seconds") is None
    assert part.codes("service", "?")[1] == ["?"]
    assert batch.take(np.array([2, 0])).times().tolist() == [2, 3]


def truth_batch(request_times: list[int | None]) -> EventBatch:
    times = pa.timestamp("us", tz="UTC")
    return EventBatch(
        pa.record_batch(
            {
                "event_time": pa.array([10 + i for i in range(len(request_times))], times),
                "request_time": pa.array(request_times, times),
            }
        )
    )


@settings(deadline=None)
@given(
    st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=20), st.integers(0, 19), st.integers(1, 20)
)
def test_label_events_are_told_from_requests_in_any_slice(
    stated: list[int | None], start: int, length: int
) -> None:
    whole = truth_batch(stated)
    whole.label_rows()
    whole.request_times()
    start = min(start, len(stated) - 1)
    length = min(length, len(stated) - start)
    part, kept = whole.slice(start, length), stated[start : start + length]
    labels = part.label_rows()
    if all(time is None for time in kept):
        assert labels is None
        assert part.requests() is part
    else:
        assert labels is not None
        assert labels.tolist() == [time is not None for time in kept]
    times = [10 + start + i if time is None else time for i, time in enumerate(kept)]
    assert part.request_times().tolist() == times
    requests = part.requests()
    assert requests.label_rows() is None
    assert requests.times().tolist() == [10 + start + i for i, time in enumerate(kept) if time is None]


def test_without_the_column_every_event_is_a_request() -> None:
    batch = EventBatch(pa.record_batch({"event_time": pa.array([3, 1], pa.timestamp("us", tz="UTC"))}))
    assert batch.label_rows() is None
    assert batch.requests() is batch
    assert np.shares_memory(batch.request_times(), batch.times())
