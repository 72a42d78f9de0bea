"""How two baselines differ: what they cover, the parameters, and where each field's reference lies.

Only what the two files say is compared; whether one would alarm by the other is asked of
`mlmon.calibration.compare`, which runs the events of one through the fields of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.stats.distances import jensen_shannon

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.baseline.model import Baseline, FieldReference, Scope, ScopeKey

__all__ = ["CellDiff", "FieldDiff", "ScopeDiff", "diff_baselines", "diff_fields"]

_CELLS = 3


class CellDiff(NamedTuple):
    """One cell's share of each reference."""

    name: str
    old: float
    new: float


@dataclass(frozen=True, slots=True)
class FieldDiff:
    """One field in two references.

    Attributes:
        name: "monitor/field".
        kind: its kind in the old one; where it is new, in the new one.
        old: its mean where it is one number (a share, the mean of a scalar), else None.
        new: the same of the new one.
        measure: of `distance`: js (Jensen-Shannon divergence of the shares of equal cells, bits), ks (largest
            difference of the distribution functions, for numeric fields whose bins differ), sigma (of means,
            in the old one's metric), difference (of rates); empty where the two cannot be compared.
        distance: between the two, None where they cannot be compared.
        moved: the cells whose share differs most.
        change: what else is different, in words: only in one of them, another kind or width.
    """

    name: str
    kind: str
    old: float | None = None
    new: float | None = None
    measure: str = ""
    distance: float | None = None
    moved: tuple[CellDiff, ...] = ()
    change: str = ""


@dataclass(frozen=True, slots=True)
class ScopeDiff:
    """One service, model and version in two baselines.

    Attributes:
        key: which.
        change: "added", "removed" or "" where both have it; then nothing else is filled.
        parameters: by monitor: same, changed, added, removed.
        events: in the old and in the new one.
        burst: length of bursts in both.
        segments_added: only in the new one.
        segments_removed: only in the old one.
        fields: of all segments together, the most distant first.
    """

    key: ScopeKey
    change: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    events: tuple[int, int] = (0, 0)
    burst: tuple[float, float] = (1.0, 1.0)
    segments_added: tuple[str, ...] = ()
    segments_removed: tuple[str, ...] = ()
    fields: tuple[FieldDiff, ...] = ()


def diff_baselines(old: Baseline, new: Baseline) -> list[ScopeDiff]:
    """Compare two baselines scope by scope."""
    found = []
    for key in sorted(old.scopes.keys() | new.scopes.keys()):
        before, after = old.scopes.get(key), new.scopes.get(key)
        if before is None or after is None:
            found.append(ScopeDiff(key, "added" if before is None else "removed"))
        else:
            found.append(_scopes(key, before, after))
    return found


def _scopes(key: ScopeKey, old: Scope, new: Scope) -> ScopeDiff:
    parameters = []
    for monitor in sorted(old.parameters.keys() | new.parameters.keys()):
        held, made = old.parameters.get(monitor), new.parameters.get(monitor)
        if held is None or made is None:
            parameters.append((monitor, "added" if held is None else "removed"))
        else:
            parameters.append((monitor, "same" if held.digest == made.digest else "changed"))
    segments = [{name for name in scope.segments if name} for scope in (old, new)]
    before, after = old.segments[""].fields, new.segments[""].fields
    found = [diff_fields(name, before.get(name), after.get(name)) for name in {**before, **after}]
    return ScopeDiff(
        key,
        parameters=tuple(parameters),
        events=(old.segments[""].events, new.segments[""].events),
        burst=(old.burst, new.burst),
        segments_added=tuple(sorted(segments[1] - segments[0])),
        segments_removed=tuple(sorted(segments[0] - segments[1])),
        fields=tuple(sorted(found, key=lambda field: (-(field.distance or 0.0), field.name))),
    )


def diff_fields(name: str, old: FieldReference | None, new: FieldReference | None) -> FieldDiff:
    """Compare the references of one field; None where a baseline has none."""
    if old is None or new is None:
        there = old or new
        kind = "" if there is None else there.spec.kind
        return FieldDiff(name, kind, change="added" if old is None else "removed")
    kind = old.spec.kind
    if kind != new.spec.kind:
        return FieldDiff(name, kind, change=f"was {kind}, is {new.spec.kind}")
    if not old.sums.n or not new.sums.n:
        return FieldDiff(name, kind, change=f"carried by {old.sums.n:,} events, now by {new.sums.n:,}")
    if kind == "cells":
        return _cells(name, old, new)
    if old.spec.width != new.spec.width:
        return FieldDiff(name, kind, change=f"had {old.spec.width} dimensions, has {new.spec.width}")
    step = new.sums.mean - old.sums.mean
    if old.spec.width > 1:
        return FieldDiff(name, kind, measure="sigma", distance=_length(step, old))
    means = (float(old.sums.mean[0]), float(new.sums.mean[0]))
    if kind == "rate":
        return FieldDiff(name, kind, *means, "difference", abs(means[1] - means[0]))
    return FieldDiff(name, kind, *means, "sigma", _length(step, old))


def _length(step: NDArray[np.float64], old: FieldReference) -> float:
    whiten = old.spec.whiten
    return float(np.linalg.norm(step if whiten is None else step @ whiten.astype(np.float64)))


def _cells(name: str, old: FieldReference, new: FieldReference) -> FieldDiff:
    edges = [reference.spec.edges for reference in (old, new)]
    if edges[0] is not None and edges[1] is not None and not np.array_equal(edges[0], edges[1]):
        distance = _ks(old, new, edges[0], edges[1])
        return FieldDiff(name, "cells", measure="ks", distance=distance, change="the bins differ")
    cells = _aligned(old, new)
    shares = np.array([[cell.old, cell.new] for cell in cells])
    distance = float(jensen_shannon(shares[:, 1], shares[:, 0]))
    moved = sorted(cells, key=lambda cell: -abs(cell.new - cell.old))[:_CELLS]
    return FieldDiff(name, "cells", measure="js", distance=distance, moved=tuple(moved))


def _aligned(old: FieldReference, new: FieldReference) -> list[CellDiff]:
    """Shares by the name of the cell; one that a baseline has not is 0 there."""
    shares = []
    for reference in (old, new):
        names = reference.spec.names or tuple(map(str, range(reference.spec.width)))
        total = reference.sums.total
        shares.append(dict(zip(names, (total / total.sum()).tolist(), strict=True)))
    old_shares, new_shares = shares
    both = {**old_shares, **new_shares}
    return [CellDiff(name, old_shares.get(name, 0.0), new_shares.get(name, 0.0)) for name in both]


def _ks(
    old: FieldReference, new: FieldReference, old_edges: NDArray[np.float64], new_edges: NDArray[np.float64]
) -> float:
    """Largest difference of the two distribution functions, known at their own edges, linear between."""
    inner = (max(old_edges[0], new_edges[0]), min(old_edges[-1], new_edges[-1]))
    places = np.concatenate([old_edges, new_edges])
    places = places[(places >= inner[0]) & (places <= inner[1])]
    if not len(places):
        return 1.0
    values = [
        np.interp(places, edges, _distribution(reference, len(edges)))
        for reference, edges in ((old, old_edges), (new, new_edges))
    ]
    return float(np.abs(values[1] - values[0]).max())


def _distribution(reference: FieldReference, edges: int) -> NDArray[np.float64]:
    """Share of the values below each inner edge."""
    total = reference.sums.total
    below: NDArray[np.float64] = np.cumsum(total)[:edges] / total.sum()
    return below
