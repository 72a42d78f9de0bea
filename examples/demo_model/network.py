"""The network, in plain torch: BERT with post-layer norm and a masked-LM head whose decoder is the embedding.

The parameters have the names and shapes of `BertForMaskedLM` in transformers, so that what is trained here is
read there. There is no dropout (a few passes over the text overfit nothing at this size) and no padding: a
batch holds sequences of one length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

__all__ = ["Bert", "Shape"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes; the defaults are the shipped model's."""

    vocabulary: int = 8192
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 512
    positions: int = 128
    eps: float = 1e-12

    def config(self) -> dict[str, object]:
        """Content of `config.json` as transformers reads it."""
        return {
            "architectures": ["BertForMaskedLM"],
            "model_type": "bert",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.positions,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.02,
            "layer_norm_eps": self.eps,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "dtype": "float16",
        }

    @classmethod
    def of(cls, config: dict[str, object]) -> Shape:
        """The sizes in a `config.json`."""
        return cls(
            vocabulary=int(str(config["vocab_size"])),
            hidden=int(str(config["hidden_size"])),
            layers=int(str(config["num_hidden_layers"])),
            heads=int(str(config["num_attention_heads"])),
            inner=int(str(config["intermediate_size"])),
            positions=int(str(config["max_position_embeddings"])),
            eps=float(str(config["layer_norm_eps"])),
        )


class _Embeddings(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.hidden)
        self.position_embeddings = nn.Embedding(shape.positions, shape.hidden)
        self.token_type_embeddings = nn.Embedding(2, shape.hidden)
        self.LayerNorm = nn.LayerNorm(shape.hidden, eps=shape.eps)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        other = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        return _tensor(self.LayerNorm(self.word_embeddings(ids) + other))


class _Projections(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = nn.Linear(shape.hidden, shape.hidden)
        self.key = nn.Linear(shape.hidden, shape.hidden)
        self.value = nn.Linear(shape.hidden, shape.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.cat((self.query.weight, self.key.weight, self.value.weight))
        bias = torch.cat((self.query.bias, self.key.bias, self.value.bias))
        rows, length, hidden = x.shape
        mixed = F.linear(x, weight, bias).view(rows, length, 3, self.heads, hidden // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows, length, hidden)


class _Output(nn.Module):
    def __init__(self, shape: Shape, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, shape.hidden)
        self.LayerNorm = nn.LayerNorm(shape.hidden, eps=shape.eps)

    def forward(self, inner: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return _tensor(self.LayerNorm(self.dense(inner) + residual))


class _Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self = _Projections(shape)
        self.output = _Output(shape, shape.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _tensor(self.output(self.self(x), x))


class _Intermediate(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden, shape.inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.dense(x))


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = _Attention(shape)
        self.intermediate = _Intermediate(shape)
        self.output = _Output(shape, shape.inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.attention(x)
        return _tensor(self.output(self.intermediate(x), x))


class _Encoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class _Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = _Embeddings(shape)
        self.encoder = _Encoder(shape)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return _tensor(self.encoder(self.embeddings(ids)))


class _Transform(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden, shape.hidden)
        self.LayerNorm = nn.LayerNorm(shape.hidden, eps=shape.eps)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return _tensor(self.LayerNorm(F.gelu(self.dense(rows))))


class _Predictions(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.transform = _Transform(shape)
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))


class _Head(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.predictions = _Predictions(shape)


class Bert(nn.Module):
    """A masked LM.

    Args:
        shape: sizes.

    Example:
        >>> small = Bert(Shape(vocabulary=10, hidden=8, layers=1, heads=2, inner=16))
        >>> small(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.bert = _Body(shape)
        self.cls = _Head(shape)
        self.apply(_initialise)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states (rows, length, hidden) of token ids (rows, length), all of them real tokens."""
        return _tensor(self.bert(ids))

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocabulary) of hidden states (n, hidden)."""
        head = self.cls.predictions
        return F.linear(head.transform(rows), self.bert.embeddings.word_embeddings.weight, head.bias)


def _tensor(made: object) -> torch.Tensor:
    """What a module returned; torch types it as anything."""
    return cast("torch.Tensor", made)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
