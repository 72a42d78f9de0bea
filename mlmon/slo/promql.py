"""Prometheus rules as values, the few PromQL phrases they are made of, and their YAML.

Every file written here is plain text that the same specs always give byte for byte. It is not written by
PyYAML: for 500 objectives that would take most of a minute, and the form needed is small. Strings are JSON,
which is YAML, unless they are plain words.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mlmon.slo.feasible import z_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "Alert",
    "Group",
    "Recording",
    "block",
    "by",
    "effective_events",
    "number",
    "on",
    "rules_yaml",
    "scalar",
    "wilson_lower",
]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_:./-]*\Z")
#: Words that YAML 1.1 reads as something else than text.
_RESERVED = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording rule."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule.

    Attributes:
        alert: its name; the runbook has it too.
        expr: what fires it.
        hold: how long the expression must hold (`for`), a Prometheus duration; empty: not at all.
        keep: how long it goes on firing afterwards (`keep_firing_for`); empty: not at all.
        labels: what it is routed by.
        annotations: what people read.
        meaning: a sentence for the catalogue of alerts.
    """

    alert: str
    expr: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    hold: str = ""
    keep: str = ""
    meaning: str = ""

    @property
    def severity(self) -> Literal["page", "ticket"]:
        """Whether somebody is woken."""
        return "page" if self.labels["severity"] == "page" else "ticket"


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated one after the other, all at the same moment."""

    name: str
    interval: str
    rules: Sequence[Recording | Alert]


def number(value: float) -> str:
    """A number as PromQL reads it, without a superfluous fraction.

    Example:
        >>> number(14.4), number(30.0), number(0.0001)
        ('14.4', '30', '0.0001')
    """
    return str(int(value)) if value == int(value) else repr(float(value))


def by(labels: Sequence[str]) -> str:
    """The grouping of an aggregation.

    Example:
        >>> by(("service", "model")), by(())
        ('by (service, model)', 'by ()')
    """
    return f"by ({', '.join(labels)})"


def on(labels: Sequence[str]) -> str:
    """The labels that a binary operator matches.

    Example:
        >>> on(("service",))
        'on (service)'
    """
    return f"on ({', '.join(labels)})"


def effective_events(total: str, total_squared: str, scale: str) -> str:
    """Effective number of events, (Σw)²/Σw², of sums over the same samples.

    Args:
        total: Σ of the rates of weight.
        total_squared: Σ of the rates of squared weight.
        scale: seconds between the samples that are summed; empty where they are counts already.
    """
    factor = f"{scale} * " if scale else ""
    return f"{factor}{total} ^ 2 / ({total_squared} > 0)"


def wilson_lower(ratio: str, events: str, confidence: float) -> str:
    """Lower end of Wilson's interval for a share, one-sided, with continuity correction.

    (2np + z² - 1 - z·sqrt(z² - 2 - 1/n + 4p(n(1-p) + 1))) / (2(n + z²)), and within 0 and p, so 0 where p is;
    `feasible.lower_bound` in PromQL. Without the correction a page is false up to 40 times as often.

    Args:
        ratio: p, an expression with the labels of `events`.
        events: n.
        confidence: one-sided level, such as 0.95.
    """
    z2 = number(round(z_value(confidence) ** 2, 6))
    p, n = f"clamp_max({ratio}, 1)", events
    root = f"sqrt({z2} * clamp_min({z2} - 2 - 1 / {n} + 4 * {p} * ({n} * (1 - {p}) + 1), 0))"
    bound = f"clamp_min((2 * {n} * {p} + {z2} - 1 - {root}) / (2 * ({n} + {z2})), 0)"
    return f"({bound} < {p}) or {p}"


def scalar(text: str) -> str:
    """A string as YAML.

    Example:
        >>> scalar("page"), scalar("14.4"), scalar("no"), scalar("a: b")
        ('page', '"14.4"', '"no"', '"a: b"')
    """
    if _PLAIN.match(text) and text.lower() not in _RESERVED:
        return text
    return json.dumps(text, ensure_ascii=False)


def block(text: str, indent: str) -> str:
    """A string as a YAML value: on the line where it fits, else as a literal block."""
    if "\n" not in text:
        return f" {scalar(text)}\n"
    lines = "".join(f"{indent}{line}\n" if line else "\n" for line in text.splitlines())
    return f" |-\n{lines}"


def rules_yaml(groups: Sequence[Group], source: str) -> str:
    """A rule file.

    Args:
        groups: in the order in which they are written.
        source: what it is made from, for the first line.
    """
    return "".join(_lines(groups, source))


def _lines(groups: Sequence[Group], source: str) -> Iterator[str]:
    yield f"# Generated by `mlmon render` from {source}. Do not edit.\ngroups:\n"
    for group in groups:
        yield f"  - name: {scalar(group.name)}\n    interval: {group.interval}\n    rules:\n"
        for rule in group.rules:
            yield from _rule(rule)


def _rule(rule: Recording | Alert) -> Iterator[str]:
    if isinstance(rule, Recording):
        yield f"      - record: {rule.record}\n"
    else:
        yield f"      - alert: {rule.alert}\n"
    yield f"        expr:{block(rule.expr, ' ' * 10)}"
    if isinstance(rule, Alert):
        yield from (f"        for: {rule.hold}\n" for _ in (1,) if rule.hold)
        yield from (f"        keep_firing_for: {rule.keep}\n" for _ in (1,) if rule.keep)
    yield from _mapping("labels", rule.labels)
    if isinstance(rule, Alert):
        yield from _mapping("annotations", rule.annotations)


def _mapping(name: str, values: Mapping[str, str]) -> Iterator[str]:
    if values:
        yield f"        {name}:\n"
        yield from (f"          {key}:{block(value, ' ' * 12)}" for key, value in values.items())
