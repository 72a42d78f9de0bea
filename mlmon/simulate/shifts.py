"""What can go wrong, as a change of events: the catalogue that detection delays are given for.

A shift takes a table of events with contract columns and gives the events that replace a share of the
traffic, or None where the events do not carry what it changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["SHIFTS", "Shift"]


@dataclass(frozen=True, slots=True)
class Shift:
    """One thing that can go wrong.

    Attributes:
        name: for the table, with its size.
        share: of the traffic that is replaced.
        change: the events that replace it.
    """

    name: str
    share: float
    change: Callable[[pa.Table], pa.Table | None]


def _replace(events: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    index = events.schema.get_field_index(name)
    return events.set_column(index, pa.field(name, column.type), column)


def _present(events: pa.Table, name: str) -> bool:
    return name in events.column_names and events[name].null_count < len(events)


def _one_class(events: pa.Table) -> pa.Table | None:
    """Only events of the least frequent predicted class that at least 1 % have."""
    if not _present(events, "prediction"):
        return None
    counts = pc.value_counts(events["prediction"].combine_chunks().drop_null())
    rows = [(count, value) for value, count in zip(*counts.flatten(), strict=True)]
    frequent = sorted((c.as_py(), v.as_py()) for c, v in rows if c.as_py() >= 0.01 * len(events))
    return events.filter(pc.equal(events["prediction"], frequent[0][1])) if len(frequent) > 1 else None


def _less_confident(events: pa.Table) -> pa.Table | None:
    if not _present(events, "confidence"):
        return None
    return _replace(events, "confidence", pc.multiply(events["confidence"], 0.9))


def _scaled(name: str, factor: float) -> Callable[[pa.Table], pa.Table | None]:
    """A count multiplied, as whole numbers."""

    def change(events: pa.Table) -> pa.Table | None:
        if not _present(events, name):
            return None
        values = pc.round(pc.multiply(events[name].cast(pa.float64()), factor))
        return _replace(events, name, values.cast(events[name].type))

    return change


def _unknown(events: pa.Table) -> pa.Table | None:
    if not _present(events, "unknown_tokens"):
        return None
    more = pc.add(pc.fill_null(events["unknown_tokens"], 0), pa.scalar(1, events["unknown_tokens"].type))
    return _replace(events, "unknown_tokens", more)


def _tokenizer(events: pa.Table) -> pa.Table | None:
    """Words fall into more pieces."""
    return _scaled("tokens", 1.3)(events)


def _numeric(
    transform: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Callable[..., pa.Table | None]:
    """The first numeric feature transformed; NaN where it is missing."""

    def change(events: pa.Table) -> pa.Table | None:
        return _feature(events, "numeric_features", lambda column: pa.array(transform(_floats(column))))

    return change


def _floats(column: pa.Array) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _unseen(events: pa.Table) -> pa.Table | None:
    return _feature(
        events, "categorical_features", lambda column: pa.array(["never seen before"] * len(column))
    )


def _feature(events: pa.Table, name: str, change: Callable[[pa.Array], pa.Array]) -> pa.Table | None:
    if not _present(events, name):
        return None
    struct = events[name].combine_chunks()
    fields = [struct.type.field(i).name for i in range(struct.type.num_fields)]
    if not fields:
        return None
    children = struct.flatten()
    children[0] = change(children[0]).cast(children[0].type)
    return _replace(events, name, pa.StructArray.from_arrays(children, fields))


def _embedding(
    change: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Callable[..., pa.Table | None]:
    """All embeddings changed; None where they are missing or have several dimensions."""

    def apply(events: pa.Table) -> pa.Table | None:
        if not _present(events, "embedding"):
            return None
        lists = events["embedding"].combine_chunks()
        widths = np.diff(lists.offsets.to_numpy())
        if lists.null_count or len(set(widths.tolist())) != 1:
            return None
        flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        changed = change(flat.reshape(len(lists), -1)).astype(np.float16)
        values = pa.array(changed.ravel())
        return _replace(events, "embedding", pa.ListArray.from_arrays(lists.offsets, values))

    return apply


def _offset(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A fixed direction added, a twentieth of the mean length."""
    direction = np.random.default_rng(1).normal(size=x.shape[1])
    length = float(np.linalg.norm(x, axis=1).mean() / np.linalg.norm(direction))
    moved: NDArray[np.float64] = x + 0.05 * length * direction
    return moved


def _zeroed(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """One dimension in twenty is 0."""
    dead = np.random.default_rng(2).permutation(x.shape[1])[: max(1, x.shape[1] // 20)]
    out = x.copy()
    out[:, dead] = 0.0
    return out


def _spread(x: NDArray[np.float64]) -> NDArray[np.float64]:
    moved: NDArray[np.float64] = x + 0.25 * np.nanstd(x)
    return moved


#: What delays are given for, in the order they are shown.
SHIFTS: tuple[Shift, ...] = (
    Shift("one class takes 10 % more of the traffic", 0.10, _one_class),
    Shift("one class takes 30 % more of the traffic", 0.30, _one_class),
    Shift("confidence down by a tenth", 1.0, _less_confident),
    Shift("one more unknown token in 2 % of requests", 0.02, _unknown),
    Shift("one more unknown token in 20 % of requests", 0.20, _unknown),
    Shift("30 % more tokens (another tokenizer)", 1.0, _tokenizer),
    Shift("a numeric feature + 0.25 standard deviations", 1.0, _numeric(_spread)),
    Shift("a numeric feature missing in 2 % of requests", 0.02, _numeric(lambda x: np.full(len(x), np.nan))),
    Shift("a category never seen, in 1 % of requests", 0.01, _unseen),
    Shift("embeddings moved by 5 % of their length", 1.0, _embedding(_offset)),
    Shift("5 % of the embedding's dimensions dead", 1.0, _embedding(_zeroed)),
)
