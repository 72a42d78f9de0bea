"""Labels that come late, through the ledger and through the rules that ship, evaluated by promtool.

The same labels are also put through the rules as they would be without a label delay, which read the counters
by arrival: what they page for shows what counting by the time of the requests is for.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from burn_kit import DAY, HOUR, MINUTE, START, Event, Run

sys.path.append(str(Path(__file__).parents[1] / "slo"))

from rules_kit import needs_promtool, promtool

from mlmon.monitors.slo_objectives import read_objectives
from mlmon.slo import load_specs
from mlmon.slo.alerting import objective_groups
from mlmon.slo.promql import rules_yaml
from mlmon.slo.windows import RuleSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlmon.slo.model import Objective

pytestmark = needs_promtool

ROOT = Path(__file__).resolve().parents[2]
ACCURACY = load_specs([ROOT / "alerts" / "slos"])["task-accuracy"]
BURNS = ("mlmon_slo_burn_rate", "mlmon_slo_burn_rate_lower", "mlmon_slo_effective_events")


def labels(come_us: int, asked_us: int, count: int, wrong: int, spread_us: int = MINUTE) -> list[Event]:
    """Labels that come within a second, of requests spread over a time."""
    return [
        Event(
            come_us + n * 1000,
            label="b" if n < wrong else "a",
            prediction="a",
            request_us=asked_us + n * spread_us // count,
        )
        for n in range(count)
    ]


def in_order(events: list[Event]) -> list[Event]:
    """As they come."""
    return sorted(events, key=lambda event: event.time_us)


class Scraped:
    """What a Prometheus would scrape once a minute: every series of the objective, with its gaps."""

    def __init__(self) -> None:
        self.series: dict[str, list[float | None]] = {}
        self.length = 0

    def note(self, samples: Iterable[tuple[str, float]]) -> None:
        """Take a scrape."""
        found = dict(samples)
        for name in found.keys() - self.series.keys():
            self.series[name] = [None] * self.length
        self.length += 1
        for name, values in self.series.items():
            values.append(found.get(name))

    def lines(self) -> Iterable[str]:
        """As promtool's input."""
        for name, values in self.series.items():
            yield f"      - series: '{name}'"
            yield f"        values: '{' '.join('_' if v is None else f'{v:.9g}' for v in values)}'"


def followed(lots: Sequence[list[Event]]) -> Scraped:
    """A sidecar that takes in one lot of events each minute, scraped each minute."""
    run, scraped = Run(read_objectives()), Scraped()
    for lot in lots:
        run.process(lot)
        run.commit()
        counters = run.published.counters["slo"]
        monitor = run.engine._monitors[0]
        samples = [
            *run.engine.standing(),
            *(s for series, summary in counters.items() for s in monitor.collect(series, summary)),
        ]
        told = []
        for sample in samples:
            if "task-accuracy" in sample.labels:
                suffix = "_total" if sample.metric.kind == "counter" else ""
                pairs = zip(sample.metric.labels, sample.labels, strict=True)
                text = ",".join(f'{name}="{value}"' for name, value in pairs if value)
                told.append((f"{sample.metric.name}{suffix}{{{text}}}", float(sample.value)))  # type: ignore[arg-type]
        scraped.note(told)
    return scraped


def fired(folder: Path, objective: Objective, scraped: Scraped, minute: int, within: str) -> set[str]:
    """Severities of the burn alerts that fired within a time before a minute."""
    groups = objective_groups(objective, RuleSettings())
    (folder / "rules.yml").write_text(rules_yaml(groups, "a test"))
    found = set()
    for severity in ("page", "ticket"):
        alerts = f'ALERTS{{alertname=~"MlmonErrorBudgetBurn.*",alertstate="firing",severity="{severity}"}}'
        lines = [
            *("rule_files: [rules.yml]", "evaluation_interval: 1m"),
            f"group_eval_order: [{', '.join(group.name for group in groups)}]",
            *("tests:", "  - interval: 1m", "    input_series:", *scraped.lines(), "    promql_expr_test:"),
            f"      - expr: 'count(count_over_time({alerts}[{within}])) or vector(0)'",
            *(f"        eval_time: {minute}m", "        exp_samples: [{labels: '{}', value: 0}]"),
        ]
        (folder / "test.yml").write_text("\n".join(lines) + "\n")
        result = promtool("test", "rules", folder / "test.yml")
        assert result.returncode == 0 or "exp:" in result.stdout + result.stderr, (
            result.stdout + result.stderr
        )
        if result.returncode:
            found.add(severity)
    return found


def values(scraped: Scraped, metric: str, window: str) -> list[float | None]:
    (found,) = [
        v for n, v in scraped.series.items() if n.startswith(f"{metric}{{") and f'window="{window}"' in n
    ]
    return found


def test_a_late_batch_of_labels_does_not_page_for_what_is_long_over(tmp_path: Path) -> None:
    """Labels come twelve hours late and are right; then 600 of a bad hour come, thirty hours late."""
    batch, end = 100, 170
    lots = []
    for minute in range(end):
        now = START + minute * MINUTE
        lot = labels(now, now - 12 * HOUR, 4, 0)
        if minute == 0:
            lot = [*labels(now, now - 30 * HOUR, 2000, 20, 29 * HOUR), *lot]
        if minute == batch:
            lot += labels(now + 2_000_000, now - 30 * HOUR, 600, 480, HOUR)
        lots.append(in_order(lot))
    scraped = followed(lots)
    shorts = [v for v in values(scraped, "mlmon_slo_burn_rate", "5m") if v is not None]
    hours = [v for v in values(scraped, "mlmon_slo_burn_rate", "1h") if v is not None]
    assert len(shorts) > 150
    assert max([*shorts, *hours]) < 1.0
    days = values(scraped, "mlmon_slo_burn_rate", "3d")
    assert days[batch - 5] is not None
    assert days[-1] is not None
    assert days[-1] > 5 * days[batch - 5], "the day it was is judged all the same"
    assert fired(tmp_path, ACCURACY, scraped, end - 1, "1h") == {"ticket"}
    by_arrival = replace(ACCURACY, label_delay_seconds=0)
    assert "page" in fired(tmp_path, by_arrival, scraped, end - 1, "1h")


@pytest.mark.parametrize(("share", "severity"), [(0.01, "ticket"), (0.1, "page")])
def test_too_few_labels_make_a_ticket_of_what_would_page(share: float, severity: str, tmp_path: Path) -> None:
    """Two hours of requests, some of them labelled at once and half of those wrong; judged a day later."""
    rng = np.random.default_rng(3)
    requests, told = 120, []
    for minute in range(120):
        now = START + minute * MINUTE
        told.append([Event(now + n * MINUTE // requests) for n in range(requests)])
        count = int(rng.binomial(requests, share)) if share > 0.05 else 1 + minute % 2
        told[-1] += labels(now + 30_000_000, now, count, round(count / 2), MINUTE // 2)
    lots: list[list[Event]] = [in_order([event for lot in told for event in lot])]
    lots += [[Event(START + DAY + minute * MINUTE)] for minute in range(100, 125)]
    scraped = followed(lots)
    (coverages,) = [v for n, v in scraped.series.items() if n.startswith("mlmon_slo_label_coverage_ratio")]
    coverage = coverages[-1]
    assert coverage is not None
    assert (coverage < ACCURACY.minimum_coverage) is (severity == "ticket")
    found = fired(tmp_path, ACCURACY, scraped, len(lots) - 1, "10m")
    assert ("page" in found) is (severity == "page")
    assert "ticket" in found, "the longer windows are for tickets at any coverage"
