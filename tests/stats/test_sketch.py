"""Quantiles against NumPy and against the library's own sketch; merging is exact in any order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.errors import IncompatibleStateError
from mlmon.stats.pack import pack
from mlmon.stats.sketch import HIGHEST, LOWEST, RELATIVE_ACCURACY, QuantileSketch

SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


def sketch_of(values: np.ndarray, weights: np.ndarray | None = None) -> QuantileSketch:
    sketch = QuantileSketch()
    sketch.add(values, np.ones(len(values)) if weights is None else weights)
    return sketch


def draws(kind: str, n: int = 20_000) -> np.ndarray:
    make = np.random.default_rng(5)
    return {
        "lognormal": lambda: make.lognormal(-3, 1, n),
        "pareto": lambda: 0.001 * (1 + make.pareto(0.7, n)),
        "bimodal": lambda: np.concatenate([make.normal(0.01, 1e-3, n // 2), make.normal(4, 0.2, n // 2)]),
        "constant": lambda: np.full(n, 0.25),
        "whole range": lambda: np.exp(make.uniform(np.log(LOWEST), np.log(HIGHEST), n)),
    }[kind]()


@pytest.mark.parametrize("kind", ["lognormal", "pareto", "bimodal", "constant", "whole range"])
def test_quantiles_are_within_one_percent_of_numpys(kind: str) -> None:
    values = np.clip(draws(kind), LOWEST, HIGHEST)
    exact = np.quantile(values, SHARES, method="lower")
    assert sketch_of(values).quantiles(SHARES) == pytest.approx(exact, rel=RELATIVE_ACCURACY + 1e-9)


@pytest.mark.parametrize("kind", ["lognormal", "pareto", "bimodal"])
def test_bins_and_quantiles_are_those_of_the_library(kind: str) -> None:
    values, weights = draws(kind, 3000), np.tile([1.0, 2.5, 20.0], 1000)
    library = BaseDDSketch(LogarithmicMapping(RELATIVE_ACCURACY), DenseStore(), DenseStore(), 0.0)
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        library.add(value, weight)
    sketch = sketch_of(values, weights)
    assert sketch.weight == library.count
    assert sketch.quantiles(SHARES) == [library.get_quantile_value(share) for share in SHARES]


def test_a_weight_counts_as_so_many_events() -> None:
    values, weights = draws("lognormal", 500), np.arange(500) % 7 + 1.0
    repeated = sketch_of(np.repeat(values, weights.astype(int)))
    assert sketch_of(values, weights).to_bytes() == repeated.to_bytes()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(0, 1e7), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_any_split_and_order_merge_to_the_same_bytes(
    values: list[float], cuts: list[int], order: object
) -> None:
    whole = sketch_of(np.array(values))
    shuffled = sorted(values, key=lambda _: order.random())  # type: ignore[attr-defined]
    edges = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    merged = QuantileSketch()
    for start, stop in pairwise(edges):
        part = sketch_of(np.array(shuffled[start:stop]))
        before = part.to_bytes()
        merged.merge(part)
        assert part.to_bytes() == before
    assert merged.to_bytes() == whole.to_bytes()
    assert QuantileSketch.from_bytes(whole.to_bytes()).to_bytes() == whole.to_bytes()


def test_a_copy_is_independent_and_an_empty_sketch_is_zero() -> None:
    sketch = sketch_of(np.array([0.1, 0.2]))
    before = sketch.to_bytes()
    twin = sketch.copy()
    twin.add(np.array([0.1, 9.0]), np.ones(2))
    empty = QuantileSketch()
    empty.merge(sketch)
    empty.add(np.array([0.1]), np.ones(1))
    sketch.merge(QuantileSketch())
    assert sketch.to_bytes() == before
    assert twin.weight == 4
    assert np.isnan(QuantileSketch().quantiles((0.5,))).all()


def test_memory_is_bounded_whatever_comes() -> None:
    sketch = sketch_of(np.array([0.0, 1e-300, 5e-324, 1e300, np.finfo(float).max]))
    assert len(sketch.to_bytes()) < 10_400
    assert sketch.quantiles((0.0, 1.0)) == pytest.approx([LOWEST, HIGHEST], rel=RELATIVE_ACCURACY)


@pytest.mark.parametrize("state", [b"\xc1", pack([0.02, 0, np.zeros(3)]), pack([0.01]), pack("x")])
def test_other_sketches_are_refused(state: bytes) -> None:
    with pytest.raises(IncompatibleStateError):
        QuantileSketch.from_bytes(state)
