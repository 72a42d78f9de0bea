"""The network, in plain torch: BERT with post-layer norm and a masked-LM head whose decoder is the embedding.

The parameters have the names and shapes of `BertForMaskedLM` in transformers, so that what is trained here is
read there. There is no dropout (a few passes over the text overfit nothing at this size) and no padding: a
batch holds sequences of one length.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes = [int(str(config[name])) for name in (*names, "max_position_embeddings")]
        return cls(*sizes, eps=float(str(config["layer_norm_eps"])))


class _Embeddings(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.hidden)
        self.position_embeddings = nn.Embedding(shape.positions, shape.hidden)
        self.token_type_embeddings = nn.Embedding(2, shape.hidden)
        self.LayerNorm = nn.LayerNorm(shape.hidden, eps=shape.eps)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        other = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(ids) + other)


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
        return self.LayerNorm(self.dense(inner) + residual)


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _Projections(shape), "output": _Output(shape, shape.hidden)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.hidden, shape.inner)})
        self.output = _Output(shape, shape.inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class _Transform(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden, shape.hidden)
        self.LayerNorm = nn.LayerNorm(shape.hidden, eps=shape.eps)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(F.gelu(self.dense(rows)))


class _Predictions(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.transform = _Transform(shape)
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))


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
        layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.bert = nn.ModuleDict(
            {"embeddings": _Embeddings(shape), "encoder": nn.ModuleDict({"layer": layers})}
        )
        self.cls = nn.ModuleDict({"predictions": _Predictions(shape)})
        self.apply(_initialise)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states (rows, length, hidden) of token ids (rows, length), all of them real tokens."""
        x = self.bert["embeddings"](ids)
        for layer in self.bert["encoder"]["layer"]:
            x = layer(x)
        return x

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocabulary) of hidden states (n, hidden)."""
        head = self.cls["predictions"]
        return F.linear(head.transform(rows), self.bert["embeddings"].word_embeddings.weight, head.bias)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
