"""Token counts of a batch's requests: as sent, or derived from token ids where a table can read them.

Read by what sums them up (`tokenizer`) and by what watches them drift (`tokenizer_drift`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch

__all__ = ["COUNTS", "Column", "FindTable", "TokenColumns", "TokenCounter", "flat_ids", "no_tables"]

#: Event fields that are counts.
COUNTS = (
    "tokens",
    "unknown_tokens",
    "continuation_tokens",
    "byte_fallback_tokens",
    "masked_tokens",
    "truncated_tokens",
    "words",
    "characters",
)
#: Counts that token ids can stand in for.
_DERIVED = (
    "tokens",
    "unknown_tokens",
    "continuation_tokens",
    "byte_fallback_tokens",
    "masked_tokens",
    "words",
)


class TokenCounter(Protocol):
    """Counts what token ids are: `mlmon.stats.tokens.TokenTable`."""

    def count(self, ids: NDArray[np.int32], offsets: NDArray[np.int64]) -> Mapping[str, NDArray[np.int64]]:
        """Counts by event.

        Args:
            ids: token ids of all events one after the other, shape (m,).
            offsets: event i has `ids[offsets[i]:offsets[i + 1]]`, shape (n + 1,).

        Returns:
            By name (`tokens`, `unknown_tokens`, `continuation_tokens`, `byte_fallback_tokens`,
            `masked_tokens`, `words`) an array of shape (n,); what the vocabulary cannot have is left out.
        """
        ...


def no_tables(_model: str, _version: str) -> TokenCounter | None:
    """No `tokenizer.json` is configured."""
    return None


#: Token table of a (model, model version), or None.
FindTable: TypeAlias = "Callable[[str, str], TokenCounter | None]"
#: Values with 0 where they are unknown, and where they are known.
Column: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.bool_]]"


class TokenColumns:
    """Reads counts; the last batch's are kept, so that all who ask in turn get them for one reading.

    Args:
        tables: gives the table of a (model, model version), or None. Called once for each of them in a batch;
            must not block.
    """

    def __init__(self, tables: FindTable = no_tables) -> None:
        self.tables = tables
        self._last: tuple[EventBatch, dict[str, Column]] | None = None

    def read(self, batch: EventBatch) -> Mapping[str, Column]:
        """The columns any event carries: those of `COUNTS`, and computed from them `truncated`, `truncatable`
        (0 or 1) and `all_tokens` (before truncation)."""
        if self._last is None or self._last[0] is not batch:
            self._last = batch, _columns(batch, self.tables)
        return self._last[1]

    def forget(self) -> None:
        """Let go of the last batch."""
        self._last = None


def _columns(batch: EventBatch, tables: FindTable) -> dict[str, Column]:
    """The columns any event carries, and those computed from them."""
    raw = {name: values for name in COUNTS if (values := batch.floats(name)) is not None}
    lists = None if tables is no_tables else batch.column("token_ids")
    if lists is not None:
        _derive(batch, lists, tables, raw)
    columns: dict[str, Column] = {}
    for name, values in raw.items():
        known = (values >= 0) & (values < np.inf)
        if known.any():
            columns[name] = np.where(known, values, 0.0), known
    if "truncated_tokens" in columns:
        cut, known = columns["truncated_tokens"]
        columns["truncated"] = (cut > 0).astype(np.float64), known
        columns["truncatable"] = known.astype(np.float64), known
    if "tokens" in columns:
        tokens, known = columns["tokens"]
        if "truncated_tokens" in columns:
            tokens = tokens + columns["truncated_tokens"][0]
        columns["all_tokens"] = tokens, known
    return columns


def _derive(
    batch: EventBatch,
    lists: pa.ListArray,
    tables: FindTable,
    raw: dict[str, NDArray[np.float64]],
) -> None:
    """Fill absent counts from token ids, for each (model, version) in the batch that has a table."""
    missing = np.zeros(len(batch), np.bool_)
    for name in _DERIVED:
        missing |= np.isnan(raw[name]) if name in raw else True
    missing &= lists.is_valid().to_numpy(zero_copy_only=False)
    models, model_names = batch.codes("model_name")
    versions, version_names = batch.codes("model_version")
    rows = np.flatnonzero(missing)
    pairs = models[rows].astype(np.int64) * len(version_names) + versions[rows]
    for pair in np.unique(pairs).tolist():
        model, version = divmod(pair, len(version_names))
        table = tables(model_names[model], version_names[version])
        if table is not None:
            chosen = rows[pairs == pair]
            counts = table.count(*flat_ids(lists.take(pa.array(chosen))))
            for name in _DERIVED:
                if name in counts:
                    _fill(raw, name, chosen, counts[name], len(batch))
    if "words" in raw and "truncated_tokens" in raw:
        _forget_cut_words(batch, raw)


def _forget_cut_words(batch: EventBatch, raw: dict[str, NDArray[np.float64]]) -> None:
    """Unsay words derived from ids where tokens were cut off: they are not all the words of the input."""
    sent = batch.floats("words")
    derived = np.True_ if sent is None else np.isnan(sent)
    raw["words"] = np.where(derived & (raw["truncated_tokens"] > 0), np.nan, raw["words"])


def flat_ids(lists: pa.ListArray) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids one after the other and where each event's begin; a null id reads -1, which no table knows."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    ids = lists.values.slice(offsets[0], offsets[-1] - offsets[0])
    return ids.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32), offsets - offsets[0]


def _fill(
    raw: dict[str, NDArray[np.float64]],
    name: str,
    rows: NDArray[np.intp],
    counts: NDArray[np.int64],
    length: int,
) -> None:
    """Write counts where none was sent, into a copy: the batch's own columns stay as they are."""
    values = raw[name].copy() if name in raw else np.full(length, np.nan)
    values[rows] = np.where(np.isnan(values[rows]), counts, values[rows])
    raw[name] = values
