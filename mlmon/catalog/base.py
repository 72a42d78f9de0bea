"""What a metric is, and every metric there is: name, type, unit, labels, help.

Nothing else in mlmon spells a metric's name; `docs/metrics.md` is generated from here and a test fails when
it is stale. Each part that measures has its section.

Conventions. A counter about requests comes in three, which can be summed over sidecars: `sampled` counts the
sampled events, the plain one estimates the whole (Σw) and `weight_squared` carries Σw², so that
n_eff = (Σw)²/Σw² and error bars need nothing more. `counter_triple` declares them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "SERIES_LABELS", "CounterTriple", "Kind", "Metric", "counter_triple", "declare"]

Kind = Literal["counter", "gauge", "histogram", "info"]

#: Labels that name a series, in the order of `SeriesKey`.
SERIES_LABELS = ("service", "model", "version", "deployment", "segment")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family.

    Attributes:
        name: the family's full name without the suffix that Prometheus adds to counters (`_total`).
        kind: its Prometheus type.
        unit: base unit (`seconds`, `bytes`, `ratio`, `tokens`, ...), empty where it has none.
        labels: label names, in order.
        help: one sentence.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class CounterTriple:
    """The three counters of one quantity about requests: n, Σw and Σw²."""

    sampled: Metric
    estimated: Metric
    weight_squared: Metric


#: Every metric declared, by name; filled by `declare`, in the order of declaration.
METRICS: dict[str, Metric] = {}


def declare(name: str, kind: Kind, unit: str, labels: tuple[str, ...], help_text: str) -> Metric:
    """Add a metric to the catalog.

    Raises:
        ValueError: the name is taken, does not start with `mlmon_`, or ends in a suffix Prometheus adds.

    Example:
        >>> declare("requests", "counter", "", (), "x")
        Traceback (most recent call last):
        ValueError: metric name 'requests': expected a new name that starts with mlmon_ and has no _total
    """
    if name in METRICS or not name.startswith("mlmon_") or name.endswith("_total"):
        raise ValueError(
            f"metric name {name!r}: expected a new name that starts with mlmon_ and has no _total"
        )
    METRICS[name] = metric = Metric(name, kind, unit, labels, help_text)
    return metric


def counter_triple(
    stem: str, unit: str, labels: tuple[str, ...], what: str, *, kind: Kind = "counter"
) -> CounterTriple:
    """Declare `mlmon_sampled_STEM`, `mlmon_STEM` and `mlmon_STEM_weight_squared` for one quantity."""
    return CounterTriple(
        declare(f"mlmon_sampled_{stem}", kind, unit, labels, f"{what}: sampled events, as counted."),
        declare(f"mlmon_{stem}", kind, unit, labels, f"{what}: estimated total over all traffic (Σw)."),
        declare(f"mlmon_{stem}_weight_squared", kind, unit, labels, f"{what}: Σw², for error bars."),
    )
