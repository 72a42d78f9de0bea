"""The measures against other ways to compute them, and against answers made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from mlmon.shadow.calibration import calibration_error
from mlmon.shadow.echo import carries, plain
from mlmon.shadow.ranking import (
    Ranked,
    kl_divergence,
    probability_differences,
    rank_biased_overlap,
    topk_overlap,
)
from mlmon.shadow.similarity import cosines, linear_cka

RANKINGS = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


def overlap_by_definition(a: list[str], b: list[str], p: float) -> float:
    """Webber et al., eq. 30, with the sets written out."""
    k = min(len(a), len(b))
    agreed = [len(set(a[:d]) & set(b[:d])) for d in range(1, k + 1)]
    series = sum(x / d * p**d for d, x in enumerate(agreed, start=1))
    return agreed[-1] / k * p**k + (1 - p) / p * series


@given(a=RANKINGS, b=RANKINGS, p=st.sampled_from((0.5, 0.9, 0.98)))
def test_rank_biased_overlap_is_its_definition(a: list[str], b: list[str], p: float) -> None:
    found = rank_biased_overlap(a, b, p)
    if not a or not b:
        assert found is None
        return
    assert found == pytest.approx(overlap_by_definition(a, b, p), abs=1e-12)
    assert found == pytest.approx(rank_biased_overlap(b, a, p))
    assert rank_biased_overlap(a, a, p) == pytest.approx(1)


def test_rank_biased_overlap_by_hand_and_earlier_ranks_weigh_more() -> None:
    # X = 0, 2, 3: 1·0.9³ + 0.1/0.9 · (0 + 0.9² + 0.9³)
    assert rank_biased_overlap(list("abc"), list("bac")) == pytest.approx(0.729 + (0.81 + 0.729) / 9)
    first, last = (
        rank_biased_overlap(list("abcd"), list("bacd")),
        rank_biased_overlap(list("abcd"), list("abdc")),
    )
    assert first is not None
    assert last is not None
    assert first < last


@given(a=RANKINGS, b=RANKINGS, k=st.integers(1, 6))
def test_overlap_counts_what_both_have(a: list[str], b: list[str], k: int) -> None:
    depth = min(k, len(a), len(b))
    expected = len(set(a[:depth]).intersection(b[:depth])) / depth if depth else None
    assert topk_overlap(a, b, k) == expected


@given(
    p=st.lists(st.floats(1e-3, 1), min_size=6, max_size=6),
    q=st.lists(st.floats(1e-3, 1), min_size=6, max_size=6),
    k=st.integers(1, 5),
)
def test_divergence_is_scipys_over_the_shared_labels_and_other(
    p: list[float], q: list[float], k: int
) -> None:
    ours, theirs = np.array(p) / sum(p), np.array(q) / sum(q)
    labels = "abcdef"
    a = Ranked.of(list(labels[:k]), ours[:k].tolist())
    b = Ranked.of(list(labels[:k]), theirs[:k].tolist())
    merged = [np.append(side[:k], side[k:].sum()) for side in (theirs, ours)]
    found = kl_divergence(a, b)
    assert found == pytest.approx(float(entropy(*merged)), abs=1e-9)
    assert found is not None
    assert found <= float(entropy(theirs, ours)) + 1e-9, "merging outcomes raised the divergence"


def test_divergence_of_nothing_shared_and_of_rounded_scores() -> None:
    assert kl_divergence(Ranked(("a",), (0.5,)), Ranked(("b",), (0.5,))) is None
    assert kl_divergence(Ranked(("a",)), Ranked(("a",), (0.5,))) is None
    # scores that add up to more than 1 by rounding leave a floor for "other", not a negative probability
    a, b = Ranked(("a", "b"), (0.6, 0.4000004)), Ranked(("a", "b"), (0.6, 0.4))
    assert kl_divergence(a, b) == pytest.approx(0, abs=1e-6)


def test_differences_are_of_shared_labels_only() -> None:
    a, b = Ranked(("x", "y", "z"), (0.5, 0.3, 0.1)), Ranked(("y", "x", "w"), (0.4, 0.2, 0.15))
    assert probability_differences(a, b) == pytest.approx((0.3, 0.2))
    assert probability_differences(a, Ranked(("w",), (0.4,))) is None


def test_a_ranking_keeps_the_first_of_equal_labels_and_no_scores_that_are_none() -> None:
    assert Ranked.of(["a", "a", "b"], [0.5, 0.4, 0.1]) == Ranked(("a", "b"), (0.5, 0.1))
    assert Ranked.of(["a", "b"], [0.5]) == Ranked(("a", "b"))
    assert Ranked.of(["a"], [float("nan")]) == Ranked(("a",))
    assert Ranked.of(["a"], [1.0000005]) == Ranked(("a",), (1.0,))


# --- echo

OWN = [
    ("The cat [MASK] on the mat.", "the cat sits on the mat.", "case"),
    ("Café à [MASK]!", "cafe a paris !", "accents"),
    ("a <mask> b c d", "a x b c d", "another mask"),
    ("we [MASK] it", "[CLS] we like it [SEP]", "special tokens"),
    ("☃ is [MASK] today", "[UNK] is cold today", "an unknown token of a sign"),
    ("the ẞß rune 漢 is [MASK] now", "the [UNK] rune [UNK] is old now", "unknown tokens of letters"),
    ("the [MASK] sat on the [MASK]", "the cat sat on the [MASK]", "several masks, one filled"),
    ("[MASK] is good for you", "everything is good for you", "a mask at the beginning"),
    ("it is good for [MASK]", "it is good for everyone", "a mask at the end"),
    (
        "one two three four five six [MASK] eight nine",
        "one two three four five",
        "truncation before the mask",
    ),
    ("plain text of a classification", "plain text of a classification", "no mask"),
]
OTHERS = [
    ("The capital of France is [MASK].", "the capital of spain is madrid.", "a template"),
    ("[MASK] is good for you", "the river flows to the sea", "a mask at the beginning"),
    ("it is good for [MASK]", "the river flows to the sea", "a mask at the end"),
    ("one two [MASK] four", "one two three five", "the last word"),
    ("one two [MASK] four", "two one three four", "order"),
    ("a cat [MASK] here", "a cat sits here and there and everywhere else", "more text than there was"),
    ("[MASK] is good", "the river that flows to the far and wide sea is good", "another text's end"),
    ("short [MASK]", "a very much longer text that [UNK] nobody wrote", "an unknown token"),
]


@pytest.mark.parametrize(("text", "sequence"), [case[:2] for case in OWN], ids=[case[2] for case in OWN])
def test_own_texts_are_known_in_spite_of_the_tokenizer(text: str, sequence: str) -> None:
    assert carries(text, sequence) is True


@pytest.mark.parametrize(("text", "sequence"), [c[:2] for c in OTHERS], ids=[c[2] for c in OTHERS])
def test_texts_of_others_are_told(text: str, sequence: str) -> None:
    assert carries(text, sequence) is False


def test_too_little_text_says_nothing() -> None:
    assert carries("[MASK] !", "a !") is None
    assert carries("whatever", "[CLS] [UNK] [SEP]") is None


WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=8), min_size=4, max_size=12)


@given(
    words=WORDS,
    place=st.integers(0, 11),
    filling=st.text("abcx", min_size=1, max_size=9),
    cut=st.booleans(),
)
def test_any_filled_text_is_its_own(words: list[str], place: int, filling: str, cut: bool) -> None:
    place %= len(words)
    text = " ".join([*words[:place], "[MASK]", *words[place + 1 :]])
    filled = [*words[:place], filling, *words[place + 1 :]]
    if cut and place >= 2:
        filled = filled[: place + 1]  # of which the words before the mask are at least half
        if 2 * len("".join(filled[:-1])) < len("".join(filled)):
            return
    assert carries(text, " ".join(filled)) is True


def test_letters_are_what_is_compared() -> None:
    assert plain("  Ünïcode, 42 — it's!  ") == "unicode42its"


# --- embeddings


def centred_alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased HSIC by its sums over distinct indices (Song et al. 2012, eq. 4), in loops."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        four = sum(
            k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
            for i in range(n)
            for j in range(n)
            for q in range(n)
            for r in range(n)
            if len({i, j, q, r}) == 4
        )
        return float(four) / math.perm(n, 4)

    k, m = a @ a.T, b @ b.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def test_alignment_is_the_unbiased_estimator() -> None:
    rng = np.random.default_rng(4)
    a = rng.normal(size=(8, 3))
    b = a @ rng.normal(size=(3, 5)) + 0.3 * rng.normal(size=(8, 5))
    assert linear_cka(a, b) == pytest.approx(centred_alignment(a, b), rel=1e-9)


def test_alignment_sees_through_rotation_scale_and_origin_and_no_more() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=(120, 400))
    rotation = np.linalg.qr(rng.normal(size=(400, 400)))[0]
    assert linear_cka(a, 3 * a @ rotation + 7) == pytest.approx(1, abs=1e-9)
    # more dimensions than events, where the plain estimator says 0.75 and more
    assert abs(linear_cka(a, rng.normal(size=(120, 300))) or 0) < 0.1
    assert linear_cka(a[:3], a[:3]) is None
    assert linear_cka(np.ones((9, 2)), a[:9]) is None


def test_cosines_are_numpys_and_nothing_of_zeros() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 5, 7))
    expected = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    assert cosines(a, b) == pytest.approx(expected)
    assert np.isnan(cosines(np.zeros((1, 3)), np.ones((1, 3)))).all()
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        cosines(np.zeros((2, 3)), np.zeros((2, 4)))


# --- calibration


def test_calibration_error_is_the_formula_over_equal_bins() -> None:
    rng = np.random.default_rng(7)
    confidences = rng.uniform(size=300)
    right = rng.uniform(size=300) < confidences**2
    order = np.argsort(confidences)
    squares = 0.0
    for part in np.array_split(order, 15):  # 20 events each
        share = right[part].mean()
        chance = share * (1 - share) / (len(part) - 1)
        squares += len(part) / 300 * ((confidences[part].mean() - share) ** 2 - chance)
    assert calibration_error(confidences, right) == pytest.approx(math.sqrt(squares))


def test_an_honest_model_has_no_error_and_a_boastful_one_its_own() -> None:
    rng = np.random.default_rng(8)
    honest, plain_error = [], []
    for _ in range(200):
        confidences = rng.uniform(0.2, 0.9, size=400)
        right = rng.uniform(size=400) < confidences
        honest.append(calibration_error(confidences, right) or 0.0)
        order = np.argsort(confidences).reshape(15 if 400 % 15 == 0 else 16, -1)
        gaps = confidences[order].mean(axis=1) - right[order].mean(axis=1)
        plain_error.append(math.sqrt((gaps**2).mean()))
    assert np.mean(honest) < 0.05 < np.mean(plain_error), "the bias is not taken off"
    confidences = np.full(2_000, 0.9)
    boastful = calibration_error(confidences, rng.uniform(size=2_000) < 0.6)
    assert boastful == pytest.approx(0.3, abs=0.03)
    assert calibration_error(confidences[:39], np.ones(39, bool)) is None
