"""From an alert or a moment to what moved: every reading that left its bounds, in the order in which it did.

Drift fields cross when their own evidence reaches their threshold, objectives when they burn faster than they
may, version mismatches when there is one. Readings without a threshold of their own (ratios, latency) cross
when two windows together lie further from the median before the incident than anything did then, by half.

The likely root cause is the pager's own where it paged; else the first in the order of precedence that its
alert rules use: a wrong version explains a wrong tokenizer, which explains moved embeddings, and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from mlmon.catalog import drift, requests, slo
from mlmon.drift.pager import PRECEDENCE
from mlmon.explorer.overview import label, pages

if TYPE_CHECKING:
    from mlmon.explorer.source import Bounds, HistorySource

__all__ = ["Incident", "Moved", "incident"]

#: Causes in the order in which one explains the next.
_ORDER = (*PRECEDENCE, "latency", "availability", "accuracy")
_PLAIN = {
    requests.UNKNOWN_TOKEN_RATIO.name: "tokenizer",
    requests.TOKENS_PER_WORD.name: "tokenizer",
    requests.CONTINUATION_RATIO.name: "tokenizer",
    requests.CHARACTERS_PER_TOKEN.name: "tokenizer",
}
#: How much further than ever before the incident a plain reading must lie.
_FURTHER = 1.5
#: Most fields of an incident.
_MOST_FIELDS = 1_000
#: Windows before the incident that a plain reading needs to have bounds.
_LEAST_BEFORE = 8


class Moved(NamedTuple):
    """A reading that left its bounds.

    Attributes:
        at: when it first did.
        what: in words.
        cause: what it is a sign of, of `_ORDER`.
        before: its median before.
        worst: its most extreme value from then on.
        limit: the bound that it crossed.
        scope: version and segment, in words.
        metric: of the catalogue.
        monitor: of a drift field; else empty.
        field: of a drift field; else empty.
    """

    at: pd.Timestamp
    what: str
    cause: str
    before: float
    worst: float
    limit: float
    scope: str
    metric: str
    monitor: str
    field: str


class Incident(NamedTuple):
    """What happened.

    Attributes:
        service: whose.
        model: its model.
        began: the first crossing; None where nothing moved.
        paged: when the pager paged; None where it did not.
        ended: when the page ended; None while it is open.
        cause: likely root cause; empty where nothing moved.
        why: how it was told.
        moved: everything that moved, first crossing first.
        segments: segments touched, by how many readings of theirs moved.
    """

    service: str
    model: str
    began: pd.Timestamp | None
    paged: pd.Timestamp | None
    ended: pd.Timestamp | None
    cause: str
    why: str
    moved: tuple[Moved, ...]
    segments: tuple[tuple[str, int], ...]

    @property
    def detection_seconds(self) -> float | None:
        """From the first crossing to the page, in seconds."""
        if self.began is None or self.paged is None:
            return None
        return float((self.paged - self.began).total_seconds())


def incident(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> Incident | None:
    """What moved of one service within the bounds; None where no service is there.

    Where `where` names no service, it is the one that paged last, else the one with most windows.
    """
    told = pages(source, bounds, where)
    service, model = _whose(source, bounds, where, told)
    if not service:
        return None
    own = {"service": service, "model": model}
    mine = told[(told["service"] == service) & (told["model"] == model)]
    page = mine.iloc[0] if len(mine) else None
    split = None if page is None else page["opened"]
    # at once: of a long time, reading it is what takes long
    rows = source.readings([slo.BURN_LOWER.name, requests.VERSION_MISMATCH_RATIO.name, *_PLAIN], bounds, own)
    found = [
        *_fields(source, bounds, own),
        *_burns(rows),
        *_versions(rows),
        *_plain(rows, bounds, split),
    ]
    moved = tuple(sorted(found, key=lambda one: (one.at, _ORDER.index(one.cause), one.what)))
    cause, why = _cause(page, moved)
    touched = pd.Series([one.scope for one in moved if "segment" in one.scope], dtype=str).value_counts()
    return Incident(
        service,
        model,
        moved[0].at if moved else None,
        split,
        None if page is None or pd.isna(page["ended"]) else page["ended"],
        cause,
        why,
        moved,
        tuple((str(name), int(count)) for name, count in touched.items()),
    )


def _whose(
    source: HistorySource, bounds: Bounds, where: dict[str, str], told: pd.DataFrame
) -> tuple[str, str]:
    """Service and model to look at: what is asked for; else what paged last; else what has most readings."""
    if "service" in where and "model" in where:
        return where["service"], where["model"]
    if len(told):
        return str(told.iloc[0]["service"]), str(told.iloc[0]["model"])
    return source.busiest(bounds, {name: where[name] for name in ("service", "model") if name in where})


def _cause(page: pd.Series | None, moved: tuple[Moved, ...]) -> tuple[str, str]:
    if page is not None and page["cause"]:
        return str(page["cause"]), f"the pager blamed it when it paged, most of it in {page['field']}"
    if not moved:
        return "", ""
    cause = min((one.cause for one in moved), key=_ORDER.index)
    return cause, "no page blames anything; of what moved it is the first in the order of precedence"


def _scope(row: pd.Series) -> str:
    parts = [
        f"{name} {row[name]}" for name in ("version", "segment") if isinstance(row[name], str) and row[name]
    ]
    deployment = row["deployment"]
    if isinstance(deployment, str) and deployment not in ("", "stable"):
        parts.append(f"deployment {deployment}")
    return ", ".join(parts)


def _fields(source: HistorySource, bounds: Bounds, own: dict[str, str]) -> list[Moved]:
    """Drift fields whose evidence reached their threshold; the effects are what is told."""
    condition = "".join(f" and {name} = ?" for name in own)
    keys = ("version", "deployment", "segment", "monitor", "field")
    series = ", ".join(f"coalesce({name}, '') as {name}" for name in keys)
    rows = source.query(
        "readings",
        f"""
        with crossed as (
            select {series}, min(window_end) as first_moment
            from rows where metric = ? and value >= threshold{condition} group by all
        ), effects as (
            select {series}, window_end, value, threshold from rows where metric = ?{condition}
        )
        select crossed.*, median(value) filter (window_end < first_moment) as before,
               max(value) filter (window_end >= first_moment) as worst, max(threshold) as bound
        from crossed left join effects using ({", ".join(keys)})
        group by all order by all limit {_MOST_FIELDS}
        """,  # noqa: S608 - names of columns of ours, values are bound
        bounds,
        [drift.EVIDENCE.name, *own.values(), drift.EFFECT.name, *own.values()],
    )
    return [
        Moved(
            row["first_moment"],
            f"{row['monitor']}: {row['field']} drifted",
            row["monitor"] if row["monitor"] in _ORDER else "predictions",
            float(row["before"]),
            float(row["worst"]),
            float(row["bound"]),
            _scope(row),
            drift.EFFECT.name,
            str(row["monitor"]),
            str(row["field"]),
        )
        for _, row in rows.iterrows()
    ]


def _burns(rows: pd.DataFrame) -> list[Moved]:
    """Objectives that surely burned faster than they may: by the lower bound, over the shortest window."""
    rows = rows[rows["metric"] == slo.BURN_LOWER.name]
    rows = rows.assign(slo=[label(text, "slo") for text in rows["labels"]])
    found = []
    for name, part in rows.groupby("slo"):
        over = part[part["value"] > 1].sort_values("time")
        if over.empty:
            continue
        at = over["time"].iloc[0]
        before = part[part["time"] < at]["value"]
        cause = (
            "availability" if name == "availability" else "latency" if "latency" in str(name) else "accuracy"
        )
        found.append(
            Moved(
                at, f"objective {name} burned its budget", cause,
                float(before.median()) if len(before) else float("nan"),
                float(over["value"].max()), 1.0, "", slo.BURN_LOWER.name, "", "",
            )
        )  # fmt: skip
    return found


def _versions(rows: pd.DataFrame) -> list[Moved]:
    """Traffic of versions that nobody declared."""
    name = requests.VERSION_MISMATCH_RATIO.name
    wrong = rows[(rows["metric"] == name) & (rows["value"] > 0)].sort_values("time")
    if wrong.empty:
        return []
    first = wrong.iloc[0]
    return [
        Moved(
            first["time"], "a version that nobody declared answered", "version", 0.0,
            float(wrong["value"].max()), 0.0, _scope(first), name, "", "",
        )
    ]  # fmt: skip


def _plain(rows: pd.DataFrame, bounds: Bounds, split: pd.Timestamp | None) -> list[Moved]:
    """Readings without a threshold: beyond anything before the page (or the first half), by half."""
    start, end = (pd.Timestamp(us, unit="us", tz="UTC") for us in bounds)
    half = start + (end - start) / 2 if split is None else split - (split - start) * 0.1
    found = []
    rows = rows[rows["metric"].isin(list(_PLAIN))]
    for (metric, *_), part in rows.groupby(["metric", "version", "deployment", "segment"], dropna=False):
        ordered = part.sort_values("time")
        before, after = ordered[ordered["time"] < half], ordered[ordered["time"] >= half]
        if len(before) < _LEAST_BEFORE or after.empty:
            continue
        centre = float(before["value"].median())
        reach = _FURTHER * float((before["value"] - centre).abs().max())
        outside = (after["value"] - centre).abs() > max(reach, 1e-9)
        twice = after[outside & outside.shift(fill_value=False)]
        if twice.empty:
            continue
        away = after.loc[(after["value"] - centre).abs().idxmax()]
        found.append(
            Moved(
                twice["time"].iloc[0], f"{str(metric).removeprefix('mlmon_').replace('_', ' ')} moved",
                _PLAIN[str(metric)], centre, float(away["value"]), centre + reach, _scope(away), str(metric),
                "", "",
            )
        )  # fmt: skip
    return found
