"""One vector per sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.server.model import Packed, normalize_rows, pool


def batch_of(lengths: list[int]) -> Packed:
    return Packed.from_flat(np.zeros(sum(lengths), np.int64), np.array(lengths))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_mean_and_first_token_are_those_of_a_loop(lengths: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(sum(lengths), 7)).astype(np.float32)
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    batch, hidden = batch_of(lengths), torch.from_numpy(rows)
    means = np.stack([part.mean(0, dtype=np.float64) for part in parts])
    np.testing.assert_allclose(pool(hidden, batch, normalize=False).numpy(), means, atol=1e-6)
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(pool(hidden, batch).numpy(), unit, atol=1e-5)
    first = np.stack([part[0] for part in parts])
    np.testing.assert_array_equal(pool(hidden, batch, "cls", normalize=False).numpy(), first)
    np.testing.assert_allclose(torch.linalg.norm(pool(hidden, batch, "cls"), dim=1).numpy(), 1, atol=1e-6)


def test_sixteen_bit_states_are_averaged_in_32() -> None:
    """A running bfloat16 sum of ones stops at 256."""
    hidden = torch.ones(1000, 3, dtype=torch.bfloat16)
    pooled = pool(hidden, batch_of([1000]), normalize=False)
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[1.0, 1.0, 1.0]]


def test_zeros_stay_zeros_and_wrong_rows_are_refused() -> None:
    assert normalize_rows(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
    with pytest.raises(ValueError, match="all 3 tokens, got 2 rows"):
        pool(torch.zeros(2, 3), batch_of([3]))


def test_arrays_that_are_read_only_will_do() -> None:
    """As those of Arrow are."""
    lengths = np.array([2, 1])
    lengths.flags.writeable = False
    batch = Packed.from_flat(np.zeros(3, np.int64), lengths)
    assert pool(torch.ones(3, 2), batch, normalize=False).tolist() == [[1.0, 1.0]] * 2
