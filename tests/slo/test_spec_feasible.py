"""Burn at the edges, the confidence bound against its exact twin, and the figures that the guide gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mlmon.errors import ConfigError
from mlmon.slo import load_specs
from mlmon.slo.feasible import infeasible, lower_bound, suggestion, z_value
from mlmon.slo.model import (
    STANDARD,
    BurnCondition,
    Expression,
    Method,
    Objective,
    Threshold,
    Version,
)

ROOT = Path(__file__).parents[2]
SLI = Threshold(Expression("up", ()), ">=", 1)


def objective(target: float, *conditions: BurnCondition, slice_seconds: int | None = None) -> Objective:
    version = Version(None, target, SLI, slice_seconds=slice_seconds)
    return Objective("x", "s", "x", "", 30 * 86_400, Method.OCCURRENCES, (version,), conditions or STANDARD)


def names(found: list[tuple[BurnCondition, str, str, str]]) -> list[str]:
    return [condition.name for condition, *_ in found]


@pytest.mark.parametrize(
    ("target", "never"),
    [
        (0.9306, []), (0.9305, ["fast"]), (0.834, ["fast"]), (0.833, ["fast", "slow"]),
        (0.667, ["fast", "slow"]), (0.666, ["fast", "slow", "day"]), (0.01, ["fast", "slow", "day"]),
        (0.0, ["fast", "slow", "day", "steady"]),
    ],
)  # fmt: skip
def test_a_burn_above_the_largest_is_refused(target: float, never: list[str]) -> None:
    assert names(infeasible(objective(target))) == never
    # The oracle: it can fire if it does where everything fails.
    assert never == [c.name for c in STANDARD if not 1 / (1 - target) > c.threshold]


@pytest.mark.parametrize("target", [0.01, 0.3, 0.5, 0.66, 0.8, 0.9, 0.93])
def test_a_suggestion_is_one_that_works(target: float) -> None:
    for condition, _, _, remedy in infeasible(objective(target)):
        reachable = float(remedy.split("threshold to ")[1].split()[0])
        raised = float(remedy.rsplit("above ", 1)[1].split()[0]) / 100
        lowered = BurnCondition("new", "page", reachable, 3600, 300)
        assert infeasible(objective(target, lowered)) == []
        assert infeasible(objective(raised + 1e-9, condition)) == []
        assert suggestion(condition, Version(None, target, SLI)) == remedy


def test_a_spec_whose_alert_can_never_fire_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    text = (ROOT / "alerts" / "slos" / "availability.yaml").read_text().replace("0.999", "0.93")
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_specs([tmp_path])
    line = 1 + text.splitlines().index("    - displayName: Requests answered")
    assert str(caught.value) == (
        f"{tmp_path}/a.yaml:{line}: spec.objectives[0]: expected a burn below 14.29, the largest at target "
        "0.93 (condition fast), got 14.4, which can never be reached; lower the threshold to 11 or less "
        "(77 % of requests bad), or raise the target above 93.06 %"
    )


def test_windows_must_fit() -> None:
    long = BurnCondition("a", "page", 1, 31 * 86_400, 300)
    assert "shorten the lookback" in infeasible(objective(0.9, long))[0][3]
    short = BurnCondition("a", "page", 1, 300, 300)
    assert "twelfth" in infeasible(objective(0.9, short))[0][3]
    assert infeasible(objective(0.999, slice_seconds=300)) == []
    assert names(infeasible(objective(0.999, slice_seconds=301))) == ["fast"]


def exact(bad: int, n: int, confidence: float = 0.95) -> float:
    """Clopper and Pearson's lower bound."""
    return float(stats.beta.ppf(1 - confidence, bad, n - bad + 1)) if bad else 0.0


def test_z_value() -> None:
    levels = np.array([0.5, 0.8, 0.95, 0.99, 0.999])
    np.testing.assert_allclose([z_value(level) for level in levels], stats.norm.ppf(levels), atol=1e-12)


def test_the_bound_is_scipys_wilson_bound_with_continuity_correction() -> None:
    for n in (1, 2, 5, 20, 100, 5000):
        for bad in sorted({0, 1, n // 50, n // 3, n - 1, n}):
            test = stats.binomtest(bad, n, alternative="greater")
            low = test.proportion_ci(0.95, method="wilsoncc").low
            assert lower_bound(bad / n, n) == pytest.approx(max(low, 0.0), abs=1e-12)


def test_the_bound_is_near_the_exact_one_and_within_the_ratio() -> None:
    for n in (5, 20, 100, 1000):
        for bad in range(n + 1):
            bound = lower_bound(bad / n, n)
            assert 0 <= bound <= bad / n
            assert bound == pytest.approx(exact(bad, n), abs=0.6 / n + 0.02)
    assert lower_bound(0.5, 0) == 0.0
    assert np.all(np.diff([lower_bound(0.2, n) for n in (5, 10, 20, 50, 1000, 10**9)]) > 0)


# --- the guide's figures, computed again


def false_pages(target: float, n: int, burn: float, bound: str) -> float:
    """Probability that one look pages while the budget is spent at exactly the even rate."""
    limit = burn * (1 - target) * (1 + 1e-12)
    bad = np.arange(n + 1)
    tests = {
        "point": bad / n,
        "bound": np.array([lower_bound(k / n, n) for k in bad]),
        "exact": np.array([exact(int(k), n) for k in bad]),
    }
    return float(stats.binom.pmf(bad, n, 1 - target)[tests[bound] > limit].sum())


def percent(value: float) -> str:
    return "0" if value < 5e-6 else f"{100 * value:.2g} %"


CASES = [(0.95, 5), (0.95, 20), (0.99, 20), (0.99, 100), (0.999, 20), (0.999, 100), (0.999, 1000)]


def false_page_rows() -> list[str]:
    rows = []
    for target, n in CASES:
        cells = [percent(false_pages(target, n, 3, kind)) for kind in ("point", "bound", "exact")]
        rows.append(f"| {100 * target:g} % | {n} | {' | '.join(cells)} |")
    return rows


def page_power(target: float, n: int, burn: float, ratio: float) -> float:
    bad = np.arange(n + 1)
    fires = np.array([lower_bound(k / n, n) for k in bad]) > burn * (1 - target)
    return float(stats.binom.pmf(bad, n, ratio)[fires].sum())


def events_needed(target: float, burn: float, ratio: float) -> str:
    """Fewest events, 20 or more, in the long window with which a page comes in 90 % of such windows."""
    if ratio <= burn * (1 - target):
        return "never"
    for n in range(20, 4000):
        if page_power(target, n, burn, ratio) >= 0.9:
            return str(n)
    return "over 4000"


def needed_rows() -> list[str]:
    rows = []
    for target, condition in ((0.95, 3.0), (0.99, 3.0), (0.99, 14.4), (0.999, 6.0), (0.999, 14.4)):
        cells = [events_needed(target, condition, ratio) for ratio in (0.05, 0.1, 0.25, 0.5, 1.0)]
        rows.append(f"| {100 * target:g} % | {condition:g} | {' | '.join(cells)} |")
    return rows


def test_the_guides_figures_of_false_pages_are_these() -> None:
    guide = (ROOT / "docs" / "slo.md").read_text(encoding="utf-8")
    for row in false_page_rows():
        assert row in guide
    # the two cases that are known from elsewhere
    assert false_pages(0.95, 5, 3, "point") == pytest.approx(0.226, abs=5e-4)
    assert false_pages(0.99, 20, 3, "point") == pytest.approx(0.182, abs=5e-4)
    assert false_pages(0.95, 5, 3, "bound") == pytest.approx(0.0012, abs=5e-5)


def test_the_guides_figures_of_events_needed_are_these() -> None:
    guide = (ROOT / "docs" / "slo.md").read_text(encoding="utf-8")
    for row in needed_rows():
        assert row in guide


def test_the_guides_figures_of_budget_spent_are_these() -> None:
    guide = (ROOT / "docs" / "slo.md").read_text(encoding="utf-8")
    for burn, hours, text in (
        (14.4, 1, "2 %"),
        (6, 6, "5 %"),
        (3, 24, "10 %"),
        (1, 72, "10 %"),
        (3, 1, "0.42 %"),
    ):
        assert f"{100 * burn * hours / 720:.2g} %" == text
        assert text in guide


if __name__ == "__main__":
    print("\n".join([*false_page_rows(), "", *needed_rows()]))
