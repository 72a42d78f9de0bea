"""The two arms of a canary, out of the history: what each was counted for since the canary began."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.canary.arms import Arm, ArmPair, Cells
from mlmon.history.read import Selection, merged_sketch, read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pyarrow as pa

__all__ = ["ARM_COLUMNS", "Question", "read_arms"]

#: What tells the arms apart.
ARM_COLUMNS = ("deployment", "version", "segment")
_OUTCOMES = ("good", "bad")


class Question(NamedTuple):
    """What is compared.

    Attributes:
        service: name of the service.
        model: name of the model; empty for all of the service.
        stable: column to value of the stable arm, such as `{"deployment": "stable"}`; of `ARM_COLUMNS`.
        canary: of the canary.
        since_us: windows that start here or later, µs; when the canary began.
        until_us: windows that start before; None for all to the last.
    """

    service: str
    model: str
    stable: Mapping[str, str]
    canary: Mapping[str, str]
    since_us: int | None = None
    until_us: int | None = None


def read_arms(directory: str | Path, question: Question, budgets: Mapping[str, float]) -> ArmPair:
    """Read both arms. Memory: the rows of the time asked for; time: about 1 s for a day of minutes.

    Args:
        directory: of the history.
        question: what is compared.
        budgets: 1 - target of the objectives to compare.

    Raises:
        HistoryError: the history cannot be read.
    """
    return ArmPair(
        _arm(directory, question, question.stable), _arm(directory, question, question.canary), budgets
    )


def _arm(directory: str | Path, question: Question, columns: Mapping[str, str]) -> Arm:
    where = {"service": question.service, **({"model": question.model} if question.model else {}), **columns}

    def rows(table: str, more: Mapping[str, str] | None = None) -> pa.Table:
        chosen = {**where, **(more or {})}
        return read(directory, table, Selection(question.since_us, question.until_us, where=chosen))

    outcomes, latency, distributions = (
        rows("outcomes"),
        rows("latency", {"part": "total"}),
        rows("distributions"),
    )
    windows = set(outcomes.column("window_start").to_pylist()) | set(
        latency.column("window_start").to_pylist()
    )
    return Arm(
        ",".join(f"{name}={value}" for name, value in columns.items()),
        _outcomes(outcomes),
        merged_sketch(latency),
        float(latency.column("n_eff").to_numpy().sum()),
        _fields(distributions),
        len(windows),
    )


def _outcomes(table: pa.Table) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    found: defaultdict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]] = defaultdict(
        lambda: np.zeros((2, 3))
    )
    names = ("slo", "outcome", "n", "weight", "weight_squared")
    for slo, outcome, *triple in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        found[slo][_OUTCOMES.index(outcome)] += triple
    return dict(found)


def _fields(table: pa.Table) -> dict[str, Cells]:
    """Distributions added up; a field whose number of cells changed keeps its newest form."""
    found: dict[str, Cells] = {}
    names = ("monitor", "field", "kind", "cells", "weight", "n_eff")
    for monitor, name, kind, cells, weight, n_eff in zip(
        *(table.column(name).to_pylist() for name in names), strict=True
    ):
        if kind not in ("cells", "rate"):
            continue
        key, row = f"{monitor}/{name}", Cells(np.asarray(cells), weight, n_eff)
        held = found.get(key)
        if held is not None and len(held.cells) == len(row.cells):
            row = Cells(held.cells + row.cells, held.weight + row.weight, held.n_eff + row.n_eff)
        found[key] = row
    return found
