"""evidently's and alibi-detect's embedding drift over prepared windows: what `power.py --peer-python` runs.

    PEER/bin/python benchmarks/_power_peers.py TASK.npz RESULT.npz

TASK holds `reference` (m, d) and `rows` (N, d), float32; `windows` (W, n), indices into rows; and `few`,
how many rows of the reference the methods get that hold a kernel of all points or go through every column.
RESULT holds the score of each method in each window, higher meaning more drift, and as `flag:NAME`
evidently's own verdict with its defaults. Needs no mlmon.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable


def evidently_methods() -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that take any reference, and those that go through it in a way that needs a smaller one."""
    from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

    cheap = {
        "evidently: distance": methods.distance(),
        "evidently: cosine": methods.distance(dist="cosine"),
    }
    dear = {
        "evidently: mmd": methods.mmd(),
        "evidently: model": methods.model(),
        "evidently: ratio": methods.ratio(),
    }
    return cheap, dear


def alibi_score(reference: np.ndarray) -> Callable[[np.ndarray], float]:
    from alibi_detect.cd import MMDDrift

    detector = MMDDrift(reference, backend="pytorch", n_permutations=1, device="cpu")
    return lambda window: float(detector.score(window)[1])


def main() -> None:
    """Score all windows."""
    warnings.simplefilter("ignore")
    task = np.load(sys.argv[1])
    reference, rows, windows = task["reference"], task["rows"], task["windows"]
    few = reference[: int(task["few"])]
    names = [f"d{i}" for i in range(reference.shape[1])]
    cheap, dear = evidently_methods()
    frames = dict.fromkeys(cheap, pd.DataFrame(reference, columns=names))
    frames |= dict.fromkeys(dear, pd.DataFrame(few, columns=names))
    alibi = alibi_score(few)
    out: dict[str, list[float]] = {}
    for window in windows:
        points = rows[window]
        for name, method in {**cheap, **dear}.items():
            # copies, because the model method adds a column to what it is given
            score, flag, _ = method(pd.DataFrame(points, columns=names), frames[name].copy())
            out.setdefault(name, []).append(float(score))
            out.setdefault(f"flag:{name}", []).append(float(flag))
        out.setdefault("alibi-detect: MMD", []).append(alibi(points))
    np.savez(sys.argv[2], **{name: np.array(values) for name, values in out.items()})


if __name__ == "__main__":
    main()
