"""Packing, order, positions, and what is refused before it reaches a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.server.model import Packed, pack
from mlmon.server.model.layout import Limits, arrange, check, place
from mlmon.server.model.plain import blocks

SEQUENCES = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=9)


def test_what_is_packed_is_found_by_its_row() -> None:
    batch = pack([[5, 6], [7], [8, 9, 10]], [[0, 1], [1], [0, 0, 1]])
    assert batch.ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert batch.segments is not None
    assert batch.segments.tolist() == [0, 1, 1, 0, 0, 1]
    assert batch.cu_seqlens.dtype == np.int32
    assert batch.cu_seqlens.tolist() == [0, 2, 3, 6]
    assert batch.ids[batch.starts[2] + 1] == 9
    assert (batch.tokens, batch.sequences, batch.max_length) == (6, 3, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pack([]), "at least one length"),
        (lambda: pack([[1], []]), "got length 0"),
        (lambda: pack([[1, 2]], [[0]]), "same lengths"),
        (lambda: Packed.from_flat(np.arange(4), np.array([3])), "add up to 4 tokens, got 3"),
        (lambda: Packed.from_flat(np.arange(4), np.array([4]), np.arange(3)), "a segment for each of 4"),
        (lambda: Packed.from_flat(np.ones((2, 2)), np.array([4])), "flat ids"),
    ],
)
def test_what_cannot_be_packed_says_why(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("sequences", "segments", "rows", "message"),
    [
        ([[1, 50]], None, None, "ids from 0 to 49, got 1 to 50"),
        ([[-1, 3]], None, None, "ids from 0 to 49, got -1 to 3"),
        ([[1] * 6], None, None, "at most 5 tokens, got 6"),
        ([[1, 2]], [[0, 2]], None, "segment ids from 0 to 1, got 0 to 2"),
        ([[1, 2]], None, [2], "rows from 0 to 1, got 2 to 2"),
        ([[1, 2]], None, [-1], "rows from 0 to 1, got -1 to -1"),
    ],
)
def test_what_would_index_outside_is_refused(
    sequences: list[list[int]], segments: list[list[int]] | None, rows: list[int] | None, message: str
) -> None:
    limits = Limits(vocabulary=50, segments=2, length=5)
    with pytest.raises(ValueError, match=message):
        check(pack(sequences, segments), limits, None if rows is None else np.array(rows))
    check(pack([[0, 49, 1, 2, 3]], [[0, 1, 1, 0, 0]]), limits, np.array([4, 0]))


@settings(max_examples=150, deadline=None)
@given(sequences=SEQUENCES, padding=st.sampled_from([None, 1]), by_length=st.booleans())
def test_tables_hold_every_token_at_its_place(
    sequences: list[list[int]], padding: int | None, by_length: bool
) -> None:
    """Against a loop over sequences, as one would write it without thinking of speed."""
    batch = pack(sequences, [[len(s) % 2] * len(s) for s in sequences])
    limits = Limits(vocabulary=50, segments=2, length=12, padding=padding)
    tables = arrange(batch, limits, by_length=by_length)
    placed = place(tables, torch.device("cpu"))
    where = tables.inverse if tables.inverse is not None else np.arange(batch.tokens)
    offsets = placed.cu_seqlens.tolist()
    assert sorted(np.diff(offsets)) == sorted(map(len, sequences))
    for i, sequence in enumerate(sequences):
        rows = where[batch.starts[i] : batch.starts[i] + len(sequence)]
        assert rows[0] in offsets
        assert (np.diff(rows) == 1).all()
        assert placed.ids[rows].tolist() == sequence
        assert set(placed.segments[rows].tolist()) == {len(sequence) % 2}
        expected, position = [], 0 if padding is None else padding
        for j, token in enumerate(sequence):
            position += padding is not None and token != padding
            expected.append(j if padding is None else position if token != padding else padding)
        assert placed.positions[rows].tolist() == expected
    if by_length:
        assert [g.length for g in placed.groups] == sorted(set(map(len, sequences)))
        assert [g.start for g in placed.groups] == [
            sum(g.count * g.length for g in placed.groups[:i]) for i in range(len(placed.groups))
        ]
        assert sum(g.count for g in placed.groups) == len(sequences)
    else:
        assert placed.groups == ()
        assert offsets == batch.cu_seqlens.tolist()


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), tokens=st.integers(1, 300))
def test_blocks_cover_all_and_waste_little(lengths: list[int], tokens: int) -> None:
    ordered = np.array(sorted(lengths, reverse=True))
    cut = list(blocks(ordered, tokens))
    assert [i for block in cut for i in range(block.start, block.stop)] == list(range(len(lengths)))
    for block in cut[:-1]:
        padded = ordered[block.start] * (block.stop - block.start)
        assert padded >= tokens
        tail = ordered[block][np.arange(len(ordered[block])) * ordered[block.start] >= tokens]
        assert (tail >= 0.8 * ordered[block.start]).all()
