"""One vector per sequence from packed hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name it has everywhere

from mlmon.server.model.layout import to_device

if TYPE_CHECKING:
    from mlmon.server.model.batch import Packed

__all__ = ["Pooling", "normalize_rows", "pool"]

Pooling = Literal["mean", "cls"]


def pool(
    hidden: torch.Tensor, batch: Packed, how: Pooling = "mean", *, normalize: bool = True
) -> torch.Tensor:
    """Pool the hidden states of each sequence.

    Args:
        hidden: (T, h), all rows of the batch in its order.
        batch: what was encoded.
        how: `mean` over all tokens of the sequence, special tokens included, as sentence-transformers does;
            `cls`: its first token. For `cls` alone it is cheaper to encode `rows=batch.starts`.
        normalize: to Euclidean length 1.

    Returns:
        float32, (S, h), on the device of `hidden`. Means are taken in float32 whatever the model's dtype.

    Raises:
        ValueError: `hidden` does not have the batch's rows.
    """
    if hidden.shape[0] != batch.tokens:
        raise ValueError(
            f"expected the hidden states of all {batch.tokens} tokens, got {hidden.shape[0]} rows"
        )
    with torch.inference_mode():
        if how == "cls":
            pooled = hidden[to_device(batch.starts, hidden.device)].float()
        else:
            lengths = to_device(batch.lengths, hidden.device)
            pooled = torch.segment_reduce(hidden.float(), "mean", lengths=lengths, axis=0, unsafe=True)
        return normalize_rows(pooled) if normalize else pooled


def normalize_rows(vectors: torch.Tensor) -> torch.Tensor:
    """Scale each row to Euclidean length 1, in float32; a row of zeros stays one.

    Args:
        vectors: (n, h).
    """
    return F.normalize(vectors.float(), dim=-1)
