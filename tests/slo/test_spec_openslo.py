"""OpenSLO documents: what they compile to, and what is said of those that cannot be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from mlmon.errors import ConfigError
from mlmon.slo import load_specs
from mlmon.slo.model import (
    CRITICAL_ACCURACY,
    STANDARD,
    Expression,
    JudgeKind,
    Judgement,
    Method,
    Ratio,
    Threshold,
)

if TYPE_CHECKING:
    from mlmon.slo.model import Specs

FIXTURES = Path(__file__).parent / "fixtures" / "openslo"

RATIO = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: one
  displayName: One
  labels:
    team: ml
  annotations:
    mlmon.io/group-by: "service, model"
    mlmon.io/label-delay: "0"
spec:
  description: What it says.
  service: shop
  indicator:
    metadata:
      name: answered
    spec:
      ratioMetric:
        counter: true
        bad:
          metricSource:
            type: Prometheus
            spec:
              query: mlmon_requests_total{status="error"}
        total:
          metricSource:
            type: Prometheus
            spec:
              query: mlmon_requests_total
  timeWindow:
    - duration: 4w
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - displayName: Good
      target: 0.999
"""
THRESHOLD = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: fresh
spec:
  service: mlmon
  indicator:
    metadata:
      name: age
    spec:
      thresholdMetric:
        metricSource:
          type: Prometheus
          spec:
            query: max(mlmon_watermark_age_seconds)
  budgetingMethod: Timeslices
  objectives:
    - displayName: Fresh
      op: lte
      value: 300
      target: 0.99
      timeSliceTarget: 1.0
      timeSliceWindow: 5
"""


def load(tmp_path: Path, *texts: str) -> Specs:
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.yaml").write_text(text, encoding="utf-8")
    return load_specs([tmp_path])


def refusal(tmp_path: Path, *texts: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *texts)
    return str(caught.value)


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_of_the_specification_parses_or_is_refused_with_its_reason(path: Path) -> None:
    head = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ")]
    assert head[0].startswith("source: OpenSLO")
    reasons = [line.removeprefix("expect: refused; ") for line in head[1:] if "refused" in line]
    if not reasons:
        assert head[1] == "expect: parses"
        load_specs([path])
        return
    with pytest.raises(ConfigError) as caught:
        load_specs([path])
    lines = [line for line in str(caught.value).splitlines() if str(path) in line]
    for reason in reasons:
        assert any(reason in line for line in lines), f"{reason} is not in {caught.value}"
    # and for no reason that the file does not name
    assert all(any(reason in line for reason in reasons) for line in lines), caught.value


def test_a_ratio_knows_its_sampled_and_squared_counters(tmp_path: Path) -> None:
    objective = load(tmp_path, RATIO)["one"]
    assert isinstance(objective.sli, Ratio)
    assert [str(s) for s in objective.sli.part.selectors()] == [
        'mlmon_requests_total{status="error"}',
        'mlmon_sampled_requests_total{status="error"}',
        'mlmon_requests_weight_squared_total{status="error"}',
    ]
    assert objective.sli.part_is == "bad"
    assert objective.sli.total.weight_squared is not None
    assert str(objective.sli.total.weight_squared) == "mlmon_requests_weight_squared_total"
    assert objective.window_seconds == 28 * 86_400
    assert (objective.method, objective.target) == (Method.OCCURRENCES, 0.999)
    assert objective.conditions == STANDARD
    assert (objective.group_by, objective.team, objective.service) == (("service", "model"), "ml", "shop")
    assert (objective.minimum_events, objective.confidence, objective.root_cause) == (20, 0.95, "one")
    assert (objective.display_name, objective.description) == ("One", "What it says.")
    assert objective.source.endswith("0.yaml:3")
    assert not objective.critical


def test_a_metric_from_elsewhere_counts_each_event_once(tmp_path: Path) -> None:
    text = changed(RATIO, 'mlmon_requests_total{status="error"}', 'sum(rate(http_total{code=~"5.."}[5m]))')
    text = changed(text, "query: mlmon_requests_total\n", "query: http_total{}\n")
    sli = load(tmp_path, text)["one"].sli
    assert isinstance(sli, Ratio)
    assert str(sli.part.estimated) == 'http_total{code=~"5.."}'
    assert sli.part.sampled is None
    assert sli.total.weight_squared is None
    assert sli.metrics() == ("http_total",)


def test_a_threshold_with_slices_in_minutes(tmp_path: Path) -> None:
    objective = load(tmp_path, THRESHOLD)["fresh"]
    expected = Threshold(
        Expression("max(mlmon_watermark_age_seconds)", ("mlmon_watermark_age_seconds",)), "<=", 300.0
    )
    assert objective.sli == expected
    assert (objective.current.slice_seconds, objective.current.slice_target) == (300, 1.0)
    assert objective.minimum_events == 0
    assert objective.window_seconds == 30 * 86_400
    assert objective.display_name == "fresh"


def test_ratio_timeslices_have_a_length_and_no_target(tmp_path: Path) -> None:
    text = changed(RATIO, "Occurrences", "RatioTimeslices")
    text = changed(text, "      target: 0.999\n", "      target: 0.999\n      timeSliceWindow: 1m\n")
    version = load(tmp_path, text)["one"].current
    assert (version.slice_seconds, version.slice_target) == (60, None)


def test_several_objectives_are_named_after_their_titles(tmp_path: Path) -> None:
    more = "    - displayName: The Contract (SLA)\n      targetPercent: 99.5\n"
    specs = load(tmp_path, RATIO + more)
    assert [(o.name, o.target) for o in specs] == [("one-good", 0.999), ("one-the-contract-sla", 0.995)]
    assert specs["one-the-contract-sla"].display_name == "One: The Contract (SLA)"
    with pytest.raises(KeyError):
        specs["one"]


def test_an_indicator_and_its_source_may_stand_in_other_files(tmp_path: Path) -> None:
    lines = RATIO.splitlines(keepends=True)
    start, end = lines.index("  indicator:\n"), lines.index("  timeWindow:\n")
    slo = "".join([*lines[:start], "  indicatorRef: answered\n", *lines[end:]])
    spec = "".join(line[4:] for line in lines[start + 3 : end])
    spec = spec.replace("type: Prometheus", "metricSourceRef: main")
    sli = f"apiVersion: openslo/v1\nkind: SLI\nmetadata:\n  name: answered\n{spec}"
    source = "apiVersion: openslo/v1\nkind: DataSource\nmetadata: {name: main}\nspec: {type: Thanos}\n"
    found = load(tmp_path, slo, sli, source)["one"].sli
    assert found == load(_empty(tmp_path), RATIO)["one"].sli
    assert "expected the name of a document of kind DataSource" in refusal(_empty(tmp_path), slo, sli)
    assert "did you mean answered?" in refusal(
        _empty(tmp_path), slo.replace("Ref: answered", "Ref: answerd"), sli, source
    )
    assert "got CloudWatch" in refusal(_empty(tmp_path), slo, sli, source.replace("Thanos", "CloudWatch"))


def _empty(path: Path) -> Path:
    for child in path.iterdir():
        child.unlink()
    return path


POLICY = """\
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: slow-page}
spec:
  alertWhenBreaching: true
  alertWhenResolved: false
  alertWhenNoData: true
  conditions:
    - conditionRef: slow
  notificationTargets:
    - targetRef: on-call
---
apiVersion: openslo/v1
kind: AlertCondition
metadata:
  name: slow
spec:
  severity: page
  condition: {kind: burnrate, op: gt, threshold: 6, lookbackWindow: 6h, alertAfter: 2m}
---
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata: {name: on-call}
spec: {target: pagerduty, description: Who is on call}
---
apiVersion: openslo/v1
kind: Service
metadata: {name: shop, displayName: The shop}
spec: {description: It sells.}
"""


def test_policies_become_conditions(tmp_path: Path) -> None:
    ticket = POLICY.split("---")[0].replace("slow", "day").replace("  alertWhenNoData: true\n", "")
    ticket = ticket.replace("  alertWhenResolved: false\n", "")
    ticket = ticket.replace("    - conditionRef: day\n", INLINE_CONDITION).partition("  notificationTargets")[
        0
    ]
    slo = RATIO + "  alertPolicies:\n    - alertPolicyRef: slow-page\n    - alertPolicyRef: day-page\n"
    specs = load(tmp_path, slo, POLICY, ticket)
    slow, day = specs["one"].conditions
    assert (slow.name, slow.severity, slow.threshold, slow.confident) == ("slow", "page", 6.0, True)
    assert (slow.long_seconds, slow.short_seconds, slow.for_seconds) == (21_600, 1800, 120)
    assert (slow.no_data, slow.resolved, slow.targets) == (True, False, ("on-call",))
    assert (day.name, day.severity, day.confident) == ("day", "ticket", False)
    assert (day.short_seconds, day.targets, day.no_data, day.resolved) == (3600, (), False, True)
    assert [p.name for p in specs.policies] == ["slow-page", "day-page"]
    assert specs.targets[0].target == "pagerduty"
    assert specs.services[0].display_name == "The shop"


INLINE_CONDITION = """\
    - kind: AlertCondition
      metadata:
        name: day
        annotations: {mlmon.io/short-window: 1h}
      spec:
        severity: ticket
        condition: {threshold: 3, lookbackWindow: 1d}
"""


def noted(key: str, value: str) -> str:
    return changed(RATIO, '    mlmon.io/label-delay: "0"\n', f'    mlmon.io/{key}: "{value}"\n')


def test_annotations(tmp_path: Path) -> None:
    assert load(tmp_path, noted("label-delay", "2d"))["one"].label_delay_seconds == 172_800
    assert load(tmp_path, noted("minimum-events", "7"))["one"].minimum_events == 7
    assert load(tmp_path, noted("minimum-coverage", "0.5"))["one"].minimum_coverage == 0.5
    assert load(tmp_path, noted("confidence", "0.99"))["one"].confidence == 0.99
    assert load(tmp_path, noted("root-cause", "tokenizer"))["one"].root_cause == "tokenizer"
    assert load(tmp_path, noted("requires", "labels"))["one"].requires == "labels"
    assert load(tmp_path, noted("alerts", "none"))["one"].conditions == ()
    assert not load(tmp_path, noted("release", "excused"))["one"].burns_in_release
    assert load(tmp_path, noted("judge", "latency 0.25"))["one"].current.judgement == Judgement(
        JudgeKind.LATENCY, 0.25
    )
    assert load(tmp_path, noted("judge", "accuracy"))["one"].current.judgement == Judgement(
        JudgeKind.ACCURACY
    )


def test_severity_classes(tmp_path: Path) -> None:
    informational = load(tmp_path, noted("severity-class", "informational"))["one"]
    assert {c.severity for c in informational.conditions} == {"ticket"}
    critical = load(tmp_path, noted("severity-class", "critical"))["one"]
    assert critical.critical
    assert critical.conditions == STANDARD  # what comes with the event needs no page of its own
    late = noted("severity-class", "critical").replace(
        "    mlmon.io/group-by", "    mlmon.io/label-delay: 1d\n    mlmon.io/group-by"
    )
    assert load(tmp_path, late)["one"].conditions == (*STANDARD, CRITICAL_ACCURACY)


LATER = '    mlmon.io/version-of: one\n    mlmon.io/effective-from: "2026-08-01T02:00:00+02:00"\n'


def later(text: str = RATIO, name: str = "one-2026") -> str:
    text = changed(text, '    mlmon.io/label-delay: "0"\n', LATER)
    return changed(text, "name: one\n", f"name: {name}\n")


def test_versions_are_one_objective_judged_by_the_one_in_force(tmp_path: Path) -> None:
    newer = changed(later(), "target: 0.999", "target: 0.99")
    newer = changed(newer, 'status="error"', 'status=~"error|timeout"')
    specs = load(tmp_path, newer, RATIO)
    (objective,) = specs
    midnight = datetime(2026, 8, 1, tzinfo=UTC)
    assert objective.name == "one"
    assert [v.effective_from for v in objective.versions] == [None, midnight]
    assert (objective.target, objective.versions[0].target) == (0.99, 0.999)
    assert objective.at(midnight).target == 0.99
    assert objective.at(datetime(2026, 7, 31, 23, 59, 59, tzinfo=UTC)).target == 0.999
    assert objective.sli.part.estimated.matchers[0].op == "=~"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("duration: 4w", "duration: 30d", "timeWindow"),
        ("service: shop", "service: other", "service"),
        ('"service, model"', '"service"', "mlmon.io/group-by"),
    ],
)
def test_versions_may_not_change_what_the_budget_is_counted_over(
    tmp_path: Path, old: str, new: str, word: str
) -> None:
    assert f"expected the same {word} in all versions of one" in refusal(
        tmp_path, RATIO, changed(later(), old, new)
    )


def test_versions_need_a_first_and_a_date(tmp_path: Path) -> None:
    assert "expected a first version of one that holds from ever" in refusal(tmp_path, later())
    undated = later().replace('    mlmon.io/effective-from: "2026-08-01T02:00:00+02:00"\n', "")
    assert "expected one objective one at a time" in refusal(tmp_path, RATIO, undated)
    twice = refusal(tmp_path, RATIO, later(), later(name="one-again"))
    assert "expected one objective one at a time" in twice


REFUSED = yaml.safe_load((FIXTURES.parent / "refused.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case['in']}-{case['by'].strip()[:40]}")
def test_a_mistake_is_told_with_file_line_key_and_remedy(tmp_path: Path, case: dict[str, str]) -> None:
    texts = {
        "ratio": (RATIO,),
        "threshold": (THRESHOLD,),
        "policy": (RATIO + "  alertPolicies:\n    - alertPolicyRef: slow-page\n", POLICY),
    }[case["in"]]
    load(_empty(tmp_path), *texts)
    message = refusal(_empty(tmp_path), *texts[:-1], changed(texts[-1], case["replace"], case["by"]))
    assert any(case["says"] in line.replace(f"{tmp_path}/", "") for line in message.splitlines()), message


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, changed(RATIO, "0.999", "2"), changed(THRESHOLD, "openslo/v1", "v1"))
    assert message.startswith("2 problems in SLO specs\n")
    assert "/0.yaml:36:" in message
    assert "/1.yaml:1:" in message


def test_policies_and_a_word_on_alerts_exclude_each_other(tmp_path: Path) -> None:
    slo = noted("alerts", "none") + "  alertPolicies:\n    - alertPolicyRef: slow-page\n"
    assert "only where no alertPolicies are named" in refusal(tmp_path, slo, POLICY)


def test_a_condition_named_by_two_policies_is_refused(tmp_path: Path) -> None:
    again = POLICY.split("---")[0].replace("slow-page", "again").partition("  notificationTargets")[0]
    slo = RATIO + "  alertPolicies:\n    - alertPolicyRef: slow-page\n    - alertPolicyRef: again\n"
    assert "got slow twice" in refusal(tmp_path, slo, POLICY, again)
