"""The specs that ship: they load, ask for metrics that exist, and mean what the guide says."""

from __future__ import annotations

from pathlib import Path

import promql_parser
import pyarrow as pa
import pytest

from mlmon.catalog import requests
from mlmon.events.batch import EventBatch
from mlmon.events.schema import FIELDS
from mlmon.monitors.base import SeriesKey
from mlmon.monitors.tokenizer import TokenizerConfig, TokenizerMonitor
from mlmon.slo import load_specs
from mlmon.slo.annotations import CONDITION_KEYS, SLO_KEYS
from mlmon.slo.model import CRITICAL_ACCURACY, STANDARD, JudgeKind, Ratio, Threshold
from mlmon.slo.openslo_query import catalogued

ROOT = Path(__file__).parents[2]
SPECS = load_specs([ROOT / "alerts" / "slos"])
GUIDE = (ROOT / "docs" / "slo.md").read_text(encoding="utf-8")


def test_the_ten_objectives_are_there() -> None:
    assert {objective.name: objective.target for objective in SPECS} == {
        "availability": 0.999,
        "latency-p95": 0.95,
        "task-accuracy": 0.9,
        "masked-token-accuracy": 0.55,
        "unknown-tokens": 0.98,
        "version-correctness": 0.999,
        "reference-agreement": 0.9,
        "answer-echo": 0.999,
        "pipeline-freshness": 0.99,
        "cost-per-inference": 0.95,
    }
    for objective in SPECS:
        assert f"| `{objective.name}` |" in GUIDE
        assert f"| {100 * objective.target:g} % " in next(
            line for line in GUIDE.splitlines() if line.startswith(f"| `{objective.name}`")
        )
        assert objective.description
        assert objective.team in ("ml", "platform", "product")
        assert objective.window_seconds == 30 * 86_400
        assert {objective.service} <= {service.name for service in SPECS.services}


@pytest.mark.parametrize("objective", list(SPECS), ids=lambda objective: objective.name)
def test_metrics_exist(objective) -> None:  # type: ignore[no-untyped-def]
    for name in objective.metrics():
        found = catalogued(name)
        assert found is not None, f"{name} is in no catalogue"
        assert set(objective.group_by) <= set(found[0].labels)


@pytest.mark.parametrize("objective", list(SPECS), ids=lambda objective: objective.name)
def test_queries_are_promql(objective) -> None:  # type: ignore[no-untyped-def]
    if isinstance(objective.sli, Threshold):
        promql_parser.parse(objective.sli.expression.text)
        return
    assert isinstance(objective.sli, Ratio)
    for counters in (objective.sli.part, objective.sli.total):
        assert counters.weight_squared is not None
        for selector in counters.selectors():
            promql_parser.parse(f"sum by (service) (rate({selector.over('5m')}))")
            # What a shadow deployment answers nobody sees.
            assert 'deployment!="shadow"' in str(selector)


def test_the_part_is_among_the_total() -> None:
    """Every matcher of the total is one of the part's, so that the ratio is never above 1."""
    for objective in SPECS:
        if isinstance(objective.sli, Ratio):
            part, total = objective.sli.part.estimated, objective.sli.total.estimated
            assert set(total.matchers) <= set(part.matchers), objective.name


def test_labels_of_matchers_have_values_that_are_emitted() -> None:
    statuses = ("ok", "client_error", "error", "timeout", "other")
    (status,) = [m for m in SPECS["availability"].sli.part.estimated.matchers if m.label == "status"]  # type: ignore[union-attr]
    assert set(status.value.split("|")) < set(statuses)
    assert 'part="total"' in str(SPECS["latency-p95"].sli.total.estimated)  # type: ignore[union-attr]
    (ratio,) = [m for m in SPECS["unknown-tokens"].sli.part.estimated.matchers if m.label == "ratio"]  # type: ignore[union-attr]
    assert ratio.value in emitted_ratios()


def emitted_ratios() -> set[str]:
    """Values of the label `ratio` that the monitor gives an event with tokens and unknown ones."""
    said = {
        "event_id": "e",
        "event_time": 0,
        "service": "s",
        "model_name": "m",
        "tokens": 9,
        "unknown_tokens": 1,
    }
    columns = {field.name: pa.array([said[field.name]], field.type) for field in FIELDS if field.name in said}
    monitor = TokenizerMonitor(TokenizerConfig())
    summary = monitor.summary()
    summary.update(EventBatch(pa.record_batch(columns)))
    samples = list(monitor.collect(SeriesKey("s", "m", "1", "primary", ""), summary))
    place = requests.RATIO_NUMERATOR.estimated.labels.index("ratio")
    return {one.labels[place] for one in samples if one.metric == requests.RATIO_NUMERATOR.estimated}


def test_what_labels_decide_is_judged_in_event_time() -> None:
    accuracy = SPECS["task-accuracy"]
    assert accuracy.critical
    assert accuracy.label_delay_seconds == 86_400
    assert accuracy.current.judgement is not None
    assert accuracy.current.judgement.kind == JudgeKind.ACCURACY
    page = accuracy.conditions[0]
    assert (page.threshold, page.long_seconds, page.short_seconds, page.confident) == (3.0, 3600, 300, True)
    assert page.name == CRITICAL_ACCURACY.name
    latency = SPECS["latency-p95"].current.judgement
    assert latency is not None
    assert latency.limit == 0.2


def test_policies_of_our_own_are_the_standard_ones_rows() -> None:
    standard = {condition.name: condition for condition in (*STANDARD, CRITICAL_ACCURACY)}
    for policy in SPECS.policies:
        (condition,) = policy.conditions
        if condition.name == "hour":
            # a ticket as soon as a page of its objective, at the even rate
            assert (condition.severity, condition.threshold, condition.long_seconds) == ("ticket", 1.0, 3600)
            assert condition.confident
            continue
        twin = standard[condition.name]
        assert (condition.threshold, condition.long_seconds, condition.short_seconds) == (
            twin.threshold, twin.long_seconds, twin.short_seconds
        )  # fmt: skip
        assert (condition.severity, condition.confident) == (twin.severity, twin.confident)


def test_only_what_should_pages() -> None:
    pages = {o.name for o in SPECS if any(c.severity == "page" for c in o.conditions)}
    tickets = {"masked-token-accuracy", "cost-per-inference", "version-correctness"}
    assert pages == {o.name for o in SPECS} - tickets


def test_the_guide_names_every_annotation_with_its_meaning() -> None:
    for key, meaning in (SLO_KEYS | CONDITION_KEYS).items():
        assert f"| `mlmon.io/{key}` | {meaning} |" in GUIDE


def test_the_guides_example_loads(tmp_path: Path) -> None:
    (example,) = [block for block in GUIDE.split("```")[1::2] if "kind: SLO" in block]
    (tmp_path / "example.yaml").write_text(example.removeprefix("yaml"), encoding="utf-8")
    assert load_specs([tmp_path])["availability"].target == 0.999


def test_the_guides_standard_conditions_are_those_of_the_code() -> None:
    for condition in STANDARD:
        assert f"| `{condition.name}` | {condition.threshold:g} | " in GUIDE
