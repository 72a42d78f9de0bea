"""Selectors: what is read from a query is what Prometheus's own grammar reads."""

from __future__ import annotations

import re

import promql_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmon.catalog import METRICS
from mlmon.slo.model import Matcher, Selector
from mlmon.slo.openslo_query import catalogued, parse_selector

# Words of PromQL, and the wrappers that are read away.
WORDS = re.compile(
    "inf|nan|by|without|offset|bool|and|or|unless|on|ignoring|group_(left|right)|start|end|sum|avg|min|max|count|"
    "stddev|stdvar|topk|bottomk|quantile|count_values|group|atan2|limitk|limit_ratio|i?rate|increase",
    re.IGNORECASE,
)
NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", fullmatch=True).filter(
    lambda name: not WORDS.fullmatch(name)
)
LABELS = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,10}", fullmatch=True).filter(lambda name: name != "__name__")
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)
SELECTORS = st.builds(
    Selector,
    NAMES,
    st.lists(st.builds(Matcher, LABELS, st.sampled_from(["=", "!="]), VALUES), max_size=4).map(tuple),
)


@given(SELECTORS)
def test_a_selector_is_written_as_prometheus_reads_it(selector: Selector) -> None:
    parsed = promql_parser.parse(str(selector))
    assert isinstance(parsed, promql_parser.VectorSelector)
    assert parsed.name == selector.metric
    found = sorted((m.name, m.value) for m in parsed.matchers.matchers if m.name != "__name__")
    assert found == sorted((m.label, m.value) for m in selector.matchers)


@given(
    SELECTORS, st.sampled_from(["{}", "sum({})", "sum(rate({}[5m]))", " increase( {} [1h] ) ", "sum( {} )"])
)
def test_a_selector_survives_being_read(selector: Selector, form: str) -> None:
    assert parse_selector(form.format(selector).replace("[5m]", "[{{.window}}]")) == selector


@pytest.mark.parametrize(
    "text",
    [
        "", "a b", "a + b", "a / b", "sum(a) / sum(b)", "a{x=1}", "a{x='1' y='2'}", "a{x}", 'a{x=="1"}', "1",
        "sum by (x) (a)", "histogram_quantile(0.9, a)", "a offset 5m", '{x="1"}', 'a{"b"="1"}', "a{x='1'",
        "sum(a", "a[5m] offset 1h", "rate(a[5m]) > 0", 'a{x="1"}{y="2"}',
    ],
)  # fmt: skip
def test_more_than_a_selector_is_none(text: str) -> None:
    assert parse_selector(text) is None


def test_forms_of_a_selector() -> None:
    expected = Selector("a", (Matcher("x", "=~", '1"2'), Matcher("y", "!~", "z")))
    for text in (
        """a{x=~"1\\"2",y!~'z'}""",
        """a { x =~ '1"2' , y !~ "z" , }""",
        """sum(irate(a{x=~"1\\"2",y!~'z'}[2m]))""",
    ):
        assert parse_selector(text) == expected
    assert parse_selector("a{}") == Selector("a")


def test_every_series_of_the_catalogue_is_found() -> None:
    suffixes = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_count", "_sum"),
        "info": ("_info",),
        "gauge": ("",),
    }
    for name, metric in METRICS.items():
        for suffix in suffixes[metric.kind]:
            assert catalogued(name + suffix) == (metric, suffix)
    assert catalogued("mlmon_requests") is None
    assert catalogued("mlmon_requests_bucket") is None
    assert catalogued("requests_total") is None
