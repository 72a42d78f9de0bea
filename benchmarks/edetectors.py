"""Two ways to accumulate e-values over windows: months between false pages, and windows to a true one.

    python benchmarks/edetectors.py [--runs 400]

100 detectors share a budget of one page in 720 windows (hourly windows, one page a month). Their e-values are
those of means of 1,000 events with tolerance 0.1. In `half empty` every second detector has no events in a
window, so its e is 1; in `low traffic` all have none. Without a change: the share of runs of two months with
a page. With one, in one of the detectors, after 200 windows: windows until the page.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from mlmon.stats.edetector import EDetectors
from mlmon.stats.evalues import distance_log_e

if TYPE_CHECKING:
    from mlmon.stats.edetector import EForm

COUNT, THRESHOLD, EVENTS, TOLERANCE = 100, 720.0, 1000, 0.1


def log_e(rng: np.random.Generator, shift: float, empty: float) -> np.ndarray:
    """ln e of one window for every detector; `shift` (sd) is in the first."""
    means = rng.normal(size=COUNT) / np.sqrt(EVENTS)
    means[0] += shift
    found = distance_log_e(means**2 * EVENTS, np.ones(COUNT), np.full(COUNT, TOLERANCE**2 * EVENTS))
    return np.where(rng.random(COUNT) < empty, 0.0, found)


def pages(form: EForm, rng: np.random.Generator, shift: float, empty: float) -> int:
    """Windows until the page after a change at window 200 (shift), or from the start (no shift); 0: none."""
    detectors = EDetectors(np.full(COUNT, 1.0 / COUNT), form)
    start = 200 if shift else 0
    for window in range(start + 2 * 720):
        total = detectors.update(log_e(rng, shift if window >= start else 0.0, empty))
        if total >= THRESHOLD and window >= start:
            return window - start + 1
        if total >= THRESHOLD:
            detectors.reset()
    return 0


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    print("runs of two months with a false page; the budget is two pages")
    for name, empty in (("busy", 0.0), ("half empty", 0.5), ("low traffic", 1.0)):
        row = []
        for form in ("cusum", "sr"):
            rng = np.random.default_rng(1)
            row.append(np.mean([pages(form, rng, 0.0, empty) > 0 for _ in range(max(20, runs // 10))]))
        print(f"  {name:12s} e-CUSUM {row[0]:.3f}   SR {row[1]:.3f}")
    print("windows to a page: median, mean")
    for empty in (0.0, 0.5):
        for shift in (0.15, 0.2, 0.25, 0.3, 0.5, 1.0):
            line = f"  shift {shift:4.2f} empty {empty:.1f} "
            for form in ("cusum", "sr"):
                rng = np.random.default_rng(2)
                delays = [
                    d for d in (pages(form, rng, shift, empty) for _ in range(max(20, runs // 10))) if d
                ]
                line += f"   {form:5s} {np.median(delays):5.1f} {np.mean(delays):6.2f} (found {len(delays)})"
            print(line)


if __name__ == "__main__":
    main()
