"""Drift of tokenization: from token counts and ids to fields, and what a reference says of them.

A ratio of sums (tokens per word) is no mean of events. Linearised around the reference's ratio R it is one:
with φ = (N - R·D)/E D a window's ratio is R + mean φ to first order, whatever the lengths of its texts
(Cochran 1977, 6.4); so it is judged as every other mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from mlmon.baseline.model import FieldSpec
from mlmon.monitors.drift import make_parameters
from mlmon.monitors.drift_rows import ROW_FIELDS, carrying_rows
from mlmon.monitors.drift_sample import EventSample, drawn_together
from mlmon.monitors.tokenizer_columns import flat_ids
from mlmon.stats.quadratic import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mlmon.baseline.model import Parameters
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.drift_rows import Rows
    from mlmon.monitors.tokenizer_columns import Column, TokenColumns
    from mlmon.stats.sums import FieldSums

__all__ = ["DRIFT_FIELDS", "TokenizerExtractor", "TokenizerLearner"]

#: Event fields read beside the counts.
DRIFT_FIELDS = ROW_FIELDS | {"token_ids", "model_version"}

LENGTH, TOKEN_IDS = "length", "token_ids"
#: Shares of requests with at least one such token: field and count.
_RATES = {
    "unknown": "unknown_tokens",
    "byte_fallback": "byte_fallback_tokens",
    "truncated": "truncated_tokens",
}


class _Ratio(NamedTuple):
    numerator: str
    denominator: str


_RATIOS = {
    "tokens_per_word": _Ratio("all_tokens", "words"),
    "continuation_share": _Ratio("continuation_tokens", "tokens"),
    "characters_per_token": _Ratio("characters", "all_tokens"),
}
#: Token ids with a cell of their own.
_OWN_CELLS = 255
#: Ids from here on are counted together: 8 MiB of counts for each part.
_MOST_IDS = 1 << 20
_SAMPLE = 16_384
#: Heavier tails than these quantiles of the reference are cut, so that single texts carry no mean.
_MIDDLE = (0.01, 0.99)
#: A ratio varies by at least this share of itself, so that rounding is no drift.
_LEAST_SPREAD = 0.01


class TokenizerExtractor:
    """Token counts and ids of one scope to field sums.

    Time: some ten passes over the counts of a batch, a look-up for each token id. See `TokenizerMonitor` for
    the fields.

    Args:
        parameters: what `TokenizerLearner.finish` made.
        columns: reads the counts.

    Attributes:
        digest: of the parameters.
        fields: what it makes, by name.
    """

    __slots__ = ("_cells", "_columns", "_ratios", "digest", "fields")

    def __init__(self, parameters: Parameters, columns: TokenColumns) -> None:
        self.digest = parameters.digest
        self.fields: Mapping[str, FieldSpec] = parameters.fields
        self._columns = columns
        self._ratios: Mapping[str, list[float]] = parameters.values["ratios"]
        self._cells = _cell_table(parameters.values["ids"])

    def extract(self, batch: EventBatch, into: Mapping[str, FieldSums]) -> None:
        """Add a batch to the sums."""
        rows = carrying_rows(batch)
        if rows is None:
            return
        columns = self._columns.read(batch)
        for name, count in _RATES.items():
            if name in self.fields and count in columns:
                values, weights = _known(rows, columns[count])
                into[name].add_total(np.array([weights[values > 0].sum()]), weights)
        for name, (ratio, size) in self._ratios.items():
            parts = _RATIOS[name]
            if parts.numerator in columns and parts.denominator in columns:
                above, below, weights = _both(rows, columns, parts)
                self._add(name, (above - ratio * below) / size, weights, into)
        if LENGTH in self.fields and "all_tokens" in columns:
            values, weights = _known(rows, columns["all_tokens"])
            self._add(LENGTH, np.log1p(values), weights, into)
        if TOKEN_IDS in self.fields:
            found = _ids(batch, rows)
            if found is not None:
                into[TOKEN_IDS].add_total(self._count(found), found.weights)

    def _add(
        self,
        name: str,
        values: NDArray[np.float64],
        weights: NDArray[np.float64],
        into: Mapping[str, FieldSums],
    ) -> None:
        clip = self.fields[name].clip
        if clip is not None and len(values):
            into[name].add_values(np.clip(values, *clip), weights)

    def _count(self, found: _Ids) -> NDArray[np.float64]:
        """Σw of each cell over all tokens; an id that the table has not falls into the last."""
        cells = np.take(self._cells, found.ids + 1, mode="clip")
        return found.sums(cells, self.fields[TOKEN_IDS].width)


class _Ids(NamedTuple):
    """Token ids of the events that have some.

    Attributes:
        ids: one event after the other, shape (m,).
        lengths: ids of each event, shape (n,).
        weights: weight of each event, shape (n,).
        common: the weight, where all weigh the same.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    weights: NDArray[np.float64]
    common: float | None

    def sums(self, cells: NDArray[np.intp], width: int) -> NDArray[np.float64]:
        """Σw by cell of each token, shape (width,)."""
        if self.common is not None:
            return np.bincount(cells, minlength=width).astype(np.float64) * self.common
        return np.bincount(cells, np.repeat(self.weights, self.lengths), width).astype(np.float64, copy=False)


def _ids(batch: EventBatch, rows: Rows) -> _Ids | None:
    """The token ids of these rows; None where none has any."""
    lists = batch.column("token_ids")
    if lists is None or lists.null_count == len(lists):
        return None
    ids, offsets = flat_ids(lists)
    lengths = np.diff(offsets)
    kept = lengths > 0
    if lists.null_count:
        kept &= lists.is_valid().to_numpy(zero_copy_only=False)
    if rows.places is not None:
        of_rows = np.zeros(len(kept), np.bool_)
        of_rows[rows.places] = True
        kept &= of_rows
    if not kept.all():
        ids = ids[np.repeat(kept, lengths)]
        lengths = lengths[kept]
    if not len(ids):
        return None
    weights = rows.weights if kept.all() else batch.weights()[kept]
    return _Ids(ids, lengths, weights, rows.common)


def _cell_table(own: NDArray[np.int64]) -> NDArray[np.intp]:
    """Cell of id i at i + 1; the first and last entries, for ids outside, have the cell of all others."""
    table = np.full(int(own.max(initial=-1)) + 3, len(own), np.intp)
    table[own + 1] = np.arange(len(own))
    return table


def _known(rows: Rows, column: Column) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and weights of the rows where they are known."""
    values, known = column if rows.places is None else (column[0][rows.places], column[1][rows.places])
    return (values, rows.weights) if known.all() else (values[known], rows.weights[known])


def _both(
    rows: Rows, columns: Mapping[str, Column], parts: _Ratio
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Numerator, denominator and weights of the rows where both are known."""
    (above, has_above), (below, has_below) = columns[parts.numerator], columns[parts.denominator]
    both = has_above & has_below
    values, weights = _known(rows, (above, both))
    return values, _known(rows, (below, both))[0], weights


@dataclass(slots=True)
class _Part:
    """One half of the reference.

    Attributes:
        known: Σw of the requests where each count of `_RATES` is known.
        ratios: for each ratio Σw, Σw·numerator, Σw·denominator over the requests that have both, shape (3,).
        ids: Σw of each token id, as far as met.
        requests: Σw of the requests with ids.
        sample: numerators, denominators and lengths of some requests.
    """

    known: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_RATES, 0.0))
    ratios: dict[str, NDArray[np.float64]] = field(
        default_factory=lambda: {name: np.zeros(3) for name in _RATIOS}
    )
    ids: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    sample: EventSample = field(default_factory=lambda: EventSample(_SAMPLE))

    def add(self, batch: EventBatch, rows: Rows, columns: Mapping[str, Column]) -> None:
        """Take in the rows of a batch."""
        for name, count in _RATES.items():
            if count in columns:
                self.known[name] += float(_known(rows, columns[count])[1].sum())
        for name, parts in _RATIOS.items():
            if parts.numerator in columns and parts.denominator in columns:
                above, below, weights = _both(rows, columns, parts)
                self.ratios[name] += weights.sum(), weights @ above, weights @ below
        found = _ids(batch, rows)
        if found is not None:
            self._count(found)
        self.sample.update(batch, rows, lambda places: _drawn(columns, places))

    def _count(self, found: _Ids) -> None:
        counts = found.sums(np.clip(found.ids, 0, _MOST_IDS - 1).astype(np.intp), len(self.ids))
        counts[: len(self.ids)] += self.ids
        self.ids = counts


def _drawn(columns: Mapping[str, Column], places: pa.Array) -> dict[str, pa.Array]:
    """What ratios and lengths are made of, at places of a batch; unknown values are not numbers."""
    names = dict.fromkeys(part for parts in _RATIOS.values() for part in parts)
    at = places.to_numpy()
    return {
        name: pa.array(np.where(columns[name][1][at], columns[name][0][at], np.nan))
        for name in names
        if name in columns
    }


class TokenizerLearner:
    """Learns the usual ratios, lengths and token ids of a reference, in one pass.

    Memory: 8 bytes for each token id met, at most 2**20 of them, and a sample of requests, for each part.

    Args:
        columns: reads the counts.
    """

    def __init__(self, columns: TokenColumns) -> None:
        self._columns = columns
        self._parts: dict[int, _Part] = {}

    def update(self, batch: EventBatch, part: int) -> None:
        """Take in events of one scope."""
        rows = carrying_rows(batch)
        if rows is not None:
            self._parts.setdefault(part, _Part()).add(batch, rows, self._columns.read(batch))

    def finish(self, parts: tuple[int, ...]) -> Parameters | None:
        """Parameters from these parts, or None where no request has counts or ids."""
        found = [self._parts[part] for part in parts if part in self._parts]
        if not found:
            return None
        fields = {
            name: FieldSpec("rate", 1, tolerance=DEFAULT_TOLERANCE["rate"])
            for name in _RATES
            if any(part.known[name] for part in found)
        }
        table = drawn_together([part.sample for part in found])
        drawn = {name: table.column(name).to_numpy() for name in table.column_names}
        ratios: dict[str, list[float]] = {}
        for name, parts_of in _RATIOS.items():
            total = np.sum([part.ratios[name] for part in found], axis=0)
            if total[2] > 0:
                ratio, size = float(total[1] / total[2]), float(total[2] / total[0])
                ratios[name] = [ratio, size]
                values = (drawn[parts_of.numerator] - ratio * drawn[parts_of.denominator]) / size
                fields[name] = _scalar(values, _LEAST_SPREAD * max(ratio, _LEAST_SPREAD))
        if "all_tokens" in drawn:
            fields[LENGTH] = _scalar(np.log1p(drawn["all_tokens"]), _LEAST_SPREAD)
        own = _frequent([part.ids for part in found])
        if len(own):
            names = (*map(str, own.tolist()), "other")
            fields[TOKEN_IDS] = FieldSpec("cells", len(names), names, tolerance=DEFAULT_TOLERANCE["cells"])
        return make_parameters({"ratios": ratios, "ids": own}, fields) if fields else None

    def warnings(self) -> list[str]:
        """What the maker of the baseline should know."""
        if any(len(part.ids) == _MOST_IDS for part in self._parts.values()):
            return [f"token ids from {_MOST_IDS - 1} on are counted as one"]
        return []


def _frequent(counts: list[NDArray[np.float64]]) -> NDArray[np.int64]:
    """The most frequent ids, most first, of equals the smaller first."""
    total = np.zeros(max(map(len, counts)))
    for part in counts:
        total[: len(part)] += part
    total = total[: _MOST_IDS - 1]
    order = np.argsort(-total, kind="stable")[:_OWN_CELLS]
    return order[total[order] > 0].astype(np.int64)


def _scalar(values: NDArray[np.float64], least: float) -> FieldSpec:
    """A mean told in standard deviations of the reference, outliers cut."""
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, _MIDDLE).tolist() if len(values) else (0.0, 0.0)
    room = max(0.0, 10 * least - (high - low) / 2)
    clip = (low - room, high + room)
    spread = float(np.clip(values, *clip).std()) if len(values) else 0.0
    whiten = np.array([[1 / max(spread, least)]], np.float32)
    return FieldSpec("vector", 1, whiten=whiten, tolerance=DEFAULT_TOLERANCE["vector"], clip=clip)
