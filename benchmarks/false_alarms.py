"""False alarms and power of single fields: windows drawn like the reference, or shifted, and judged.

    python benchmarks/false_alarms.py [--references 40] [--windows 250] [--only cells] [--power]

Each line of the first table is one kind of traffic. Many references of m events are drawn and calibrated from
blocks, and many windows of n events drawn the same way are judged by each. Columns: the share of windows with
p < .01 and the mean e-value at tolerance 0, where the error of the reference is all that is tolerated; the
mean e-value and the share of e >= 20 at the default tolerance; the share of windows judged at all. With
standard errors over references. Honest is a share of at most .01 and means of at most 1.

The second table: windows until an e-CUSUM reaches 720 (hourly windows, one page a month), after a shift.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.baseline.model import FieldReference, FieldSpec
from mlmon.drift.fields import FieldState, judge_fields
from mlmon.stats.blocks import block_length, block_traces, block_wander, burst_length
from mlmon.stats.quadratic import DEFAULT_TOLERANCE
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldKind

    Weaken = Callable[[FieldReference, FieldSums], tuple[FieldReference, FieldSums]]

#: e-values are counted up to this, so that a mean has a finite error; honest ones never come near.
CAP = 1e6


@dataclass(frozen=True)
class Traffic:
    """One kind of traffic.

    Attributes:
        name: for people.
        kind: of the field.
        n: events to a window.
        m: events of the reference.
        burst: mean length of runs of equal events, geometric.
        shares: of cells; of a rate, the rate alone.
        draw: for vectors, draws (count, d) values.
        weights: sampling weights, of which each event has one at random.
    """

    name: str
    kind: FieldKind
    n: int
    m: int = 10_000
    burst: float = 1.0
    shares: tuple[float, ...] = ()
    draw: Callable[[np.random.Generator, int], NDArray[np.float64]] | None = None
    weights: tuple[float, ...] = (1.0,)

    @property
    def width(self) -> int:
        """d."""
        if self.draw is not None:
            return self.draw(np.random.default_rng(0), 1).shape[1]
        return len(self.shares) if self.kind == "cells" else 1

    def events(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Events in order of time: cells (count,), or values (count, d)."""
        runs = np.arange(count)
        if self.burst > 1.0:
            lengths = rng.geometric(1.0 / self.burst, int(2.0 * count / self.burst) + 200)
            runs = np.repeat(np.arange(len(lengths)), lengths)[:count]
        size = int(runs[-1]) + 1
        if self.draw is not None:
            return self.draw(rng, size)[runs]
        if self.kind == "rate":
            return (rng.random(size) < self.shares[0]).astype(np.float64)[runs, None]
        cells = np.searchsorted(np.cumsum(self.shares)[:-1], rng.random(size), side="right")
        return cells[runs].astype(np.float64)

    def sums(self, rng: np.random.Generator, events: NDArray[np.float64]) -> FieldSums:
        """Their sums, with sampling weights drawn for them."""
        sums = FieldSums(self.width)
        one = len(self.weights) == 1
        weights = np.ones(len(events)) if one else rng.choice(np.array(self.weights), len(events))
        if self.kind == "cells":
            sums.add_cells(events.astype(np.intp), weights)
        else:
            sums.add_values(events, weights)
        return sums

    def window(self, rng: np.random.Generator) -> FieldSums:
        """Sums of a window."""
        return self.sums(rng, self.events(rng, self.n))


def calibrated(traffic: Traffic, rng: np.random.Generator, tolerance: float | None = None) -> FieldReference:
    """A reference of m events with its null from blocks; vectors are whitened by their own deviations."""
    # a scope's bursts are those of its busiest scalar, which a rare property cannot tell
    burst = burst_length(replace(traffic, kind="vector", draw=normal(1)).events(rng, traffic.m))
    length = block_length(traffic.m, burst) or traffic.m // 2
    count = traffic.m // length
    events = traffic.events(rng, traffic.m)[: count * length]
    weights = rng.choice(np.array(traffic.weights), len(events))
    if traffic.kind == "cells":
        place = np.repeat(np.arange(count), length) * traffic.width + events.astype(np.intp)
        totals = np.bincount(place, weights, count * traffic.width).reshape(count, -1)
    else:
        totals = (weights[:, None] * events).reshape(count, length, -1).sum(axis=1)
    parts = weights.reshape(count, length)
    sizes = np.column_stack([np.full(count, float(length)), parts.sum(axis=1), (parts**2).sum(axis=1)])
    whole = FieldSums(0)
    whole.size, whole.total = sizes.sum(axis=0), totals.sum(axis=0)
    whiten = None
    if traffic.kind == "vector":
        whiten = np.diag(1.0 / events.std(axis=0)).astype(np.float32)
    traces = block_traces(traffic.kind, totals, sizes, whiten, burst)
    wander = block_wander(traffic.kind, totals, sizes, whiten)
    allowed = DEFAULT_TOLERANCE[traffic.kind] if tolerance is None else tolerance
    spec = FieldSpec(traffic.kind, traffic.width, whiten=whiten, tolerance=allowed)
    return FieldReference(spec, whole, traces.trace, traces.trace2, wander, traces.blocks)


def without_tolerance(reference: FieldReference) -> FieldReference:
    """The same with nothing tolerated but its own error."""
    return replace(reference, spec=replace(reference.spec, tolerance=0.0), wander=0.0)


class Found(NamedTuple):
    """Means over references and windows, and their standard errors over references.

    Attributes:
        level: share of p < .01 at tolerance 0.
        e_bare: mean e-value at tolerance 0.
        e: mean e-value at the default tolerance.
        large: share of e >= 20 there.
        judged: share of windows that were judged at all.
    """

    level: float
    e_bare: float
    e: float
    large: float
    judged: float


def measure(
    traffic: Traffic, references: int, windows: int, seed: int = 0, weaken: Weaken | None = None
) -> tuple[Found, Found]:
    """Judge windows without drift by many references; `weaken` damages the calibration, to see it show."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(references):
        reference = calibrated(traffic, rng)
        pairs = [(reference, traffic.window(rng)) for _ in range(windows)]
        if weaken is not None:
            pairs = [weaken(*pair) for pair in pairs]
        bare = judge_fields([(without_tolerance(one), sums) for one, sums in pairs])
        usual = judge_fields(pairs)
        rows.append(
            Found(
                float(np.mean([v.p_value < 0.01 for v in bare])),
                float(np.mean([min(np.exp(min(v.log_e, 700.0)), CAP) for v in bare])),
                float(np.mean([min(np.exp(min(v.log_e, 700.0)), CAP) for v in usual])),
                float(np.mean([v.log_e >= np.log(20.0) for v in usual])),
                float(np.mean([v.state is FieldState.OK for v in usual])),
            )
        )
    table = np.array(rows)
    return Found(*table.mean(axis=0)), Found(*(table.std(axis=0) / np.sqrt(max(1, references - 1))))


def delay(
    before: Traffic, after: Traffic, runs: int, seed: int = 0, threshold: float = 720.0, most: int = 500
) -> tuple[float, float, float]:
    """Median windows until the e-CUSUM of a field reaches the threshold, median effect, and tolerance."""
    rng = np.random.default_rng(seed)
    delays, effects, tolerances = [], [], []
    for _ in range(runs):
        reference = calibrated(before, rng)
        evidence, windows = 0.0, 0
        while windows < most and evidence < np.log(threshold):
            windows += 1
            verdict = judge_fields([(reference, after.window(rng))])[0]
            evidence = verdict.log_e + max(0.0, evidence)
            effects.append(verdict.effect)
        delays.append(windows if evidence >= np.log(threshold) else np.inf)
        tolerances.append(verdict.tolerance)
    return float(np.median(delays)), float(np.median(effects)), float(np.median(tolerances))


# Traffic


def even(width: int) -> tuple[float, ...]:
    """Equal shares."""
    return (1.0 / width,) * width


def zipf(width: int) -> tuple[float, ...]:
    """Shares that fall as 1/rank."""
    shares = 1.0 / np.arange(1, width + 1)
    return tuple(shares / shares.sum())


def normal(width: int) -> Callable[[np.random.Generator, int], NDArray[np.float64]]:
    """Independent normal dimensions."""
    return lambda rng, count: rng.normal(size=(count, width))


def student(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Student's t with 3 degrees of freedom, clipped at its .1 and 99.9 % points."""
    return np.clip(rng.standard_t(3, size=(count, 1)), -10.2, 10.2)


def lognormal(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Log-normal with a log deviation of 2, clipped at its 99 % point."""
    return np.exp(np.minimum(2.0 * rng.normal(size=(count, 1)), 4.65))


def shifted(by: float, width: int = 1) -> Callable[[np.random.Generator, int], NDArray[np.float64]]:
    """Normal dimensions of which the first is shifted."""
    shift = np.eye(1, width)[0] * by
    return lambda rng, count: rng.normal(size=(count, width)) + shift


def tilted(shares: Sequence[float], distance: float) -> tuple[float, ...]:
    """Shares at this root chi-square distance: half of the cells gain, the others lose."""
    base = np.array(shares)
    sign = np.where(np.cumsum(base) <= 0.5 + 1e-12, 1.0, -1.0)
    direction = base * (sign - (base * sign).sum())
    return tuple(base + direction * distance / np.sqrt((direction**2 / base).sum()))


def catalogue() -> list[Traffic]:
    """The lines of the first table."""
    lines = []
    for burst, m, sizes in ((1.0, 10_000, (200, 500, 5_000, 50_000)), (5.0, 10_000, (1_500, 5_000, 50_000)),
                            (20.0, 50_000, (6_000, 50_000))):  # fmt: skip
        for n in sizes:
            base = Traffic("", "cells", n, m, burst)
            lines += [
                replace(base, name=f"{k} cells {name}", shares=shares)
                for k, name, shares in (
                    (2, "even", even(2)),
                    (2, ".999/.001", (0.999, 0.001)),
                    (10, "even", even(10)),
                    (64, "even", even(64)),
                    (1000, "even", even(1000)),
                    (1000, "Zipf", zipf(1000)),
                )
            ]
            lines += [
                replace(base, kind="vector", name=name, draw=draw)
                for name, draw in (
                    ("mean, normal", normal(1)),
                    ("mean, t(3)", student),
                    ("mean, log-normal", lognormal),
                    ("mean of 20 dims", normal(20)),
                )
            ]
            lines += [
                replace(base, kind="rate", name=f"rate {p}", shares=(p,)) for p in (0.0002, 0.001, 0.05, 0.3)
            ]
        two = Traffic("", "cells", sizes[-1] // 10, m, burst, weights=(1.0, 50.0))
        lines += [
            replace(two, name="64 cells, weights 1/50", shares=even(64)),
            replace(two, name="mean, weights 1/50", kind="vector", draw=normal(1)),
            replace(two, name="rate .01, weights 1/50", kind="rate", shares=(0.01,)),
        ]
    return lines


def shifts(n: int) -> list[tuple[str, Traffic, Traffic]]:
    """The lines of the second table: what it is, before, after."""
    one = Traffic("", "vector", n, draw=normal(1))
    many = Traffic("", "vector", n, draw=normal(100))
    ten, wide = (Traffic("", "cells", n, shares=even(k)) for k in (10, 64))
    rare, often = (Traffic("", "rate", n, shares=(p,)) for p in (0.001, 0.05))
    unseen = Traffic("", "cells", n, shares=(*zipf(100), 0.0))
    lines = [(f"mean by {s} sd", one, replace(one, draw=shifted(s))) for s in (0.15, 0.2, 0.3, 0.5)]
    lines += [(f"100 dims by {s} sd", many, replace(many, draw=shifted(s, 100))) for s in (0.2, 0.3, 0.5)]
    lines += [
        (f"{len(t.shares)} cells by {s}", t, replace(t, shares=tilted(t.shares, s)))
        for t in (ten, wide)
        for s in (0.15, 0.2, 0.3, 0.5)
    ]
    lines += [(f"rate .001 to {p}", rare, replace(rare, shares=(p,))) for p in (0.002, 0.003, 0.01)]
    lines += [(f"rate .05 to {p}", often, replace(often, shares=(p,))) for p in (0.08, 0.1, 0.2)]
    lines += [
        (f"{s:.0%} of a new category", unseen, replace(unseen, shares=(*(np.array(zipf(100)) * (1 - s)), s)))
        for s in (0.01, 0.03, 0.1)
    ]
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--references", type=int, default=40)
    parser.add_argument("--windows", type=int, default=250)
    parser.add_argument("--only", default="", help="lines whose name contains this")
    parser.add_argument("--power", action="store_true", help="only the second table")
    options = parser.parse_args()
    if not options.power:
        print(f"{'traffic':26s} {'n':>6s} {'m':>6s} burst   p<.01 at 0    mean e at 0     mean e", end="")
        print("        e>=20  judged")
        for traffic in catalogue():
            if options.only not in traffic.name:
                continue
            # windows of 50,000 events take their time
            windows = max(20, min(options.windows, options.windows * 2_500 // traffic.n))
            found, error = measure(traffic, options.references, windows)
            print(
                f"{traffic.name:26s} {traffic.n:6d} {traffic.m:6d} {traffic.burst:5.0f} "
                f"{found.level:7.4f} ±{error.level:.4f} {found.e_bare:7.2f} ±{error.e_bare:.2f}"
                f" {found.e:7.2f} ±{error.e:.2f} {found.large:7.4f} {found.judged:6.2f}",
                flush=True,
            )
    for n in (200, 1000, 5000):
        print(f"\nshift at n = {n}, m = 10,000: median windows to a page of one field, effect, tolerance")
        for name, before, after in shifts(n):
            if options.only in name:
                found_delay, effect, tolerance = delay(before, after, max(5, options.references // 2))
                print(f"  {name:28s} {found_delay:6.1f} {effect:8.3f} {tolerance:8.3f}", flush=True)


if __name__ == "__main__":
    main()
