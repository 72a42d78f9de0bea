"""Events as flat columns, the form that Evidently works on: numbers, categories, and one embedding.

No pandas here. Ratios are taken per event, as the tokenizer monitor's readings are over many. Golden probes
are no traffic and are left out before this.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from mlmon.events.batch import EventBatch
from mlmon.events.schema import FIELD_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["MAX_CATEGORIES", "OTHER", "Column", "Columns", "Projection", "Selected", "flatten", "select"]

#: Categories shown by name; the rarer ones are joined.
MAX_CATEGORIES = 50
OTHER = "(other)"
#: Columns given to Evidently at most; each takes it some 0.2 s and 40 kB of page.
MAX_COLUMNS = 200
#: Values that a side needs in a column to be compared.
_MIN_VALUES = 20

_NUMBERS = ("characters", "words", "tokens", "confidence", "entropy")
_CATEGORIES = ("language", "prediction")


class Column(NamedTuple):
    """One column of one side.

    Attributes:
        unit: of its numbers; empty for categories.
        numbers: float64, NaN where missing, shape (n,); None for categories.
        categories: None where missing; None for numbers.
    """

    unit: str
    numbers: NDArray[np.float64] | None = None
    categories: list[str | None] | None = None

    def present(self) -> int:
        """Values that are not missing."""
        if self.numbers is not None:
            return int(np.count_nonzero(~np.isnan(self.numbers)))
        return sum(value is not None for value in self.categories or ())


_ABSENT = Column("")


class Columns(NamedTuple):
    """One side: columns by name, and embeddings of one dimension, shape (m, d), None where there are none."""

    columns: Mapping[str, Column]
    embeddings: NDArray[np.float32] | None


class Projection(NamedTuple):
    """Directions along which embeddings are shown as columns: (x - mean) @ matrix, shapes (d,) and (d, k)."""

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]


class Selected(NamedTuple):
    """Columns that both sides have, by name in one order, and what was left out, with the reason."""

    baseline: dict[str, Column]
    window: dict[str, Column]
    left_out: dict[str, str]


def flatten(table: pa.Table, projection: Projection | None = None) -> Columns:
    """Flatten events.

    Args:
        table: events with contract columns; any of them may be absent.
        projection: how embeddings become columns; without one only they themselves are given.

    Returns:
        Columns named as the contract names them (`tokens`, `numeric_features.NAME`), ratios as the tokenizer
        monitor does (`tokens_per_word`), and `embedding.norm`, `embedding.direction_1` and so on.

    Example:
        >>> counts = {"tokens": pa.array([4, 9], pa.int32()), "unknown_tokens": pa.array([1, 0], pa.int32())}
        >>> events = pa.table(counts)
        >>> flatten(events).columns["unknown_token_ratio"].numbers.tolist()
        [0.25, 0.0]
    """
    batches = table.combine_chunks().to_batches()
    if not batches:
        return Columns({}, None)
    batch = EventBatch(batches[0])
    columns = dict(_numbers(batch))
    columns.update(_ratios(batch))
    columns.update(_categories(batch))
    embeddings = _embeddings(batch)
    if embeddings is not None:
        columns.update(_embedding_columns(embeddings, len(batch), projection))
        kept = embeddings.values[np.isfinite(embeddings.values).all(1)]
        return Columns(columns, kept if len(kept) else None)
    return Columns(columns, None)


def select(baseline: Columns, window: Columns) -> Selected:
    """Choose the columns that can be compared, and join rare categories of both sides alike."""
    both: tuple[dict[str, Column], dict[str, Column]] = ({}, {})
    left_out = {}
    for name in sorted(baseline.columns.keys() | window.columns.keys(), key=_order):
        before, now = baseline.columns.get(name, _ABSENT), window.columns.get(name, _ABSENT)
        reason = _incomparable(before, now)
        if not reason and len(both[0]) == MAX_COLUMNS:
            reason = f"more than {MAX_COLUMNS} columns"
        if reason:
            left_out[name] = reason
        else:
            both[0][name], both[1][name] = _join_rare(before, now)
    return Selected(*both, left_out)


def _order(name: str) -> tuple[int, str]:
    groups = ("numeric_features.", "categorical_features.", "embedding.")
    return next((i + 1 for i, group in enumerate(groups) if name.startswith(group)), 0), name


def _incomparable(baseline: Column, window: Column) -> str:
    counts = [side.present() for side in (baseline, window)]
    if not counts[1]:
        return "no values in the window"
    if not counts[0]:
        return "no values in the baseline"
    if min(counts) < _MIN_VALUES:
        return f"fewer than {_MIN_VALUES} values ({counts[0]} in the baseline, {counts[1]} in the window)"
    if (baseline.numbers is None) != (window.numbers is None):
        return "numbers on one side, categories on the other"
    return ""


def _join_rare(baseline: Column, window: Column) -> tuple[Column, Column]:
    if baseline.categories is None or window.categories is None:
        return baseline, window
    counts = Counter(value for value in baseline.categories + window.categories if value is not None)
    if len(counts) <= MAX_CATEGORIES:
        return baseline, window
    kept = {value for value, _ in counts.most_common(MAX_CATEGORIES - 1)}

    def joined(side: list[str | None]) -> Column:
        return Column("", None, [value if value is None or value in kept else OTHER for value in side])

    return joined(baseline.categories), joined(window.categories)


def _numbers(batch: EventBatch) -> Iterator[tuple[str, Column]]:
    for name in _NUMBERS:
        values = batch.floats(name)
        if values is not None:
            yield name, Column(FIELD_BY_NAME[name].unit, _finite(values))
    for name, child in _children(batch, "numeric_features"):
        values = child.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        yield f"numeric_features.{name}", Column("", _finite(values))


def _ratios(batch: EventBatch) -> Iterator[tuple[str, Column]]:
    """Ratios of counts by event; fertility and characters per token count the tokens before truncation."""
    tokens, truncated = batch.floats("tokens"), batch.floats("truncated_tokens")
    if tokens is None:
        return
    every = tokens if truncated is None else tokens + np.where(np.isnan(truncated), 0.0, truncated)
    parts = (
        ("unknown_token_ratio", batch.floats("unknown_tokens"), tokens, "of tokens"),
        ("byte_fallback_ratio", batch.floats("byte_fallback_tokens"), tokens, "of tokens"),
        ("continuation_ratio", batch.floats("continuation_tokens"), tokens, "of tokens"),
        ("tokens_per_word", every, batch.floats("words"), "tokens per word"),
        ("characters_per_token", batch.floats("characters"), every, "characters per token"),
    )
    for name, over, under, unit in parts:
        if over is not None and under is not None:
            ratio = np.full(len(over), np.nan)
            np.divide(over, under, out=ratio, where=under > 0)
            yield name, Column(unit, _finite(ratio))


def _categories(batch: EventBatch) -> Iterator[tuple[str, Column]]:
    for name in _CATEGORIES:
        column = batch.column(name)
        if column is not None:
            yield name, Column("", None, column.to_pylist())
    for name, child in _children(batch, "categorical_features"):
        yield f"categorical_features.{name}", Column("", None, child.cast(pa.string()).to_pylist())


def _children(batch: EventBatch, name: str) -> list[tuple[str, pa.Array]]:
    struct = batch.column(name)
    if struct is None:
        return []
    return list(zip((field.name for field in struct.type), struct.flatten(), strict=True))


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


class _Embeddings(NamedTuple):
    """Embeddings of the most frequent dimension, shape (m, d), and whose they are, shape (m,)."""

    values: NDArray[np.float32]
    rows: NDArray[np.intp]


def _embeddings(batch: EventBatch) -> _Embeddings | None:
    column = batch.column("embedding")
    if column is None or column.null_count == len(column):
        return None
    lengths = np.diff(column.offsets.to_numpy())
    lengths[~column.is_valid().to_numpy(zero_copy_only=False)] = 0
    dimension = int(np.bincount(lengths)[1:].argmax()) + 1 if lengths.max() > 0 else 0
    rows = np.flatnonzero(lengths == dimension)
    if not dimension or not len(rows):
        return None
    flat = column.take(pa.array(rows)).flatten().fill_null(np.nan).to_numpy(zero_copy_only=False)
    return _Embeddings(flat.astype(np.float32).reshape(len(rows), dimension), rows)


def _embedding_columns(
    embeddings: _Embeddings, count: int, projection: Projection | None
) -> Iterator[tuple[str, Column]]:
    values = embeddings.values
    named = [("embedding.norm", np.linalg.norm(values, axis=1))]
    if projection is not None and len(projection.mean) == values.shape[1]:
        shown = (values - projection.mean) @ projection.matrix
        named += [(f"embedding.direction_{i + 1}", shown[:, i]) for i in range(shown.shape[1])]
    for name, found in named:
        full = np.full(count, np.nan)
        full[embeddings.rows] = found
        yield name, Column("" if name.endswith("norm") else "baseline standard deviations", _finite(full))
