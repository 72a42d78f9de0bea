"""What goes through the model together: some sequences, which of their rows are wanted, and what came out.

A piece is the unit of scheduling: it is never spread over two batches, unless the device ran out of memory.
Arrays, not objects per sequence: a pseudo-log-likelihood has one sequence for each of its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)

__all__ = ["Piece", "PieceBuilder", "Seen"]

_NONE = np.empty(0, np.int64)


def _none() -> NDArray[np.int64]:
    """The default of a field without rows."""
    return _NONE


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Sequences of one request. Rows count from the first token of the first sequence.

    Attributes:
        ids: token ids of all sequences, special tokens included, int64, shape (T,).
        lengths: tokens of each sequence, int64, shape (S,).
        top_rows: rows whose best answers are wanted, rising, int64, shape (n,).
        top_k: how many answers of each; 0 where `top_rows` is empty.
        targets: ids that may be answers; None: all.
        truth_rows: rows whose true id is known, rising, int64, shape (m,).
        truth_ids: those ids, int64, shape (m,).
        pool_rows: rows that are summed, rising, int64, shape (r,).
        pool_counts: how many of them belong to each sum, int64, shape (p,); each is of one
            sequence.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    top_rows: NDArray[np.int64] = field(default_factory=_none)
    top_k: int = 0
    targets: tuple[int, ...] | None = None
    truth_rows: NDArray[np.int64] = field(default_factory=_none)
    truth_ids: NDArray[np.int64] = field(default_factory=_none)
    pool_rows: NDArray[np.int64] = field(default_factory=_none)
    pool_counts: NDArray[np.int64] = field(default_factory=_none)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return len(self.ids)

    def split(self) -> tuple[Piece, Piece]:
        """The first half of the sequences and the rest; there must be two at least.

        Example:
            >>> piece = Piece(np.arange(5), np.array([2, 3]), truth_rows=np.array([1, 3]),
            ...     truth_ids=np.array([7, 8]))
            >>> [(half.ids.tolist(), half.truth_rows.tolist()) for half in piece.split()]
            [([0, 1], [1]), ([2, 3, 4], [1])]
        """
        middle = len(self.lengths) // 2
        row = int(self.lengths[:middle].sum())
        top = int(np.searchsorted(self.top_rows, row))
        truth = int(np.searchsorted(self.truth_rows, row))
        pooled = int(np.searchsorted(self.pool_rows, row))
        sums = int(np.searchsorted(np.cumsum(self.pool_counts), pooled, side="right"))
        first = Piece(
            self.ids[:row],
            self.lengths[:middle],
            self.top_rows[:top],
            self.top_k,
            self.targets,
            self.truth_rows[:truth],
            self.truth_ids[:truth],
            self.pool_rows[:pooled],
            self.pool_counts[:sums],
        )
        rest = Piece(
            self.ids[row:],
            self.lengths[middle:],
            self.top_rows[top:] - row,
            self.top_k,
            self.targets,
            self.truth_rows[truth:] - row,
            self.truth_ids[truth:],
            self.pool_rows[pooled:] - row,
            self.pool_counts[sums:],
        )
        return first, rest


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the model said of a piece, on the host. Rows are in the order of the piece's.

    Attributes:
        top_ids: best ids first, int64, shape (n, k); -1 where there are fewer targets than k.
        top_logprob: natural logarithms of their probabilities among the whole vocabulary, float32, (n, k).
        top_entropy: of the whole distribution, nats, float32, shape (n,).
        nll: -log p of the true ids, nats, float32, shape (m,).
        best: most probable ids of those rows, int64, shape (m,).
        sums: summed hidden states, float32, shape (p, hidden size).
    """

    top_ids: NDArray[np.int64]
    top_logprob: NDArray[np.float32]
    top_entropy: NDArray[np.float32]
    nll: NDArray[np.float32]
    best: NDArray[np.int64]
    sums: NDArray[np.float32]

    @staticmethod
    def join(parts: Sequence[Seen]) -> Seen:
        """One of many, in order."""
        if len(parts) == 1:
            return parts[0]
        return Seen(
            _join([part.top_ids for part in parts]),
            _join([part.top_logprob for part in parts]),
            np.concatenate([part.top_entropy for part in parts]),
            np.concatenate([part.nll for part in parts]),
            np.concatenate([part.best for part in parts]),
            _join([part.sums for part in parts]),
        )


def _join(parts: list[NDArray[_Scalar]]) -> NDArray[_Scalar]:
    """Rows one after the other; parts without rows may have any width."""
    filled = [part for part in parts if len(part)]
    return np.concatenate(filled) if filled else parts[0]


class PieceBuilder:
    """Gathers sequences into few pieces.

    Sequences of one text that are to go together come in one call of `add`. Calls are gathered up to
    `small_tokens`; what is larger by itself is one piece up to `most_tokens`, and more beyond.

    Args:
        top_k: answers wanted of each row in `top`.
        targets: ids that may be answers; None: all.
        small_tokens: a piece made of several calls has at most so many tokens.
        most_tokens: no piece has more, but for a single sequence that has.
    """

    def __init__(
        self, *, small_tokens: int, most_tokens: int, top_k: int = 0, targets: tuple[int, ...] | None = None
    ) -> None:
        self._small, self._most = small_tokens, most_tokens
        self._top_k, self._targets = top_k, targets
        self._pieces: list[Piece] = []
        self._clear()

    def _clear(self) -> None:
        self._tokens = 0
        self._ids: list[NDArray[np.int64]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._top: list[NDArray[np.int64]] = []
        self._truth: list[NDArray[np.int64]] = []
        self._truth_ids: list[NDArray[np.int64]] = []
        self._pool: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.int64]] = []

    def add(
        self,
        sequences: NDArray[np.int64],
        *,
        top: NDArray[np.int64] = _NONE,
        truth: tuple[NDArray[np.int64], NDArray[np.int64]] = (_NONE, _NONE),
        pool: NDArray[np.int64] = _NONE,
    ) -> None:
        """Take sequences of equal length in.

        Args:
            sequences: ids, shape (S, length).
            top: rows of `sequences.ravel()` whose best answers are wanted, rising.
            truth: rows of it whose true ids are known, rising, and those ids.
            pool: rows that are summed; one sum, so `sequences` must then have one row.
        """
        count, length = sequences.shape
        fitting = max(1, self._most // length)
        if count <= fitting:
            self._add(sequences, top, truth, pool)
            return
        for begin in range(0, count, fitting):
            low, high = begin * length, min(count, begin + fitting) * length
            tops = top[slice(*np.searchsorted(top, (low, high)))] - low
            span = slice(*np.searchsorted(truth[0], (low, high)))
            part = sequences[begin : begin + fitting]
            self._add(part, tops, (truth[0][span] - low, truth[1][span]), pool)

    def _add(
        self,
        sequences: NDArray[np.int64],
        top: NDArray[np.int64],
        truth: tuple[NDArray[np.int64], NDArray[np.int64]],
        pool: NDArray[np.int64],
    ) -> None:
        count, length = sequences.shape
        if self._tokens and self._tokens + sequences.size > self._small:
            self._flush()
        self._ids.append(sequences.reshape(-1))
        self._lengths.append(np.full(count, length, np.int64))
        if len(top):
            self._top.append(top + self._tokens)
        if len(truth[0]):
            self._truth.append(truth[0] + self._tokens)
            self._truth_ids.append(truth[1])
        if len(pool):
            self._pool.append(pool + self._tokens)
            self._counts.append(np.array([len(pool)], np.int64))
        self._tokens += sequences.size

    def _flush(self) -> None:
        top = _all(self._top)
        self._pieces.append(
            Piece(
                _all(self._ids),
                _all(self._lengths),
                top,
                self._top_k if len(top) else 0,
                self._targets,
                _all(self._truth),
                _all(self._truth_ids),
                _all(self._pool),
                _all(self._counts),
            )
        )
        self._clear()

    def build(self) -> list[Piece]:
        """The pieces, in the order of the calls; the builder is empty afterwards."""
        if self._tokens:
            self._flush()
        pieces, self._pieces = self._pieces, []
        return pieces


def _all(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    if not parts:
        return _NONE
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
