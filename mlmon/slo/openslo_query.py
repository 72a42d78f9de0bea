"""Queries of a spec: the counters and expressions they mean, held against the catalogue.

A ratio's query is the selector of a counter, bare or inside `sum`, `rate`, `increase`: which windows it is
summed over is for rules to say, so a range written in the query is dropped. Anything else is refused, since a
sum of quotients cannot be windowed again. A threshold's query may be any instant vector.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from mlmon.catalog import METRICS
from mlmon.slo.model import Counters, Expression, Matcher, Selector
from mlmon.slo.reader import nearest

if TYPE_CHECKING:
    from mlmon.catalog import Metric
    from mlmon.slo.model import MatchOp
    from mlmon.slo.reader import Item

__all__ = ["catalogued", "counters", "expression", "parse_selector"]

_WRAPPED = re.compile(r"(?:sum|rate|increase|irate)\s*\((.*)\)", re.DOTALL)
_RANGE = re.compile(r"\[\s*(?:[0-9a-z]+|\{\{\s*\.window\s*\}\})\s*\]$")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?", re.DOTALL)
_MATCHER = re.compile(
    r"""\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*(,|$)"""
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_MLMON = re.compile(r"\bmlmon_[a-zA-Z0-9_]+(?![a-zA-Z0-9_:])")
_SUFFIXES = ("_total", "_bucket", "_count", "_sum", "_info", "")
_KINDS = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_count", "_sum"),
    "gauge": ("",),
    "info": ("_info",),
}
_ADVICE = (
    'write the selector of one counter, such as requests_total{code="200"}, bare or within sum, rate or '
    "increase; labels to keep go into mlmon.io/group-by"
)


def parse_selector(text: str) -> Selector | None:
    """The selector in a query, or None where the query is more than one.

    Example:
        >>> print(parse_selector("sum(rate(http_requests_total{code=~'5..'}[5m]))"))
        http_requests_total{code=~"5.."}
        >>> parse_selector("a_total / b_total") is None
        True
    """
    text = text.strip()
    while wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[1].strip()
    match = _SELECTOR.fullmatch(_RANGE.sub("", text).rstrip())
    if match is None:
        return None
    matchers = _matchers(match[2] or "")
    return None if matchers is None else Selector(match[1], matchers)


def _matchers(inside: str) -> tuple[Matcher, ...] | None:
    found: list[Matcher] = []
    position = 0
    while inside[position:].strip():
        match = _MATCHER.match(inside, position)
        if match is None:
            return None
        value = _ESCAPE.sub(lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), match[3][1:-1])
        found.append(Matcher(match[1], cast("MatchOp", match[2]), value))
        position = match.end()
    return tuple(found)


def catalogued(series: str) -> tuple[Metric, str] | None:
    """The catalogue's metric behind a series name, and the suffix that Prometheus shows.

    Example:
        >>> found = catalogued("mlmon_request_latency_seconds_bucket")
        >>> found[0].name, found[1], catalogued("mlmon_requests")
        ('mlmon_request_latency_seconds', '_bucket', None)
    """
    for suffix in _SUFFIXES:
        metric = METRICS.get(series.removesuffix(suffix)) if series.endswith(suffix) else None
        if metric is not None and suffix in _KINDS[metric.kind]:
            return metric, suffix
    return None


def counters(query: Item, group_by: tuple[str, ...]) -> Counters:
    """What a ratio's query counts.

    Args:
        query: the query's text.
        group_by: labels that must exist on it.
    """
    text = query.text(10_000)
    selector = parse_selector(text)
    if selector is None:
        query.complain("the selector of one counter", _ADVICE)
        return Counters(Selector("up"))
    if not selector.metric.startswith("mlmon_"):
        return Counters(selector)
    found = catalogued(selector.metric)
    if found is None:
        _complain_of(query, selector.metric)
        return Counters(selector)
    metric, suffix = found
    if metric.kind not in ("counter", "histogram") or suffix == "_sum":
        query.complain(
            "a counter of events",
            "use a counter, or a thresholdMetric for a value that rises and falls",
            f"{selector.metric}, a {metric.kind if suffix != '_sum' else 'sum of values'}",
        )
    _check_labels(query, selector, metric, group_by, bucket=suffix == "_bucket")
    return _triple(query, selector, metric, suffix)


def _triple(query: Item, selector: Selector, metric: Metric, suffix: str) -> Counters:
    stem = metric.name.removeprefix("mlmon_")
    plain = stem.removeprefix("sampled_").removesuffix("_weight_squared")
    if plain != stem and f"mlmon_{plain}" in METRICS:
        query.complain(
            "the counter that estimates all traffic",
            f"write mlmon_{plain}{suffix}: its sampled and squared counters are found by themselves",
            selector.metric,
        )
    sampled, squared = f"mlmon_sampled_{stem}", f"mlmon_{stem}_weight_squared"
    if sampled not in METRICS or squared not in METRICS:
        return Counters(selector)
    return Counters(selector, selector.named(sampled + suffix), selector.named(squared + suffix))


def _complain_of(query: Item, name: str) -> None:
    """Say that nothing emits a metric, and which it may be."""
    known = [stem + suffix for stem, metric in METRICS.items() for suffix in _KINDS[metric.kind]]
    near = nearest(name, known)
    query.complain(
        "a metric of the catalogue (docs/metrics.md)",
        near if near.startswith("did") else "take one from there",
        f"{name}, which nothing emits",
    )


def _check_labels(
    query: Item, selector: Selector, metric: Metric, group_by: tuple[str, ...], *, bucket: bool
) -> None:
    known = (*metric.labels, *(("le",) if bucket else ()), "instance", "job")
    for matcher in selector.matchers:
        if matcher.label not in known:
            query.complain(
                f"a label of {selector.metric}", nearest(matcher.label, known), f"the label {matcher.label}"
            )
    for label in group_by:
        if label not in metric.labels:
            query.complain(
                f"a metric with the label {label} of mlmon.io/group-by",
                f"group by some of {', '.join(metric.labels) or 'no labels'}",
                selector.metric,
            )
    bounds = [m for m in selector.matchers if m.label == "le"]
    if bucket and (len(bounds) != 1 or bounds[0].op != "=" or not _is_bound(bounds[0].value)):
        query.complain(
            "one bound of the histogram's buckets",
            'write le="0.25" with the bound in seconds and a decimal point, or use _count for all events',
            bounds[0].value if bounds else "none",
        )


def _is_bound(text: str) -> bool:
    """Whether a bucket's bound is written as Prometheus writes it, such as 0.25, 1.0, +Inf."""
    return text == "+Inf" or re.fullmatch(r"\d+\.\d+|\d(\.\d+)?e[-+]\d\d", text) is not None


def expression(query: Item) -> Expression:
    """What a threshold's query measures; names of mlmon's metrics in it must be in the catalogue."""
    text = " ".join(query.text(10_000).split())
    if "{{" in text:
        query.complain("an instant vector without placeholders", "write the range itself, such as [5m]")
    if not _balanced(text):
        query.complain("PromQL with its brackets closed", "close them")
    names = sorted(set(_MLMON.findall(re.sub(r'"[^"]*"', '""', text))))
    for name in names:
        if catalogued(name) is None:
            _complain_of(query, name)
    return Expression(text, tuple(names))


def _balanced(text: str) -> bool:
    stack: list[str] = []
    for char in re.sub(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', "", text):
        if char in "([{":
            stack.append({"(": ")", "[": "]", "{": "}"}[char])
        elif char in ")]}" and (not stack or stack.pop() != char):
            return False
    return not stack
