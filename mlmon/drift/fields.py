"""Has one field moved: its effect, its tolerance, and the evidence in one window.

Units. Cells and vectors: effect, tolerance and wander are distances (root chi-square, standard deviations).
Rates: effect and the verdict's tolerance are shares, `FieldSpec.tolerance` is a relative rise of the odds
(0.25: .2 becomes .238), and wander is the share by which the reference at times exceeded its mean.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from mlmon.stats.blocks import MIN_BLOCKS, Traces
from mlmon.stats.evalues import distance_log_e, rate_log_e
from mlmon.stats.quadratic import (
    DEFAULT_TOLERANCE,
    EVENTS_PER_RANK,
    Null,
    cell_distance,
    distance_tail,
    null_of,
    pool_cells,
    sparse_variance,
    sum_groups,
    tolerated,
    vector_distance,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldReference
    from mlmon.stats.sums import FieldSums

__all__ = ["Contribution", "FieldState", "FieldVerdict", "contributions", "judge_fields"]


#: Events of a window, as independent ones, below which cells and vectors are not judged; and scalars, whose
#: tails nothing averages: with 55, a clipped log-normal in bursts had e-values with a mean of 4.5, now 0.6.
_MIN_EVENTS = 50.0
_MIN_SCALAR = 100.0
#: Events of the reference, as independent ones, that a field needs at least.
_MIN_REFERENCE = 100.0
#: Events that a cell is expected to have in a window, so that chi-square is a fair approximation.
_CELL_EXPECTED = 5.0
#: Standard deviations by which the traces are taken larger than estimated.
_TRACE_MARGIN = 1.0
#: Level of the upper confidence bound of a reference's share.
_SHARE_LEVEL = 0.975


class FieldState(StrEnum):
    """What can be said of a field in a window."""

    OK = "ok"
    ALARM = "alarm"
    INSUFFICIENT_DATA = "insufficient_data"
    INSUFFICIENT_REFERENCE = "insufficient_reference"


class FieldVerdict(NamedTuple):
    """What one window says of one field.

    Attributes:
        effect: shift beyond noise. Cells and vectors: sqrt(max(0, Q - E0)), in standard deviations; rates:
            the share itself.
        tolerance: the shift that is not worth a page, in the same unit, reference error and wander included.
        log_e: natural log of the e-value against "the shift is within the tolerance"; 0 without evidence.
        p_value: of the same hypothesis.
        n: sampled events.
        n_eff: their effective number.
        state: never `ALARM`, which only the pager can say.
    """

    effect: float
    tolerance: float
    log_e: float
    p_value: float
    n: int
    n_eff: float
    state: FieldState


class Contribution(NamedTuple):
    """How much one cell, or one direction, of a field carries of its shift."""

    name: str
    now: float
    reference: float
    share: float


class _Form(NamedTuple):
    """A field as a squared distance.

    Attributes:
        squared: Q.
        trace: tr Σ in the metric of Q.
        trace2: tr Σ² in it.
        n: effective size of the window.
        m: of the reference.
        tolerance: distance that is not worth a page, without the reference's error.
        blocks: that the traces come from.
    """

    squared: float
    trace: float
    trace2: float
    n: float
    m: float
    tolerance: float
    blocks: int


class _Share(NamedTuple):
    """A field as a share that may not rise: of the window, of the reference, and what is tolerated."""

    now: float
    reference: float
    n: float
    m: float
    wander: float


class _Rate(NamedTuple):
    """What the binomial e-value needs, and the share of the reference."""

    now: float
    reference: float
    n: float
    tolerated: float
    design: float


class _Said(NamedTuple):
    """What one statistic says of a field."""

    effect: float
    tolerance: float
    log_e: float
    p_value: float


class _Asked(NamedTuple):
    """What is computed of a field. Cells can have both: few rare cells as a share of their own."""

    state: FieldState
    form: _Form | None
    rate: _Rate | None


def judge_fields(pairs: Sequence[tuple[FieldReference, FieldSums]]) -> list[FieldVerdict]:
    """Judge fields of one window, each against its reference; one vectorised pass over all of them.

    Cells and vectors: Q/a against the non-central chi-square with λ₀ = Δ²/a, where Δ joins the tolerance, the
    reference's wander and its error (`stats.quadratic`). Sparse cells are pooled; where too few rare cells
    are left to make a group of their own, their share is judged as a rate beside the rest, and the two
    e-values are averaged. Rates: binomial, p₀ being the larger of the reference's upper 97.5 % bound and the
    highest it wandered to, its odds enlarged by the tolerance.

    The e-value has a mean of at most 1 while the window's truth is within the tolerance, given the reference
    (measured in `benchmarks/false_alarms.py`). Time: some 30 µs a field, and d·r products for vectors.

    Args:
        pairs: references and the window's sums of the same fields.

    Returns:
        A verdict for each pair, in order.
    """
    asked = [_ask(reference, sums) for reference, sums in pairs]
    forms = _judge_forms([one.form for one in asked if one.form is not None])
    rates = _judge_rates([one.rate for one in asked if one.rate is not None])
    verdicts = []
    for (reference, sums), one in zip(pairs, asked, strict=True):
        said = [next(forms)] if one.form is not None else []
        if one.rate is not None:
            rate = next(rates)
            said.append(rate if reference.spec.kind == "rate" else _as_distance(rate, one.rate))
        verdicts.append(_verdict(reference, sums, one.state, said))
    return verdicts


def _as_distance(said: _Said, rate: _Rate) -> _Said:
    """A share of rare cells in the unit of cells: the chi-square distance of {rare, not rare}."""

    def distance(share: float, middle: float) -> float:
        return max(0.0, share - rate.reference) / math.sqrt(max(middle * (1.0 - middle), 1e-12))

    effect = distance(rate.now, 0.5 * (rate.now + rate.reference))
    return said._replace(effect=effect, tolerance=distance(rate.tolerated, rate.tolerated))


def _verdict(
    reference: FieldReference, sums: FieldSums, state: FieldState, said: Sequence[_Said]
) -> FieldVerdict:
    """Put together what is known of one field: e-values are averaged, p-values as Bonferroni has it."""
    if not said:
        return FieldVerdict(0.0, reference.spec.tolerance, 0.0, 1.0, sums.n, sums.n_eff, state)
    first = said[0]
    if state is not FieldState.OK:
        return FieldVerdict(first.effect, first.tolerance, 0.0, 1.0, sums.n, sums.n_eff, state)
    log_e = float(np.logaddexp.reduce([part.log_e for part in said])) - math.log(len(said))
    p_value = min(1.0, len(said) * min(part.p_value for part in said))
    return FieldVerdict(first.effect, first.tolerance, log_e, p_value, sums.n, sums.n_eff, state)


def _ask(reference: FieldReference, sums: FieldSums) -> _Asked:
    known = reference.sums.weight > 0 and reference.trace > 0 and reference.trace2 > 0
    if not known:
        return _Asked(FieldState.INSUFFICIENT_REFERENCE, None, None)
    if sums.n == 0 or sums.weight <= 0:
        return _Asked(FieldState.INSUFFICIENT_DATA, None, None)
    ask = {"cells": _ask_cells, "vector": _ask_vector, "rate": _ask_rate}[reference.spec.kind]
    asked = ask(reference, sums)
    if reference.blocks < MIN_BLOCKS:
        return asked._replace(state=FieldState.INSUFFICIENT_REFERENCE)
    return asked


def _ask_vector(reference: FieldReference, sums: FieldSums) -> _Asked:
    held = reference.sums
    found = vector_distance(sums.mean - held.mean, reference.spec.whiten)
    form = _form(reference, sums, found.squared, Traces(reference.trace, reference.trace2, reference.blocks))
    design = max(1.0, reference.trace / found.rank)
    state = FieldState.OK
    if held.n_eff < max(_MIN_REFERENCE, EVENTS_PER_RANK * found.rank) * design:
        state = FieldState.INSUFFICIENT_REFERENCE
    elif sums.n_eff < (_MIN_SCALAR if found.rank == 1 else _MIN_EVENTS) * design:
        state = FieldState.INSUFFICIENT_DATA
    return _Asked(state, form, None)


def _ask_cells(reference: FieldReference, sums: FieldSums) -> _Asked:
    held, now_total = reference.sums, float(sums.total.sum())
    reference_total = float(held.total.sum())
    if reference_total <= 0:
        return _Asked(FieldState.INSUFFICIENT_REFERENCE, None, None)
    if now_total <= 0:
        return _Asked(FieldState.INSUFFICIENT_DATA, None, None)
    # as many independent draws from the cells as the window and the reference are worth
    n, m = sums.n_eff / reference.trace, held.n_eff / reference.trace
    shares, now = held.total / reference_total, sums.total / now_total
    smallest = max(_CELL_EXPECTED / n, EVENTS_PER_RANK / m)
    groups = pool_cells(shares, smallest)
    pooled = sum_groups(shares, groups)
    found = cell_distance(sum_groups(now, groups), pooled, n, m)
    rank = found.rank
    sparse = sparse_variance(pooled, n) * reference.trace**2 / 2.0
    traces = Traces(rank * reference.trace, rank * reference.trace2 + sparse, reference.blocks)
    form = _form(reference, sums, found.squared, traces) if rank > 0 else None
    rare = shares < smallest
    rate = None
    if rare.any() and shares[rare].sum() < smallest:
        before = float(shares[rare].sum())
        strayed = reference.wander * math.sqrt(before * (1.0 - before))
        few = _Share(float(now[rare].sum()), before, sums.n_eff, held.n_eff, strayed)
        rate = _rate(few, _design(before * held.n_eff, reference), DEFAULT_TOLERANCE["rate"])
    state = FieldState.OK
    if m < _MIN_REFERENCE:
        state = FieldState.INSUFFICIENT_REFERENCE
    elif n < _MIN_EVENTS:
        state = FieldState.INSUFFICIENT_DATA
    return _Asked(state, form, rate)


def _ask_rate(reference: FieldReference, sums: FieldSums) -> _Asked:
    held = reference.sums
    share = _Share(float(sums.mean[0]), float(held.mean[0]), sums.n_eff, held.n_eff, reference.wander)
    design = _design(share.reference * held.n_eff, reference)
    state = FieldState.OK
    if held.n_eff < _MIN_REFERENCE * design:
        state = FieldState.INSUFFICIENT_REFERENCE
    return _Asked(state, None, _rate(share, design, reference.spec.tolerance))


def _design(seen: float, reference: FieldReference) -> float:
    """Design effect of a share that `seen` events tell of: more than estimated, since few tell it badly."""
    design = max(1.0, reference.trace)
    error = math.sqrt(2.0 / max(reference.blocks, 1) + design / max(seen, 1.0))
    return 1.0 + (design - 1.0) * (1.0 + min(1.0, error))


def _rate(share: _Share, design: float, tolerance: float) -> _Rate:
    """p₀: the larger of the reference's upper bound and where it wandered, odds enlarged by the tolerance."""
    worth = share.m / design
    seen = min(max(share.reference, 0.0), 1.0) * worth
    bound = float(special.betaincinv(seen + 1.0, max(worth - seen, 1e-9), _SHARE_LEVEL))
    base = min(max(bound, share.reference + share.wander), 1.0 - 1e-9)
    odds = base / (1.0 - base) * (1.0 + tolerance)
    return _Rate(min(max(share.now, 0.0), 1.0), share.reference, share.n, odds / (1.0 + odds), design)


def _form(reference: FieldReference, sums: FieldSums, squared: float, traces: Traces) -> _Form:
    tolerance = math.hypot(reference.spec.tolerance, reference.wander)
    sizes = (sums.n_eff, reference.sums.n_eff)
    return _Form(squared, traces.trace, traces.trace2, *sizes, tolerance, traces.blocks)


def _judge_forms(forms: Sequence[_Form]) -> Iterator[_Said]:
    """Squared distances against the non-central chi-square of the tolerated one."""
    if not forms:
        return iter(())
    squared, trace, trace2, n, m, tolerance, blocks = np.array(forms, np.float64).T
    margin = 1.0 + _TRACE_MARGIN * np.sqrt(2.0 * trace2 / np.maximum(blocks, 1.0)) / trace
    null = null_of(trace * margin, trace2 * margin**2, n)
    limit = tolerated(tolerance, Null(null.scale * n / m, null.dof))
    effect = np.sqrt(np.maximum(0.0, squared - trace * (1.0 / n + 1.0 / m)))
    x, beyond = squared / null.scale, limit / null.scale
    log_e = distance_log_e(x, null.dof, beyond)
    p_value = distance_tail(x, null.dof, beyond)
    return map(_Said, effect.tolist(), np.sqrt(limit).tolist(), log_e.tolist(), p_value.tolist())


def _judge_rates(rates: Sequence[_Rate]) -> Iterator[_Said]:
    """Shares against the binomial of the tolerated one."""
    if not rates:
        return iter(())
    now, _, n, limit, design = np.array(rates, np.float64).T
    log_e = rate_log_e(now * n, n, limit, design)
    count, trials = now * n / design, n / design
    tail = special.betainc(np.maximum(count, 1e-9), trials - count + 1.0, limit)
    p_value = np.where(count > 0, tail, 1.0)
    return map(_Said, now.tolist(), limit.tolist(), log_e.tolist(), p_value.tolist())


def contributions(reference: FieldReference, sums: FieldSums, top: int) -> list[Contribution]:
    """The cells or directions that carry most of a field's shift, most first, at most `top`.

    Cells: their part of the chi-square distance beyond noise, (Δ²/p̄ - trace·(1/n + 1/m)(1 - p̄))⁺. Vectors:
    Δ_i (WWᵀΔ)_i⁺, which sum to Q when none is negative. Shares add up to 1 over all that carry something.
    `now` and `reference` are shares of cells, means of dimensions.
    """
    held = reference.sums
    if sums.weight <= 0 or held.weight <= 0:
        return []
    if reference.spec.kind == "cells":
        now, before, parts = _cell_parts(reference, sums)
    else:
        now, before = sums.mean, held.mean
        away, whiten = now - before, reference.spec.whiten
        parts = away * (away if whiten is None else whiten @ (whiten.T @ away))
    parts = np.maximum(parts, 0.0)
    whole = float(parts.sum())
    if not whole > 0.0:
        return []
    first = np.argsort(-parts, kind="stable")[:top]
    return [
        Contribution(_name(reference, int(i)), float(now[i]), float(before[i]), float(parts[i] / whole))
        for i in first
        if parts[i] > 0.0
    ]


def _cell_parts(
    reference: FieldReference, sums: FieldSums
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shares of cells now and before, and their parts of the distance."""
    held = reference.sums
    now = sums.total / max(float(sums.total.sum()), np.finfo(float).tiny)
    before = held.total / max(float(held.total.sum()), np.finfo(float).tiny)
    n, m = sums.n_eff, held.n_eff
    mixed = (n * now + m * before) / (n + m)
    noise = reference.trace * (1.0 / n + 1.0 / m) * (1.0 - mixed)
    parts = np.where(mixed > 0, (now - before) ** 2 / np.where(mixed > 0, mixed, 1.0) - noise, 0.0)
    return now, before, parts


def _name(reference: FieldReference, index: int) -> str:
    names = reference.spec.names
    if index < len(names):
        return names[index]
    if reference.spec.kind == "rate":
        return "share"
    return "mean" if reference.spec.width == 1 else f"dimension {index}"
