"""The power of embedding drift detectors on real text, all at 1 % false alarms: ours beside the peers'.

    python benchmarks/power.py --cache CACHE [--peer-python PATH] [--write docs/tables/power.md]

CACHE is what `_embed.py` made. Traffic is banking77's queries, seven domains of clinc150 and Debian's
English package descriptions, embedded by all-MiniLM-L6-v2; 10,000 of them are the reference, windows are
drawn from 8,000 others. Every method gives one number a window. Its threshold is the 99 % quantile over
windows without drift, so all alarm equally often, and power is the share of shifted windows above it.
`none` counts alarms in further windows without drift: it shows how well the quantile is known.

Methods that need more than a few milliseconds a window see fewer of the same windows. PATH is the Python of
an environment with evidently 0.7.23 and alibi-detect 0.13 (`_power_peers.py`); without it the table lacks
their rows, and says so. Peers whose cost grows with the reference get 2,000 rows of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import _power_methods as methods
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Windows = dict[str, np.ndarray]
    Scores = dict[str, dict[str, np.ndarray]]

REFERENCE, POOL = 10_000, 8_000
SIZES = (1000, 200)
PEER_REFERENCE = 2_000
LEVEL = 0.01


class Counts(NamedTuple):
    """Windows: without drift for the threshold, without drift to check, of headline shifts, of others."""

    null: int
    none: int
    headline: int
    other: int


FAST = Counts(4000, 1000, 300, 300)
SLOW = Counts(200, 50, 30, 12)


# -- Rows and shifts -----------------------------------------------------------------------------------


class Rows:
    """All embeddings in one matrix, with where each set begins; rows 0 to POOL - 1 are ordinary."""

    def __init__(self, pool: np.ndarray) -> None:
        self.parts, self.starts, self.sizes = [pool], {"pool": 0}, {"pool": len(pool)}

    def add(self, name: str, rows: np.ndarray) -> None:
        self.starts[name], self.sizes[name] = sum(map(len, self.parts)), len(rows)
        self.parts.append(rows.astype(np.float32))

    def draw(self, name: str, count: int, rng: np.random.Generator) -> np.ndarray:
        return self.starts[name] + rng.choice(self.sizes[name], count, replace=False)


def load_rows(cache: Path) -> tuple[np.ndarray, Rows, np.ndarray]:
    """The reference, every other row, and the origin of each row of the pool."""
    everything = np.load(cache / "population.npy")
    pool = everything[REFERENCE : REFERENCE + POOL]
    rows = Rows(pool)
    for name in ("typos", "typos_heavy", "short", "damaged", "damaged_little", "int8"):
        rows.add(name, np.load(cache / f"population_{name}.npy")[:POOL])
    for name in ("travel", "kitchen_and_dining", "auto_and_commute", "oos", "german"):
        if (cache / f"{name}.npy").exists():
            rows.add(name, np.load(cache / f"{name}.npy"))
    rows.add("bf16", (pool.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32))
    rows.add("longer", 1.03 * pool)
    rows.add("zeros", np.zeros((200, pool.shape[1])))
    origin = np.load(cache / "population_origin.npy")
    return everything[:REFERENCE], rows, origin[REFERENCE : REFERENCE + POOL]


def replace(name: str, share: float) -> Callable[..., None]:
    """Some events are of another set."""

    def shift(window: np.ndarray, rows: Rows, rng: np.random.Generator) -> None:
        count = round(share * len(window))
        window[:count] = rows.draw(name, count, rng)

    return shift


def twin(name: str, share: float) -> Callable[..., None]:
    """Some events come as their damaged selves."""

    def shift(window: np.ndarray, rows: Rows, _rng: np.random.Generator) -> None:
        window[: round(share * len(window))] += rows.starts[name]

    return shift


def more_of(chosen: np.ndarray, share: float) -> Callable[..., None]:
    """Some events are drawn again from a part of the ordinary traffic."""

    def shift(window: np.ndarray, _rows: Rows, rng: np.random.Generator) -> None:
        window[: round(share * len(window))] = rng.choice(chosen, round(share * len(window)))

    return shift


def repeated(window: np.ndarray, _rows: Rows, _rng: np.random.Generator) -> None:
    """One text makes up 3 % of the window."""
    window[: round(0.03 * len(window))] = window[-1]


def shifts(rows: Rows, origin: np.ndarray) -> dict[str, Callable[..., None]]:
    """Twenty ways to drift; the first five head the table."""
    banking = np.flatnonzero(origin < 100)
    intent = np.flatnonzero(origin == np.bincount(origin[banking]).argmax())
    found = {
        "topic travel 5 %": replace("travel", 0.05),
        "topic travel 10 %": replace("travel", 0.1),
        "German 5 %": replace("german", 0.05),
        "2 % typos in 25 %": twin("typos", 0.25),
        "5 % noise in one layer": twin("damaged", 1.0),
        "topic kitchen 5 %": replace("kitchen_and_dining", 0.05),
        "topic kitchen 10 %": replace("kitchen_and_dining", 0.1),
        "topic cars 10 %": replace("auto_and_commute", 0.1),
        "out of scope 10 %": replace("oos", 0.1),
        "German 2 %": replace("german", 0.02),
        "10 % typos in 10 %": twin("typos_heavy", 0.1),
        "four words only in 25 %": twin("short", 0.25),
        "2 % noise in one layer": twin("damaged_little", 1.0),
        "8-bit weights": twin("int8", 1.0),
        "bfloat16 vectors": twin("bf16", 1.0),
        "one intent, 5 % more": more_of(intent, 0.05),
        "banking for 20 %": more_of(banking, 0.2),
        "one text, 3 %": repeated,
        "zero vectors 1 %": replace("zeros", 0.01),
        "vectors 3 % longer": twin("longer", 1.0),
    }
    if "german" not in rows.starts:  # no other language in the cache
        found = {name: shift for name, shift in found.items() if "German" not in name}
    return found


def draw_windows(n: int, rows: Rows, kinds: dict[str, Callable[..., None]]) -> Windows:
    """Windows of ordinary rows, and shifted ones, by kind: shape (windows, n)."""
    rng = np.random.default_rng(n)
    counts = {"null": FAST.null, "none": FAST.none} | dict.fromkeys(kinds, FAST.headline)
    out = {}
    for name, count in counts.items():
        windows = np.stack([rng.choice(POOL, n, replace=False) for _ in range(count)])
        for window in windows if name in kinds else ():
            kinds[name](window, rows, rng)
        out[name] = windows
    return out


def fewer(windows: Windows, headline: Iterable[str]) -> Windows:
    """The first windows of each kind, for what is slow."""
    counts = {"null": SLOW.null, "none": SLOW.none} | dict.fromkeys(headline, SLOW.headline)
    return {name: array[: counts.get(name, SLOW.other)] for name, array in windows.items()}


# -- Peers ---------------------------------------------------------------------------------------------


class Peers:
    """The peers' process, which works while ours does."""

    def __init__(self, python: str, directory: Path, reference: np.ndarray, rows: np.ndarray) -> None:
        self._python, self._directory = python, directory
        self._reference, self._rows = reference, rows

    def start(self, windows: Windows) -> Callable[[], Scores]:
        """Begin; the result waits for the end."""
        n = len(windows["null"][0])
        task, result = (self._directory / f"{name}{n}.npz" for name in ("task", "result"))
        everything = np.concatenate(list(windows.values()))
        np.savez(task, reference=self._reference, rows=self._rows, windows=everything, few=PEER_REFERENCE)
        script = Path(__file__).with_name("_power_peers.py")
        process = subprocess.Popen(
            [self._python, str(script), str(task), str(result)], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

        def finish() -> Scores:
            if process.wait() != 0:
                sys.exit(f"the peers' process ended with {process.returncode}")
            bounds = np.cumsum([len(array) for array in windows.values()])[:-1]
            with np.load(result) as found:
                parts = {name: np.split(found[name], bounds) for name in found.files}
            return {name: dict(zip(windows, split, strict=True)) for name, split in parts.items()}

        return finish


# -- The tables ----------------------------------------------------------------------------------------


def power(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of windows above the threshold, by kind."""
    threshold = np.quantile(scores["null"], 1 - LEVEL)
    return {name: float((values > threshold).mean()) for name, values in scores.items() if name != "null"}


def show(share: float) -> str:
    return f"{share:.2f}".removeprefix("0") if share < 1 else "1"


def tables(scores: dict[int, Scores], kinds: list[str]) -> Iterable[str]:
    """Methods by shift, then shifts by method."""
    found = {
        n: {name: power(values) for name, values in by.items() if not name.startswith("flag:")}
        for n, by in scores.items()
    }
    large, small = SIZES
    head = kinds[:5]
    columns = (*head, f"average of {len(kinds)}, n={large}", f"n={small}", f"none, n={large}", f"n={small}")
    yield f"| method | {' | '.join(columns)} |"
    yield "|---" * (len(head) + 5) + "|"
    average = {
        n: {name: np.mean([by[kind] for kind in kinds]) for name, by in found[n].items()} for n in SIZES
    }
    for name in sorted(found[large], key=lambda name: -average[large][name]):
        a, b = found[large][name], found[small][name]
        cells = [show(a[kind]) for kind in head]
        cells += [show(average[large][name]), show(average[small][name])]
        cells += [f"{a['none']:.3f}", f"{b['none']:.3f}"]
        yield f"| {name} | {' | '.join(cells)} |"
    chosen = [name for name in methods.SHOWN if name in found[large]]
    yield (
        f"\nEvery shift, n={large} / n={small}:\n\n| shift | {' | '.join(chosen)} |"
        + "\n"
        + "|---" * (len(chosen) + 1)
        + "|"
    )
    for kind in kinds:
        cells = [f"{show(found[large][name][kind])} / {show(found[small][name][kind])}" for name in chosen]
        yield f"| {kind} | {' | '.join(cells)} |"


def defaults(scores: dict[int, Scores]) -> Iterable[str]:
    """What evidently says of windows without drift when nobody calibrates it."""
    for n in SIZES:
        rates = [
            f"{name.removeprefix('flag:evidently: ')} {values['null'].mean():.2f}"
            for name, values in scores[n].items()
            if name.startswith("flag:")
        ]
        if rates:
            listed = ", ".join(rates)
            yield f"evidently with its own thresholds alarms in windows without drift, n={n}: {listed}."


def report(scores: dict[int, Scores], kinds: list[str], said: list[str]) -> str:
    lines = [
        "# Power of embedding drift at 1 % false alarms",
        "",
        "Made by `python benchmarks/power.py --cache CACHE --peer-python PATH --write docs/tables/power.md`.",
        *said,
        "",
        *tables(scores, kinds),
        "",
        *defaults(scores),
    ]
    return "\n".join(lines).rstrip() + "\n"


def run(arguments: argparse.Namespace) -> tuple[dict[int, Scores], list[str]]:
    """The scores by window size, and the shifts."""
    begin = time.perf_counter()
    reference, rows, origin = load_rows(arguments.cache)
    kinds = shifts(rows, origin)
    matrix = np.concatenate(rows.parts)
    prepared = methods.Prepared(reference, matrix)
    scores: dict[int, Scores] = {}
    waiting = {}
    with tempfile.TemporaryDirectory() as directory:
        for n in SIZES:
            windows = draw_windows(n, rows, kinds)
            slow = fewer(windows, list(kinds)[:5])
            if arguments.peer_python:
                peers = Peers(arguments.peer_python, Path(directory), reference, matrix)
                waiting[n] = peers.start(slow)
            scores[n] = methods.fast(prepared, windows) | methods.slow(prepared, slow)
            print(f"n={n}: ours after {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        for n, finish in waiting.items():
            scores[n] |= finish()
    return scores, list(kinds)


def notes(arguments: argparse.Namespace, kinds: list[str], seconds: float) -> Iterable[str]:
    """What was done, and what was not."""
    yield f"Reference m={REFERENCE:,}; {FAST.null:,} windows for the threshold, {FAST.headline} a shift. The"
    yield f"slow methods (exact MMD, Fréchet, classifier, KS, all peers) have {SLOW.null},"
    yield f"{SLOW.headline} or {SLOW.other} a shift; peers but for evidently's distances get"
    yield f"{PEER_REFERENCE:,} rows of the reference. {len(kinds)} shifts, {seconds / 60:.0f} minutes."
    if not arguments.peer_python:
        yield "Without --peer-python: evidently and alibi-detect were not measured."
    if not any("German" in kind for kind in kinds):
        yield "No other language in the cache (`_embed.py --debian`): those shifts are left out."


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--peer-python")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    scores, kinds = run(arguments)
    text = report(scores, kinds, list(notes(arguments, kinds, time.perf_counter() - begin)))
    print(text)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
