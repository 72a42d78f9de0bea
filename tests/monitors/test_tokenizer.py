"""Token statistics against NumPy, and for the three families of tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from monitor_kit import SERIES, START_US, batch_of, rows_strategy

from mlmon.monitors.base import Histogram
from mlmon.monitors.tokenizer import TokenizerConfig, TokenizerMonitor
from mlmon.stats.tokens import TokenTable, Vocabulary, WordRule
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor_kit import Row

    from mlmon.monitors.tokenizer import TokenizerSummary

WINDOW = Window(START_US, START_US + 60_000_000)
CONFIG = TokenizerConfig(length_buckets_tokens=(16.0, 64.0, 256.0))
MONITOR = TokenizerMonitor(CONFIG)
SUMS = (
    "tokens",
    "unknown_tokens",
    "continuation_tokens",
    "byte_fallback_tokens",
    "masked_tokens",
    "truncated_tokens",
    "words",
    "characters",
)


def summed(rows: list[Row], monitor: TokenizerMonitor = MONITOR) -> TokenizerSummary:
    summary = monitor.summary()
    summary.update(batch_of(rows))
    return summary


def collected(summary: TokenizerSummary) -> dict[tuple[str, ...], Any]:
    return {(s.metric.name, *s.labels[5:]): s.value for s in MONITOR.collect(SERIES, summary)}


def readings(summary: TokenizerSummary) -> dict[str, float]:
    found = MONITOR.read(WINDOW, {SERIES: summary}, {SERIES: 0})
    return {r.metric.name.removeprefix("mlmon_"): r.value for r in found}


def column(rows: list[Row], name: str) -> np.ndarray:
    return np.array([row.get(name, np.nan) for row in rows], float)


@settings(max_examples=80, deadline=None)
@given(rows=rows_strategy())
def test_totals_are_sums_over_the_events_that_carry_them(rows: list[Row]) -> None:
    values = collected(summed(rows))
    w = np.array([row.get("sampling_weight", 1.0) for row in rows])
    for name in SUMS:
        x = column(rows, name)
        known = ~np.isnan(x)
        if not known.any():
            assert (f"mlmon_{name}",) not in values
            continue
        assert values[f"mlmon_sampled_{name}",] == x[known].sum()
        assert values[f"mlmon_{name}",] == (w * x)[known].sum()
        assert values[f"mlmon_{name}_weight_squared",] == ((w * x)[known] ** 2).sum()


@settings(max_examples=80, deadline=None)
@given(rows=rows_strategy())
def test_lengths_and_tokenized_requests(rows: list[Row]) -> None:
    values = collected(summed(rows))
    x = column(rows, "tokens")
    w = np.array([row.get("sampling_weight", 1.0) for row in rows])[~np.isnan(x)]
    x = x[~np.isnan(x)]
    if not len(x):
        assert ("mlmon_tokenized_requests",) not in values
        return
    assert values["mlmon_sampled_tokenized_requests",] == len(x)
    assert values["mlmon_tokenized_requests",] == w.sum()
    assert values["mlmon_tokenized_requests_weight_squared",] == (w**2).sum()
    histogram = values["mlmon_tokens_per_request",]
    assert isinstance(histogram, Histogram)
    assert list(histogram.counts) == [w[x <= bound].sum() for bound in (16, 64, 256, np.inf)]
    assert histogram.total == (w * x).sum()


def parts(rows: list[Row]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    tokens, cut = column(rows, "tokens"), column(rows, "truncated_tokens")
    whole = tokens + np.nan_to_num(cut)
    truncated = np.where(np.isnan(cut), np.nan, cut > 0)
    return {
        "unknown_token": (column(rows, "unknown_tokens"), tokens),
        "byte_fallback": (column(rows, "byte_fallback_tokens"), tokens),
        "continuation": (column(rows, "continuation_tokens"), tokens),
        "tokens_per_word": (whole, column(rows, "words")),
        "characters_per_token": (column(rows, "characters"), whole),
        "truncation": (truncated, np.where(np.isnan(cut), np.nan, 1.0)),
    }


NAMES = {
    "unknown_token": "unknown_token_ratio",
    "byte_fallback": "byte_fallback_ratio",
    "continuation": "continuation_ratio",
    "tokens_per_word": "tokens_per_word",
    "characters_per_token": "characters_per_token",
    "truncation": "truncation_ratio",
}


@settings(max_examples=80, deadline=None)
@given(rows=rows_strategy())
def test_ratios_use_only_events_with_both_parts(rows: list[Row]) -> None:
    summary = summed(rows)
    values, read = collected(summary), readings(summary)
    w = np.array([row.get("sampling_weight", 1.0) for row in rows])
    for ratio, (above, below) in parts(rows).items():
        both = ~np.isnan(above) & ~np.isnan(below)
        n, d, v = above[both], below[both], w[both]
        if not both.any():
            assert ("mlmon_token_ratio_numerator", ratio) not in values
        else:
            assert values["mlmon_sampled_token_ratio_numerator", ratio] == n.sum()
            assert values["mlmon_token_ratio_numerator", ratio] == (v * n).sum()
            assert values["mlmon_token_ratio_numerator_weight_squared", ratio] == ((v * n) ** 2).sum()
            assert values["mlmon_sampled_token_ratio_denominator", ratio] == d.sum()
            assert values["mlmon_token_ratio_denominator", ratio] == (v * d).sum()
            assert values["mlmon_token_ratio_denominator_weight_squared", ratio] == ((v * d) ** 2).sum()
            assert values["mlmon_token_ratio_weight_squared_product", ratio] == (v**2 * n * d).sum()
        if (v * d).sum() > 0:
            assert read[NAMES[ratio]] == (v * n).sum() / (v * d).sum()
        else:
            assert NAMES[ratio] not in read


def test_a_reading_says_how_many_events_are_behind_it() -> None:
    rows = [{"tokens": 10, "unknown_tokens": 1, "sampling_weight": w} for w in (1.0, 1.0, 20.0)]
    rows.append({"tokens": 10})
    (reading,) = MONITOR.read(WINDOW, {SERIES: summed(rows)}, {SERIES: 0})
    assert (reading.value, reading.n, reading.n_eff) == (0.1, 3, pytest.approx(22**2 / 402))
    assert reading.window == WINDOW


def test_the_variance_of_a_ratio_can_be_had_from_the_counters() -> None:
    rng = np.random.default_rng(5)
    size, draws = 4000, 400
    d = rng.integers(5, 60, size)
    n = rng.binomial(d, 0.1)
    p = np.where(n > 4, 0.5, 0.1)
    estimates, variances = [], []
    for _ in range(draws):
        kept = rng.random(size) < p
        rows = [
            {"tokens": int(d[i]), "unknown_tokens": int(n[i]), "sampling_weight": 1 / p[i]}
            for i in np.flatnonzero(kept)
        ]
        row = summed(rows).ratios[0]
        ratio = row[4] / row[7]
        estimates.append(ratio)
        variances.append((row[5] - 2 * ratio * row[9] + ratio**2 * row[8]) / row[7] ** 2)
    assert np.mean(estimates) == pytest.approx(n.sum() / d.sum(), rel=0.01)
    # sampling keeps each event or not, so the formula for drawing with replacement errs a little upward
    assert 1.0 <= np.mean(variances) / np.var(estimates) < 1.4


def test_byte_level_bpe_has_a_ratio_of_zero_where_it_sends_zero_and_none_where_it_sends_null() -> None:
    assert readings(summed([{"tokens": 7, "unknown_tokens": 0}])) == {"unknown_token_ratio": 0.0}
    assert readings(summed([{"tokens": 7, "words": 5}])) == {"tokens_per_word": 1.4}


def test_a_cut_input_does_not_look_as_if_its_words_had_fewer_tokens() -> None:
    whole = readings(summed([{"tokens": 300, "words": 200, "characters": 900, "truncated_tokens": 0}]))
    cut = readings(summed([{"tokens": 100, "words": 200, "characters": 900, "truncated_tokens": 200}]))
    assert cut["tokens_per_word"] == whole["tokens_per_word"] == 1.5
    assert cut["characters_per_token"] == whole["characters_per_token"] == 3.0
    assert (whole["truncation_ratio"], cut["truncation_ratio"]) == (0.0, 1.0)


WORDPIECE = TokenTable(
    Vocabulary(
        {"[CLS]": 0, "[UNK]": 1, "[MASK]": 2, "play": 3, "##ing": 4, "well": 5},
        control=frozenset({0}),
        unknown=1,
        masks=frozenset({2}),
        rule=WordRule.PREFIX,
        affix="##",
    )
)
SENTENCEPIECE = TokenTable(
    Vocabulary(
        {"<s>": 0, "<unk>": 1, "\u2581play": 2, "ing": 3, "<0xE2>": 4, "<0x82>": 5},
        control=frozenset({0}),
        unknown=1,
        byte_fallback=True,
        rule=WordRule.METASPACE,
    )
)
BYTE_LEVEL = TokenTable(Vocabulary({"<s>": 0, "play": 1, "ing": 2}, control=frozenset({0})))
TABLES = {("intent", "1"): WORDPIECE, ("intent", "2"): SENTENCEPIECE, ("intent", "3"): BYTE_LEVEL}


def tables(model: str, version: str) -> TokenTable | None:
    return TABLES.get((model, version))


def deriving(look_up: Callable[[str, str], TokenTable | None] = tables) -> TokenizerMonitor:
    return TokenizerMonitor(CONFIG, look_up)


IDS = {"token_ids": [0, 3, 4, 1, 2, 0]}


def test_wordpiece_counts_are_derived_from_ids() -> None:
    summary = summed([{"model_version": "1", **IDS}, {"model_version": "1", "token_ids": []}], deriving())
    assert dict(zip(SUMS, summary.sums[:, 1].tolist(), strict=True)) == {
        "tokens": 4.0,
        "unknown_tokens": 1.0,
        "continuation_tokens": 1.0,
        "byte_fallback_tokens": 0.0,
        "masked_tokens": 1.0,
        "truncated_tokens": 0.0,
        "words": 3.0,
        "characters": 0.0,
    }
    read = readings(summary)
    assert read["unknown_token_ratio"] == 0.25
    assert read["tokens_per_word"] == 4 / 3
    assert "byte_fallback_ratio" not in read, "WordPiece has no bytes: absent, not 0"


def test_sentencepiece_counts_are_derived_from_ids() -> None:
    read = readings(summed([{"model_version": "2", "token_ids": [0, 2, 3, 4, 5]}], deriving()))
    assert read["byte_fallback_ratio"] == 0.5
    assert read["unknown_token_ratio"] == 0.0


def test_byte_level_bpe_derived_from_ids_has_tokens_and_no_unknown_ratio() -> None:
    summary = summed([{"model_version": "3", "token_ids": [0, 1, 2], "words": 1}], deriving())
    assert readings(summary) == {"tokens_per_word": 2.0}


def test_what_the_producer_counted_wins_over_the_ids() -> None:
    rows = [
        {"model_version": "1", "tokens": 8, **IDS},
        {"model_version": "1", **IDS},
        {"model_version": "1", "tokens": 5},
        {"model_version": "9", **IDS},
    ]
    summary = summed(rows, deriving())
    assert summary.sums[0, :2].tolist() == [3, 8 + 4 + 5]
    assert summary.sums[1, :2].tolist() == [2, 2], "unknown tokens of both events with ids"


def test_several_versions_in_one_batch_use_their_own_tables() -> None:
    rows = [
        {"model_version": "2", "token_ids": [2, 3]},
        {"model_version": "1", "token_ids": [3, 4, 5]},
        {"model_version": "2", "token_ids": [4]},
        {"token_ids": [1, 1, 1]},
    ]
    asked: list[tuple[str, str]] = []

    def look_up(model: str, version: str) -> TokenTable | None:
        asked.append((model, version))
        return tables(model, version)

    summary = summed(rows, deriving(look_up))
    assert sorted(asked) == [("intent", ""), ("intent", "1"), ("intent", "2")]
    assert summary.sums[0, :2].tolist() == [3, 6]
    assert summary.sums[3, :2].tolist() == [2, 1], "bytes of version 2 only"


def test_words_of_a_cut_input_are_not_derived() -> None:
    summary = summed([{"model_version": "1", "truncated_tokens": 3, **IDS}], deriving())
    assert "tokens_per_word" not in readings(summary)
    assert summary.sums[0, 1] == 4


def test_a_sliced_batch_with_null_ids_is_counted_right() -> None:
    rows = [{"model_version": "1", "token_ids": [5] * 9}, {"model_version": "1", "token_ids": [3, None, 77]}]
    batch = batch_of(rows).slice(1, 1)
    summary = deriving().summary()
    summary.update(batch)
    assert summary.sums[0, 1] == 3
    assert summary.sums[1, 1] == 2, "a null and an id outside the vocabulary are unknown"


def test_without_a_table_ids_alone_say_nothing() -> None:
    assert readings(summed([{"model_version": "1", **IDS}])) == {}
    assert list(MONITOR.collect(SERIES, summed([{"model_version": "1", **IDS}]))) == []
