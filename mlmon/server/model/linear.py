"""Linear layers with bias and activation in one kernel, where PyTorch has such a kernel.

| where | kernel |
|---|---|
| CPU | oneDNN over weights laid out once; measured 1.1 to 2 times `F.linear`, most at few rows |
| CUDA, 16 bit, GELU | `_addmm_activation`: cuBLASLt's epilogue, which is GELU's tanh approximation |
| elsewhere | `F.linear`, then the activation |

The tanh form differs from the exact GELU by at most 5e-4, less than bfloat16 resolves from 0.25 up;
`fused_gelu=False` keeps to the exact one. oneDNN's GELU on the CPU is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name it has everywhere
from torch import nn
from transformers.activations import ACT2FN

from mlmon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["activation", "make_linear"]


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


#: Activations by the names that configurations use; others are transformers' own.
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": F.relu,
}
#: Names of GELU's tanh form.
_TANH = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
#: oneDNN's names for them: attribute and algorithm.
_ONEDNN = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_fast": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
#: Rows for which oneDNN lays a weight out; another number runs as fast (within 5 % from 8 to 4096).
_TYPICAL_ROWS = 512


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Look an activation up.

    Raises:
        ConfigError: neither this module nor transformers knows it.
    """
    if name in _ACTIVATIONS:
        return _ACTIVATIONS[name]
    if name in ACT2FN:
        found: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[name]
        return found
    raise ConfigError(f"the model's activation is {name!r}; expected one of {', '.join(sorted(ACT2FN))}")


class _Linear(nn.Module):
    """`F.linear`, then the activation."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, name: str | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.activation = None if name is None else activation(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if self.activation is None else self.activation(y)


class _AddmmGelu(nn.Module):
    """Bias and tanh GELU in the matrix product's epilogue."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._addmm_activation(self.bias, x, self.weight.t(), use_gelu=True)
        return y


class _OneDnnLinear(nn.Module):
    """A weight in oneDNN's own layout; bias and activation are part of the product."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, name: str | None) -> None:
        super().__init__()
        # attributes, not buffers: the packed weight has no storage that a module could move or save
        self.packed: Any = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TYPICAL_ROWS)
        self.bias = bias
        self.kind, self.algorithm = _ONEDNN[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        y: torch.Tensor = linear(x, self.packed, self.bias, self.kind, [], self.algorithm)
        return y


def make_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    name: str | None = None,
    *,
    fused_gelu: bool = True,
    prepack: bool = True,
) -> nn.Module:
    """The fastest module for `activation(x @ weight.T + bias)`.

    Args:
        weight: (out, in), on its device and in its dtype.
        bias: (out,) or None.
        name: of the activation, or None.
        fused_gelu: the tanh form of GELU may stand for the exact one on CUDA in 16 bit.
        prepack: oneDNN may keep the weight in its own layout; not under torch.compile.

    Raises:
        ConfigError: the activation is not known.
    """
    if name is not None:
        activation(name)
    gelu = name in _TANH or (name == "gelu" and fused_gelu)
    if weight.is_cuda and weight.dtype != torch.float32 and gelu and bias is not None:
        return _AddmmGelu(weight, bias)
    if prepack and name in _ONEDNN and weight.device.type == "cpu" and _onednn(weight.dtype):
        return _OneDnnLinear(weight, bias, name)
    return _Linear(weight, bias, name)


def _onednn(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's packed linear for the dtype."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
