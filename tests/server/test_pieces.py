"""Windows, pieces and lanes: what goes through the model together, and in which order."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.server.refusals import RefusalError
from mlmon.server.work.jobs import Job
from mlmon.server.work.lanes import LaneQueue
from mlmon.server.work.pieces import Piece, PieceBuilder
from mlmon.server.work.windows import LongText, windows_of


@given(tokens=st.integers(0, 400), capacity=st.integers(1, 60), data=st.data())
def test_windows_cover_a_text_and_every_token_has_one_owner(
    tokens: int, capacity: int, data: st.DataObject
) -> None:
    stride = data.draw(st.none() | st.integers(0, capacity - 1))
    windows = windows_of(tokens, capacity, LongText("window", stride))
    owned = [range(w.own_start, w.own_stop) for w in windows]
    assert [token for span in owned for token in span] == list(range(tokens))
    shared = capacity // 4 if stride is None else stride
    for window, span in zip(windows, owned, strict=True):
        assert window.stop - window.start == min(tokens, capacity)
        for token in span:
            room = min(token - window.start, window.stop - 1 - token)
            # away from the text's ends a token is half of what windows share from every cut
            if window.start > 0 and window.stop < tokens:
                assert room >= shared // 2 - 1
    assert all(after.start <= before.stop - shared for before, after in pairwise(windows))


def test_a_window_may_not_be_all_stride_and_a_text_may_not_be_too_long() -> None:
    with pytest.raises(RefusalError, match="a stride below 10, the tokens of a window, got 10"):
        windows_of(11, 10, LongText("window", 10))
    with pytest.raises(RefusalError, match="at most 10 tokens in a text, got 11"):
        windows_of(11, 10, LongText())
    assert windows_of(10, 10, LongText("window", 10)) == windows_of(10, 10, LongText())


#: Sequences with wanted rows: length, copies, rows to answer, rows to score, whether it is pooled.
_CALLS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 7), st.booleans(), st.booleans(), st.booleans()),
    min_size=1,
    max_size=8,
)


def built(calls: list[tuple[int, int, bool, bool, bool]], small: int, most: int) -> list[Piece]:
    """Ids count up from 0 over all sequences, so that a row's id says which it is."""
    builder = PieceBuilder(small_tokens=small, most_tokens=most, top_k=3, targets=(1, 2))
    start = 0
    for length, copies, top, truth, pooled in calls:
        count = 1 if pooled else copies
        ids = np.arange(start, start + count * length).reshape(count, length)
        start += ids.size
        rows = np.arange(0, ids.size, 2)
        builder.add(
            ids,
            top=rows if top else rows[:0],
            truth=(rows, ids.ravel()[rows]) if truth else (rows[:0], rows[:0]),
            pool=np.arange(length) if pooled else rows[:0],
        )
    return builder.build()


def wanted(pieces: list[Piece]) -> tuple[list[int], list[int], list[int], list[list[int]]]:
    """Ids at the wanted rows, over all pieces in order: tops, truths, their true ids, and each sum's."""
    tops, truths, true, sums = [], [], [], []
    for piece in pieces:
        tops += piece.ids[piece.top_rows].tolist()
        truths += piece.ids[piece.truth_rows].tolist()
        true += piece.truth_ids.tolist()
        bounds = np.cumsum(piece.pool_counts)[:-1]
        sums += [part.tolist() for part in np.split(piece.ids[piece.pool_rows], bounds) if len(part)]
    return tops, truths, true, sums


@settings(max_examples=60)
@given(calls=_CALLS, small=st.integers(1, 40), most=st.integers(1, 60))
def test_pieces_keep_every_row_in_order_however_they_are_cut(
    calls: list[tuple[int, int, bool, bool, bool]], small: int, most: int
) -> None:
    whole = built(calls, 10**6, 10**6)
    assert len(whole) == 1
    pieces = built(calls, small, most)
    assert wanted(pieces) == wanted(whole)
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == whole[0].ids.tolist()
    for piece in pieces:
        assert piece.lengths.sum() == piece.tokens
        assert piece.tokens <= max(small, most) or len(piece.lengths) == 1
        assert piece.top_k == (3 if len(piece.top_rows) else 0)


@settings(max_examples=60)
@given(calls=_CALLS)
def test_halves_of_a_piece_have_its_rows_in_order(calls: list[tuple[int, int, bool, bool, bool]]) -> None:
    (piece,) = built(calls, 10**6, 10**6)
    parts = [piece]
    while any(len(part.lengths) > 1 for part in parts):
        parts = [half for part in parts for half in (part.split() if len(part.lengths) > 1 else (part,))]
    assert wanted(parts) == wanted([piece])
    assert [part.tokens for part in parts] == piece.lengths.tolist()


def job(*tokens: int) -> Job:
    return Job([Piece(np.zeros(count, np.int64), np.array([count])) for count in tokens])


def sizes(queue: LaneQueue, budget: int, *, whole: float = math.inf) -> list[int]:
    return [item.piece.tokens for item in queue.take(budget, whole=whole)]


def test_jobs_go_first_in_first_out_up_to_the_budget() -> None:
    queue = LaneQueue(10, 1000)
    for tokens in (30, 40, 50, 20):
        queue.put(job(tokens))
    assert queue.tokens == 140
    assert sizes(queue, 100) == [30, 40, 20]
    assert (len(queue), queue.tokens) == (1, 50)
    assert sizes(queue, 100) == [50]
    assert sizes(queue, 100) == []


def test_a_long_job_leaves_half_of_a_batch_to_others() -> None:
    queue = LaneQueue(10, 10_000)
    long, short = job(*[20] * 50), job(30)
    queue.put(long)
    assert sizes(queue, 100) == [20] * 5, "alone it has the batch"
    queue.put(short)
    taken = queue.take(100)
    assert [item.job for item in taken] == [long, long, short, long]
    assert queue.tokens == sum(piece.tokens for piece in long.pieces[long.taken :])


def test_a_piece_larger_than_the_budget_goes_alone_and_only_where_that_is_allowed() -> None:
    queue = LaneQueue(10, 1000)
    queue.put(job(70))
    queue.put(job(10))
    assert sizes(queue, 50, whole=0) == [10]
    assert sizes(queue, 50, whole=69) == []
    assert sizes(queue, 0, whole=70) == [70], "also without a budget"


def test_what_leaves_the_queue_frees_its_tokens() -> None:
    queue = LaneQueue(10, 1000)
    first, second = job(10, 20, 30), job(5)
    queue.put(first)
    queue.put(second)
    assert sizes(queue, 10) == [10]
    assert queue.remove(first)
    assert not queue.remove(first)
    assert (len(queue), queue.tokens) == (1, 5)


def test_a_queue_is_full_by_jobs_and_by_tokens_but_never_for_its_first_job() -> None:
    queue = LaneQueue(2, 100)
    assert queue.refuses(5000) is None
    queue.put(job(60))
    assert queue.refuses(40) is None
    assert queue.refuses(41) == "tokens"
    queue.put(job(1))
    assert queue.refuses(1) == "jobs"
