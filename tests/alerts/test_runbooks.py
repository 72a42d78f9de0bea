"""Every alert has a runbook, and what a runbook tells to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import promql_parser
import pytest

from mlmon.cli import cli
from mlmon.slo import load_specs
from mlmon.slo.health import HealthSettings
from mlmon.slo.openslo_query import catalogued
from mlmon.slo.promql import Recording
from mlmon.slo.recording import RELEASE_ACTIVE
from mlmon.slo.release import RELEASE_END
from mlmon.slo.render_rules import rule_groups
from mlmon.slo.windows import RuleSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.slo.promql import Alert

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "alerts/runbooks"
RUNBOOKS = sorted(FOLDER.iterdir())
SECTIONS = (
    "Symptom",
    "What it means",
    "Check first",
    "Likely causes",
    "Mitigation",
    "Rollback",
    "Escalation",
    "Postmortem",
)
#: Of Prometheus and of kube-state-metrics.
FOREIGN = {
    "up",
    "kube_pod_container_status_restarts_total",
    "kube_pod_container_status_last_terminated_reason",
}
GROUPS = list(rule_groups(load_specs([ROOT / "alerts/slos"]).objectives, RuleSettings(), HealthSettings()))
RECORDED = {
    rule.record
    for _, _, groups in GROUPS
    for group in groups
    for rule in group.rules
    if isinstance(rule, Recording)
}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def blocks(text: str, language: str) -> list[str]:
    """Lines of all fenced blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines() if line]


def exists(metric: str) -> bool:
    return metric in FOREIGN | RECORDED | {RELEASE_ACTIVE, RELEASE_END} or catalogued(metric) is not None


def selectors(node: object) -> Iterator[promql_parser.VectorSelector]:
    """All selectors of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "param", "args", "vector_selector"):
        child = getattr(node, name, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None and not isinstance(one, str):
                yield from selectors(one)


def metrics_of(query: str) -> set[str]:
    """Names of all series in a query; a pattern of names is expanded to those recorded."""
    found: set[str] = set()
    for selector in selectors(promql_parser.parse(query)):
        if selector.name:
            found.add(selector.name)
        for matcher in selector.matchers.matchers:
            if matcher.name == "__name__" and matcher.value != selector.name:
                named = {one for one in RECORDED if re.fullmatch(matcher.value, one)}
                assert len(named) > 1, matcher.value
                found |= named
    assert found, query
    return found


def check_command(line: str) -> None:
    """The command, its subcommand and every option exist, and what it requires is given."""
    program, *words = shlex.split(line)
    assert program == "mlmon", line
    command: click.Command = cli
    while isinstance(command, click.Group):
        name = words.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    command.make_parser(click.Context(command)).parse_args(list(words))
    for option in (p for p in command.params if isinstance(p, click.Option) and p.required):
        assert set(option.opts) & set(words), f"{line}: needs {option.opts[0]}"


def test_each_alert_has_a_runbook_and_none_is_left_over(alerts: list[Alert]) -> None:
    assert {path.name for path in RUNBOOKS} == {f"{alert.alert}.md" for alert in alerts}


def test_what_the_catalogue_does_not_know_is_found_out() -> None:
    """The checks can fail."""
    assert not exists("mlmon_no_such_metric")
    assert metrics_of("sum(rate(a_total[5m])) / on (x) b > 0") == {"a_total", "b"}
    assert metrics_of("topk(5, histogram_quantile(0.9, sum by (le) (rate(c_bucket[1m]))))") == {"c_bucket"}
    for wrong in ("mlmon no-such", "mlmon report drift --no-such 1", "mlmon report drift --last 1h", "other"):
        with pytest.raises((AssertionError, click.UsageError)):
            check_command(wrong)


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_a_runbook_is_whole(path: Path, alerts: list[Alert]) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.stem}\n")
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == SECTIONS
    for body in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        assert len(body.strip()) >= 4
    stated = re.findall(r"\b(page|ticket)\b", text.split("## Symptom")[0].lower())
    assert set(stated) == {alert.severity for alert in alerts if alert.alert == path.stem}


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_what_a_runbook_names_exists(path: Path, alerts: list[Alert]) -> None:
    text = path.read_text(encoding="utf-8")
    queries, commands = blocks(text, "promql"), blocks(text, "sh")
    assert queries
    assert text.count("```") == 2 * len(re.findall(r"^```(?:promql|sh)$", text, re.MULTILINE))
    for query in queries:
        assert [name for name in metrics_of(query) if not exists(name)] == [], query
    for line in commands:
        check_command(line)
    names = {alert.alert for alert in alerts}
    for word in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if word.startswith("mlmon "):
            check_command(word)
        elif word.startswith(("mlmon_", "mlmon:")) and _NAME.fullmatch(word):
            assert exists(word), word
        elif word.startswith("Mlmon"):
            assert word in names, word
