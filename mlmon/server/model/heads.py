"""The mask head: from hidden states at chosen rows to distributions over the vocabulary.

Logits of T tokens are T x V numbers, more than all else in the model together; they are made for the wanted
rows alone, some rows at a time, and leave as a few numbers per row. Everything after the product is float32.

With z the logits less their largest, e = exp(z) and s = sum(e):
logsumexp = max + log s, log p = z - log s, entropy = log s - (e . z) / s, which never subtracts large
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name it has everywhere
from torch import nn

from mlmon.server.model.layout import to_device
from mlmon.server.model.linear import activation
from mlmon.server.model.protocols import TopK, Truth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mlmon.server.model.protocols import Targets

__all__ = ["HeadWeights", "VocabularyHead"]

#: Arrays of the size of the logits alive at once: the product in 16 bit, the logits, their exponentials.
_ARRAYS = 3


@dataclass(frozen=True, slots=True, eq=False)
class HeadWeights:
    """A mask head: `decoder(norm(activation(dense(x))))`, which all architectures share.

    Attributes:
        dense: (e, h), and its bias (e,) or None.
        norm: (e,), its bias or None, and what is added to the variance.
        decoder: (V, e), and its bias (V,) or None.
        activation: by its name in the configuration.
    """

    dense: torch.Tensor
    dense_bias: torch.Tensor | None
    norm: torch.Tensor
    norm_bias: torch.Tensor | None
    eps: float
    decoder: torch.Tensor
    decoder_bias: torch.Tensor | None
    activation: str


@dataclass(frozen=True, slots=True, eq=False)
class _Logits:
    """Logits of some rows, less each row's largest.

    Attributes:
        rows: which rows of the call.
        z: float32, (m, V).
        log_sum: log of the sum of exp(z), (m,).
        logsumexp: (m,).
        entropy: (m,).
    """

    rows: slice
    z: torch.Tensor
    log_sum: torch.Tensor
    logsumexp: torch.Tensor
    entropy: torch.Tensor


class VocabularyHead(nn.Module):
    """The head; see `protocols.MaskHead`.

    Args:
        weights: on the device and in the dtype it shall compute with.
        max_logit_bytes: what logits and their kin may take at once; at least one row is handled at a time.

    Raises:
        ConfigError: the activation is not known.
    """

    def __init__(self, weights: HeadWeights, max_logit_bytes: int = 256 << 20) -> None:
        super().__init__()
        self._weights = weights
        self._activation = activation(weights.activation)
        self.vocabulary_size = int(weights.decoder.shape[0])
        self.rows_at_once = max(1, max_logit_bytes // (_ARRAYS * 4 * self.vocabulary_size))

    @torch.inference_mode()
    def top_k(self, hidden: torch.Tensor, k: int, targets: Targets | None = None) -> TopK:
        """See `protocols.MaskHead.top_k`."""
        n, k = hidden.shape[0], min(k, self.vocabulary_size)
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}")
        if targets is not None:
            self._check(targets.ids)
            if len(targets.counts) != n or int(targets.counts.sum()) != len(targets.ids):
                raise ValueError(f"expected targets of {n} rows, got {len(targets.counts)}")
        device = hidden.device
        answer = TopK(
            torch.empty((n, k), dtype=torch.int64, device=device),
            *(torch.empty(shape, device=device) for shape in ((n, k), (n,), (n,))),
        )
        for part in self._parts(hidden):
            best, ids = part.z.topk(k, dim=-1)
            if targets is not None:
                self._restrict(part, targets, best, ids)
            answer.ids[part.rows] = ids
            answer.logprob[part.rows] = best - part.log_sum[:, None]
            answer.entropy[part.rows] = part.entropy
            answer.logsumexp[part.rows] = part.logsumexp
        return answer

    @torch.inference_mode()
    def nll(self, hidden: torch.Tensor, true_ids: NDArray[np.int64]) -> torch.Tensor:
        """See `protocols.MaskHead.nll`."""
        return self.truth(hidden, true_ids).nll

    @torch.inference_mode()
    def truth(self, hidden: torch.Tensor, true_ids: NDArray[np.int64]) -> Truth:
        """See `protocols.MaskHead.truth`."""
        n, device = hidden.shape[0], hidden.device
        if len(true_ids) != n:
            raise ValueError(f"expected a true id for each of {n} rows, got {len(true_ids)}")
        self._check(true_ids)
        true = to_device(np.ascontiguousarray(true_ids, np.int64), device)
        answer = Truth(
            torch.empty(n, device=device),
            torch.empty(n, dtype=torch.int64, device=device),
            torch.empty(n, device=device),
        )
        for part in self._parts(hidden):
            at_truth = part.z.gather(1, true[part.rows, None])[:, 0]
            answer.nll[part.rows] = part.log_sum - at_truth
            answer.best[part.rows] = part.z.argmax(-1)
            answer.entropy[part.rows] = part.entropy
        return answer

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """All logits of the rows, float32, (n, V); for few rows.

        Args:
            hidden: (n, h).
        """
        w = self._weights
        x = self._activation(F.linear(hidden, w.dense, w.dense_bias))
        x = F.layer_norm(x, (x.shape[-1],), w.norm, w.norm_bias, w.eps)
        if x.is_cuda and x.dtype != torch.float32:
            # sums are float32 in the kernel anyway; so they are not rounded to 16 bit on the way out
            full = torch.mm(x, w.decoder.t(), out_dtype=torch.float32)
            return full if w.decoder_bias is None else full.add_(w.decoder_bias)
        return F.linear(x, w.decoder, w.decoder_bias).float()

    def _parts(self, hidden: torch.Tensor) -> Iterator[_Logits]:
        for start in range(0, hidden.shape[0], self.rows_at_once):
            rows = slice(start, min(start + self.rows_at_once, hidden.shape[0]))
            logits = self.logits(hidden[rows])
            largest = logits.amax(-1)
            z = logits.sub_(largest[:, None])
            e = z.exp()
            total = e.sum(-1)
            log_sum = total.log()
            entropy = (log_sum - torch.linalg.vecdot(e, z) / total).clamp_(min=0)
            del e
            yield _Logits(rows, z, log_sum, largest + log_sum, entropy)

    def _restrict(self, part: _Logits, targets: Targets, best: torch.Tensor, ids: torch.Tensor) -> None:
        """Overwrite the answers of rows that have targets by the best of those."""
        counts = targets.counts[part.rows]
        chosen = np.nonzero(counts)[0]
        if not chosen.size:
            return
        k, width = best.shape[1], int(counts.max())
        first = int(targets.counts[: part.rows.start].sum())
        wide = np.full((chosen.size, max(width, k)), -1, np.int64)
        wide[np.arange(wide.shape[1]) < counts[chosen, None]] = targets.ids[first : first + counts.sum()]
        allowed = to_device(wide, best.device)
        rows = to_device(chosen, best.device)
        z = part.z[rows[:, None], allowed.clamp(min=0)].masked_fill(allowed < 0, -torch.inf)
        values, order = z.topk(k, dim=-1)
        best[rows] = values
        ids[rows] = allowed.gather(1, order)

    def _check(self, ids: NDArray[np.int64]) -> None:
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary_size):
            raise ValueError(
                f"expected token ids from 0 to {self.vocabulary_size - 1}, got {ids.min()} to {ids.max()}"
            )
