"""How much a field's mean varies between windows when nothing has changed: from contiguous blocks.

Events come in bursts, so the variance of a mean is larger than that of independent events, by how much only
contiguous stretches of the reference can say. Blocks are cut at 20 burst lengths or more, so that their means
are nearly independent, and there must be 30 of them. From them: the long-run traces that the null of
`stats.quadratic` is made of, and `wander`, how far the mean strays slowly (day and night), which is no drift.

Why not the variance of the squared distance over blocks for the second moment: it has a relative error of
√(8/K) and more with heavy tails; products of different blocks have about √(8/K)/r.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from mlmon.stats.quadratic import EVENTS_PER_RANK, pool_cells, sum_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "BURSTS_PER_BLOCK",
    "MAX_BLOCKS",
    "MIN_BLOCKS",
    "Traces",
    "block_length",
    "block_traces",
    "block_wander",
    "burst_length",
    "combine_traces",
]

#: Fewer blocks than this are no null: the variance of a scalar would be known to 26 % at best.
MIN_BLOCKS = 30
#: A block is this many bursts long, so that what its ends cut off is 2.5 % of the variance.
BURSTS_PER_BLOCK = 20
#: More blocks than this tell no more; they are made longer instead.
MAX_BLOCKS = 1000
#: Slices of the reference in time whose largest distance from the whole is taken as it is.
_TENTHS = 10
#: Finer slices: too noisy one by one, so twice their root mean square stands for the largest.
_FINER = (20, 50, 100, 200, 500)
#: A cell needs this many events in the reference to have a variance of its own.
_CELL_COUNT = 5.0
#: Fewer events with a property than this do not tell how bursty it is.
_TELLING_EVENTS = 100.0

#: Independent events with a property that a fine slice needs to be looked at.
_TELLING_COUNT = 5.0

Kind = Literal["cells", "vector", "rate"]


class Traces(NamedTuple):
    """Long-run covariance Σ of a field in its metric, as two numbers.

    Attributes:
        trace: tr Σ, so that a window of effective size n has E|mean - truth|² = trace/n. Cells: over d - 1;
            rates: over p(1 - p); both are 1 for independent events.
        trace2: tr Σ², in the same units.
        blocks: independent blocks behind them.
    """

    trace: float
    trace2: float
    blocks: int


class _Blocks(NamedTuple):
    """Means in the metric of Q, shape (K, r), effective sizes (K,), rank, and the unit of the trace."""

    means: NDArray[np.float64]
    sizes: NDArray[np.float64]
    rank: float
    unit: float


def block_traces(
    kind: Kind,
    totals: NDArray[np.float64],
    sizes: NDArray[np.float64],
    whiten: NDArray[np.floating] | None = None,
    burst: float = 1.0,
) -> Traces:
    """Estimate tr Σ and tr Σ² from block means x_b of effective size n_b.

    With y_b = √n_b (x_b - c)W, c the mean weighted by n_b: tr Σ = Σ|y_b|²/(K - 1), unbiased. tr Σ² from
    products of different blocks alone, Σ_{b≠c} (y_b·y_c)², less what the common centre puts into them;
    unbiased for Gaussian means, and indifferent to the fourth moment, which only enters products of a block
    with itself.

    Args:
        kind: of the field.
        totals: Σwφ of each block in order of time, shape (K, d).
        sizes: (n, Σw, Σw²) of each block, shape (K, 3). Blocks without events are left out.
        whiten: W of a vector field, shape (d, r); None: as it is.
        burst: of all traffic. What fewer than 100 events tell of (a rare property, rare cells beside a usual
            one) is taken to be as bursty as that.

    Returns:
        Traces. Fewer than two blocks say nothing: as bursty as all traffic.

    Memory: one array of shape (K, r). Time: O(K r min(K, r)).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> totals = rng.multinomial(200, [0.5, 0.3, 0.2], 400).astype(float)
        >>> found = block_traces("cells", totals, np.full((400, 3), 200.0))
        >>> round(found.trace, 1), round(found.trace2), found.blocks
        (1.0, 1, 400)
    """
    blocks = _in_metric(kind, totals, sizes, whiten)
    count = len(blocks.sizes)
    if count < 2 or blocks.unit < 1:
        return Traces(burst, burst**2, count)
    trace, trace2 = _long_run(blocks)
    found = Traces(trace / blocks.unit, trace2 / blocks.unit, count)
    if found.trace < burst and _telling_events(kind, totals, sizes) < _TELLING_EVENTS:
        return Traces(burst, burst**2, count)
    return found


def _long_run(blocks: _Blocks) -> tuple[float, float]:
    """tr Σ and tr Σ², the latter between (tr Σ)²/rank and (tr Σ)²."""
    count = len(blocks.sizes)
    shares = blocks.sizes / blocks.sizes.sum()
    centred = np.sqrt(blocks.sizes)[:, None] * (blocks.means - shares @ blocks.means)
    trace = float((centred**2).sum()) / (count - 1)
    return trace, min(max(_trace_of_square(centred, shares, trace), trace**2 / blocks.rank), trace**2)


def _trace_of_square(centred: NDArray[np.float64], shares: NDArray[np.float64], trace: float) -> float:
    """tr Σ² from y_b·y_c of different blocks; `centred` has been made with the blocks' own mean.

    The centring matrix P = I - uuᵀ, u_b² = share of block b, gives
    E(y_b·y_c)² = (P_bb P_cc + P_bc²) tr Σ² + P_bc² (tr Σ)², which is summed over pairs and solved.
    """
    count = len(shares)
    small = centred if centred.shape[1] <= count else centred.T
    squares = float(((small.T @ small) ** 2).sum()) - float(((centred**2).sum(axis=1) ** 2).sum())
    diagonal = 1.0 - shares
    own = float(diagonal.sum() ** 2 - (diagonal**2).sum())
    cross = 1.0 - float((shares**2).sum())
    return (squares - trace**2 * cross) / (own + cross - 2.0 * cross / (count - 1))


def combine_traces(parts: Sequence[Traces]) -> Traces:
    """Traces of parts with metrics of their own (the halves of a cross-fit), weighted by their blocks.

    Example:
        >>> combine_traces([Traces(1.0, 1.0, 30), Traces(2.0, 4.0, 10)])
        Traces(trace=1.25, trace2=1.75, blocks=40)
    """
    blocks = sum(part.blocks for part in parts)
    if not blocks:
        return Traces(1.0, 1.0, 0)
    trace, trace2 = (sum(part[i] * part.blocks for part in parts) / blocks for i in range(2))
    return Traces(trace, trace2, blocks)


def block_wander(
    kind: Kind,
    totals: NDArray[np.float64],
    sizes: NDArray[np.float64],
    whiten: NDArray[np.floating] | None = None,
) -> float:
    """How far the field strays slowly within the reference, beyond noise.

    The larger of: the largest distance of a tenth of the reference in time from the whole; and twice the root
    mean square distance of finer slices, down to a block (a sine's largest is 1.4 times it). Squared
    distances are taken less their expectation and two standard errors, so that noise alone gives next to
    nothing: what it hides is below the tolerance once the reference is large enough. The noise is that of
    neighbours, Σ|x_b - x_{b+1}|²/Σ(1/n_b + 1/n_{b+1}), in which slow change cancels.

    Args:
        kind: of the field.
        totals: as `block_traces`.
        sizes: as `block_traces`.
        whiten: as `block_traces`.

    Returns:
        Cells and vectors: distance in the unit of the effect. Rates: share by which slices exceed the whole.

    Example:
        >>> day = np.r_[np.full(50, 40.0), np.full(50, 60.0)][:, None]
        >>> round(block_wander("rate", day, np.full((100, 3), 100.0)), 3)
        0.141
    """
    blocks = _in_metric(kind, totals, sizes, whiten)
    count = len(blocks.sizes)
    if count < _TENTHS or blocks.unit < 1:
        return 0.0
    if kind != "rate":
        return math.sqrt(_largest_stray(blocks, 0.0, one_sided=False))
    scale = _rate_scale(totals, sizes)
    odds = (scale / float(totals.sum() / sizes[:, 1].sum())) ** 2
    return scale * math.sqrt(_largest_stray(blocks, odds, one_sided=True))


def _largest_stray(blocks: _Blocks, odds: float, *, one_sided: bool) -> float:
    """Largest squared distance of slices over all their sizes; `odds` of not having a rate's property."""
    trace, trace2 = _long_run(blocks)
    noise = _local_trace(blocks)
    error = 2.0 * trace2 * (noise / trace if trace > 0 else 0.0) ** 2
    largest = 0.0
    for slices in (_TENTHS, *_FINER):
        if slices > len(blocks.sizes):
            break
        square, worth = _slice_distances(blocks, slices, one_sided=one_sided)
        # counts of a rare property are skewed: (count - c)² has variance 2c² + c, c the independent ones
        skew = noise**3 * worth * odds
        margin = 2.0 * np.sqrt(error + skew)
        if slices == _TENTHS:
            found = float((square - (noise + margin) * worth).max())
        elif skew.mean() > noise**2 / _TELLING_COUNT:
            break
        else:
            # half of the slices that do not stray are above the whole
            expected = noise / 2.0 if one_sided else noise
            found = 4.0 * float((square - (expected + margin / math.sqrt(slices)) * worth).mean())
        largest = max(largest, found)
    return largest


def _local_trace(blocks: _Blocks) -> float:
    """tr Σ from neighbours."""
    steps = ((blocks.means[1:] - blocks.means[:-1]) ** 2).sum()
    return float(steps / (1.0 / blocks.sizes[1:] + 1.0 / blocks.sizes[:-1]).sum())


def _slice_distances(
    blocks: _Blocks, slices: int, *, one_sided: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared distance of each slice of blocks from the whole, and what it would be for tr Σ = 1 by noise."""
    starts = np.arange(slices) * len(blocks.sizes) // slices
    held = np.add.reduceat(blocks.sizes, starts)
    means = np.add.reduceat(blocks.means * blocks.sizes[:, None], starts) / held[:, None]
    whole = held.sum()
    away = means - (held / whole) @ means
    square: NDArray[np.float64] = (away**2).sum(axis=1)
    if one_sided:
        square = np.where(away[:, 0] > 0, square, 0.0)
    return square, 1.0 / held - 1.0 / whole


def _in_metric(
    kind: Kind,
    totals: NDArray[np.float64],
    sizes: NDArray[np.float64],
    whiten: NDArray[np.floating] | None,
) -> _Blocks:
    """Block means in the metric in which Q is |mean - reference|²; blocks without events left out."""
    present = (sizes[:, 1] > 0) & (totals.sum(axis=1) > 0 if kind == "cells" else True)
    totals, sizes = totals[present], sizes[present]
    n_eff = sizes[:, 1] ** 2 / sizes[:, 2]
    if kind == "cells":
        return _cells_in_metric(totals, n_eff)
    means = totals / sizes[:, 1:2]
    if kind == "rate":
        scale = _rate_scale(totals, sizes)
        return _Blocks(means / scale if scale > 0 else means, n_eff, 1.0, 1.0 if scale > 0 else 0.0)
    white = means if whiten is None else means @ whiten.astype(np.float64)
    return _Blocks(white, n_eff, white.shape[1], 1.0)


def _cells_in_metric(totals: NDArray[np.float64], n_eff: NDArray[np.float64]) -> _Blocks:
    """Distributions over pooled cells."""
    whole = totals.sum(axis=0)
    if not len(n_eff) or whole.sum() <= 0:
        return _Blocks(np.zeros((0, 1)), n_eff, 1.0, 0.0)
    first = _over_groups(totals, n_eff, pool_cells(whole / whole.sum(), _CELL_COUNT / n_eff.sum()))
    if first.unit < 1 or len(n_eff) < 2:
        return first
    # a cell in two or three bursts has no variance to speak of: pool as the judge does
    ratio = _long_run(first)[0] / first.unit
    groups = pool_cells(whole / whole.sum(), EVENTS_PER_RANK * ratio / n_eff.sum())
    return _over_groups(totals, n_eff, groups) if groups.max() > 0 else first


def _over_groups(
    totals: NDArray[np.float64], n_eff: NDArray[np.float64], groups: NDArray[np.intp]
) -> _Blocks:
    """Shares of groups of cells, each over the root of its share in the whole."""
    means = sum_groups(totals, groups) / totals.sum(axis=1, keepdims=True)
    centre = n_eff @ means / n_eff.sum()
    rank = means.shape[1] - 1.0
    return _Blocks(means / np.sqrt(centre), n_eff, rank, rank)


def _telling_events(kind: Kind, totals: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """How many events tell how bursty a field is: those with the property, those beside the usual cell."""
    if kind == "vector":
        return np.inf
    whole = totals.sum(axis=0)
    share = 1.0 - whole.max() / whole.sum() if kind == "cells" else whole.sum() / sizes[:, 1].sum()
    return float(share * sizes[:, 0].sum())


def _rate_scale(totals: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """Standard deviation of one event, √(p(1 - p))."""
    share = min(1.0, float(totals.sum() / max(sizes[:, 1].sum(), np.finfo(float).tiny)))
    return float(np.sqrt(share * (1.0 - share)))


def burst_length(series: NDArray[np.floating]) -> float:
    """How many events in a row are alike: the integrated autocorrelation 1 + 2Σc_k, at least 1.

    Autocovariances within hundredths of the series, each about its own mean (so that slow change, which is
    `block_wander`'s, does not count), summed over Geyer's (1992) initial positive sequence. A mean of n
    events then varies like one of n over this many independent events. Runs of equal events with geometric
    length of mean b give 2b - 1. Bursts beyond a 400th of the series are cut; `block_length` refuses them.

    Args:
        series: values of events in order of time, shape (n,), or (n, s) for several series; finite.

    Returns:
        The longest over the series; 1 for fewer than 400 events or constant values.

    Time: O(n log n). Memory: some 10 arrays of the size of one series.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> 1.0 <= burst_length(rng.normal(size=40_000)) < 1.2
        True
        >>> round(burst_length(np.repeat(rng.normal(size=8_000), 5)))
        5
    """
    columns = np.asarray(series, np.float64).reshape(len(series), -1)
    return max((_burst_of(column) for column in columns.T), default=1.0)


def _burst_of(values: NDArray[np.float64]) -> float:
    length = len(values) // 100
    if length < 4:
        return 1.0
    rows = values[: length * 100].reshape(100, length)
    rows = rows - rows.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(rows, 2 * length, axis=1)
    covariance = np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=0), 2 * length)[: length // 2]
    if covariance[0] <= np.finfo(float).tiny:
        return 1.0
    rho = covariance / covariance[0] * (length / (length - np.arange(len(covariance))))
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: ends[0]] if len(ends) else pairs)
    found = 2.0 * float(pairs.sum()) - 1.0
    return max(1.0, found / (1.0 - min(0.5, found / length)))


def block_length(events: int, burst: float) -> int | None:
    """Events to a block: at least 20 bursts, at most 1000 blocks, at least 30; None where that cannot be.

    Example:
        >>> block_length(10_000, 1.0), block_length(1_000_000, 9.0), block_length(10_000, 39.0)
        (20, 1000, None)
    """
    length = max(int(np.ceil(BURSTS_PER_BLOCK * max(1.0, burst))), -(-events // MAX_BLOCKS))
    return length if events // length >= MIN_BLOCKS else None
