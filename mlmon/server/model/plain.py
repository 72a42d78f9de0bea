"""The encoder as transformers has it, for architectures without a packed one; the interface is the same.

Sequences are sorted by length and run in blocks that waste little on padding.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlmon.server.model.layout import check, to_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from mlmon.server.model.batch import Packed
    from mlmon.server.model.layout import Limits

__all__ = ["PlainEncoder", "blocks"]

#: A block of at least so many tokens is closed rather than padded to less than `_FULL`.
_BLOCK_TOKENS, _FULL = {"cpu": 512, "cuda": 16_384}, 0.8


class PlainEncoder:
    """The encoder; see `protocols.Encoder`.

    Args:
        base: transformers' model without its head, on its device, in its dtype, in evaluation mode.
        limits: what it takes.
        padding: the id to pad with; it is masked, so any will do.
    """

    def __init__(self, base: PreTrainedModel, limits: Limits, padding: int) -> None:
        self._base = base
        self._padding = padding
        self._segments = "token_type_ids" in inspect.signature(base.forward).parameters
        self.limits = limits
        self.hidden_size = int(base.config.hidden_size)
        self.max_length = limits.length
        self.device = torch.device(base.device)

    @torch.inference_mode()
    def encode(self, batch: Packed, rows: NDArray[np.int64] | None = None) -> torch.Tensor:
        """See `protocols.Encoder.encode`."""
        check(batch, self.limits, rows)
        parts, order = [], np.argsort(-batch.lengths, kind="stable")
        taken = []
        for block in blocks(batch.lengths[order], _BLOCK_TOKENS.get(self.device.type, 512)):
            chosen = order[block]
            lengths = batch.lengths[chosen]
            inside = np.arange(lengths[0]) < lengths[:, None]
            source = (batch.starts[chosen, None] + np.arange(lengths[0]))[inside]
            parts.append(self._run(batch, source, inside))
            taken.append(source)
        hidden = torch.cat(parts)
        where = np.empty(batch.tokens, np.int64)
        where[np.concatenate(taken)] = np.arange(batch.tokens)
        return hidden[to_device(where if rows is None else where[rows], self.device)]

    def _run(self, batch: Packed, source: NDArray[np.int64], inside: NDArray[np.bool_]) -> torch.Tensor:
        """Hidden states of the tokens `source`, which fill the places `inside` of a padded block."""

        def padded(values: NDArray[np.int64], fill: int) -> torch.Tensor:
            block = np.full(inside.shape, fill, np.int64)
            block[inside] = values[source]
            return to_device(block, self.device)

        extra = {}
        if self._segments and batch.segments is not None and self.limits.segments:
            extra["token_type_ids"] = padded(batch.segments, 0)
        answer = self._base(
            input_ids=padded(batch.ids, self._padding),
            attention_mask=to_device(inside.astype(np.int64), self.device),
            **extra,
        )
        hidden: torch.Tensor = answer.last_hidden_state
        # by number: a mask on the device would make the host wait until it is counted
        return hidden.flatten(0, 1)[to_device(np.flatnonzero(inside), self.device)]


def blocks(lengths: NDArray[np.int64], tokens: int) -> Iterator[slice]:
    """Cut sorted sequences into blocks.

    Args:
        lengths: longest first.
        tokens: a block of at least so many tokens, padding included, takes no sequence shorter than 0.8 times
            its longest; so at most a fifth of it is padding, and what is left over is one small block.

    Example:
        >>> list(blocks(np.array([100, 90, 90, 30, 30]), tokens=200))
        [slice(0, 3, None), slice(3, 5, None)]
        >>> list(blocks(np.array([100, 30, 30]), tokens=1000))
        [slice(0, 3, None)]
    """
    start = 0
    for i, length in enumerate(lengths):
        if (i - start) * lengths[start] >= tokens and length < _FULL * lengths[start]:
            yield slice(start, i)
            start = i
    yield slice(start, len(lengths))
