"""What the generated tests cannot say, in promtool: sums, weights, NaN, versions, slices, budgets."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parent))

from rules_kit import ALL, BAD, SETTINGS, availability, needs_promtool, promtool

from mlmon.slo.alerting import objective_groups
from mlmon.slo.feasible import lower_bound
from mlmon.slo.model import (
    Counters,
    Expression,
    Matcher,
    Method,
    Ratio,
    Selector,
    Threshold,
    Version,
)
from mlmon.slo.promql import rules_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlmon.slo.model import Objective

pytestmark = needs_promtool
SLO = '{slo="availability"}'
LABELS = '{service="a",model="m",slo="availability"}'


def expect(
    directory: Path,
    objective: Objective,
    series: Mapping[str, str],
    expected: Mapping[str, str | None],
    minutes: int = 120,
    mutate: Callable[[str], str] = lambda text: text,
) -> bool:
    """Whether the expressions have these values (text of one sample's labels and value, None: no sample)."""
    groups = objective_groups(objective, SETTINGS)
    (directory / "rules.yml").write_text(mutate(rules_yaml(groups, "a test")), encoding="utf-8")
    lines = ["rule_files: [rules.yml]", "evaluation_interval: 1m"]
    lines += [f"group_eval_order: [{', '.join(group.name for group in groups)}]", "tests:"]
    lines += ["  - interval: 1m", "    input_series:"]
    for name, values in series.items():
        lines += [f"      - series: '{name}'", f"        values: '{values}'"]
    lines += ["    promql_expr_test:"]
    for expression, value in expected.items():
        lines += [f"      - expr: '{expression}'", f"        eval_time: {minutes}m"]
        lines += [f"        exp_samples: {[]}" if value is None else "        exp_samples:"]
        if value is not None:
            labels, number = value.rsplit(" ", 1)
            lines += [f"          - labels: '{labels}'", f"            value: {number}"]
    (directory / "test.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = promtool("test", "rules", directory / "test.yml")
    if result.returncode:
        print(result.stdout, result.stderr)
    return result.returncode == 0


def requests(
    version: str, status: str, per_minute: float, minutes: int, weight: float = 1.0
) -> dict[str, str]:
    labels = f'{{service="a",model="m",version="{version}",status="{status}"}}'
    return {
        f"mlmon_requests_total{labels}": f"0+{per_minute * weight:.9g}x{minutes}",
        f"mlmon_requests_weight_squared_total{labels}": f"0+{per_minute * weight**2:.9g}x{minutes}",
    }


def close(expression: str, value: float, tolerance: float = 1e-3) -> str:
    """An expression that is 1 where another one is close to a value."""
    return f"abs({expression} - {value!r}) <= bool {tolerance * abs(value)!r}"


def test_ratios_are_quotients_of_sums_never_averages_of_ratios(tmp_path: Path) -> None:
    """Two versions: 1000 requests a minute with 1 bad, 10 with 5 bad: 6 of 1010, not half of 50.1 %."""
    series = requests("1", "ok", 999, 120) | requests("1", "error", 1, 120)
    series |= requests("2", "ok", 5, 120) | requests("2", "error", 5, 120)
    burn = 6 / 1010 / 0.001
    expected = {
        close(f"mlmon_slo:burn_rate:{window}{SLO}", burn): '{service="a",model="m",slo="availability"} 1'
        for window in ("5m", "30m", "1h", "2h", "period")
    }
    assert expect(tmp_path, availability(), series, expected)
    averaged = lambda text: text.replace("sum by (service, model) (rate", "avg by (service, model) (rate")  # noqa: E731
    only_total = lambda text: re.sub(  # noqa: E731
        r"sum by \(service, model\) \(rate\(mlmon_requests_total\[",
        "avg by (service, model) (rate(mlmon_requests_total[",
        text,
    )
    assert expect(tmp_path, availability(), series, expected, mutate=averaged) is False
    assert expect(tmp_path, availability(), series, expected, mutate=only_total) is False


def test_a_window_over_changing_traffic_weighs_events_not_minutes(tmp_path: Path) -> None:
    """An hour of which half had 1000 requests a minute without errors, half 10 with 5: 150 of 30300."""
    ok = "0+1000x29 29005+5x60"
    bad = "0+0x29 5+5x60"
    series = {
        'mlmon_requests_total{service="a",model="m",status="ok"}': ok,
        'mlmon_requests_total{service="a",model="m",status="error"}': bad,
    }
    expression = close(f"mlmon_slo:burn_rate:1h{SLO}", 150 / 30300 / 0.001, 0.2)
    assert expect(tmp_path, availability(), series, {expression: f"{LABELS} 1"}, minutes=60)


def test_the_lower_bound_is_the_one_of_the_specs_and_knows_the_weights(tmp_path: Path) -> None:
    """Errors are all kept, of the rest one in twenty: the error ratio rests on the number of errors."""
    series = requests("1", "ok", 5, 120, weight=20) | requests("1", "error", 1, 120)
    bad, good = 60.0, 5 * 20 * 60.0
    total = bad + good
    n = total**2 * bad * good / (good**2 * bad + bad**2 * good * 20)
    share = bad / total
    lower = lower_bound(share, n) / 0.001
    effective = total**2 / (bad + good * 20)
    assert n > 5 * effective
    expected = {
        close(f"mlmon_slo:error_events:1h{SLO}", n, 0.03): f"{LABELS} 1",
        close(f"mlmon_slo:events:1h{SLO}", effective, 0.03): f"{LABELS} 1",
        close(f"mlmon_slo:burn_rate_lower:1h{SLO}", lower, 0.01): f"{LABELS} 1",
    }
    assert expect(tmp_path, availability(), series, expected)

    def naive(text: str) -> str:
        pattern = r"(?s)(record: mlmon_slo:error_events:1h\n        expr:).*?\n        labels"
        return re.sub(pattern, r"\1 mlmon_slo:events:1h\n        labels", text)

    assert expect(tmp_path, availability(), series, expected, mutate=naive) is False


@pytest.mark.parametrize(("ok", "error", "burn"), [(0, 3, 1000.0), (3, 0, 0.0)])
def test_all_bad_and_none_bad_are_bounds_of_their_own(
    ok: int, error: int, burn: float, tmp_path: Path
) -> None:
    series = requests("1", "ok", ok, 120) | requests("1", "error", error, 120)
    lower = lower_bound(burn / 1000, 180) / 0.001
    expected = {
        close(f"mlmon_slo:burn_rate:1h{SLO}", burn): f"{LABELS} 1",
        close(f"mlmon_slo:burn_rate_lower:1h{SLO}", lower, 0.01): f"{LABELS} 1",
    }
    assert expect(tmp_path, availability(), series, expected)


def test_a_nan_poisons_nothing(tmp_path: Path) -> None:
    """A series that is NaN for a while is left out; what is recorded never is NaN, so no later window is."""
    series = requests("1", "ok", 999, 120) | requests("1", "error", 1, 120)
    for name in ("mlmon_requests_total", "mlmon_requests_weight_squared_total"):
        series[f'{name}{{service="a",model="m",version="2",status="error"}}'] = "0+0x20 NaN NaN NaN 0+0x100"
    expected: dict[str, str | None] = {
        close(f"mlmon_slo:burn_rate:2h{SLO}", 1.0): f"{LABELS} 1",
        close(f"mlmon_slo:budget_remaining:ratio{SLO} + 1", 1.0): f"{LABELS} 1",
        # NaN is the one value that is not equal to itself
        "mlmon_slo:bad:rate5m != mlmon_slo:bad:rate5m": None,
        "max_over_time(mlmon_slo:burn_rate:5m[2h]) < 0.9": None,
    }
    assert expect(tmp_path, availability(), series, expected)
    unguarded = lambda text: text.replace(") >= 0)", "))")  # noqa: E731
    assert expect(tmp_path, availability(), series, expected, mutate=unguarded) is False


def test_no_traffic_is_no_burn_and_no_budget(tmp_path: Path) -> None:
    series = requests("1", "ok", 0, 120) | requests("1", "error", 0, 120)
    names = (
        "burn_rate:5m",
        "burn_rate:1h",
        "burn_rate:3d",
        "burn_rate_lower:1h",
        "events:1h",
        "burn_rate:period",
    )
    names = (*names, "budget_remaining:ratio", "budget_exhaustion:seconds")
    assert expect(tmp_path, availability(), series, dict.fromkeys(f"mlmon_slo:{name}" for name in names))


def test_what_is_left_of_the_budget_and_until_when(tmp_path: Path) -> None:
    """At half the budget the rest lasts a whole period; at twice the budget it is overspent."""
    calm = requests("1", "ok", 999.5, 120) | requests("1", "error", 0.5, 120)
    expected = {
        close(f"mlmon_slo:burn_rate:period{SLO}", 0.5): f"{LABELS} 1",
        close(f"mlmon_slo:budget_remaining:ratio{SLO}", 0.5): f"{LABELS} 1",
        close(f"mlmon_slo:budget_exhaustion:seconds{SLO}", 30 * 86_400): f"{LABELS} 1",
    }
    assert expect(tmp_path, availability(), calm, expected)
    loud = requests("1", "ok", 998, 120) | requests("1", "error", 2, 120)
    expected = {
        close(f"mlmon_slo:budget_remaining:ratio{SLO}", -1.0): f"{LABELS} 1",
        f"mlmon_slo:budget_exhaustion:seconds{SLO}": f"mlmon_slo:budget_exhaustion:seconds{LABELS} 0",
    }
    assert expect(tmp_path, availability(), loud, expected)


def test_each_event_is_judged_by_the_objective_then_in_force(tmp_path: Path) -> None:
    """promtool's clock begins in 1970. For an hour 99 % are asked for, then 99.9 %: ten times the burn."""
    change = datetime.fromtimestamp(3600, UTC)
    versions = (Version(None, 0.99, Ratio(BAD, "bad", ALL)), Version(change, 0.999, Ratio(BAD, "bad", ALL)))
    series = requests("1", "ok", 999, 120) | requests("1", "error", 1, 120)
    before = {close(f"mlmon_slo:burn_rate:30m{SLO}", 0.1): f"{LABELS} 1", "mlmon_slo:target:ratio": None}
    before["mlmon_slo:target:ratio"] = f"mlmon_slo:target:ratio{SLO} 0.99"
    assert expect(tmp_path, availability(versions=versions), series, before, minutes=55)
    after = {
        close(f"mlmon_slo:burn_rate:30m{SLO}", 1.0): f"{LABELS} 1",
        close(f"mlmon_slo:burn_rate:2h{SLO}", 0.55, 0.05): f"{LABELS} 1",
        "mlmon_slo:target:ratio": f"mlmon_slo:target:ratio{SLO} 0.999",
    }
    assert expect(tmp_path, availability(versions=versions), series, after)


def test_good_events_are_counted_from_the_other_side(tmp_path: Path) -> None:
    latency = availability(versions=(Version(None, 0.95, _latency_ratio()),))
    bucket = '{service="a",model="m",le="0.2"}'
    total = '{service="a",model="m"}'
    series = {
        f"mlmon_request_latency_seconds_bucket{bucket}": "0+90x120",
        f"mlmon_request_latency_seconds_count{total}": "0+100x120",
        f"mlmon_request_latency_seconds_weight_squared_bucket{bucket}": "0+90x120",
        f"mlmon_request_latency_seconds_weight_squared_count{total}": "0+100x120",
    }
    assert expect(tmp_path, latency, series, {close(f"mlmon_slo:burn_rate:1h{SLO}", 2.0): f"{LABELS} 1"})
    # no such bucket is configured: how many were good is not known, and nobody is paged for it
    series = {name: values for name, values in series.items() if "_bucket" not in name}
    missing: dict[str, str | None] = {
        "mlmon_slo:burn_rate:1h": None,
        "mlmon_slo:burn_rate_lower:1h": None,
        "ALERTS": None,
    }
    assert expect(tmp_path, latency, series, missing)


def _latency_ratio() -> Ratio:
    def counters(suffix: str, *matchers: Matcher) -> Counters:
        stem = "mlmon_request_latency_seconds"
        return Counters(
            Selector(f"{stem}{suffix}", matchers),
            Selector(f"mlmon_sampled_request_latency_seconds{suffix}", matchers),
            Selector(f"{stem}_weight_squared{suffix}", matchers),
        )

    return Ratio(counters("_bucket", Matcher("le", "=", "0.2")), "good", counters("_count"))


def test_a_threshold_is_bad_where_it_is_not_kept_and_unknown_where_it_is_nan(tmp_path: Path) -> None:
    sli = Threshold(Expression("max by (service, model) (age)", ()), "<=", 300)
    objective = availability(versions=(Version(None, 0.9, sli),))
    good, bad, nan = (f'age{{service="{name}",model="m"}}' for name in ("good", "bad", "nan"))
    series = {good: "300+0x120", bad: "300+0x60 301+0x60", nan: "NaN+0x120"}
    expected = {
        close(
            f'mlmon_slo:burn_rate:2h{{slo="availability",service="{name}"}} + 1', burn + 1, 0.05
        ): f'{{service="{name}",model="m",slo="availability"}} 1'
        for name, burn in (("good", 0.0), ("bad", 5.0))
    }
    expected |= {'{__name__=~"mlmon_slo:.*",service="nan"}': None}
    assert expect(tmp_path, objective, series, expected)


@pytest.mark.parametrize(("method", "burn"), [(Method.TIMESLICES, 5.0), (Method.RATIO_TIMESLICES, 3.0)])
def test_a_slice_is_bad_or_as_bad_as_its_events(method: Method, burn: float, tmp_path: Path) -> None:
    """Half of the minutes have 60 % bad events, half none. Bad slices: half. Mean badness: 30 %."""
    version = Version(None, 0.9, Ratio(BAD, "bad", ALL), slice_seconds=300, slice_target=0.5)
    objective = availability(versions=(version,), method=method)
    ok, bad = "0+100x600 60040+40x599", "0+0x600 60+60x599"
    series = {
        'mlmon_requests_total{service="a",model="m",status="ok"}': ok,
        'mlmon_requests_total{service="a",model="m",status="error"}': bad,
    }
    expected: dict[str, str | None] = {close(f"mlmon_slo:burn_rate:3d{SLO}", burn, 0.03): f"{LABELS} 1"}
    expected |= {"mlmon_slo:burn_rate_lower:1h": None}
    assert expect(tmp_path, objective, series, expected, minutes=1200)


def test_a_release_burns_nothing_where_the_spec_says_so(tmp_path: Path) -> None:
    series = requests("1", "ok", 500, 120) | requests("1", "error", 500, 120)
    burns = {close(f"mlmon_slo:burn_rate:1h{SLO}", 500.0): f"{LABELS} 1"}
    spared: dict[str, str | None] = {"mlmon_slo:burn_rate:1h": None, "mlmon_slo:burn_rate:period": None}
    end = 'mlmon_release_end_timestamp_seconds{service="a"}'
    # promtool's clock begins in 1970: one release goes on for three hours, the other ended after ten minutes
    current, over = series | {end: "10800+0x120"}, series | {end: "600+0x120"}
    assert expect(tmp_path, availability(), current, burns)
    excused = availability(burns_in_release=False)
    assert expect(tmp_path, excused, current, spared)
    assert expect(tmp_path, excused, over, burns)
    assert expect(tmp_path, excused, series, burns)


def test_one_budget_without_groups_names_the_service_of_the_spec(tmp_path: Path) -> None:
    objective = availability(group_by=(), service="everything")
    series = requests("1", "ok", 900, 120) | requests("1", "error", 100, 120)
    alert = 'ALERTS{alertname="MlmonErrorBudgetBurnFast"}'
    labels = (
        'ALERTS{alertname="MlmonErrorBudgetBurnFast",alertstate="firing",severity="page",service="everything",'
        'slo="availability",root_cause="errors",team="platform",burn_window="1h/5m"} 1'
    )
    assert expect(tmp_path, objective, series, {alert: labels})
    assert math.isclose(objective.current.budget, 0.001)


def test_foreign_counters_count_for_one_each(tmp_path: Path) -> None:
    def foreign(*matchers: Matcher) -> Counters:
        return Counters(Selector("http_requests_total", matchers))

    version = Version(None, 0.999, Ratio(foreign(Matcher("code", "=~", "5..")), "bad", foreign()))
    objective = replace(availability(), versions=(version,))
    series = {
        'http_requests_total{service="a",model="m",code="200"}': "0+9x120",
        'http_requests_total{service="a",model="m",code="500"}': "0+1x120",
    }
    expected = {close(f"mlmon_slo:events:1h{SLO}", 600.0, 0.03): f"{LABELS} 1"}
    assert expect(tmp_path, objective, series, expected)
