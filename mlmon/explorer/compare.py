"""Two stretches of time, versions, deployments or segments side by side: readings, latency, distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from mlmon.catalog import drift, requests
from mlmon.explorer.source import Bounds
from mlmon.explorer.tokenizer import MEASURES
from mlmon.history.tables import QUANTILES
from mlmon.stats.sketch import QuantileSketch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mlmon.explorer.source import HistorySource

__all__ = [
    "TIMES",
    "Side",
    "beside",
    "cell_fields",
    "known_values",
    "latency",
    "levels",
    "other_bounds",
    "subject",
    "volume",
]

#: Readings that are compared, and their units. Means over time, weighted by the events behind each.
_READINGS: Mapping[str, str] = {
    **{one.metric: one.unit for one in MEASURES},
    drift.EFFECT.name: "effect",
    requests.VERSION_MISMATCH_RATIO.name: "share of requests",
    requests.GPU_UTILIZATION.name: "share",
}
#: Where the other side is in time, and seconds before; None: by itself.
TIMES: Mapping[str, int | None] = {
    "the time before": None,
    "the day before": 86_400,
    "the week before": 604_800,
    "the same time": 0,
    "another time": None,
}
#: Most sketches that are merged for one side; of more, every k-th window is taken.
_MOST_SKETCHES = 20_000


class Side(NamedTuple):
    """What one side shows.

    Attributes:
        name: for tables and charts.
        bounds: of its time.
        filters: columns of the history and the values they must have, sorted.
    """

    name: str
    bounds: Bounds
    filters: tuple[tuple[str, str], ...]

    @property
    def where(self) -> dict[str, str]:
        """The filters, as the source takes them."""
        return dict(self.filters)


def other_bounds(bounds: Bounds, time: str, other: tuple[int | None, int | None]) -> Bounds:
    """The time of the other side.

    Example:
        >>> other_bounds(Bounds(100, 160), "the time before", (None, None))
        Bounds(start_us=40, end_us=100)
    """
    start, end = bounds
    if time == "another time" and other[0] is not None and other[1] is not None and other[0] < other[1]:
        return Bounds(*other)  # type: ignore[arg-type]
    seconds = TIMES.get(time)
    if seconds is not None:
        return Bounds(start - seconds * 1_000_000, end - seconds * 1_000_000)
    return Bounds(start - (end - start), start)


def subject(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> dict[str, str]:
    """Service and model that are compared: those asked for, else those with most readings; empty: none."""
    chosen = {name: value for name, value in where.items() if name in ("service", "model")}
    if len(chosen) == 2:
        return chosen
    service, model = source.busiest(bounds, chosen)
    return {"service": service, "model": model} if service else {}


def known_values(source: HistorySource, bounds: Bounds, where: dict[str, str], column: str) -> list[str]:
    """What can be chosen on the right: values of a column in the time looked at, and as long before it."""
    free = {name: value for name, value in where.items() if name in ("service", "model")}
    longer = Bounds(2 * bounds.start_us - bounds.end_us, bounds.end_us)
    return [value for value in source.distinct(column, longer, free) if value]


def levels(source: HistorySource, side: Side) -> pd.DataFrame:
    """Means of readings over a side's time: reading, unit, value, n."""
    marks = ", ".join("?" for _ in _READINGS)
    condition = "".join(f" and {name} = ?" for name in side.where)
    rows = source.query(
        "readings",
        f"""
        select metric, coalesce(monitor, '') as monitor, coalesce(field, '') as field,
               coalesce(sum(value * n) / nullif(sum(n), 0), avg(value)) as value,
               coalesce(sum(n), 0) as n
        from rows where metric in ({marks}){condition} group by all order by all
        """,  # noqa: S608 - names of columns of ours, values are bound
        side.bounds,
        [*_READINGS, *side.where.values()],
    )
    rows["reading"] = [_named(row) for row in rows.itertuples()]
    rows["unit"] = rows["metric"].map(dict(_READINGS))
    return rows[["reading", "unit", "value", "n"]]


def _named(row: object) -> str:
    metric, monitor, field = (str(getattr(row, name)) for name in ("metric", "monitor", "field"))
    name = metric.removeprefix("mlmon_").replace("_", " ")
    if field:
        return f"{monitor}/{field}: effect"
    return name


def volume(source: HistorySource, side: Side) -> pd.DataFrame:
    """Share of bad events by objective, with its events: reading, unit, value, n."""
    condition = "".join(f" and {name} = ?" for name in side.where)
    rows = source.query(
        "outcomes",
        f"""
        select slo, sum(weight) filter (outcome = 'bad') / nullif(sum(weight), 0) as value,
               sum(n) as n
        from rows where true{condition} group by slo order by slo
        """,  # noqa: S608 - names of columns of ours, values are bound
        side.bounds,
        list(side.where.values()),
    )
    rows["value"] = rows["value"].fillna(0.0)
    rows["reading"] = [f"bad by objective {name}" for name in rows["slo"]]
    rows["unit"] = "share of requests"
    return rows[["reading", "unit", "value", "n"]]


def latency(source: HistorySource, side: Side) -> pd.DataFrame:
    """Quantiles of latency by part, of the sketches of all windows: reading, unit, value, n.

    Exact to the sketch's accuracy. Of more than 20,000 sketches those of every k-th window are taken.
    """
    condition = "".join(f" and {name} = ?" for name in side.where)
    values = list(side.where.values())
    count = source.query(
        "latency",
        f"select count(*) as n from rows where true{condition}",  # noqa: S608 - names of ours
        side.bounds,
        values,
    )
    every = -(-int(count["n"].iloc[0]) // _MOST_SKETCHES) or 1
    rows = source.query(
        "latency",
        f"""
        select part, sketch, n from rows where true{condition}
        qualify dense_rank() over (order by window_start) % {every} = 0
        """,  # noqa: S608 - names of columns of ours, values are bound
        side.bounds,
        values,
    )
    found = []
    for part, mine in rows.groupby("part"):
        whole = QuantileSketch()
        for data in mine["sketch"]:
            whole.merge(QuantileSketch.from_bytes(bytes(data)))
        for name, value in zip(QUANTILES, whole.quantiles(list(QUANTILES.values())), strict=True):
            found.append((f"latency {part}, {name}", "s", value, int(mine["n"].sum())))
    return pd.DataFrame(found, columns=["reading", "unit", "value", "n"])


def cell_fields(source: HistorySource, side: Side) -> list[tuple[str, str]]:
    """Fields of a side that have a distribution: monitor and field, sorted; at most a thousand."""
    condition = "".join(f" and {name} = ?" for name in side.where)
    rows = source.query(
        "distributions",
        f"select distinct monitor, field from rows where kind = 'cells'{condition} "  # noqa: S608 - names of ours
        "order by all limit 1000",
        side.bounds,
        list(side.where.values()),
    )
    return list(zip(rows["monitor"], rows["field"], strict=True))


def beside(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Both sides in one table: reading, unit, left, right, difference, change, events of both.

    What differs most in relation to both comes first; what one side lacks comes last.
    """
    table = one.rename(columns={"value": "left", "n": "left events"}).merge(
        other.rename(columns={"value": "right", "n": "right events"}),
        on=["reading", "unit"],
        how="outer",
    )
    left: NDArray[np.float64] = table["left"].to_numpy(np.float64)
    right: NDArray[np.float64] = table["right"].to_numpy(np.float64)
    table["difference"] = left - right
    table["change"] = np.divide(left - right, right, out=np.full(len(table), np.nan), where=right != 0)
    size = np.abs(left - right) / np.maximum(np.abs(left) + np.abs(right), 1e-12)
    columns = ["reading", "unit", "left", "right", "difference", "change", "left events", "right events"]
    ordered = table.assign(size=size).sort_values(["size", "reading"], ascending=[False, True])
    return ordered[columns].reset_index(drop=True)
