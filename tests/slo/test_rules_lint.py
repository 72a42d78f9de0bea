"""Every expression is read by promql-parser: its metrics exist, and nothing is added to another unit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import promql_parser as pq
import pytest

from mlmon.catalog import METRICS
from mlmon.slo import load_specs
from mlmon.slo.alerting import ROOT_CAUSES
from mlmon.slo.health import HealthSettings
from mlmon.slo.promql import Alert, Recording
from mlmon.slo.render_rules import rule_groups
from mlmon.slo.windows import RuleSettings

if TYPE_CHECKING:
    from mlmon.slo.promql import Group

ROOT = Path(__file__).resolve().parents[2]
SPECS = load_specs([ROOT / "alerts" / "slos"])
FILES: dict[str, list[Group]] = {
    name: list(groups) for name, _, groups in rule_groups(SPECS, RuleSettings(), HealthSettings())
}
GROUPS = [group for groups in FILES.values() for group in groups]
RULES = [rule for group in GROUPS for rule in group.rules]
RECORDED = {rule.record for rule in RULES if isinstance(rule, Recording)}
#: Metrics of others, and of Prometheus; the rules are silent where they are absent.
FOREIGN = {
    "up": "",
    "DCGM_FI_DEV_FB_USED": "bytes",
    "DCGM_FI_DEV_FB_FREE": "bytes",
    "kube_pod_container_status_restarts_total": "",
    "kube_pod_container_status_last_terminated_reason": "",
    # `mlmon release` writes it for the textfile collector
    "mlmon_release_end_timestamp_seconds": "seconds",
}


def shown_names() -> dict[str, str]:
    """Names as Prometheus shows them, and their units."""
    names = {}
    for name, metric in METRICS.items():
        if metric.kind == "histogram":
            names |= {f"{name}_bucket": "", f"{name}_count": "", f"{name}_sum": metric.unit}
        else:
            suffix = {"counter": "_total", "info": "_info"}.get(metric.kind, "")
            names[name + suffix] = metric.unit
    return names


CATALOG = shown_names()


def selectors(expression: str) -> set[str]:
    found: set[str] = set()

    def visit(node: pq.Expr) -> None:
        match node:
            case pq.VectorSelector():
                found.add(node.name)
            case pq.MatrixSelector():
                visit(node.vector_selector)
            case pq.BinaryExpr():
                visit(node.lhs)
                visit(node.rhs)
            case pq.Call():
                for argument in node.args:
                    visit(argument)
            case pq.AggregateExpr() | pq.ParenExpr() | pq.SubqueryExpr() | pq.UnaryExpr():
                visit(node.expr)
            case pq.NumberLiteral() | pq.StringLiteral():
                pass
            case _:
                raise TypeError(type(node))

    visit(pq.parse(expression))
    return found


def ids(rule: Recording | Alert) -> str:
    name = rule.record if isinstance(rule, Recording) else rule.alert
    return f"{name}/{rule.labels.get('slo', '')}"


@pytest.mark.parametrize("rule", RULES, ids=ids)
def test_every_metric_is_in_the_catalog_or_recorded(rule: Recording | Alert) -> None:
    unknown = selectors(rule.expr) - CATALOG.keys() - RECORDED - FOREIGN.keys()
    assert not unknown


def test_what_a_template_asks_for_is_recorded() -> None:
    assert ROOT_CAUSES in RECORDED
    assert any(ROOT_CAUSES in rule.labels["root_cause"] for rule in RULES if isinstance(rule, Alert))


def test_every_recorded_series_is_used_or_shown() -> None:
    used = {name for rule in RULES for name in selectors(rule.expr)} | {ROOT_CAUSES}
    shown = {
        "mlmon_slo:target:ratio",
        "mlmon_slo:budget_exhaustion:seconds",
        "mlmon_slo:budget_remaining:ratio",
    }
    windows = {name for name in RECORDED if name.startswith(("mlmon_slo:burn_rate:", "mlmon_slo:events:"))}
    assert RECORDED - used - shown - windows == set()


class UnitError(ValueError):
    pass


class Units:
    """The unit of an expression as powers of base units; None: a number, which has any unit."""

    def __init__(self, known: dict[str, Unit | None]) -> None:
        self.known = known

    def of(self, node: pq.Expr) -> Unit | None:
        match node:
            case pq.NumberLiteral() | pq.StringLiteral():
                return None
            case pq.VectorSelector():
                return self.known[node.name]
            case pq.MatrixSelector():
                return self.of(node.vector_selector)
            case pq.Call():
                return self.call(node)
            case pq.BinaryExpr():
                if node.modifier is not None and node.modifier.return_bool:
                    self.binary(str(node.op), self.of(node.lhs), self.of(node.rhs), 0)
                    return unit("")
                power = node.rhs.val if str(node.op) == "^" else 0
                return self.binary(str(node.op), self.of(node.lhs), self.of(node.rhs), power)
            case _:
                return self.of(node.expr)

    def call(self, node: pq.Call) -> Unit | None:
        name, units = node.func.name, [self.of(argument) for argument in node.args]
        if name == "rate":
            return product(units[0], unit("second"), -1)
        if name == "histogram_quantile":
            return unit("seconds")
        if name == "sqrt":
            return product(frozenset(), units[0], 0.5)
        return next((found for found in units if found is not None), None)

    def binary(self, op: str, left: Unit | None, right: Unit | None, power: float) -> Unit | None:
        if op in ("*", "/"):
            return product(left, right, 1 if op == "*" else -1)
        if op == "^":
            return product(frozenset(), left, power)
        if op in ("and", "unless"):
            return left
        if left is not None and right is not None and left != right:
            raise UnitError(f"{dict(left)} {op} {dict(right)}")
        return left if left is not None else right


Unit = frozenset


def unit(name: str) -> Unit:
    return frozenset({(name, 1)} if name and name != "ratio" else ())


def product(left: Unit | None, right: Unit | None, power: float) -> Unit | None:
    if left is None and right is None:
        return None
    powers = dict(left or ())
    for name, exponent in right or ():
        powers[name] = powers.get(name, 0) + power * exponent
    return frozenset((name, exponent) for name, exponent in powers.items() if exponent)


def known_units() -> dict[str, Unit | None]:
    names = CATALOG | FOREIGN
    return {name: unit(of) for name, of in names.items()}


def file_units(groups: list[Group]) -> dict[str, Unit | None]:
    """The units of what one file records; twice, since a group may read what a later one records."""
    recorded = [rule.record for group in groups for rule in group.rules if isinstance(rule, Recording)]
    units = Units(dict.fromkeys(recorded) | known_units())
    for _ in range(2):
        for group in groups:
            for rule in group.rules:
                if isinstance(rule, Recording):
                    units.known[rule.record] = rule_unit(rule, units)
    return units.known


def rule_unit(rule: Recording | Alert, units: Units) -> Unit | None:
    """The unit of what a rule gives.

    Two things are let be. A number that counts seconds makes a rate a number of events. And an alert may
    have alternatives that measure different things, since it says only that one of them is so.
    """
    parsed = pq.parse(rule.expr)
    either = isinstance(parsed, pq.BinaryExpr) and str(parsed.op) == "or"
    if isinstance(rule, Recording) and ":increase5m" in rule.record:
        return units.of(parsed)
    if isinstance(rule, Recording) and re.match(r"mlmon_slo:(error_)?events:", rule.record):
        found = units.of(parsed.lhs if either else parsed)
        rates = [name for name in selectors(rule.expr) if ":rate" in name and "squared" not in name]
        assert not rates or found == units.known[rates[0]]
        return unit("")
    if isinstance(rule, Alert) and either:
        units.of(parsed.lhs)
        parsed = parsed.rhs
    return units.of(parsed)


@pytest.mark.parametrize(("name", "groups"), FILES.items(), ids=FILES)
def test_units_are_consistent(name: str, groups: list[Group]) -> None:
    """Nothing is added to, compared with, or an alternative to, what has another unit."""
    units = Units(known_units() | {ROOT_CAUSES: unit("")} | file_units(groups))
    for group in groups:
        for rule in group.rules:
            found = rule_unit(rule, units)
            if isinstance(rule, Recording) and re.match(r"mlmon_slo:bu|mlmon:unknown", rule.record):
                assert found in (None, unit("")), rule.record


def test_the_check_of_units_finds_a_mistake() -> None:
    units = Units(known_units())
    with pytest.raises(UnitError, match=r"seconds.* > .*bytes"):
        units.of(pq.parse("mlmon_consumer_lag_seconds > mlmon_history_size_bytes"))
    with pytest.raises(UnitError):
        units.of(pq.parse("rate(mlmon_tokens_total[5m]) + increase(mlmon_tokens_total[5m])"))
    share = units.of(pq.parse("rate(mlmon_unknown_tokens_total[5m]) / rate(mlmon_tokens_total[5m])"))
    assert share == unit("")


def test_units_in_the_names_of_settings_are_those_of_their_metrics() -> None:
    """A limit named `_seconds` is compared with seconds, and one named `_ratio` with a quotient."""
    health = HealthSettings()
    comparisons = {
        "MlmonPipelineLagging": health.lag_seconds,
        "MlmonWatermarkStuck": health.watermark_age_seconds,
        "MlmonLatencyP99High": health.latency_p99_seconds,
    }
    units = Units(known_units())
    for rule in RULES:
        if isinstance(rule, Alert) and rule.alert in comparisons:
            parsed = pq.parse(rule.expr)
            comparison = parsed.lhs if str(parsed.op) == "and" else parsed
            assert units.of(comparison.lhs) == unit("seconds")
            assert comparison.rhs.val == comparisons[rule.alert]
