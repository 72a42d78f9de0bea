"""Embeddings to look at: a bounded sample of events beside the baseline's, in two dimensions.

Plain NumPy; UMAP where it is installed. The sample is the history's: rows of lowest rank, which stand for all
traffic alike (`mlmon.history.read.lowest_ranks`).
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.linalg import eigh

from mlmon.baseline.model import ScopeKey
from mlmon.events.batch import EventBatch
from mlmon.explorer.source import Bounds
from mlmon.monitors.embedding_vectors import select, usual_dimension, vectors
from mlmon.reports.window import parse_segment, plain_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from mlmon.baseline.store import BaselineStore
    from mlmon.explorer.source import HistorySource

__all__ = [
    "COLOURS",
    "MOST",
    "Cloud",
    "Flat",
    "Group",
    "baseline_cloud",
    "current_cloud",
    "flatten",
    "groups",
    "has_umap",
    "neighbours",
    "selected",
]

#: Most events of either side.
MOST = 4_000
#: Events that the sample is drawn from, and the stretches of time that they lie in: embeddings of a month are
#: a gigabyte, and all of a file's are read for some of them.
_POOL, _APART = 4 * MOST, 6
#: What events can be coloured by.
COLOURS = ("window", "segment", "prediction", "confidence")
#: Stretches of time, and of confidence, that are told apart.
_STRETCHES = 5
#: Categories with a colour of their own.
_CATEGORIES = 7
#: Neighbours of an event that are shown.
_NEIGHBOURS = 3
_COLUMNS = (
    "prediction",
    "confidence",
    "entropy",
    "status",
    "tokens",
    "unknown_tokens",
    "language",
    "input_hash",
)
#: Columns of a neighbour.
_THEIRS = ("prediction", "confidence", "language", "input hash", "segments")


class Cloud(NamedTuple):
    """Events with embeddings of one dimension.

    Attributes:
        key: whose they are.
        events: time, prediction, confidence, entropy, status, tokens, unknown_tokens, language, input_hash,
            segments (as text); one row an event.
        vectors: shape (n, d), float32.
        of: events that the sample was drawn from; for the baseline, of its sample.
    """

    key: ScopeKey
    events: pd.DataFrame
    vectors: NDArray[np.float32]
    of: int


class Flat(NamedTuple):
    """Both sides in two dimensions.

    Attributes:
        now: shape (n, 2).
        baseline: shape (m, 2); (0, 2) without one.
        share: of the variance of what it was fitted on that the two directions have; None for UMAP.
    """

    now: NDArray[np.float64]
    baseline: NDArray[np.float64]
    share: float | None


class Group(NamedTuple):
    """Events of one colour: a name, and rows of the cloud."""

    name: str
    rows: NDArray[np.intp]


def current_cloud(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> Cloud | None:
    """The sample of events of the version with most of them; None where none has an embedding.

    Of a long time, which has far more than are shown, it is drawn from six stretches evenly apart.
    """
    condition, values = _chosen(where)
    text = f"select service, model, version, count(*) as n from rows where true{condition} "  # noqa: S608
    counts = source.query(
        "events", text + "group by all order by n desc, service, model, version limit 1", bounds, values
    )
    if counts.empty:
        return None
    key = ScopeKey(*(str(counts[name].iloc[0] or "") for name in ("service", "model", "version")))
    rows = _lowest(source, _stretches(bounds, int(counts["n"].iloc[0])), {**where, **key._asdict()})
    lengths = rows["embedding"].map(lambda one: 0 if one is None else len(one))
    usual = lengths[lengths > 0].mode()
    if usual.empty:
        return None
    rows = rows[lengths == int(usual.iloc[-1])]
    points = np.stack([np.asarray(one, np.float32) for one in rows["embedding"]])
    good = np.isfinite(points).all(1)
    events = rows.drop(columns="embedding")[good].reset_index(drop=True)
    events["segments"] = [_segment_text(one) for one in events["segments"]]
    return Cloud(key, events, points[good], int(counts["n"].iloc[0])) if good.any() else None


def _stretches(bounds: Bounds, events: int) -> list[Bounds]:
    """The time, or, where it has far more events than are kept, some stretches of it evenly apart."""
    share = _POOL / max(1, events)
    if share >= 0.5:
        return [bounds]
    step = (bounds.end_us - bounds.start_us) // _APART
    starts = [bounds.start_us + number * step for number in range(_APART)]
    # each at the end of its part, so that the newest events are among them
    return [Bounds(start + step - max(1, int(step * share)), start + step) for start in starts]


def _lowest(source: HistorySource, stretches: Sequence[Bounds], where: dict[str, str]) -> pd.DataFrame:
    """The events of lowest rank, embeddings read of them alone."""
    condition, values = _chosen(where)
    text = f"select rank from rows where true{condition} order by rank limit {MOST}"  # noqa: S608
    ranks = np.concatenate(
        [source.query("events", text, one, values)["rank"].to_numpy() for one in stretches]
    )
    limit = float(np.sort(ranks)[:MOST][-1]) if len(ranks) else 0.0
    names = ", ".join(("rank", "event_time as time", *_COLUMNS, "segments", "embedding"))
    text = (
        f"select {names} from rows where rank <= {limit!r}{condition} "  # noqa: S608 - names of ours, a number
        f"order by rank limit {MOST}"
    )
    parts = [source.query("events", text, one, values) for one in stretches]
    rows = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return rows.sort_values("rank", kind="stable")[:MOST].drop(columns="rank")


def _chosen(where: dict[str, str]) -> tuple[str, list[str]]:
    """A condition on events: a segment is a choice by keys of the map."""
    text, values = "", []
    for name in ("service", "model", "version", "deployment"):
        if name in where:
            text += f" and {name} = ?"
            values.append(where[name])
    for name, value in parse_segment(where.get("segment", "")).items():
        text += " and map_extract_value(segments, ?) = ?"
        values += [name, value]
    return text, values


def _segment_text(pairs: Any) -> str:
    items = pairs.items() if isinstance(pairs, dict) else pairs or ()
    return ",".join(f"{name}={value}" for name, value in sorted(items))


def baseline_cloud(store: BaselineStore | None, key: ScopeKey, segment: str) -> Cloud | None:
    """The baseline's sample of the same version (another one's embeddings are of another space), or None."""
    found = None if store is None else store.find(key, "embeddings")
    if found is None or found[1].sample is None:
        return None
    table: pa.Table = found[1].sample
    if "embedding" not in table.column_names or not table.num_rows:
        return None
    batch = plain_rows(EventBatch(table.combine_chunks().to_batches()[0]))
    for name, value in parse_segment(segment).items():
        codes, values = batch.segment(name)
        chosen = np.array([one == value for one in values], np.bool_)[codes]
        batch = batch.take(np.flatnonzero(chosen))
    column = batch.column("embedding")
    dimension = None if column is None else usual_dimension(column)
    if column is None or dimension is None:
        return None
    rows = select(column, np.ones(len(batch), np.bool_), dimension)
    points, squares = vectors(rows.bits)
    good = np.flatnonzero(np.isfinite(squares))[:MOST]
    return Cloud(found[0], _events(batch, rows.events[good]), points[good], len(batch))


def _events(batch: EventBatch, rows: NDArray[np.intp]) -> pd.DataFrame:
    """Columns of events of a baseline; absent ones are empty."""
    records = batch.take(rows).records
    frame = pd.DataFrame(
        {
            name: records.column(name).to_pandas() if name in records.schema.names else None
            for name in ("event_time", *_COLUMNS)
        },
        index=range(len(rows)),
    ).rename(columns={"event_time": "time"})
    known = "segments" in records.schema.names
    held = records.column("segments").to_pylist() if known else [None] * len(rows)
    frame["segments"] = [_segment_text(one) for one in held]
    return frame


def has_umap() -> bool:
    """Whether UMAP is installed."""
    return importlib.util.find_spec("umap") is not None


def flatten(now: NDArray[np.float32], baseline: NDArray[np.float32] | None, method: str) -> Flat:
    """Both sides in two dimensions, by what the baseline says alone (without one, by the events).

    Args:
        now: shape (n, d).
        baseline: shape (m, d), or None.
        method: pca, or umap.
    """
    fitted = now if baseline is None else baseline
    if method == "umap" and len(fitted) > 15:
        return _umap(now, baseline)
    centre = fitted.mean(0)
    away = fitted - centre
    # by the covariance: d is some hundreds, events are thousands
    spread = (away.T @ away).astype(np.float64)
    first = max(0, len(spread) - 2)
    squares, directions = eigh(spread, subset_by_index=[first, len(spread) - 1])
    axes = directions[:, ::-1].T
    # a direction's sign is nobody's: the largest part points up, so that a picture looks the same again
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    if len(axes) < 2:
        axes = np.vstack([axes, np.zeros((2 - len(axes), fitted.shape[1]))])
    share = float(squares.sum() / max(float(np.trace(spread)), 1e-300))
    other = np.zeros((0, 2)) if baseline is None else (baseline - centre) @ axes.T
    return Flat(np.asarray((now - centre) @ axes.T, np.float64), np.asarray(other, np.float64), share)


def _umap(now: NDArray[np.float32], baseline: NDArray[np.float32] | None) -> Flat:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        umap = importlib.import_module("umap")
        model = umap.UMAP(n_components=2, random_state=1, n_jobs=1)
        if baseline is None:
            return Flat(np.asarray(model.fit_transform(now), np.float64), np.zeros((0, 2)), None)
        other = np.asarray(model.fit_transform(baseline), np.float64)
        return Flat(np.asarray(model.transform(now), np.float64), other, None)


def groups(events: pd.DataFrame, colour: str) -> list[Group]:
    """Events by colour: stretches of time or of confidence in their order, else the most frequent values."""
    if colour == "window":
        return _by_time(events["time"])
    if colour == "confidence":
        return _by_level(events["confidence"])
    column = events["segments" if colour == "segment" else colour]
    names = column.fillna("").replace("", "(none)").astype(str)
    counts = names.value_counts()
    own = list(counts.index[:_CATEGORIES])
    found = [Group(name, np.flatnonzero(names == name)) for name in own]
    rest = np.flatnonzero(~names.isin(own))
    return [*found, Group(f"{len(counts) - len(own)} others", rest)] if len(rest) else found


def _by_time(times: pd.Series) -> list[Group]:
    stamps = times.dt.as_unit("ns").astype("int64").to_numpy()
    edges = np.linspace(stamps.min(), stamps.max() + 1, _STRETCHES + 1)
    places = np.clip(np.searchsorted(edges, stamps, "right") - 1, 0, _STRETCHES - 1)
    found = []
    for index in range(_STRETCHES):
        rows = np.flatnonzero(places == index)
        if len(rows):
            start = pd.Timestamp(int(edges[index]), tz="UTC")
            found.append(Group(f"from {start:%m-%d %H:%M}", rows))
    return found


def _by_level(values: pd.Series) -> list[Group]:
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    known = np.isfinite(numbers)
    places = np.clip((np.nan_to_num(numbers) * _STRETCHES).astype(int), 0, _STRETCHES - 1)
    found = []
    for index in range(_STRETCHES):
        rows = np.flatnonzero(known & (places == index))
        if len(rows):
            found.append(Group(f"{index / _STRETCHES:.1f} to {(index + 1) / _STRETCHES:.1f}", rows))
    unknown = np.flatnonzero(~known)
    return [*found, Group("(none)", unknown)] if len(unknown) else found


def selected(state: Any, count: int) -> list[int]:
    """Rows of the points that a chart says are selected, each once; points of the baseline stand for none.

    Example:
        >>> selected({"selection": {"points": [{"customdata": [4]}, {"customdata": 4}, {"x": 1.0}]}}, 9)
        [4]
    """
    points = (state or {}).get("selection", {}).get("points", [])
    rows = [point["customdata"] for point in points if point.get("customdata") is not None]
    flat = [row[0] if isinstance(row, list) else row for row in rows]
    return list(dict.fromkeys(int(row) for row in flat if 0 <= int(row) < count))


def neighbours(cloud: Cloud, rows: Sequence[int], baseline: Cloud, count: int = _NEIGHBOURS) -> pd.DataFrame:
    """The events of the baseline nearest to some events, by Euclidean distance.

    Columns: event (its input hash), prediction, rank, distance; then of the neighbour prediction, confidence,
    language, input hash, segments.
    """
    points = cloud.vectors[list(rows)].astype(np.float64)
    others = baseline.vectors.astype(np.float64)
    squares = (
        np.einsum("ij,ij->i", points, points)[:, None]
        + np.einsum("ij,ij->i", others, others)
        - 2 * points @ others.T
    )
    count = min(count, len(others))
    order = np.argsort(squares, axis=1, kind="stable")[:, :count]
    found = []
    for place, row in enumerate(rows):
        mine = cloud.events.iloc[row]
        for rank, other in enumerate(order[place].tolist(), 1):
            theirs = baseline.events.iloc[other]
            distance = float(np.sqrt(max(0.0, squares[place, other])))
            told = [theirs[name.replace(" ", "_")] for name in _THEIRS]
            found.append((mine["input_hash"], mine["prediction"], rank, distance, *told))
    columns = ["event", "prediction", "rank", "distance", *(f"its {name}" for name in _THEIRS)]
    return pd.DataFrame(found, columns=columns)
