"""Does the tokenizer still fit the text: unknown tokens, fertility, byte fallback, truncation, length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from mlmon.catalog import requests as catalog
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.base import Reading, Sample
from mlmon.monitors.histogram import WeightedHistogram, check_buckets
from mlmon.stats.counts import count_total, effective_size
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from mlmon.catalog.base import CounterTriple, Metric
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import SeriesKey
    from mlmon.windows import Window

__all__ = ["TokenCounter", "TokenizerConfig", "TokenizerMonitor", "TokenizerSummary", "no_tables"]

#: Form of the stored state.
_FORM = 1
#: Summed quantities: event field and its counters.
_SUMS: tuple[tuple[str, CounterTriple], ...] = (
    ("tokens", catalog.TOKENS),
    ("unknown_tokens", catalog.UNKNOWN_TOKENS),
    ("continuation_tokens", catalog.CONTINUATION_TOKENS),
    ("byte_fallback_tokens", catalog.BYTE_FALLBACK_TOKENS),
    ("masked_tokens", catalog.MASKED_TOKENS),
    ("truncated_tokens", catalog.TRUNCATED_TOKENS),
    ("words", catalog.WORDS),
    ("characters", catalog.CHARACTERS),
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


class _Ratio(NamedTuple):
    """Numerator and denominator by column; `all_tokens` and the two `truncat*` columns are computed."""

    label: str
    numerator: str
    denominator: str
    reading: Metric


_RATIOS = (
    _Ratio("unknown_token", "unknown_tokens", "tokens", catalog.UNKNOWN_TOKEN_RATIO),
    _Ratio("byte_fallback", "byte_fallback_tokens", "tokens", catalog.BYTE_FALLBACK_RATIO),
    _Ratio("continuation", "continuation_tokens", "tokens", catalog.CONTINUATION_RATIO),
    _Ratio("tokens_per_word", "all_tokens", "words", catalog.TOKENS_PER_WORD),
    _Ratio("characters_per_token", "characters", "all_tokens", catalog.CHARACTERS_PER_TOKEN),
    _Ratio("truncation", "truncated", "truncatable", catalog.TRUNCATION_RATIO),
)
_TRUNCATION = len(_RATIOS) - 1


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


class TokenizerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.tokenizer]`: how input length is told apart."""

    length_buckets_tokens: Annotated[
        tuple[float, ...],
        msgspec.Meta(
            min_length=1,
            max_length=40,
            description="Upper bounds of the buckets of tokens per request, in tokens, increasing. Put one "
            "at the model's longest input. Each bound adds 3 samples to every series.",
        ),
    ] = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 384.0, 512.0, 1024.0, 4096.0)

    def __post_init__(self) -> None:
        check_buckets("length_buckets_tokens", self.length_buckets_tokens)


class TokenizerSummary:
    """Sums over requests, and for each ratio its sums over the requests that carry both parts.

    Merging adds: exact for counts at integer weights, else to rounding. Memory: about 2 kB.

    For a ratio R = N/D the linearised variance under sampling with replacement is
    (Σw²n² - 2R Σw²nd + R² Σw²d²) / (Σwd)² (Cochran 1977, 6.4); all its terms are kept.

    Attributes:
        sums: for each quantity events that carry it, Σx, Σwx, Σ(wx)²; shape (8, 4).
        tokenized: n, Σw, Σw² of requests with a token count, shape (3,).
        ratios: for each ratio n, Σw, Σw², then Σn, Σwn, Σ(wn)², then Σd, Σwd, Σ(wd)², then Σw²nd; (6, 10).
        lengths: histogram of tokens per request.
    """

    __slots__ = ("_tables", "lengths", "ratios", "sums", "tokenized")

    def __init__(
        self, bounds: NDArray[np.float64], tables: Callable[[str, str], TokenCounter | None]
    ) -> None:
        self._tables = tables
        self.sums = np.zeros((len(_SUMS), 4))
        self.tokenized = np.zeros(3)
        self.ratios = np.zeros((len(_RATIOS), 10))
        self.lengths = WeightedHistogram(bounds)

    def update(self, batch: EventBatch) -> None:
        """Take in a batch."""
        columns = _columns(batch, self._tables)
        if not columns:
            return
        weights = batch.weights()
        for index, (name, _) in enumerate(_SUMS):
            if name in columns:
                values, known = columns[name]
                self.sums[index, 0] += known.sum()
                self.sums[index, 1:] += _moments(values, weights)
        if "tokens" in columns:
            values, known = columns["tokens"]
            self.tokenized += count_total(weights[known])
            self.lengths.add(values[known], weights[known])
        for index, ratio in enumerate(_RATIOS):
            if ratio.numerator in columns and ratio.denominator in columns:
                self.ratios[index] += _pair(columns[ratio.numerator], columns[ratio.denominator], weights)

    def merge(self, other: TokenizerSummary) -> None:
        """Take in another summary."""
        self.lengths.check("tokenizer: length_buckets_tokens", other.lengths)
        self.sums += other.sums
        self.tokenized += other.tokenized
        self.ratios += other.ratios
        self.lengths.merge(other.lengths)

    def copy(self) -> TokenizerSummary:
        """An independent copy."""
        twin = TokenizerSummary(self.lengths.bounds, self._tables)
        twin.sums = self.sums.copy()
        twin.tokenized = self.tokenized.copy()
        twin.ratios = self.ratios.copy()
        twin.lengths = self.lengths.copy()
        return twin

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint."""
        return pack([_FORM, self.sums, self.tokenized, self.ratios, self.lengths.state()])


class TokenizerMonitor:
    """Token statistics of each series: sums, ratios, length of inputs.

    Reads `tokens`, `unknown_tokens`, `continuation_tokens`, `byte_fallback_tokens`, `masked_tokens`,
    `truncated_tokens`, `words`, `characters`, `sampling_weight`. A count that is absent but whose event has
    `token_ids` is derived from them where a table is known for its model version; a count the producer sent
    wins. Negative and non-finite counts are taken as absent.

    Emits, for each quantity that any event carried, the counters of `catalog.requests`; for each ratio its
    numerator and denominator over the events that carry both; at window close the ratios themselves.
    Cardinality of a series: at most 30 counters of totals, 42 of ratios and 3 (buckets + 3) of lengths.

    Fertility and characters per token count tokens before truncation (`tokens + truncated_tokens`), since
    words and characters are those of the whole input.

    A rise of the unknown-token or byte-fallback ratio means text the vocabulary was not made for, or a wrong
    tokenizer. A rise of tokens per word, with fewer characters per token, means words fall to pieces. A byte-
    level BPE has no unknown token: its ratio is constantly 0 where the producer sends 0, and has no reading
    where it sends null; watch fertility there. None of it can see text that tokenizes well and means
    something else.

    Args:
        config: buckets.
        tables: gives the table of a (model, model version), or None. Called once for each of them in a batch;
            must not block.
    """

    name = "tokenizer"

    def __init__(
        self, config: TokenizerConfig, tables: Callable[[str, str], TokenCounter | None] = no_tables
    ) -> None:
        self._bounds = np.array(config.length_buckets_tokens)
        self._tables = tables

    @property
    def fields(self) -> frozenset[str]:
        """The counts, and the token ids only where a table can read them."""
        counts = (*(name for name, _ in _SUMS), "sampling_weight")
        return frozenset(counts if self._tables is no_tables else (*counts, "token_ids", "model_version"))

    def summary(self) -> TokenizerSummary:
        """An empty summary."""
        return TokenizerSummary(self._bounds, self._tables)

    def load(self, data: bytes) -> TokenizerSummary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: the buckets are not those of the configuration.
        """
        form, *fields = unpack(data)
        if form != _FORM:
            raise IncompatibleStateError(f"tokenizer: stored summary has form {form}, expected {_FORM}")
        summary = self.summary()
        summary.sums, summary.tokenized, summary.ratios, lengths = fields
        summary.lengths = summary.lengths.restored("tokenizer: length_buckets_tokens", lengths)
        return summary

    def collect(self, series: SeriesKey, summary: TokenizerSummary) -> Iterable[Sample]:
        """Totals, ratio parts and lengths since the process started; quantities never carried are absent."""
        labels = tuple(series)
        for (_, triple), row in zip(_SUMS, summary.sums.tolist(), strict=True):
            if row[0]:
                yield from _triple(triple, labels, row[1:])
        if summary.lengths.count:
            yield from _triple(catalog.TOKENIZED_REQUESTS, labels, summary.tokenized.tolist())
            yield from summary.lengths.samples(catalog.TOKENS_PER_REQUEST, labels)
        rows = summary.ratios.tolist()
        if rows[_TRUNCATION][0]:
            yield from _triple(catalog.TRUNCATED_REQUESTS, labels, rows[_TRUNCATION][3:6])
        for ratio, row in zip(_RATIOS, rows, strict=True):
            if row[0]:
                named = (*series, ratio.label)
                yield from _triple(catalog.RATIO_NUMERATOR, named, row[3:6])
                yield from _triple(catalog.RATIO_DENOMINATOR, named, row[6:9])
                yield Sample(catalog.RATIO_CROSS, named, row[9])

    def read(
        self,
        window: Window,
        summaries: Mapping[SeriesKey, TokenizerSummary],
        first_seen: Mapping[SeriesKey, int],  # noqa: ARG002 - protocol
    ) -> Iterable[Reading]:
        """The ratios of the window, each where its denominator is above 0."""
        for series, summary in summaries.items():
            for ratio, row in zip(_RATIOS, summary.ratios, strict=True):
                if row[7] > 0:
                    value, n, n_eff = float(row[4] / row[7]), int(row[0]), effective_size(row[:3])
                    yield Reading(ratio.reading, tuple(series), value, window, n, n_eff)


#: Values with 0 where they are unknown, and where they are known.
_Column = tuple["NDArray[np.float64]", "NDArray[np.bool_]"]


def _columns(batch: EventBatch, tables: Callable[[str, str], TokenCounter | None]) -> dict[str, _Column]:
    """The columns any event carries, and those computed from them."""
    raw = {name: values for name, _ in _SUMS if (values := batch.floats(name)) is not None}
    lists = None if tables is no_tables else batch.column("token_ids")
    if lists is not None:
        _derive(batch, lists, tables, raw)
    columns: dict[str, _Column] = {}
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
    tables: Callable[[str, str], TokenCounter | None],
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
            counts = table.count(*_flat_ids(lists.take(pa.array(chosen))))
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


def _flat_ids(lists: pa.ListArray) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
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


def _moments(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σx, Σwx, Σ(wx)²."""
    weighted = values * weights
    return np.array([values.sum(), weighted.sum(), np.dot(weighted, weighted)])


def _pair(numerator: _Column, denominator: _Column, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """A row of `TokenizerSummary.ratios` over the events that carry both."""
    both = numerator[1] & denominator[1]
    if not both.all():
        above, below, weights = numerator[0][both], denominator[0][both], weights[both]
    else:
        above, below = numerator[0], denominator[0]
    row = np.empty(10)
    row[:3] = count_total(weights)
    row[3:6] = _moments(above, weights)
    row[6:9] = _moments(below, weights)
    row[9] = np.dot(above * weights, below * weights)
    return row


def _triple(triple: CounterTriple, labels: tuple[str, ...], values: list[float]) -> Iterator[Sample]:
    yield Sample(triple.sampled, labels, values[0])
    yield Sample(triple.estimated, labels, values[1])
    yield Sample(triple.weight_squared, labels, values[2])
