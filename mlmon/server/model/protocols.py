"""What the parts around the model hold on to: an encoder, a mask head, and what the head answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from mlmon.server.model.batch import Packed

__all__ = ["Encoder", "MaskHead", "Targets", "TopK", "Truth"]


class Encoder(Protocol):
    """Turns a packed batch into hidden states. One caller at a time; it starts no thread."""

    @property
    def hidden_size(self) -> int:
        """Width h of a hidden state."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence it takes, special tokens included."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes and where its answers are."""
        ...

    def encode(self, batch: Packed, rows: NDArray[np.int64] | None = None) -> torch.Tensor:
        """Hidden states of the last layer.

        Args:
            batch: any number of sequences.
            rows: rows of the batch that are wanted, in any order, repeats allowed; None means all. Fewer rows
                cost less: what of the last layer works row by row is done for them alone.

        Returns:
            (T, h), or (len(rows), h), in the model's dtype.

        Raises:
            ValueError: an id or segment that the model does not know, a sequence longer than `max_length`, a
                row that is not in the batch. Checked before anything reaches the device.
            torch.OutOfMemoryError: the batch is too large for the device; a smaller one can follow.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """For each row, the tokens that may be answered; a row without any may answer the whole vocabulary.

    Attributes:
        ids: token ids of all rows end to end, int64.
        counts: how many each row has, int64, (n,).
    """

    ids: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int] | None]) -> Targets:
        """One list per row; None or an empty list: the whole vocabulary.

        Example:
            >>> Targets.from_lists([[5, 9], None]).counts.tolist()
            [2, 0]
        """
        lists = [row or () for row in rows]
        flat = [token for row in lists for token in row]
        return cls(np.array(flat, np.int64), np.array([len(row) for row in lists], np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The best tokens of n rows, best first, with what is known of each row's whole distribution.

    Attributes:
        ids: int64, (n, k); -1 where a row has fewer targets than k.
        logprob: natural logarithm of the probability in the whole vocabulary, float32, (n, k); -inf for id
            -1.
        entropy: of the whole distribution, nats, float32, (n,).
        logsumexp: of the logits, float32, (n,); low values are a sign of inputs unlike those of the training.
    """

    ids: torch.Tensor
    logprob: torch.Tensor
    entropy: torch.Tensor
    logsumexp: torch.Tensor

    def cpu(self) -> TopK:
        """The same on the host."""
        return TopK(self.ids.cpu(), self.logprob.cpu(), self.entropy.cpu(), self.logsumexp.cpu())


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """How n rows stand to their true tokens.

    Attributes:
        nll: -log of the true token's probability, nats, float32, (n,).
        best: the most likely token, int64, (n,).
        entropy: of the distribution, nats, float32, (n,).
    """

    nll: torch.Tensor
    best: torch.Tensor
    entropy: torch.Tensor

    def cpu(self) -> Truth:
        """The same on the host."""
        return Truth(self.nll.cpu(), self.best.cpu(), self.entropy.cpu())


class MaskHead(Protocol):
    """Turns hidden states into distributions over the vocabulary, at the rows it is given alone."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens that can be predicted; at least the tokenizer's, since models pad their vocabulary."""
        ...

    def top_k(self, hidden: torch.Tensor, k: int, targets: Targets | None = None) -> TopK:
        """The k best tokens of each row.

        Args:
            hidden: (n, h) as `Encoder.encode` gives them; n may be 0.
            k: at least 1; cut to the vocabulary.
            targets: which tokens may be answered; one entry per row.

        Raises:
            ValueError: k below 1, targets of another number of rows or outside the vocabulary.
        """
        ...

    def nll(self, hidden: torch.Tensor, true_ids: NDArray[np.int64]) -> torch.Tensor:
        """-log of the true token's probability in nats, float32, (n,).

        Args:
            hidden: (n, h).
            true_ids: (n,).

        Raises:
            ValueError: another number of ids than rows, or ids outside the vocabulary.
        """
        ...

    def truth(self, hidden: torch.Tensor, true_ids: NDArray[np.int64]) -> Truth:
        """`nll`, the best token and the entropy in one pass; arguments and errors as for `nll`."""
        ...
