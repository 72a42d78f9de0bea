"""Does the tokenizer still fit the text: unknown tokens, fertility, byte fallback, truncation, length."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import numpy as np

from mlmon.baseline.model import no_parameters
from mlmon.catalog import requests as catalog
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.base import Reading, Sample
from mlmon.monitors.drift import DriftSummary, extractors
from mlmon.monitors.histogram import WeightedHistogram, check_buckets
from mlmon.monitors.tokenizer_columns import TokenColumns, TokenCounter, no_tables
from mlmon.monitors.tokenizer_drift import DRIFT_FIELDS, TokenizerExtractor, TokenizerLearner
from mlmon.stats.counts import count_total, effective_size
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from mlmon.baseline.model import FindParameters, Parameters
    from mlmon.catalog.base import CounterTriple, Metric
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import SeriesKey
    from mlmon.monitors.drift import FindExtractor
    from mlmon.monitors.tokenizer_columns import Column, FindTable
    from mlmon.stats.sums import FieldSums
    from mlmon.windows import Window

__all__ = ["TokenCounter", "TokenizerConfig", "TokenizerMonitor", "TokenizerSummary", "no_tables"]

#: Form of the stored state; the first had no drift.
_FORM, _FIRST_FORM = 2, 1
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
        drift: fields of drift; empty where no baseline covers the series.
    """

    __slots__ = ("_columns", "drift", "lengths", "ratios", "sums", "tokenized")

    def __init__(self, bounds: NDArray[np.float64], columns: TokenColumns, find: FindExtractor) -> None:
        self._columns = columns
        self.drift = DriftSummary(find)
        self.sums = np.zeros((len(_SUMS), 4))
        self.tokenized = np.zeros(3)
        self.ratios = np.zeros((len(_RATIOS), 10))
        self.lengths = WeightedHistogram(bounds)

    def update(self, batch: EventBatch) -> None:
        """Take in a batch."""
        columns = self._columns.read(batch)
        self.drift.update(batch)
        self._columns.forget()
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
        self.drift.merge(other.drift)

    def copy(self) -> TokenizerSummary:
        """An independent copy."""
        twin = TokenizerSummary.__new__(TokenizerSummary)
        twin._columns = self._columns
        twin.sums = self.sums.copy()
        twin.tokenized = self.tokenized.copy()
        twin.ratios = self.ratios.copy()
        twin.lengths = self.lengths.copy()
        twin.drift = self.drift.copy()
        return twin

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint."""
        return pack(
            [_FORM, self.sums, self.tokenized, self.ratios, self.lengths.state(), self.drift.to_bytes()]
        )


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

    Fields of drift, for series that a baseline covers and events answered ok that are no golden probes; each
    only where the baseline's events carried it. `unknown`, `byte_fallback`, `truncated` (rates): share of
    requests with at least one such token, since tokens of one text come together. `tokens_per_word`,
    `continuation_share`, `characters_per_token`, `length` (means, both ways): the first three linearised, the
    last ln(1 + tokens). `token_ids` (cells): the 255 most frequent ids of the baseline, and all others. It
    reads `token_ids`, `status` and `probe_id` beside the counts; at most 8 fields.

    A rise of the unknown-token or byte-fallback ratio means text the vocabulary was not made for, or a wrong
    tokenizer. A rise of tokens per word, with fewer characters per token, means words fall to pieces. A byte-
    level BPE has no unknown token: its ratio is constantly 0 where the producer sends 0, and has no reading
    where it sends null; watch fertility there. None of it can see text that tokenizes well and means
    something else.

    Args:
        config: buckets.
        tables: gives the table of a (model, model version), or None. Called once for each of them in a batch;
            must not block.
        parameters: what baselines say.
    """

    name = "tokenizer"

    def __init__(
        self,
        config: TokenizerConfig,
        tables: FindTable = no_tables,
        parameters: FindParameters = no_parameters,
    ) -> None:
        self._bounds = np.array(config.length_buckets_tokens)
        self._columns = TokenColumns(tables)
        self._drifts = parameters is not no_parameters
        self._find = extractors(self, parameters)

    @property
    def fields(self) -> frozenset[str]:
        """The counts; the token ids only where a table can read them, or drift is watched."""
        read = {*(name for name, _ in _SUMS), "sampling_weight"}
        if self._columns.tables is not no_tables:
            read |= {"token_ids", "model_version"}
        return frozenset(read | DRIFT_FIELDS if self._drifts else read)

    def summary(self) -> TokenizerSummary:
        """An empty summary."""
        return TokenizerSummary(self._bounds, self._columns, self._find)

    def load(self, data: bytes) -> TokenizerSummary:
        """A summary from `to_bytes`. Drift of another baseline is dropped, since only the counts still hold.

        Raises:
            IncompatibleStateError: the buckets are not those of the configuration.
        """
        form, *fields = unpack(data)
        if form not in (_FIRST_FORM, _FORM):
            raise IncompatibleStateError(f"tokenizer: stored summary has form {form}, expected {_FORM}")
        summary = self.summary()
        summary.sums, summary.tokenized, summary.ratios, lengths, *drift = fields
        summary.lengths = summary.lengths.restored("tokenizer: length_buckets_tokens", lengths)
        if drift:
            with suppress(IncompatibleStateError):
                summary.drift = DriftSummary(self._find).restore(drift[0])
        return summary

    def learner(self) -> TokenizerLearner:
        """A new first pass over a reference."""
        return TokenizerLearner(self._columns)

    def extractor(self, parameters: Parameters) -> TokenizerExtractor:
        """How events become fields."""
        return TokenizerExtractor(parameters, self._columns)

    def drift(self, summary: TokenizerSummary) -> Mapping[str, FieldSums]:
        """The field sums of a summary."""
        return summary.drift.fields

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


def _moments(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σx, Σwx, Σ(wx)²."""
    weighted = values * weights
    return np.array([values.sum(), weighted.sum(), np.dot(weighted, weighted)])


def _pair(numerator: Column, denominator: Column, weights: NDArray[np.float64]) -> NDArray[np.float64]:
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
