"""The Open Inference Protocol, version 2, over REST: what KServe, Triton and MLServer speak.

    text       BYTES [n]        in: texts
    mask_text  INT64 [m]        of which text each mask is
    mask_token INT64 [m]        at which of its tokens it stands, special tokens around it not counted
    token_id   INT64 [m, k]     the best tokens for it, best first
    token      BYTES [m, k]
    score      FP32  [m, k]     their probabilities
    embedding  FP32  [n, h]     the vectors

Outputs that are not asked for are not computed; where none is named, those of the masks are given. Parameters
of the request: top_k, targets, pooling, normalize, long, stride. Tensors in binary are not supported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mlmon import __version__
from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.web.bodies_v2 import (
    InferParameters,
    InferReply,
    ModelMetadata,
    OutputTensor,
    ServerMetadata,
    TensorMetadata,
    V2Ready,
)
from mlmon.server.web.hf import checked_targets, checked_top_k
from mlmon.server.web.replies import json_reply, refusal_reply
from mlmon.server.web.serving import Inputs, reply_to
from mlmon.server.work.fill_mask import FillMask, FillOptions

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mlmon.server.web.bodies_v2 import (
        InferBody,
    )
    from mlmon.server.web.serving import Call, Serving
    from mlmon.server.work.pieces import Seen

__all__ = ["infer", "metadata", "model_metadata", "model_ready"]

_MASKS = ("mask_text", "mask_token", "token_id", "token", "score")
_OUTPUTS = (*_MASKS, "embedding")


async def infer(serving: Serving, call: Call, body: InferBody) -> Response:
    """Answers for masks, embeddings, or both in one pass."""
    check_model(serving, call.request)
    asked = _parameters(body)
    wanted = _wanted(body)
    targets = [asked.targets] if isinstance(asked.targets, str) else asked.targets
    ids = None if targets is None else checked_targets(serving, call, targets)
    pooling = asked.pooling if "embedding" in wanted else None
    masks = wanted != ("embedding",)
    call.note.task = "fill-mask" if masks else "embedding"
    options = FillOptions(checked_top_k(serving, asked.top_k), ids, pooling, masks)
    texts = _texts(body)
    task, seen = await serving.infer(
        call,
        Inputs(texts=texts),
        serving.long(asked.long, asked.stride),
        lambda encoded: FillMask(serving.setting, encoded, options),
    )
    outputs = _outputs(serving, task, seen, normalize=asked.normalize)
    reply = InferReply(
        serving.served.name, serving.served.version, [outputs[name] for name in wanted], body.id
    )
    return reply_to(serving, call, reply)


def _parameters(body: InferBody) -> InferParameters:
    given = {name: value for name, value in body.parameters.items() if name != "binary_data_output"}
    if body.parameters.get("binary_data_output") or any(
        "binary_data_size" in t.parameters for t in body.inputs
    ):
        raise RefusalError(Refusal.INVALID, "tensors in JSON", "binary ones", "send and ask for JSON")
    try:
        return msgspec.convert(given, InferParameters)
    except msgspec.ValidationError as error:
        raise RefusalError(
            Refusal.INVALID,
            "parameters of fill-mask and embed",
            f"something else: {error}",
            "correct `parameters`",
        ) from None


def _wanted(body: InferBody) -> tuple[str, ...]:
    """Names of the outputs that are wanted, in the order of the request."""
    named = tuple(dict.fromkeys(output.name for output in body.outputs))
    unknown = [name for name in named if name not in _OUTPUTS]
    if unknown:
        raise RefusalError(
            Refusal.INVALID, f"outputs out of {', '.join(_OUTPUTS)}", f"{unknown[0]!r}", "correct `outputs`"
        )
    return named or _MASKS


def _texts(body: InferBody) -> list[str]:
    if len(body.inputs) != 1 or body.inputs[0].name != "text" or body.inputs[0].datatype != "BYTES":
        got = ", ".join(f"{tensor.name} of {tensor.datatype}" for tensor in body.inputs)
        raise RefusalError(Refusal.INVALID, "one input: text of BYTES", got, "see the model's metadata")
    tensor = body.inputs[0]
    flat = _flat(tensor.data)
    size = 1
    for dimension in tensor.shape:
        size *= dimension
    if any(not isinstance(item, str) for item in flat) or len(flat) != size or not flat:
        raise RefusalError(
            Refusal.INVALID,
            f"{size} texts, as the shape {tensor.shape} says, at least one",
            f"{len(flat)} values" if len(flat) != size or not flat else "values that are not texts",
            "correct shape or data",
        )
    return flat


def _flat(data: list[Any]) -> list[Any]:
    """The values of a tensor that may be nested; without recursion, since a client decides how deep."""
    found: list[Any] = []
    waiting = list(reversed(data))
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        else:
            found.append(item)
    return found


def _outputs(serving: Serving, task: FillMask, seen: Seen, *, normalize: bool) -> dict[str, OutputTensor]:
    rows = list(task.rows(seen))
    count = len(rows)
    width = len(rows[0][1]) if rows else 0
    name = serving.setting.texts.tokenizer.id_to_token
    ids = [token for _, row, _ in rows for token in row]
    outputs = {
        "mask_text": OutputTensor("mask_text", [count], "INT64", [mask.text for mask, _, _ in rows]),
        "mask_token": OutputTensor("mask_token", [count], "INT64", [mask.index for mask, _, _ in rows]),
        "token_id": OutputTensor("token_id", [count, width], "INT64", ids),
        "token": OutputTensor("token", [count, width], "BYTES", [name(token) or "" for token in ids]),
        "score": OutputTensor("score", [count, width], "FP32", [p for _, _, scores in rows for p in scores]),
    }
    if task.pooling is not None:
        vectors = task.vectors(seen, normalize=normalize)
        outputs["embedding"] = OutputTensor(
            "embedding", list(vectors.shape), "FP32", vectors.ravel().tolist()
        )
    return outputs


def check_model(serving: Serving, request: Request) -> None:
    """Whether the path names the model that is served.

    Raises:
        RefusalError: it names another, or another version.
    """
    name = request.path_params["model"]
    version = request.path_params.get("version", serving.served.version)
    if (name, version) != (serving.served.name, serving.served.version):
        raise RefusalError(
            Refusal.NOT_FOUND,
            f"the model {serving.served.name!r}, version {serving.served.version!r}",
            f"{name!r}, version {version!r}",
            "name the one that is served",
        )


def metadata(serving: Serving) -> Response:  # noqa: ARG001 - as all routes that only tell
    """What serves."""
    return json_reply(ServerMetadata("mlmon", __version__, []))


def model_metadata(serving: Serving, request: Request) -> Response:
    """What the model takes and gives."""
    try:
        check_model(serving, request)
    except RefusalError as error:
        return refusal_reply(error, request.url.path)
    outputs = [
        TensorMetadata("mask_text", "INT64", [-1]),
        TensorMetadata("mask_token", "INT64", [-1]),
        TensorMetadata("token_id", "INT64", [-1, -1]),
        TensorMetadata("token", "BYTES", [-1, -1]),
        TensorMetadata("score", "FP32", [-1, -1]),
        TensorMetadata("embedding", "FP32", [-1, serving.served.hidden_size]),
    ]
    served = serving.served
    text = TensorMetadata("text", "BYTES", [-1])
    return json_reply(ModelMetadata(served.name, [served.version], "mlmon_pytorch", [text], outputs))


def model_ready(serving: Serving, request: Request) -> Response:
    """Whether the model takes requests."""
    try:
        check_model(serving, request)
    except RefusalError as error:
        return refusal_reply(error, request.url.path)
    ready = serving.scheduler.ready
    return json_reply(V2Ready(ready, serving.served.name), 200 if ready else 503)
