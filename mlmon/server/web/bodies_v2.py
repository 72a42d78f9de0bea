"""What the Open Inference Protocol's routes (version 2, REST) take and give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from mlmon.server.config import Pooling  # noqa: TC001 - msgspec reads the annotation
from mlmon.server.web.bodies import LongField, StrideField, TargetsField  # noqa: TC001 - msgspec reads the annotation

__all__ = [
    "InferBody",
    "InferParameters",
    "InferReply",
    "InputTensor",
    "ModelMetadata",
    "OutputTensor",
    "RequestedOutput",
    "ServerMetadata",
    "TensorMetadata",
    "V2ErrorReply",
    "V2Live",
    "V2Ready",
]

_Shape = Annotated[
    list[Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]], msgspec.Meta(min_length=1, max_length=8)
]
_Parameters = dict[str, Any]


class InputTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Texts, as a tensor of BYTES named `text`: JSON strings, flat or nested as the shape says."""

    name: str
    shape: _Shape
    datatype: str
    data: list[Any]
    parameters: _Parameters = {}


class RequestedOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output that is wanted."""

    name: str
    parameters: _Parameters = {}


class InferBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for inference."""

    inputs: Annotated[list[InputTensor], msgspec.Meta(min_length=1)]
    id: str | None = None
    parameters: _Parameters = {}
    outputs: list[RequestedOutput] = []


class InferParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `parameters` of a request may hold: those of fill-mask and embed."""

    top_k: Annotated[int, msgspec.Meta(ge=1)] = 5
    targets: TargetsField = None
    pooling: Pooling = "mean"
    normalize: bool = True
    long: LongField = None
    stride: StrideField = None


class OutputTensor(msgspec.Struct, frozen=True):
    """An output: numbers or strings, flat, in row-major order."""

    name: str
    shape: list[int]
    datatype: Literal["BYTES", "INT64", "FP32"]
    data: list[Any]


class InferReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer to a request for inference; `id` is the request's."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class TensorMetadata(msgspec.Struct, frozen=True):
    """A tensor the model takes or gives; -1 where the size varies."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(msgspec.Struct, frozen=True):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class V2Live(msgspec.Struct, frozen=True):
    """Whether the server lives."""

    live: bool


class V2Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the server, or the named model, is ready."""

    ready: bool
    name: str | None = None


class V2ErrorReply(msgspec.Struct, frozen=True):
    """Why a request was not answered."""

    error: str
