"""How alike two ranked answers are: overlap of the k best, rank-biased overlap, probabilities, divergence.

An answer is a list of labels, best first, with a probability each. Pure functions over the answers of one
request: k is 5 or 10, so a vector would be no faster than a loop over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "PERSISTENCE",
    "Ranked",
    "kl_divergence",
    "probability_differences",
    "rank_biased_overlap",
    "topk_overlap",
]

#: Of rank-biased overlap: with 0.9 the first ten ranks carry 86 % of the weight. Webber et al. 2010, 4.4.
PERSISTENCE = 0.9
#: Least probability of "other": what is left of a sum of rounded scores can be 0 or below.
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Ranked:
    """One answer's labels, best first and different, and their probabilities (fewer where some are unknown).

    Example:
        >>> Ranked.of(["a", "b", "a"], [0.5, 0.3, 0.1])
        Ranked(labels=('a', 'b'), scores=(0.5, 0.3))
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...] = ()

    @staticmethod
    def of(labels: Sequence[str], scores: Sequence[float] = ()) -> Ranked:
        """Of a list that may name a label twice: its first place counts.

        Scores are taken only where each label has one, a finite probability.
        """
        first: dict[str, int] = {}
        for place, label in enumerate(labels):
            first.setdefault(label, place)
        places = list(first.values())
        known = len(scores) == len(labels) and all(0 <= score <= 1 + 1e-6 for score in scores)
        return Ranked(
            tuple(labels[place] for place in places),
            tuple(min(float(scores[place]), 1.0) for place in places) if known else (),
        )

    def table(self) -> Mapping[str, float]:
        """Probability by label."""
        return dict(zip(self.labels, self.scores, strict=False))


def topk_overlap(a: Sequence[str], b: Sequence[str], k: int) -> float | None:
    """|A ∩ B| / d for the first d = min(k, |A|, |B|) of both; None where one is empty.

    Source:
        Fagin, Kumar and Sivakumar, Comparing top k lists, SIAM J. Discrete Math. 17 (2003).

    Example:
        >>> topk_overlap(["a", "b", "c"], ["b", "a", "x"], 3)
        0.6666666666666666
    """
    depth = min(k, len(a), len(b))
    return len(set(a[:depth]) & set(b[:depth])) / depth if depth else None


def rank_biased_overlap(a: Sequence[str], b: Sequence[str], p: float = PERSISTENCE) -> float | None:
    """Extrapolated rank-biased overlap of two rankings without ties, cut to the shorter's depth k:

        RBO = X_k / k · p^k + (1 - p) / p · Σ_{d=1..k} X_d / d · p^d

    with X_d the size of the overlap of the first d. 1 for equal lists, 0 for disjoint ones; None where one is
    empty. Weights of ranks fall by the factor p; what lies beyond k is taken to agree as k does.

    Source:
        Webber, Moffat and Zobel, A similarity measure for indefinite rankings, ACM TOIS 28 (2010), eq. 30
        (for lists of one length).

    Example:
        >>> rank_biased_overlap(["a", "b"], ["a", "b"]), rank_biased_overlap(["a"], ["b"])
        (1.0, 0.0)
    """
    depth = min(len(a), len(b))
    if not depth:
        return None
    seen_a: set[str] = set()
    seen_b: set[str] = set()
    overlap, total = 0, 0.0
    for place in range(depth):
        x, y = a[place], b[place]
        overlap += (x == y) + (x != y and x in seen_b) + (x != y and y in seen_a)
        seen_a.add(x)
        seen_b.add(y)
        total += overlap / (place + 1) * p ** (place + 1)
    found = overlap / depth * p**depth + (1 - p) / p * total
    return min(max(found, 0.0), 1.0)


def probability_differences(a: Ranked, b: Ranked) -> tuple[float, float] | None:
    """Largest and mean |p_a(x) - p_b(x)| over the labels x that both have; None where there is none.

    Labels that only one has are left out: of them the other's probability is unknown.

    Example:
        >>> probability_differences(Ranked(("a", "b"), (0.75, 0.25)), Ranked(("b", "c"), (0.5, 0.1)))
        (0.25, 0.25)
    """
    ours, theirs = a.table(), b.table()
    found = [abs(ours[label] - theirs[label]) for label in ours.keys() & theirs.keys()]
    return (max(found), math.fsum(found) / len(found)) if found else None


def kl_divergence(a: Ranked, b: Ranked) -> float | None:
    """KL(B ‖ A) in nats, of the reference b from the answer a: Σ p_b(x) ln(p_b(x) / p_a(x)).

    Over the labels that both have, and all others taken together as one, "other", with probability
    1 - Σ (at least 1e-12). Merging outcomes never raises the divergence (data-processing inequality; Cover
    and Thomas 2006, 2.8), so it is a lower bound of the divergence over the whole vocabulary. Never negative.
    None where one has no scores or no label is shared.

    Example:
        >>> round(kl_divergence(Ranked(("a",), (0.5,)), Ranked(("a",), (0.75,))), 4)
        0.1308
    """
    ours, theirs = a.table(), b.table()
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    mine = [max(ours[label], _FLOOR) for label in shared]
    reference = [theirs[label] for label in shared]
    for values in (mine, reference):
        values.append(max(1 - math.fsum(values), _FLOOR))
        total = math.fsum(values)
        values[:] = [value / total for value in values]
    found = math.fsum(q * math.log(q / p) for q, p in zip(reference, mine, strict=True) if q > 0)
    return max(found, 0.0)
