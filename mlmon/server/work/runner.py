"""One batch through the model: pieces in, what the model says of each out. Called by one thread.

A batch is begun and, on a GPU, its answers are copied to the host behind it while the next one is laid out;
so the device does not wait for Python. On a CPU `begin` has done the work when it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlmon.server.model import Packed, Targets
from mlmon.server.work.pieces import Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlmon.server.model import Encoder, MaskHead
    from mlmon.server.work.pieces import Piece

__all__ = ["Flight", "Runner"]


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """The rows of a batch that are wanted, and how many of each kind each piece has."""

    rows: NDArray[np.int64]
    tops: NDArray[np.int64]
    truths: NDArray[np.int64]
    sums: NDArray[np.int64]

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> _Wanted:
        sizes = np.array([piece.tokens for piece in pieces], np.int64)
        starts = np.cumsum(sizes) - sizes
        kinds = [
            [getattr(piece, kind) for piece in pieces] for kind in ("top_rows", "truth_rows", "pool_rows")
        ]
        return cls(
            np.concatenate(
                [rows + start for kind in kinds for rows, start in zip(kind, starts, strict=True)]
            ),
            np.array([len(piece.top_rows) for piece in pieces], np.int64),
            np.array([len(piece.truth_rows) for piece in pieces], np.int64),
            np.array([len(piece.pool_counts) for piece in pieces], np.int64),
        )


class Flight:
    """A batch that was begun.

    Args:
        pieces: of which it is made.
        wanted: which of its rows are answered.
        answers: tensors on their way to the host: top ids, their log p, entropies; nll, best ids; sums.
        landed: what tells that they are there; None where they are.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        wanted: _Wanted,
        answers: Sequence[torch.Tensor],
        landed: torch.cuda.Event | None,
    ) -> None:
        self._pieces, self._wanted, self._answers, self._landed = pieces, wanted, answers, landed

    def land(self) -> list[Seen]:
        """What the model says of each piece; waits until the device has said it."""
        if self._landed is not None:
            self._landed.synchronize()
        ids, logprob, entropy, nll, best, sums = (answer.numpy() for answer in self._answers)
        wanted, found = self._wanted, []
        counts = zip(wanted.tops.tolist(), wanted.truths.tolist(), wanted.sums.tolist(), strict=True)
        top = truth = pooled = 0
        for piece, (tops, truths, sums_) in zip(self._pieces, counts, strict=True):
            rows, known = slice(top, top + tops), slice(truth, truth + truths)
            found.append(
                Seen(
                    ids[rows, : piece.top_k],
                    logprob[rows, : piece.top_k],
                    entropy[rows],
                    nll[known],
                    best[known],
                    sums[pooled : pooled + sums_],
                )
            )
            top, truth, pooled = top + tops, truth + truths, pooled + sums_
        return found


class Runner:
    """The model, as the scheduler's thread uses it.

    Args:
        encoder, head: of one model, on one device.

    Attributes:
        depth: batches that may be begun before the first of them has landed.
    """

    def __init__(self, encoder: Encoder, head: MaskHead) -> None:
        self._encoder, self._head = encoder, head
        self._cuda = encoder.device.type == "cuda"
        self.depth = 2 if self._cuda else 1

    def begin(self, pieces: Sequence[Piece]) -> Flight:
        """Send pieces to the device.

        Raises:
            torch.OutOfMemoryError: there are too many; `halving.is_out_of_memory` knows it in every form.
            ValueError: a token id the model does not have.
        """
        wanted = _Wanted.of(pieces)
        batch = Packed.from_flat(
            np.concatenate([piece.ids for piece in pieces]),
            np.concatenate([piece.lengths for piece in pieces]),
        )
        with torch.inference_mode():
            hidden = self._encoder.encode(batch, rows=wanted.rows)
            answers = self._answers(hidden, pieces, int(wanted.tops.sum()), int(wanted.truths.sum()))
            if not self._cuda:
                return Flight(pieces, wanted, answers, None)
            landed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copies = [_to_host(answer) for answer in answers]
            landed.record(torch.cuda.current_stream(self._encoder.device))
            return Flight(pieces, wanted, copies, landed)

    def _answers(
        self, hidden: torch.Tensor, pieces: Sequence[Piece], tops: int, truths: int
    ) -> tuple[torch.Tensor, ...]:
        """What is wanted of the rows: first the tops, then the truths, then what is summed."""
        found = self._head.top_k(
            hidden[:tops], max(1, max(piece.top_k for piece in pieces)), targets=_targets(pieces)
        )
        true_ids = np.concatenate([piece.truth_ids for piece in pieces])
        truth = self._head.truth(hidden[tops : tops + truths], true_ids)
        counts = np.concatenate([piece.pool_counts for piece in pieces])
        if len(counts):
            lengths = torch.from_numpy(counts).to(hidden.device)
            pooled = hidden[tops + truths :].float()
            sums = torch.segment_reduce(pooled, "sum", lengths=lengths, axis=0, unsafe=True)
        else:
            sums = hidden.new_empty((0, hidden.shape[1]), dtype=torch.float32)
        return found.ids, found.logprob, found.entropy, truth.nll, truth.best, sums

    def free(self) -> None:
        """Give memory that is held in reserve back to the device, after it ran out."""
        if self._cuda:
            torch.cuda.empty_cache()


def _targets(pieces: Sequence[Piece]) -> Targets | None:
    if all(piece.targets is None for piece in pieces):
        return None
    return Targets.from_lists([piece.targets for piece in pieces for _ in piece.top_rows])


def _to_host(answer: torch.Tensor) -> torch.Tensor:
    """A copy in pinned memory that the device fills in its own time."""
    copy = torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True)
    return copy.copy_(answer, non_blocking=True)
