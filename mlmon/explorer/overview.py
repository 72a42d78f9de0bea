"""What the first page shows: where every service stands, and what became of its pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from mlmon.catalog import drift, slo
from mlmon.catalog.requests import EXPECTED_VERSION, VERSION_SINCE, VERSION_TRAFFIC

if TYPE_CHECKING:
    from mlmon.explorer.source import Bounds, HistorySource

__all__ = ["Standing", "budgets", "detectors", "label", "pager", "pages", "standings", "versions"]

_GROUP = ["service", "model"]
#: A service whose newest window is older than this many windows has no data.
_SILENT_WINDOWS = 5


class Standing(NamedTuple):
    """Where a service and model stand at the end of the time looked at.

    Attributes:
        service: its name.
        model: its model.
        state: ok, alarm, or no data.
        cause: root cause of the open page; empty without one.
        field: what carries most of it.
        evidence: of the pager.
        threshold: at which it pages.
        newest: end of its newest window.
    """

    service: str
    model: str
    state: str
    cause: str
    field: str
    evidence: float | None
    threshold: float | None
    newest: pd.Timestamp


def _last(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The newest row of each group."""
    return frame.sort_values("time").groupby(by, dropna=False, sort=True).tail(1)


def standings(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> list[Standing]:
    """Every service and model with any window in the time looked at."""
    counts = source.services(bounds)
    metrics = [m.name for m in (drift.PAGER_EVIDENCE, drift.PAGER_ALARM, drift.PAGER_CAUSE)]
    said = source.latest(metrics, bounds, _group_only(where))
    end = pd.Timestamp(bounds.end_us, unit="us", tz="UTC")
    found = []
    for row in counts.itertuples():
        if any(where.get(name, getattr(row, name)) != getattr(row, name) for name in _GROUP):
            continue
        mine = said[(said["service"] == row.service) & (said["model"] == row.model)]
        last = {metric: _last(part, _GROUP).iloc[0] for metric, part in mine.groupby("metric")}
        alarm, pager = last.get(drift.PAGER_ALARM.name), last.get(drift.PAGER_EVIDENCE.name)
        silent = end - row.newest > _SILENT_WINDOWS * row.long
        state = "no data" if silent else "alarm" if alarm is not None and alarm["value"] > 0 else "ok"
        cause = _cause(mine, alarm) if state == "alarm" else ("", "")
        evidence = None if pager is None else float(pager["value"])
        threshold = None if pager is None or pd.isna(pager["threshold"]) else float(pager["threshold"])
        found.append(Standing(row.service, row.model, state, *cause, evidence, threshold, row.newest))
    return found


def _group_only(where: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in where.items() if name in _GROUP}


def _cause(said: pd.DataFrame, alarm: pd.Series | None) -> tuple[str, str]:
    causes = said[(said["metric"] == drift.PAGER_CAUSE.name) & (said["value"] > 0)]
    if alarm is None or causes.empty:
        return "", ""
    newest = causes.sort_values("time").iloc[-1]
    labels = newest["labels"] if isinstance(newest["labels"], str) else ""
    return label(labels, "cause"), str(newest["field"] or "")


def label(labels: str, name: str) -> str:
    """A label out of the text of a map: `{cause=tokenizer, window=1h}`."""
    for pair in labels.strip("{}").split(", "):
        key, _, value = pair.partition("=")
        if key == name:
            return value
    return ""


def detectors(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> pd.DataFrame:
    """Fields by state: columns service, model, version, deployment, segment, monitor, state, fields."""
    said = source.latest([drift.FIELDS.name], bounds, where)
    if said.empty:
        return pd.DataFrame(
            columns=[*_GROUP, "version", "deployment", "segment", "monitor", "state", "fields"]
        )
    said["state"] = [label(text, "state").replace("_", " ") for text in said["labels"]]
    keys = [*_GROUP, "version", "deployment", "segment", "monitor", "state"]
    newest = _last(said, keys)
    shown = newest[newest["value"] > 0].copy()
    shown["fields"] = shown["value"].astype(int)
    return shown[[*keys, "fields"]].reset_index(drop=True)


def budgets(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> pd.DataFrame:
    """What is left of every objective's budget: service, model, slo, left, burn (over an hour), coverage."""
    names = {
        slo.BUDGET_REMAINING.name: "left",
        slo.BURN.name: "burn",
        slo.COVERAGE.name: "coverage",
    }
    said = source.latest(list(names), bounds, _group_only(where))
    if said.empty:
        return pd.DataFrame(columns=[*_GROUP, "slo", *names.values()])
    said["slo"] = [label(text, "slo") for text in said["labels"]]
    said["window"] = [label(text, "window") for text in said["labels"]]
    said = said[(said["window"] == "") | (said["window"] == "1h")]
    said["what"] = said["metric"].map(names)
    newest = _last(said, [*_GROUP, "slo", "what"])
    table = newest.pivot_table(index=[*_GROUP, "slo"], columns="what", values="value", aggfunc="last")
    return table.reindex(columns=list(names.values())).reset_index()


def pager(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> pd.DataFrame:
    """Evidence of the pager over time, with its threshold."""
    return source.readings([drift.PAGER_EVIDENCE.name], bounds, _group_only(where))


def pages(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> pd.DataFrame:
    """Pages of the drift pager: opened, ended, service, model, cause, field. Newest first."""
    metrics = [drift.PAGER_ALARM.name, drift.PAGER_CAUSE.name]
    chosen = _group_only(where)
    condition = "".join(f" and {name} = ?" for name in chosen)
    frame = source.query(
        "readings",
        # where an alarm stays as it was nothing is said, so that a month has few rows
        f"""
        select window_end as time, service, model, metric, value, field, cast(labels as varchar) as labels
        from rows where metric in (?, ?){condition}
        qualify metric <> ? or value is distinct from
            lag(value) over (partition by metric, service, model order by window_end)
        order by time limit 200000
        """,  # noqa: S608 - names of columns of ours, values are bound
        bounds,
        [*metrics, *chosen.values(), metrics[0]],
    )
    found = []
    for (service, model), part in frame.groupby(_GROUP):
        alarms = part[part["metric"] == drift.PAGER_ALARM.name]
        causes = part[(part["metric"] == drift.PAGER_CAUSE.name) & (part["value"] > 0)]
        starts = alarms[(alarms["value"] > 0) & (alarms["value"].shift(fill_value=0) == 0)]
        for row in starts.itertuples():
            later = alarms[(alarms["time"] > row.time) & (alarms["value"] == 0)]
            ended = later["time"].iloc[0] if len(later) else None
            why = causes[causes["time"] >= row.time].head(1)
            cause = label(str(why["labels"].iloc[0]), "cause") if len(why) else ""
            field = str(why["field"].iloc[0] or "") if len(why) else ""
            found.append((row.time, ended, service, model, cause, field))
    columns = ["opened", "ended", *_GROUP, "cause", "field"]
    return pd.DataFrame(found, columns=columns).sort_values("opened", ascending=False, ignore_index=True)


def versions(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> pd.DataFrame:
    """Versions that serve, beside what is expected: share of traffic, since when."""
    names = [VERSION_TRAFFIC.name, EXPECTED_VERSION.name, VERSION_SINCE.name]
    said = source.latest(names, bounds, {k: v for k, v in where.items() if k not in ("version", "segment")})
    keys = [*_GROUP, "deployment", "version"]
    if said.empty:
        return pd.DataFrame(columns=[*keys, "share", "expected", "since"])
    told = [label(text, "model_version") for text in said["labels"]]
    said["version"] = [
        own if isinstance(own, str) and own else version
        for own, version in zip(said["version"], told, strict=True)
    ]
    newest = said[said["time"] == said.groupby([*_GROUP, "metric"])["time"].transform("max")]
    shares = newest[newest["metric"] == VERSION_TRAFFIC.name].groupby(keys, dropna=False)["value"].sum()
    since = said[said["metric"] == VERSION_SINCE.name].groupby(keys, dropna=False)["value"].min()
    table = shares.rename("share").reset_index()
    table = table.merge(since.rename("since").reset_index(), how="left", on=keys)
    table["since"] = pd.to_datetime(table["since"], unit="s", utc=True)
    declared = newest[newest["metric"] == EXPECTED_VERSION.name]
    expected = set(zip(declared["service"], declared["model"], declared["version"], strict=True))
    groups = {(service, model) for service, model, _ in expected}
    table["expected"] = [
        "nothing declared"
        if (row.service, row.model) not in groups
        else ("yes" if (row.service, row.model, row.version) in expected else "no")
        for row in table.itertuples()
    ]
    return table[[*keys, "share", "expected", "since"]].sort_values("share", ascending=False)
