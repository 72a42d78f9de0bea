"""The packed encoder of BERT, RoBERTa, XLM-R and DistilBERT: a forward pass without a padded token.

Every layer is post-norm: attention, add and norm, feed-forward, add and norm. Queries, keys and values come
from one product. What is row by row in the last layer is done for the wanted rows alone.

With `compile`, what is between two attentions is compiled once for all layers and all sizes; attention stays
outside, since its groups change from batch to batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name it has everywhere
from torch import nn

from mlmon.server.model.attention import choose_attention
from mlmon.server.model.layout import arrange, check, place, to_device
from mlmon.server.model.linear import make_linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mlmon.server.model.attention import Attention
    from mlmon.server.model.batch import Packed
    from mlmon.server.model.layout import Limits, Placed

__all__ = ["EncoderWeights", "LayerWeights", "Norm", "PackedEncoder", "Speed"]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A layer normalisation: weight and bias (h,), and what is added to the variance."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One layer; weights are (out, in), `qkv` is query, key and value one below the other, (3h, h)."""

    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    out: torch.Tensor
    out_bias: torch.Tensor
    attention_norm: Norm
    up: torch.Tensor
    up_bias: torch.Tensor
    down: torch.Tensor
    down_bias: torch.Tensor
    output_norm: Norm


@dataclass(frozen=True, slots=True, eq=False)
class EncoderWeights:
    """An encoder in the layout that this module computes with.

    Attributes:
        words: (V, h).
        positions: (P, h).
        segments: (number of segments, h); None where the model does not tell segments apart.
        norm: of the embeddings.
        layers: first to last.
        heads: attention heads of each layer.
        activation: of the feed-forward, by its name in the configuration.
        limits: what the model takes.
    """

    words: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor | None
    norm: Norm
    layers: Sequence[LayerWeights]
    heads: int
    activation: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Speed:
    """What may be traded for speed.

    Attributes:
        compile: compile what is between the attentions; the first batches take a minute.
        backend: torch.compile's backend.
        fused_gelu: GELU's tanh form may stand for the exact one on CUDA in 16 bit; see `linear`.
    """

    compile: bool = False
    backend: str = "inductor"
    fused_gelu: bool = True


class _Norm(nn.Module):
    """Add and normalise."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.register_buffer("weight", norm.weight)
        self.register_buffer("bias", norm.bias)
        self.eps = norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


class _Embeddings(nn.Module):
    words: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor | None

    def __init__(self, weights: EncoderWeights) -> None:
        super().__init__()
        self.register_buffer("words", weights.words)
        self.register_buffer("positions", weights.positions)
        self.register_buffer("segments", weights.segments)
        self.norm = _Norm(weights.norm)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        x = F.embedding(ids, self.words)
        if self.segments is not None:
            x = x + F.embedding(segments, self.segments)
        x = x + F.embedding(positions, self.positions)
        normed: torch.Tensor = self.norm(x)
        return normed


class _AfterAttention(nn.Module):
    """A layer from its attention's answer to its end; all of it works row by row."""

    def __init__(self, layer: LayerWeights, name: str, speed: Speed) -> None:
        super().__init__()
        prepack = not speed.compile
        self.out = make_linear(layer.out, layer.out_bias, prepack=prepack)
        self.attention_norm = _Norm(layer.attention_norm)
        self.up = make_linear(layer.up, layer.up_bias, name, fused_gelu=speed.fused_gelu, prepack=prepack)
        self.down = make_linear(layer.down, layer.down_bias, prepack=prepack)
        self.output_norm = _Norm(layer.output_norm)

    def forward(self, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = self.attention_norm(x + self.out(attended))
        y: torch.Tensor = self.output_norm(x + self.down(self.up(x)))
        return y


class PackedEncoder(nn.Module):
    """The encoder; see `protocols.Encoder`.

    Args:
        weights: on the device and in the dtype it shall compute with.
        attention: how sequences attend; None chooses.
        speed: what may be traded for speed.

    Raises:
        ConfigError: the activation is not known.
    """

    def __init__(
        self, weights: EncoderWeights, attention: Attention | None = None, speed: Speed | None = None
    ) -> None:
        super().__init__()
        speed = speed or Speed()
        self.hidden_size = int(weights.words.shape[1])
        self.limits = weights.limits
        self.max_length = weights.limits.length
        self.device = weights.words.device
        self.heads = weights.heads
        self.attention = attention or choose_attention(
            self.device, weights.words.dtype, self.hidden_size // self.heads
        )
        self.embeddings = _Embeddings(weights)
        prepack = not speed.compile
        self.qkv = nn.ModuleList(
            make_linear(layer.qkv, layer.qkv_bias, prepack=prepack) for layer in weights.layers
        )
        self.after = nn.ModuleList(
            _AfterAttention(layer, weights.activation, speed) for layer in weights.layers
        )
        if speed.compile:
            for part in (self.embeddings, *self.after):
                part.compile(dynamic=True, backend=speed.backend)

    @torch.inference_mode()
    def encode(self, batch: Packed, rows: NDArray[np.int64] | None = None) -> torch.Tensor:
        """See `protocols.Encoder.encode`."""
        check(batch, self.limits, rows)
        tables = arrange(batch, self.limits, by_length=self.attention.by_length)
        wanted = tables.inverse if rows is None else rows if tables.inverse is None else tables.inverse[rows]
        index = None if wanted is None else to_device(wanted, self.device)
        placed = place(tables, self.device)
        if rows is None and index is not None:
            return self.run(placed, None)[index]
        return self.run(placed, index)

    def run(self, placed: Placed, rows: torch.Tensor | None) -> torch.Tensor:
        """The forward pass over what is on the device already.

        Args:
            placed: the batch.
            rows: int64, (n,), or None for all.

        Returns:
            (T, h) or (n, h).
        """
        x: torch.Tensor = self.embeddings(placed.ids, placed.positions, placed.segments)
        last = len(self.after) - 1
        for i, (qkv, after) in enumerate(zip(self.qkv, self.after, strict=True)):
            packed = qkv(x).view(x.shape[0], 3, self.heads, self.hidden_size // self.heads)
            attended = self.attention(packed, placed)
            if i == last and rows is not None:
                attended, x = attended[rows], x[rows]
            x = after(attended, x)
        return x
