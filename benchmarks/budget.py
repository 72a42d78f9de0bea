"""Is the budget of false pages kept: months of unchanged traffic, all detectors of a service together.

    python benchmarks/budget.py [--months 6] [--window-seconds 3600] [--events 200 2000 50000]

Traffic of a made-up service with every kind of field (tokens, predictions, heavy-tailed and discrete
features, categories, embeddings), independent, in bursts of mean 5, and by the time of day. Every month has a
reference of its own, 20,000 events drawn and calibrated anew. The budget is one false page in 30 days. Beside
it what the same windows would page with a point null and a reference taken as exact, and with a null that
knows nothing of bursts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[1] / "tests" / "support"),
    str(Path(__file__).parents[1] / "tests"),
]

import drift_kit
import numpy as np
from simulate.test_budget import Weakened, as_if_exact, as_if_independent

from mlmon.drift.config import AlertsConfig, DriftConfig
from mlmon.simulate.population import population
from mlmon.simulate.reference import daily_tilt, drawn_reference, monitors_for
from mlmon.simulate.run import Rules, false_pages, poisson_interval
from mlmon.simulate.traffic import Traffic

SIZE, REFERENCE = 2_000, 20_000
WEAK = {"as built": None, "point null": as_if_exact, "blind to bursts": as_if_independent}


def months(pattern: str, events: float, count: int, seconds: int) -> dict[str, int]:
    """Pages in so many months, by variant."""
    sample = drift_kit.events(SIZE)
    windows = 30 * 86_400 // seconds
    rules = Rules(AlertsConfig(), DriftConfig(top_fields=1), seconds)
    pages = dict.fromkeys(WEAK, 0)
    for month in range(count):
        tilt = daily_tilt(sample, np.random.default_rng(month))
        traffic = Traffic(SIZE, events, pattern, burst=5.0, tilt=tilt, window_seconds=seconds)
        order = traffic.order(REFERENCE, np.random.default_rng((month, 1)))
        store = drawn_reference(sample, order, drift_kit.CONFIGS)
        drawn = population(monitors_for(drift_kit.CONFIGS, store), sample)
        for name, change in WEAK.items():
            if name != "as built" and month:
                continue
            references = store if change is None else Weakened(store, change)
            pages[name] += false_pages(drawn, references, traffic, rules, (windows, month)).pages.total()
    return pages


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--months", type=int, default=6)
    parser.add_argument("--window-seconds", type=int, default=3600)
    parser.add_argument("--events", type=float, nargs="*", default=[200.0, 2_000.0, 50_000.0])
    parser.add_argument("--patterns", nargs="*", default=["independent", "bursty", "daily"])
    options = parser.parse_args()
    total, time_started = 0, time.monotonic()
    print(
        "| traffic | events a window | pages in | months | point null, 1 month | blind to bursts, 1 month |"
    )
    print("|---|---|---|---|---|---|")
    for pattern in options.patterns:
        for events in options.events:
            pages = months(pattern, events, options.months, options.window_seconds)
            total += pages["as built"]
            weak = " | ".join(str(pages[name]) for name in ("point null", "blind to bursts"))
            print(
                f"| {pattern} | {events:,.0f} | {pages['as built']} | {options.months} | {weak} |", flush=True
            )
    all_months = options.months * len(options.patterns) * len(options.events)
    low, high = (bound / all_months for bound in poisson_interval(total))
    rate = total / all_months
    print(f"\n{total} pages in {all_months} months, one a month is declared")
    print(f"{rate:.2f} a month, 95 % interval {low:.2f} to {high:.2f}")
    print(f"{time.monotonic() - time_started:.0f} s")


if __name__ == "__main__":
    main()
