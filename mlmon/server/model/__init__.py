"""Masked language models, served without padding: loading, packed encoding, mask head, pooling.

    files, tokens, loading      from a directory or hub id to a LoadedModel
    batch, layout               what an encoder takes, and how it lies on the device
    fast, attention, linear     the packed encoder (BERT, RoBERTa, XLM-R, DistilBERT)
    graphs                      CUDA graphs for small batches
    plain                       every other architecture of `architectures`, as transformers has it
    heads, pooling              distributions at chosen rows, one vector per sequence

It computes and nothing else: no HTTP, no threads, no clock.
"""

from __future__ import annotations

from mlmon.errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
    import transformers as _transformers  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "torch", "server") from error

from mlmon.server.model.batch import Packed, pack
from mlmon.server.model.loading import LoadConfig, LoadedModel, ModelInfo, load_model
from mlmon.server.model.pooling import normalize_rows, pool
from mlmon.server.model.protocols import Encoder, MaskHead, Targets, TopK, Truth
from mlmon.server.model.tokens import SpecialIds

__all__ = [
    "load_model",
    "LoadConfig",
    "LoadedModel",
    "ModelInfo",
    "SpecialIds",
    "Packed",
    "pack",
    "Encoder",
    "MaskHead",
    "Targets",
    "TopK",
    "Truth",
    "pool",
    "normalize_rows",
]
