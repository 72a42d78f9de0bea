"""Unit tests for promtool: scenarios of series and the alerts that must, or must not, fire in them.

What fires is read from the series `ALERTS`, so that a test says which labels an alert has and nothing about
the wording of its annotations.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, NamedTuple

from mlmon.slo.promql import scalar
from mlmon.slo.windows import window_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlmon.slo.model import Selector

__all__ = [
    "SHOWN_LABELS",
    "Check",
    "Rules",
    "Scenario",
    "counter",
    "gauge",
    "labels_text",
    "matching_labels",
    "promtool_yaml",
]

#: Labels that tests compare.
SHOWN_LABELS = ("severity", "service", "model", "slo", "root_cause", "team")


@dataclass(frozen=True, slots=True)
class Check:
    """At a moment, an alert fires with each of these sets of labels and no others.

    Attributes:
        alert: its name.
        at_seconds: since the scenario began.
        firing: labels of each; empty: it must be silent.
        slo: only of this objective; empty: of all.
    """

    alert: str
    at_seconds: int
    firing: tuple[Mapping[str, str], ...] = ()
    slo: str = ""


class Scenario(NamedTuple):
    """Series from time 0 on, and what is checked.

    Attributes:
        name: for people.
        step_seconds: between samples.
        series: values in promtool's notation by series.
        checks: what must hold.
    """

    name: str
    step_seconds: int
    series: Mapping[str, str]
    checks: Sequence[Check]


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels in braces.

    Example:
        >>> labels_text({"service": "a"})
        '{service="a"}'
    """
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def counter(increments: Iterable[tuple[int, float | None]]) -> str:
    """A counter's samples.

    Args:
        increments: how many samples, and how much each adds; None: missing; NaN: it starts at 0 again.

    Example:
        >>> counter([(3, 2.0), (2, None), (1, float("nan")), (2, 1.0)])
        '0 2+2x2 _ _ 0 1+1x1'
    """
    value, parts = 0.0, ["0"]
    for count, step in increments:
        if count <= 0:
            continue
        if step is None:
            parts.append(" ".join("_" * count) if count < 4 else f"_x{count}")
        elif isnan(step):
            value = 0.0
            parts.append("0")
        else:
            parts.append(f"{_short(value + step)}+{_short(step)}x{count - 1}")
            value += count * step
    return " ".join(parts)


def gauge(values: Iterable[tuple[int, float | None]]) -> str:
    """A gauge's samples: how many of each value, None where they are missing.

    Example:
        >>> gauge([(3, 0.5), (1, None), (1, 2.0)])
        '0.5+0x2 _ 2'
    """
    parts = []
    for value, runs in itertools.groupby(values, key=lambda item: item[1]):
        count = sum(run[0] for run in runs)
        if count > 0:
            text = "_" if value is None else _short(value)
            many = f"_x{count}" if value is None else f"{text}+0x{count - 1}"
            parts.append(text if count == 1 else many)
    return " ".join(parts)


def _short(value: float) -> str:
    return f"{value:.9g}"


def matching_labels(match: Sequence[Selector], avoid: Selector | None = None) -> dict[str, str]:
    """Labels that all selectors match and `avoid` does not, metric names aside.

    Raises:
        ValueError: there are none among the values that the selectors speak of.
    """
    selectors = [*match, *([avoid] if avoid else [])]
    choices: dict[str, list[str]] = {}
    for matcher in itertools.chain.from_iterable(selector.matchers for selector in selectors):
        values = choices.setdefault(matcher.label, ["other", ""])
        values[:0] = [v for v in re.split(r"\|", matcher.value) if v not in values]
    for combination in itertools.product(*choices.values()):
        labels = dict(zip(choices, combination, strict=True))
        if all(_matches(s, labels) for s in match) and not (avoid and _matches(avoid, labels)):
            return {name: value for name, value in labels.items() if value}
    raise ValueError(f"no labels match {' and '.join(map(str, match))} and not {avoid}")


def _matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    for matcher in selector.matchers:
        value = labels.get(matcher.label, "")
        if matcher.op.endswith("~"):
            same = re.fullmatch(matcher.value, value) is not None
        else:
            same = value == matcher.value
        if same is matcher.op.startswith("!"):
            return False
    return True


class Rules(NamedTuple):
    """What a test file tests.

    Attributes:
        file: the rule file, from the test file's folder.
        groups: names of its groups, in the order of evaluation; promtool's own order is random.
        evaluation_seconds: between evaluations of all groups, whatever their own interval.
    """

    file: str
    groups: Sequence[str]
    evaluation_seconds: int


def promtool_yaml(rules: Rules, scenarios: Iterable[Scenario]) -> str:
    """A test file for promtool."""
    return "".join(_lines(rules, scenarios))


def _lines(rules: Rules, scenarios: Iterable[Scenario]) -> Iterator[str]:
    yield f"# Generated by `mlmon render` from the specs. Do not edit.\nrule_files:\n  - {rules.file}\n"
    yield f"evaluation_interval: {window_name(rules.evaluation_seconds)}\n"
    yield f"group_eval_order: [{', '.join(rules.groups)}]\ntests:\n"
    for scenario in scenarios:
        yield f"  - name: {scalar(scenario.name)}\n    interval: {window_name(scenario.step_seconds)}\n"
        yield "    input_series:\n" if scenario.series else "    input_series: []\n"
        for series, values in scenario.series.items():
            yield f"      - series: {scalar(series)}\n        values: {scalar(values)}\n"
        yield "    promql_expr_test:\n"
        for check in scenario.checks:
            yield from _check(check)


def _check(check: Check) -> Iterator[str]:
    only = f',slo="{check.slo}"' if check.slo else ""
    expression = (
        f"count by ({', '.join(SHOWN_LABELS)}) "
        f'(ALERTS{{alertname="{check.alert}",alertstate="firing"{only}}})'
    )
    yield f"      - expr: {scalar(expression)}\n        eval_time: {window_name(check.at_seconds)}\n"
    yield "        exp_samples:\n" if check.firing else "        exp_samples: []\n"
    for labels in check.firing:
        yield f"          - labels: {scalar(labels_text(labels))}\n            value: 1\n"
