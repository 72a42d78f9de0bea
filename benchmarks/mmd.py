"""The exact MMD test with 100 permutations, beside alibi-detect's and evidently's: CPU seconds, peak memory.

    python benchmarks/mmd.py [--sizes 1000 5000 20000] [--dimensions 768] [--peer-python PATH] [--peer-gib 8]

Every run is a process of its own on one thread: a small call first, so that imports and first calls are not
counted, then the measured one. Memory is the peak resident set of the whole process, imports and both samples
included. PATH is the Python of an environment with alibi-detect 0.13, evidently 0.7.23 and a CPU build of
PyTorch; without it the peers are left out, and the table says so. Peers may take --peer-gib of address space,
so that what does not fit fails instead of taking the machine down.

evidently's bootstrap compares resamples of the reference with each other; it has no p-value.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

PERMUTATIONS = 100
PEERS = ("alibi-detect", "evidently")
GOALS = {1000: "20x", 5000: "50x", 20000: "completes"}
GOAL_MB = 500
SECONDS = 1500


# -- One run, in a process of its own ------------------------------------------------------------------


def samples(n: int, dimensions: int) -> tuple[Any, Any]:
    """Two samples with a small difference of means, single precision."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, dimensions), np.float32)
    y = rng.standard_normal((n, dimensions), np.float32)
    y += np.float32(0.01)
    return x, y


def run_mlmon(x: Any, y: Any) -> tuple[float, float]:
    from mlmon.stats.mmd import mmd_test

    result = mmd_test(x, y, permutations=PERMUTATIONS, device="cpu")
    return result.mmd2, result.p_value


def run_alibi(x: Any, y: Any) -> tuple[float, float]:
    from alibi_detect.cd import MMDDrift

    detector = MMDDrift(x, backend="pytorch", n_permutations=PERMUTATIONS, device="cpu")
    data = detector.predict(y)["data"]
    return float(data["distance"]), float(data["p_val"])


def run_evidently(x: Any, y: Any) -> tuple[float, float]:
    import pandas as pd
    from evidently.legacy.metrics.data_drift.embedding_drift_methods import mmd

    score, _, _ = mmd(bootstrap=True)(current_emb=pd.DataFrame(y), reference_emb=pd.DataFrame(x))
    return float(score), float("nan")


RUNS = {"mlmon": run_mlmon, "alibi-detect": run_alibi, "evidently": run_evidently}


def measure(name: str, n: int, dimensions: int, gib: float) -> None:
    """Print one measurement as JSON."""
    warnings.simplefilter("ignore")
    if name in PEERS:
        limit = int(gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    RUNS[name](*samples(64, dimensions))
    x, y = samples(n, dimensions)
    cpu, wall = time.process_time(), time.perf_counter()
    mmd2, p_value = RUNS[name](x, y)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": cpu, "wall": wall, "mb": peak, "mmd2": mmd2, "p": p_value}))


# -- The table -----------------------------------------------------------------------------------------


def start(python: str, name: str, n: int, arguments: argparse.Namespace) -> dict[str, float] | str:
    """Run one measurement; what went wrong in words where there is none."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])} if name == "mlmon" else {}
    command = [python, __file__, "--run", name, "--sizes", str(n), "--dimensions", str(arguments.dimensions)]
    command += ["--peer-gib", str(arguments.peer_gib)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **threads, **paths},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done in {SECONDS} s"
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    if any(word in done.stderr for word in ("MemoryError", "allocate memory", "Unable to allocate")):
        return f"does not fit into {arguments.peer_gib:g} GiB"
    return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:90]}"


def row(name: str, n: int, found: dict[str, float] | str, ours: dict[str, float]) -> str:
    if isinstance(found, str):
        return f"| {name} | {n:,} | {found} | | | | |"
    ratio = "" if name == "mlmon" else f"{found['cpu'] / ours['cpu']:.0f}x"
    return (
        f"| {name} | {n:,} | {found['cpu']:.3f} | {found['wall']:.3f} | {found['mb']:.0f} | {ratio} "
        f"| {found['mmd2']:.2e} |"
    )


def table(arguments: argparse.Namespace) -> None:
    peer = arguments.peer_python
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one thread")
    print(f"{arguments.dimensions} dimensions, {PERMUTATIONS} permutations, n on each side\n")
    print("| what | n | CPU s | wall s | peak MB | ours is faster by | MMD² |\n|---|---|---|---|---|---|---|")
    for n in arguments.sizes:
        ours = start(sys.executable, "mlmon", n, arguments)
        if isinstance(ours, str):
            sys.exit(f"mlmon at {n}: {ours}")
        print(row("mlmon", n, ours, ours), flush=True)
        for name in PEERS if peer else ():
            print(row(name, n, start(peer, name, n, arguments), ours), flush=True)
        if ours["mb"] > GOAL_MB:
            print(f"| (goal missed: {GOAL_MB} MB) | {n:,} | | | | | |")
    if not peer:
        print("\nWithout --peer-python: alibi-detect and evidently were not measured.")
    print("\nGoals beside alibi-detect: " + ", ".join(f"{n:,}: {goal}" for n, goal in GOALS.items()))


def main() -> None:
    """Run one measurement (--run), or all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--peer-python")
    parser.add_argument("--peer-gib", type=float, default=8.0)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure(arguments.run, arguments.sizes[0], arguments.dimensions, arguments.peer_gib)
    else:
        table(arguments)


if __name__ == "__main__":
    main()
