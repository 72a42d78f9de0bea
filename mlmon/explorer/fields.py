"""Drift fields: ranked, over time, and as distributions beside their baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.baseline.model import ScopeKey
from mlmon.catalog import drift

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldReference, FieldSpec
    from mlmon.baseline.store import BaselineStore
    from mlmon.explorer.source import Bounds, HistorySource

__all__ = [
    "Distribution",
    "beside",
    "distribution",
    "over_time",
    "ranking",
    "reference_of",
    "segments",
    "side_by_side",
]

_KEYS = ["service", "model", "version", "deployment", "segment", "monitor", "field"]
_SERIES = _KEYS[:5]
#: Cells of a distribution that are shown; the rest is pooled.
_SHOWN_CELLS = 40


class Distribution(NamedTuple):
    """A field's distribution now, and in the baseline.

    Attributes:
        names: of the cells, for people.
        shares: of the events looked at, by cell.
        reference: of the baseline's events, by cell; empty where no baseline covers it.
        events: sampled events looked at.
        reference_events: of the baseline.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    reference: tuple[float, ...]
    events: int
    reference_events: int


def ranking(
    source: HistorySource, bounds: Bounds, where: dict[str, str], monitors: Sequence[str] = ()
) -> pd.DataFrame:
    """Fields by what they carry, the most evidence first.

    Columns: those of the series, monitor, field, effect, tolerance, evidence, threshold, times (how many
    times the tolerance the effect is), n.
    """
    said = source.latest([drift.EVIDENCE.name, drift.EFFECT.name], bounds, where)
    if monitors:
        said = said[said["monitor"].isin(monitors)]
    evidence = said[said["metric"] == drift.EVIDENCE.name][[*_KEYS, "value", "threshold", "n"]]
    effect = said[said["metric"] == drift.EFFECT.name][[*_KEYS, "value", "threshold"]]
    table = evidence.rename(columns={"value": "evidence"}).merge(
        effect.rename(columns={"value": "effect", "threshold": "tolerance"}), on=_KEYS, how="left"
    )
    table["times"] = table["effect"] / table["tolerance"]
    return table.sort_values(["evidence", "times"], ascending=False, ignore_index=True)[
        [*_KEYS, "effect", "tolerance", "times", "evidence", "threshold", "n"]
    ]


def over_time(
    source: HistorySource, bounds: Bounds, where: dict[str, str], monitor: str, field: str
) -> pd.DataFrame:
    """Effect and evidence of a field over time, each with its limit, by series."""
    chosen = {**where, "monitor": monitor, "field": field}
    return source.readings([drift.EFFECT.name, drift.EVIDENCE.name], bounds, chosen)


def segments(
    source: HistorySource, bounds: Bounds, where: dict[str, str], monitor: str, field: str
) -> pd.DataFrame:
    """The same field in each segment and version: who carries the shift."""
    free = {name: value for name, value in where.items() if name not in ("segment", "version")}
    return ranking(source, bounds, {**free, "monitor": monitor, "field": field})


def distribution(
    source: HistorySource, bounds: Bounds, where: dict[str, str], monitor: str, field: str
) -> tuple[NDArray[np.float64], int, ScopeKey] | None:
    """Σw by cell, sampled events, and whose they are; of the version with most of them. None without any.

    A rate has two cells: of events that were not counted, and of those that were.
    """
    condition = "".join(f" and {name} = ?" for name in where)
    rows = source.query(
        "distributions",
        f"""
        with mine as materialized (
            select coalesce(service, '') as service, coalesce(model, '') as model,
                   coalesce(version, '') as version, window_start, n,
                   case when kind = 'rate' then [weight - cells[1], cells[1]] else cells end as cells,
                   len(cells) + (kind = 'rate')::int as width
            from rows where monitor = ? and field = ? and kind in ('cells', 'rate'){condition}
        ), most as (
            select service, model, version, arg_max(width, window_start) as width, sum(n) as n
            from mine group by service, model, version order by n desc, service, model, version limit 1
        ), kept as materialized (
            select mine.* from mine join most using (service, model, version, width)
        )
        select service, model, version, place, sum(cells[place]) as total,
               (select sum(n) from kept) as n
        from (select *, unnest(range(1, width + 1)) as place from kept)
        group by service, model, version, place order by place
        """,  # noqa: S608 - names of columns of ours, values are bound
        bounds,
        [monitor, field, *where.values()],
    )
    if rows.empty:
        return None
    first = rows.iloc[0]
    key = ScopeKey(*(str(first[name] or "") for name in ("service", "model", "version")))
    return rows["total"].to_numpy(np.float64), int(first["n"]), key


def reference_of(
    store: BaselineStore | None, key: ScopeKey, segment: str, monitor: str, field: str
) -> FieldReference | None:
    """The baseline's own sums of a field."""
    return None if store is None else store.reference(key, segment, monitor, field)


def beside(
    total: NDArray[np.float64],
    events: int,
    reference: FieldReference | None,
    most: int | None = _SHOWN_CELLS,
) -> Distribution:
    """Shares by cell with their names, beside the baseline's; the rarest beyond `most` cells are pooled."""
    if reference is None:
        return side_by_side((total, events), (np.zeros(0), 0), None, most)
    held = reference.sums.total
    if reference.spec.kind == "rate":
        held = np.array([reference.sums.weight - held[0], held[0]])
    return side_by_side((total, events), (held, int(reference.sums.n)), reference.spec, most)


def side_by_side(
    one: tuple[NDArray[np.float64], int],
    other: tuple[NDArray[np.float64], int],
    spec: FieldSpec | None,
    most: int | None = _SHOWN_CELLS,
) -> Distribution:
    """Two distributions over the same cells, as shares.

    Args:
        one: Σw by cell and sampled events.
        other: likewise; of another number of cells, it is left out.
        spec: of the field, for names of cells.
        most: cells that are shown; the rarest others are pooled.
    """
    total, events = one
    shares = total / max(float(total.sum()), 1e-300)
    held = np.zeros(0)
    if other[0].shape == total.shape:
        held = other[0] / max(float(other[0].sum()), 1e-300)
    if spec is not None and spec.kind == "rate":
        names: tuple[str, ...] = ("no", "yes")
    else:
        names = _names(spec.names if spec else (), spec.edges if spec else None, len(total))
    if most is not None and len(total) > most:
        keep = np.sort(np.argsort(-np.maximum(shares, held if len(held) else 0))[: most - 1])
        rest = np.setdiff1d(np.arange(len(total)), keep)
        names = (*[names[index] for index in keep], f"{len(rest)} others")
        shares = np.append(shares[keep], shares[rest].sum())
        held = np.append(held[keep], held[rest].sum()) if len(held) else held
    return Distribution(
        tuple(names),
        tuple(shares.tolist()),
        tuple(held.tolist()),
        events,
        other[1],
    )


def _names(names: Sequence[str], edges: NDArray[np.float64] | None, count: int) -> tuple[str, ...]:
    if edges is not None and len(edges) + 1 == count:
        bounds = [f"{edge:.3g}" for edge in edges]
        return (f"< {bounds[0]}", *(f"to {high}" for high in bounds[1:]), f"≥ {bounds[-1]}")
    if len(names) == count:
        return tuple(name or "(empty)" for name in names)
    return tuple(str(index) for index in range(count))
