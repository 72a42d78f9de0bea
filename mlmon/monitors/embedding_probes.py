"""Golden probes in a reference: the embedding of each, and how much its repeats differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.monitors.embedding_vectors import vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch
    from mlmon.monitors.embedding_vectors import Rows

__all__ = ["ProbeReference", "ProbeSums"]

#: A repeat has moved when it lies so many times further out than repeats in the reference do.
_NOISE = 3.0


class ProbeReference(NamedTuple):
    """The probes of a reference, P of them in d dimensions.

    Attributes:
        names: their ids, sorted.
        means: mean embedding, shape (P, d).
        limits: distance from it, as a share of its length, beyond which a repeat has moved: three times the
            root mean square of the repeats, at least the tolerance, shape (P,).
    """

    names: tuple[str, ...]
    means: NDArray[np.float32]
    limits: NDArray[np.float64]


@dataclass(slots=True)
class _Repeats:
    """Sums over the repeats of one probe: their number, Σx, Σ|x|²."""

    count: int
    total: NDArray[np.float64]
    squares: float


class ProbeSums:
    """Sums of each probe by part. Memory: 8·d bytes for each of at most `most` probes and part.

    Weights are left aside: a probe is the same text whenever it comes.

    Args:
        most: probes kept; the first to come. Others are counted.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: set[str] = set()
        self._sums: dict[tuple[int, str], _Repeats] = {}
        self._overflow = 0
        self._invalid = 0

    def add(self, batch: EventBatch, rows: Rows, part: int) -> None:
        """Take in the probes among a batch."""
        values, squares = vectors(rows.bits)
        good = squares < np.inf
        self._invalid += int((~good).sum()) + len(rows.wrong)
        codes, names = batch.codes("probe_id")
        at = codes[rows.events[good]]
        values, squares = values[good], squares[good]
        for code in np.unique(at).tolist():
            mine = at == code
            if names[code] not in self._names and len(self._names) == self._most:
                self._overflow += int(mine.sum())
                continue
            self._names.add(names[code])
            self._add(part, names[code], values[mine].astype(np.float64))

    def _add(self, part: int, name: str, values: NDArray[np.float64]) -> None:
        held = self._sums.setdefault((part, name), _Repeats(0, np.zeros(values.shape[1]), 0.0))
        held.count += len(values)
        held.total += values.sum(0)
        held.squares += float(np.vdot(values, values))

    def finish(self, parts: tuple[int, ...], tolerance: float) -> ProbeReference:
        """The probes that these parts hold and whose embedding is not 0."""
        names, means, limits = [], [], []
        for name in sorted(self._names):
            held = [self._sums[part, name] for part in parts if (part, name) in self._sums]
            count = sum(sums.count for sums in held)
            mean = sum(sums.total for sums in held) / max(count, 1)
            length = float(np.linalg.norm(mean))
            if not length:
                continue
            scatter = sum(sums.squares for sums in held) - count * length**2
            noise = np.sqrt(max(scatter, 0.0) / max(count - 1, 1)) / length
            names.append(name)
            means.append(mean)
            limits.append(max(_NOISE * float(noise), tolerance))
        return ProbeReference(tuple(names), np.array(means, np.float32), np.array(limits, np.float64))

    def warnings(self) -> list[str]:
        """What was left out."""
        told = []
        if self._overflow:
            told.append(
                f"{self._overflow} events of golden probes beyond the first {self._most} are "
                "left out: send fewer probes or raise max_probes"
            )
        if self._invalid:
            told.append(f"{self._invalid} events of golden probes hold no usable embedding")
        return told
