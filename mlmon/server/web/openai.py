"""/v1/embeddings and /v1/models: the part of OpenAI's API that a masked language model can answer.

A text longer than the model takes is dealt with as the server's `long_inputs` says; vectors are means of
length 1, as OpenAI's have.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.web.bodies import Embedding, EmbeddingsReply, ModelCard, ModelsReply, Usage
from mlmon.server.web.replies import json_reply
from mlmon.server.web.serving import Inputs, reply_to
from mlmon.server.work.embed import Embed, EmbedOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from starlette.responses import Response

    from mlmon.server.web.bodies import EmbeddingsBody
    from mlmon.server.web.serving import Call, Serving

__all__ = ["embeddings", "models"]


async def embeddings(serving: Serving, call: Call, body: EmbeddingsBody) -> Response:
    """A vector for every input."""
    _check(serving, body)
    task, seen = await serving.infer(
        call,
        _inputs(body),
        serving.long(None, None),
        lambda texts: Embed(serving.setting, texts, EmbedOptions()),
    )
    vectors = task.answer(seen)
    around = len(serving.setting.texts.prefix) + len(serving.setting.texts.suffix)
    tokens = sum(w.stop - w.start + around for text in call.note.encoded for w in text.windows)
    data = [
        Embedding("embedding", index, _written(vector, body.encoding_format))
        for index, vector in enumerate(vectors)
    ]
    reply = EmbeddingsReply("list", data, serving.served.name, Usage(tokens, tokens))
    return reply_to(serving, call, reply)


def _check(serving: Serving, body: EmbeddingsBody) -> None:
    if body.dimensions is not None:
        size = serving.served.hidden_size
        raise RefusalError(
            Refusal.INVALID,
            f"no `dimensions`: the vectors of this model have {size}, and shorter ones would mean "
            f"something else",
            f"{body.dimensions}",
            "leave `dimensions` out",
        )
    if body.model is not None and body.model != serving.served.name:
        raise RefusalError(
            Refusal.NOT_FOUND,
            f"the model {serving.served.name!r}",
            repr(body.model),
            "name it so, or leave it out",
        )


def _inputs(body: EmbeddingsBody) -> Inputs:
    given = body.input
    if isinstance(given, str):
        return Inputs(texts=[given])
    texts = [item for item in given if isinstance(item, str)]
    if len(texts) == len(given):
        return Inputs(texts=texts)
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return Inputs(ids=[ids])
    rows = [item for item in given if isinstance(item, list)]
    if len(rows) == len(given):
        return Inputs(ids=rows)
    raise RefusalError(
        Refusal.INVALID,
        "`input` to be a text, a list of texts, a list of token ids, or a list of such lists",
        "a mixed list",
        "send one kind",
    )


def _written(vector: NDArray[np.float32], encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
    values: list[float] = vector.tolist()
    return values


def models(serving: Serving) -> Response:
    """The one model there is."""
    served = serving.served
    return json_reply(ModelsReply("list", [ModelCard(served.name, "model", served.created, "mlmon")]))
