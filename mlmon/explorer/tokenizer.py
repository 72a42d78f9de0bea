"""How texts fall into tokens: ratios over time beside those of the baseline, and the tokens that moved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from mlmon.baseline.model import ScopeKey
from mlmon.catalog import requests
from mlmon.explorer.figures import by_series
from mlmon.registry.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from mlmon.baseline.model import FieldReference, Scope
    from mlmon.baseline.store import BaselineStore
    from mlmon.config import Config
    from mlmon.explorer.fields import Distribution
    from mlmon.explorer.source import Bounds, HistorySource

__all__ = [
    "MEASURES",
    "TOKEN_IDS",
    "Band",
    "Measure",
    "band",
    "moved_tokens",
    "readings",
    "series",
    "vocabulary",
]

#: Field of the monitor `tokenizer` that counts token ids.
TOKEN_IDS = "token_ids"  # noqa: S105 - a field, no secret
#: Half the width of a band, in standard deviations of a window.
_REACH = 3.0
#: Tokens that are listed.
_LISTED = 50


class Measure(NamedTuple):
    """A ratio that is shown.

    Attributes:
        metric: of the catalogue.
        title: for people.
        unit: of its axis.
        field: of the monitor `tokenizer` that has its reference; empty: the baseline's sample has it.
        parts: columns of a sample whose sums are divided; the second empty: share of events above 0.
    """

    metric: str
    title: str
    unit: str
    field: str
    parts: tuple[str, str]


MEASURES = (
    Measure(
        requests.UNKNOWN_TOKEN_RATIO.name,
        "Unknown tokens",
        "share of tokens",
        "",
        ("unknown_tokens", "tokens"),
    ),
    Measure(
        requests.TOKENS_PER_WORD.name, "Fertility", "tokens per word", "tokens_per_word", ("tokens", "words")
    ),
    Measure(
        requests.CHARACTERS_PER_TOKEN.name,
        "Length of tokens",
        "characters per token",
        "characters_per_token",
        ("characters", "tokens"),
    ),
    Measure(
        requests.CONTINUATION_RATIO.name,
        "Continuation tokens",
        "share of tokens",
        "continuation_share",
        ("continuation_tokens", "tokens"),
    ),
    Measure(
        requests.TRUNCATION_RATIO.name,
        "Truncated requests",
        "share of requests",
        "truncated",
        ("truncated_tokens", ""),
    ),
    Measure(
        requests.BYTE_FALLBACK_RATIO.name,
        "Byte-fallback tokens",
        "share of tokens",
        "",
        ("byte_fallback_tokens", "tokens"),
    ),
)


class Band(NamedTuple):
    """What is usual.

    Attributes:
        mean: of the baseline.
        low: three standard deviations of a window's ratio below it, never below 0.
        high: above it.
        events: of the windows that it is for.
    """

    mean: float
    low: float
    high: float
    events: int


def readings(source: HistorySource, bounds: Bounds, where: dict[str, str]) -> pd.DataFrame:
    """The ratios over time, with the columns of `HistorySource.readings`."""
    return source.readings([one.metric for one in MEASURES], bounds, where)


def series(rows: pd.DataFrame, metric: str) -> list[tuple[str, pd.DataFrame]]:
    """The lines of one ratio, by version, deployment and segment, those with most events first."""
    mine = rows[rows["metric"] == metric]
    if mine.empty:
        return []
    several = mine[["service", "model"]].drop_duplicates().shape[0] > 1
    columns = [*(["service", "model"] if several else []), "version", "deployment", "segment"]
    return sorted(by_series(mine, columns), key=lambda part: -float(part[1]["n"].sum()))


def band(
    store: BaselineStore | None, rows: pd.DataFrame, measure: Measure, segment: str
) -> tuple[Band, ScopeKey] | None:
    """What is usual of a ratio in windows like these, and whose it is.

    A window of n events has standard deviation √(v/n), v the long-run variance of the linearised ratio
    (bursts included); the band is three of them. The scope is that of the version with most events.

    Args:
        store: the baselines.
        rows: readings.
        measure: which ratio.
        segment: of the series; empty: all of them together.
    """
    mine = rows[rows["metric"] == measure.metric]
    if store is None or mine.empty:
        return None
    totals = mine.groupby(["service", "model", "version"])["n"].sum().sort_values(ascending=False)
    asked = ScopeKey(*map(str, totals.index[0]))
    found = store.find(asked, "tokenizer")
    if found is None:
        return None
    key, scope = found
    usual = _usual(scope, segment, measure)
    if usual is None:
        return None
    mean, variance = usual
    events = max(1, int(mine["n"].median()))
    reach = _REACH * math.sqrt(variance / events)
    return Band(mean, max(0.0, mean - reach), mean + reach, events), key


def _usual(scope: Scope, segment: str, measure: Measure) -> tuple[float, float] | None:
    """Mean of the baseline and variance of one event, bursts included."""
    held = scope.segments.get(segment)
    reference = None if held is None else held.fields.get(f"tokenizer/{measure.field}")
    if reference is not None and reference.spec.kind == "rate":
        share = float(reference.sums.mean[0])
        return share, share * (1 - share) * max(1.0, reference.trace)
    if reference is not None and reference.spec.whiten is not None:
        ratios = scope.parameters["tokenizer"].values.get("ratios", {})
        if measure.field in ratios:
            return _of_mean(reference, float(ratios[measure.field][0]))
    return None if segment or measure.field else _of_sample(scope, measure.parts)


def _of_mean(reference: FieldReference, ratio: float) -> tuple[float, float]:
    unit = float(reference.spec.whiten[0, 0]) if reference.spec.whiten is not None else 1.0
    return ratio + float(reference.sums.mean[0]), reference.trace / unit**2


def _of_sample(scope: Scope, parts: tuple[str, str]) -> tuple[float, float] | None:
    """Of a ratio of sums over the baseline's sample, linearised (Cochran 1977, 6.4)."""
    sample: pa.Table | None = scope.sample
    if sample is None or any(name not in sample.column_names for name in parts if name):
        return None
    above, below = (sample[name].to_numpy().astype(np.float64) for name in parts)
    known = np.isfinite(above) & np.isfinite(below)
    above, below = above[known], below[known]
    if not below.sum():
        return None
    ratio = float(above.sum() / below.sum())
    linear = (above - ratio * below) / below.mean()
    return ratio, float(linear.var()) * max(1.0, scope.burst)


def moved_tokens(
    found: Distribution, names: Mapping[int, str] | None = None, most: int = _LISTED
) -> pd.DataFrame:
    """Tokens by how much they carry of the shift of the distribution, the most first.

    Columns: id, token (empty where no tokenizer is known), now, baseline, difference, times, part. `part` is
    the token's share of Σ(p - q)²/(p + q), which neither rare nor frequent tokens rule alone.
    """
    now, before = np.asarray(found.shares), np.asarray(found.reference)
    both = now + before
    carried = np.divide((now - before) ** 2, both, out=np.zeros_like(both), where=both > 0)
    order = np.argsort(-carried, kind="stable")[:most]
    order = order[carried[order] > 0]
    ids = [found.names[index] for index in order]
    return pd.DataFrame(
        {
            "id": ids,
            "token": [(names or {}).get(int(one), "") if one.isdigit() else "" for one in ids],
            "now": now[order],
            "baseline": before[order],
            "difference": (now - before)[order],
            "times": np.divide(now, before, out=np.full_like(now, np.nan), where=before > 0)[order],
            "part": carried[order] / max(float(carried.sum()), 1e-300),
        }
    )


def vocabulary(config: Config | None, key: ScopeKey) -> dict[int, str] | None:
    """Tokens by id of a model's tokenizer file; None where the configuration names none.

    Raises:
        ConfigError: the file cannot be read.
    """
    paths = {} if config is None else config.registry.tokenizers
    path = paths.get(f"{key.model}/{key.version}") or paths.get(key.model)
    if path is None:
        return None
    return {index: token for token, index in load_tokenizer(path).vocabulary.tokens.items()}
