"""Bins and categories of features, learned from a reference: the first pass of the features monitor."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from mlmon.monitors.drift import make_parameters
from mlmon.monitors.drift_categorical import categorical_specs, categorical_state
from mlmon.monitors.drift_numeric import numeric_specs, numeric_state
from mlmon.monitors.drift_rows import carrying_rows, children, is_number, is_text, numbers
from mlmon.monitors.drift_sample import WEIGHT, EventSample, drawn_together
from mlmon.stats.bins import learn_bins
from mlmon.stats.categories import learn_categories

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.baseline.model import FieldSpec, Parameters
    from mlmon.events.batch import EventBatch

__all__ = ["FeatureLearner", "FeaturesConfig", "field_name"]

#: Keys of the sample's columns: features by kind and name.
_NUMBER, _TEXT = "n:", "c:"
#: Names counted beyond `max_features` before counting stops.
_MOST_LEFT_OUT = 10_000
#: Values of a category that are known at all.
_MOST_KNOWN = 4096
#: Longest name of a field, in characters.
_LONGEST = 120


class FeaturesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.features]`: how features are turned into distributions when a baseline is built."""

    max_features: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=4096,
            description="Most features watched for a service, model and version, in names; a baseline takes "
            "the first it meets and warns of the rest. Each costs some 700 bytes of state for every series.",
        ),
    ] = 256
    bins: Annotated[
        int,
        msgspec.Meta(
            ge=4,
            le=512,
            description="Bins of a numeric feature, cut at quantiles of the baseline. More see finer changes "
            "of shape, and need more events.",
        ),
    ] = 64
    categories: Annotated[
        int,
        msgspec.Meta(
            ge=2,
            le=4096,
            description="Values of a categorical feature told apart, the most frequent ones; the rest is "
            "`(other)`.",
        ),
    ] = 64
    sample_events: Annotated[
        int,
        msgspec.Meta(
            ge=1000,
            le=1_000_000,
            description="Events that bins and categories are learned from, drawn evenly from each half of "
            "the baseline's. More cost memory while a baseline is built.",
        ),
    ] = 20_000


def field_name(name: str) -> str:
    """A feature's name as a field: without colons and control characters, and not too long.

    Example:
        >>> field_name("age"), field_name("a:b%")
        ('age', 'a%3Ab%25')
        >>> len(field_name("x" * 500))
        120
    """
    text = "".join(f"%{ord(c):02X}" if c in ":%" or not c.isprintable() else c for c in name)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 9]}~{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


class FeatureLearner:
    """Learns from a bounded sample of each part; see `EventSample`.

    Memory: up to 4·`sample_events` rows of at most `max_features` values.

    Args:
        config: bounds and bins.
    """

    def __init__(self, config: FeaturesConfig) -> None:
        self._config = config
        self._samples = (EventSample(config.sample_events), EventSample(config.sample_events))
        self._keys: set[str] = set()
        self._left_out: set[str] = set()
        self._constant: set[str] = set()
        self._scattered: set[str] = set()

    def update(self, batch: EventBatch, part: int) -> None:
        """Take in events of one scope."""
        rows = carrying_rows(batch)
        if rows is None:
            return
        features = list(self._admitted(batch))
        self._samples[part].update(
            batch, rows, lambda places: {key: _plain(key, column.take(places)) for key, column in features}
        )

    def _admitted(self, batch: EventBatch) -> Iterator[tuple[str, pa.Array]]:
        """The batch's features by key, as far as there is room for them."""
        for name, column in children(batch.column("numeric_features")).items():
            if is_number(column.type) and self._admit(_NUMBER + name):
                yield _NUMBER + name, column
        for name, column in children(batch.column("categorical_features")).items():
            if is_text(column.type) and self._admit(_TEXT + name):
                yield _TEXT + name, column

    def _admit(self, key: str) -> bool:
        if key in self._keys:
            return True
        if len(self._keys) < self._config.max_features:
            self._keys.add(key)
            return True
        if len(self._left_out) < _MOST_LEFT_OUT:
            self._left_out.add(key)
        return False

    def finish(self, parts: tuple[int, ...]) -> Parameters | None:
        """Parameters learned from these parts, or None where they carry no feature."""
        table = drawn_together([self._samples[part] for part in parts])
        numeric: list[list[Any]] = []
        categorical: list[list[Any]] = []
        specs: dict[str, FieldSpec] = {}
        for key in sorted(self._keys & set(table.column_names)):
            name = key[len(_NUMBER) :]
            if key.startswith(_NUMBER):
                made = self._numeric(name, table, specs)
                numeric += [[name, made]] if made else []
            else:
                made = self._categorical(name, table, specs)
                categorical += [[name, made]] if made else []
        if not specs:
            return None
        return make_parameters({"numeric": numeric, "categorical": categorical}, specs)

    def _numeric(self, name: str, table: pa.Table, specs: dict[str, FieldSpec]) -> list[Any] | None:
        values = table.column(_NUMBER + name).to_numpy()
        weights = table.column(WEIGHT).to_numpy()
        bins = learn_bins(values, weights, self._config.bins)
        if bins is None:
            return None
        if bins.count == 1:
            self._constant.add(name)
        specs.update(numeric_specs(field_name(name), bins, ranged=True))
        return numeric_state(field_name(name), bins)

    def _categorical(self, name: str, table: pa.Table, specs: dict[str, FieldSpec]) -> list[Any] | None:
        column = table.column(_TEXT + name).combine_chunks()
        categories = learn_categories(column, self._config.categories, _MOST_KNOWN)
        if categories is None:
            return None
        if not categories.own:
            self._scattered.add(name)
        field = field_name(name) + (":text" if _NUMBER + name in self._keys else "")
        specs.update(categorical_specs(field, categories))
        return categorical_state(field, categories)

    def warnings(self) -> list[str]:
        """What the maker of the baseline should know."""
        found = []
        if self._left_out:
            many = "at least " if len(self._left_out) == _MOST_LEFT_OUT else ""
            found.append(
                f"features: {many}{len(self._left_out)} features are not watched, since "
                f"max_features = {self._config.max_features}: raise it, or send fewer"
            )
        if self._constant:
            found.append(f"features: constant, watched for missing and range only: {_some(self._constant)}")
        if self._scattered:
            found.append(
                f"features: values hardly repeat (ids?), watched for missing only: {_some(self._scattered)}"
            )
        return found


def _plain(key: str, column: pa.Array) -> pa.Array:
    """A column in the one type of its kind: batches may differ in theirs."""
    if key.startswith(_TEXT):
        return column.cast(pa.string())
    return pa.array(np.asarray(numbers(column), np.float64))


def _some(names: set[str]) -> str:
    """The first few names, in order."""
    listed = sorted(names)
    shown = ", ".join(name[:60] for name in listed[:10])
    return shown if len(listed) <= 10 else f"{shown} and {len(listed) - 10} more"
