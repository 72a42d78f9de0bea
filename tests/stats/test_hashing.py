"""Hashes of strings: a plain re-computation, uniformity, avalanche, and no collisions among look-alikes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from mlmon.stats.hashing import HASHED_BYTES, hash_bytes, unit_interval

_WORD = 2**64


def hashed(strings: list[bytes], seed: int = 7) -> list[int]:
    offsets = np.cumsum([0, *map(len, strings)]).astype(np.int32)
    return hash_bytes(offsets, np.frombuffer(b"".join(strings), np.uint8), seed).tolist()


def one(text: bytes, seed: int = 7) -> int:
    """The same hash with Python's integers, written from its description."""

    def step(state: int, value: int) -> int:
        out = (state ^ value) * 0x9FB21C651E98DF25 % _WORD
        return out ^ (out >> 32)

    state = step(seed, len(text))
    for done in range(0, min(len(text) - 8, HASHED_BYTES), 8):
        state = step(state, int.from_bytes(text[done : done + 8], "little"))
    state = step(state, int.from_bytes(text[-8:], "little"))
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        state = (state ^ (state >> 33)) * factor % _WORD
    return state ^ (state >> 33)


@settings(max_examples=150, deadline=None)
@given(strings=st.lists(st.binary(max_size=40), min_size=1, max_size=12), seed=st.integers(0, _WORD - 1))
def test_each_string_has_the_hash_of_the_description_whatever_its_neighbours(
    strings: list[bytes], seed: int
) -> None:
    assert hashed(strings, seed) == [one(text, seed) for text in strings]


def test_long_strings_count_with_their_beginning_length_and_end() -> None:
    long = bytes(range(256)) * 8
    assert hashed([long, long[:9], b""]) == [one(long), one(long[:9]), one(b"")]
    assert hashed([long])[0] != hashed([long + b"x"])[0]


def test_a_slice_of_a_column_hashes_as_the_column_does() -> None:
    data = np.frombuffer(b"aabbbcccc", np.uint8)
    offsets = np.array([0, 2, 5, 9])
    assert hash_bytes(offsets[1:], data, 1).tolist() == hash_bytes(offsets, data, 1).tolist()[1:]


@pytest.mark.parametrize("name", ["{}", "request-{:08d}", "{:032x}", "aaaaaaa{}bbbbbbb{}"])
def test_hashes_are_uniform_and_distinct_for_ids_that_look_alike(name: str) -> None:
    values = np.array(hashed([name.format(i, i % 97).encode() for i in range(50_000)]), np.uint64)
    assert len(np.unique(values)) == 50_000
    assert kstest(unit_interval(values), "uniform").pvalue > 1e-3
    low = np.bincount((values & np.uint64(255)).astype(np.intp), minlength=256)
    assert chisquare(low).pvalue > 1e-3


def test_one_bit_of_the_input_turns_half_of_the_output() -> None:
    base = bytearray(b"0123456789abcdef-request")
    turned = []
    for bit in range(8 * len(base)):
        other = bytearray(base)
        other[bit // 8] ^= 1 << bit % 8
        turned.append((one(bytes(base)) ^ hashed([bytes(other)])[0]).bit_count())
    assert 30 < np.mean(turned) < 34
    assert min(turned) > 12
