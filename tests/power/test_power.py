"""The order of the detectors on real embeddings at equal false alarms; what the published table claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlmon.stats.fourier import FourierFeatures, fourier_mmd2
from mlmon.stats.mmd import median_bandwidth, mmd_test
from mlmon.stats.quadratic import vector_distance
from mlmon.stats.sums import FieldSums
from mlmon.stats.whitening import ScatterSums, whitening

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
WINDOW = 150


@pytest.fixture(scope="module")
def points() -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests" / "fixtures" / "embeddings.npz") as arrays:
        return {name: arrays[name].astype(np.float32) for name in ("banking", "travel", "damaged")}


def sums(values: np.ndarray) -> FieldSums:
    out = FieldSums(values.shape[1])
    out.add_values(values, np.ones(len(values)))
    return out


@pytest.fixture(scope="module")
def detectors(points: dict[str, np.ndarray]) -> dict[str, Callable[[np.ndarray], float]]:
    """A number a window, higher meaning more drift. Windows are of banking[:500], the rest is reference."""
    reference = points["banking"][500:]
    scatter = ScatterSums(384)
    scatter.add(reference, np.ones(len(reference)))
    made = whitening(scatter)
    bandwidth = median_bandwidth(reference)
    z = FourierFeatures(384, 512, bandwidth)
    known = sums(z(reference))
    return {
        "T2": lambda x: vector_distance(x.mean(0) - made.mean, made.matrix).squared,
        "RFF": lambda x: fourier_mmd2(sums(z(x)), known),
        "MMD": lambda x: mmd_test(x, reference[::9], permutations=0, bandwidth=bandwidth, device="cpu").mmd2,
    }


def windows(points: dict[str, np.ndarray], kind: str, count: int) -> list[np.ndarray]:
    rng, out = np.random.default_rng(len(kind)), []
    for _ in range(count):
        rows = rng.choice(500, WINDOW, replace=False)
        window = points["banking"][rows]
        if kind == "damaged":
            window = points["damaged"][rows]
        elif kind == "travel":
            window[: WINDOW // 5] = points["travel"][rng.choice(600, WINDOW // 5, replace=False)]
        out.append(window)
    return out


@pytest.fixture(scope="module")
def power(
    points: dict[str, np.ndarray], detectors: dict[str, Callable[[np.ndarray], float]]
) -> dict[str, dict[str, float]]:
    """Share of windows above the 98 % quantile of those without drift."""
    found = {}
    for name, detect in detectors.items():
        null = [detect(window) for window in windows(points, "null", 300)]
        threshold = np.quantile(null, 0.98)
        found[name] = {
            kind: float(np.mean([detect(window) > threshold for window in windows(points, kind, 60)]))
            for kind in ("healthy", "travel", "damaged")
        }
    return found


def test_without_drift_they_are_silent(power: dict[str, dict[str, float]]) -> None:
    assert {name: found["healthy"] for name, found in power.items() if found["healthy"] > 0.1} == {}


def test_all_see_another_topic(power: dict[str, dict[str, float]]) -> None:
    assert power["T2"]["travel"] > 0.9
    assert power["MMD"]["travel"] > 0.9
    assert power["RFF"]["travel"] > 0.8


def test_the_whitened_mean_sees_more_than_the_others(power: dict[str, dict[str, float]]) -> None:
    """A damaged encoder moves directions that hardly vary: only a metric that knows it sees them."""
    assert power["T2"]["damaged"] > max(power[name]["damaged"] for name in ("RFF", "MMD")) + 0.5


def table() -> dict[str, list[str]]:
    """Rows of the first table of docs/tables/power.md by method."""
    lines = (ROOT / "docs" / "tables" / "power.md").read_text().split("Every shift")[0].splitlines()
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_published_table_says_what_the_documentation_says() -> None:
    rows = table()
    average = {name: (float(row[5]), float(row[6])) for name, row in rows.items()}
    ours = average["T² + typicality"]
    peers = {name: value for name, value in average.items() if name.startswith(("evidently", "alibi"))}
    assert len(peers) == 6
    for large, small in peers.values():
        assert ours[0] > large
        assert ours[1] > small
    assert all(float(cell) <= 0.025 for cell in rows["T² + typicality"][7:9])
