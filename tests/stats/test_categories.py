"""Categories against pandas' own coding, over every way that Arrow has to store strings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.stats.categories import OTHER, UNSEEN, Categories, learn_categories

values_strategy = st.lists(st.none() | st.sampled_from(["a", "b", "c", "", "日本", "x" * 300]), max_size=60)


def oracle(known: Categories, values: list[str | None]) -> list[int]:
    """pandas codes: own values by place, other known ones and the rest after them, null last."""
    codes = pd.Index(list(known.own), dtype="object").get_indexer_for(pd.Index(values, dtype="object"))
    rare = set(known.rare)
    return [
        int(code) if code >= 0 else known.count if value is None else len(known.own) + (value not in rare)
        for code, value in zip(codes, values, strict=True)
    ]


def forms(values: list[str | None]) -> dict[str, pa.Array]:
    plain = pa.array(values, pa.string())
    padded = pa.array(["pad", None, *values, "pad"], pa.string())
    return {
        "plain": plain,
        "large": plain.cast(pa.large_string()),
        "sliced": padded.slice(2, len(values)),
        "dictionary": plain.dictionary_encode(),
        "int8 dictionary": plain.dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
        "sliced dictionary": padded.dictionary_encode().slice(2, len(values)),
    }


@settings(max_examples=100, deadline=None)
@given(values=values_strategy)
def test_cells_are_those_of_pandas_in_every_form(values: list[str | None]) -> None:
    known = Categories(("b", "", "x" * 300), ("日本",))
    for name, column in forms(values).items():
        assert known.cells(column).tolist() == oracle(known, values), name


def test_a_null_within_the_dictionary_is_missing() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    assert Categories(("a",)).cells(column).tolist() == [0, 3, 3]


def test_a_full_int8_dictionary_with_nulls_does_not_overflow() -> None:
    values = [f"v{i}" for i in range(128)]
    column = pa.array([*values, None]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
    known = Categories(tuple(values))
    assert known.cells(column).tolist() == [*range(128), known.count]


@pytest.mark.parametrize("column", [pa.array([1, 2]), pa.nulls(2), pa.array([[1], []])])
def test_what_is_no_string_is_missing(column: pa.Array) -> None:
    known = Categories(("a",))
    assert known.cells(column).tolist() == [known.count] * 2


@settings(max_examples=100, deadline=None)
@given(values=values_strategy, limit=st.integers(1, 4), data=st.data())
def test_the_most_frequent_are_chosen_in_any_order(
    values: list[str | None], limit: int, data: st.DataObject
) -> None:
    chosen = learn_categories(pa.array(values, pa.string()), limit, 5)
    turned = learn_categories(pa.array(data.draw(st.permutations(values)), pa.string()), limit, 5)
    counts = Counter(value for value in values if value is not None)
    if not counts:
        assert chosen is turned is None
        return
    assert chosen is not None
    assert turned is not None
    assert (chosen.own, chosen.rare) == (turned.own, turned.rare)
    ranked = sorted((value for value in counts if counts[value] >= 3), key=lambda v: (-counts[v], v))
    assert [*chosen.own, *chosen.rare] == ranked[:5]
    assert len(chosen.own) <= limit
    assert chosen.names == (*chosen.own, OTHER, UNSEEN)


def test_known_values_are_bounded() -> None:
    words = [f"w{i}" for i in range(1000)] * 3
    chosen = learn_categories(pa.array(words), 10, 100)
    assert chosen is not None
    assert (len(chosen.own), len(chosen.rare)) == (10, 90)


def test_the_excess_is_how_much_more_new_events_have_unseen() -> None:
    # Zipf's law over many words: what a sample does not hold comes up in new events
    rng = np.random.default_rng(5)
    share = 1 / np.arange(1, 20_001)
    draws = rng.choice(20_000, (2, 20_000), p=share / share.sum())
    old, new = (pa.array([f"w{i}" for i in row]) for row in draws)
    known = learn_categories(old, 64, 16_384)
    assert known is not None
    before, after = ((known.cells(column) == known.unseen).mean() for column in (old, new))
    assert after > before
    assert known.excess == pytest.approx((after - before) / np.sqrt(before), rel=0.2)


def test_ordinary_categories_have_no_excess() -> None:
    known = learn_categories(pa.array(["a", "b"] * 100), 64, 100)
    assert known is not None
    assert known.excess == 0.0
