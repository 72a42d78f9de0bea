"""From transformers' modules to the weights that our own modules compute with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from mlmon.server.model.architectures import HeadNames
from mlmon.server.model.fast import EncoderWeights, LayerWeights, Norm
from mlmon.server.model.heads import HeadWeights
from mlmon.server.model.layout import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mlmon.server.model.architectures import Architecture, LayerNames

__all__ = ["Placement", "encoder_weights", "head_weights", "limits_of"]

#: Where weights go: device and dtype.
Placement: TypeAlias = tuple[torch.device, torch.dtype]
#: The mask head of DeBERTa checkpoints saved by its authors; its decoder is the embeddings, its bias its own.
_LATE_HEAD = HeadNames(
    "lm_predictions.lm_head.dense",
    "lm_predictions.lm_head.LayerNorm",
    "deberta.embeddings.word_embeddings",
    "config.hidden_act",
)


def limits_of(model: PreTrainedModel, architecture: Architecture, longest: int | None) -> Limits:
    """What the model takes.

    Args:
        model: with its head.
        architecture: of the model.
        longest: what its tokenizer says of the longest sequence, if anything.
    """
    config, words = model.config, _at(model, "").get_input_embeddings()
    padding = int(config.pad_token_id) if architecture.positions_after_padding else None
    segments = int(getattr(config, "type_vocab_size", 0) or 0)
    length = int(config.max_position_embeddings) - (0 if padding is None else padding + 1)
    return Limits(
        vocabulary=int(words.weight.shape[0]),
        segments=segments if segments > 1 else 0,
        length=length if longest is None else min(length, longest),
        padding=padding,
    )


def encoder_weights(
    model: PreTrainedModel, architecture: Architecture, limits: Limits, to: Placement
) -> EncoderWeights:
    """Copy the encoder's weights to a device and dtype.

    Args:
        model: with its head.
        architecture: of the model.
        limits: of the model.
        to: device and dtype.
    """
    names = architecture.layers
    if names is None:
        raise ValueError(f"{architecture.class_name} has no packed encoder")
    embeddings = _at(model, names.embeddings)
    positions = embeddings.position_embeddings.weight
    segments = getattr(embeddings, "token_type_embeddings", None)
    if segments is not None and not limits.segments:
        # every token is of the one segment there is
        positions = positions + segments.weight[0]
    return EncoderWeights(
        words=_moved(embeddings.word_embeddings.weight, to),
        positions=_moved(positions, to),
        segments=None if segments is None or not limits.segments else _moved(segments.weight, to),
        norm=_norm(embeddings.LayerNorm, to),
        layers=[_layer(layer, names, to) for layer in _at(model, names.layers)],
        # DistilBERT's configuration answers to both names
        heads=int(model.config.num_attention_heads),
        activation=str(getattr(model.config, "activation", None) or model.config.hidden_act),
        limits=limits,
    )


def head_weights(model: PreTrainedModel, architecture: Architecture, to: Placement) -> HeadWeights:
    """Copy the mask head's weights to a device and dtype.

    Args:
        model: with its head.
        architecture: of the model.
        to: device and dtype.
    """
    names = _LATE_HEAD if hasattr(model, "lm_predictions") else architecture.head
    dense, norm, decoder = (_at(model, name) for name in (names.dense, names.norm, names.decoder))
    bias = _at(model, "lm_predictions.lm_head").bias if names is _LATE_HEAD else decoder.bias
    activation = names.activation
    if activation.startswith("config."):
        activation = getattr(model.config, activation.removeprefix("config."))
    return HeadWeights(
        dense=_moved(dense.weight, to),
        dense_bias=None if dense.bias is None else _moved(dense.bias, to),
        norm=_moved(norm.weight, to),
        norm_bias=None if norm.bias is None else _moved(norm.bias, to),
        eps=float(norm.eps),
        decoder=_moved(decoder.weight, to),
        decoder_bias=None if bias is None else _moved(bias, to),
        activation=activation,
    )


def _layer(layer: Any, names: LayerNames, to: Placement) -> LayerWeights:
    attention = [_at(layer, name) for name in (names.query, names.key, names.value)]
    out, up, down = (_at(layer, name) for name in (names.out, names.up, names.down))
    return LayerWeights(
        qkv=_moved(torch.cat([part.weight for part in attention]), to),
        qkv_bias=_moved(torch.cat([part.bias for part in attention]), to),
        out=_moved(out.weight, to),
        out_bias=_moved(out.bias, to),
        attention_norm=_norm(_at(layer, names.attention_norm), to),
        up=_moved(up.weight, to),
        up_bias=_moved(up.bias, to),
        down=_moved(down.weight, to),
        down_bias=_moved(down.bias, to),
        output_norm=_norm(_at(layer, names.output_norm), to),
    )


def _at(module: Any, name: str) -> Any:
    """A module by its dotted name; whatever it has is taken on trust, since the architecture is known."""
    return module.get_submodule(name)


def _norm(module: Any, to: Placement) -> Norm:
    return Norm(_moved(module.weight, to), _moved(module.bias, to), float(module.eps))


def _moved(tensor: torch.Tensor, to: Placement) -> torch.Tensor:
    return tensor.detach().to(device=to[0], dtype=to[1]).contiguous()
