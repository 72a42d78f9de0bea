"""For whoever runs the server: /info, /health, /metrics."""

from __future__ import annotations

import asyncio
import platform
from typing import TYPE_CHECKING

import msgspec
import torch
import transformers
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from mlmon import __version__
from mlmon.server.web.bodies import InfoReply, StateReply
from mlmon.server.web.bodies_v2 import V2Live, V2Ready
from mlmon.server.web.replies import json_reply
from mlmon.server.work.jobs import Lane

if TYPE_CHECKING:
    from starlette.requests import Request

    from mlmon.server.model import ModelInfo
    from mlmon.server.web.serving import Serving
    from mlmon.server.work.scheduler import Budgets

__all__ = ["info", "live", "metrics", "ready", "v2_live", "v2_ready"]


def info(serving: Serving, model: ModelInfo, budgets: Budgets) -> Response:
    """What is served, by what, and how much may be asked for."""
    served = serving.served
    queue = {}
    for lane in Lane:
        jobs, tokens = serving.scheduler.waiting(lane)
        queue[lane.value] = {"jobs": jobs, "tokens": tokens}
    return json_reply(
        InfoReply(
            model={"name": served.name, "version": served.version, "source": model.name}
            | {name: getattr(model, name) for name in model.__dataclass_fields__ if name != "name"},
            limits=msgspec.to_builtins(serving.limits) | {"text_tokens": serving.setting.texts.capacity},
            batch=msgspec.to_builtins(budgets),
            queue=queue,
            server={
                "mlmon": __version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "transformers": transformers.__version__,
            },
        )
    )


def live(serving: Serving) -> Response:
    """Whether the device's thread runs and the device answers; 503 asks for a restart."""
    alive = serving.scheduler.alive
    return json_reply(StateReply(alive), 200 if alive else 503)


def ready(serving: Serving) -> Response:
    """Whether requests are taken; 503 while the server stops."""
    taken = serving.scheduler.ready
    return json_reply(StateReply(taken), 200 if taken else 503)


def v2_live(serving: Serving) -> Response:
    """`live` in the words of the Open Inference Protocol."""
    alive = serving.scheduler.alive
    return json_reply(V2Live(alive), 200 if alive else 503)


def v2_ready(serving: Serving) -> Response:
    """`ready` in the words of the Open Inference Protocol."""
    taken = serving.scheduler.ready
    return json_reply(V2Ready(taken), 200 if taken else 503)


async def metrics(serving: Serving, request: Request) -> Response:
    """Prometheus metrics, as OpenMetrics where the client takes that."""
    serving.meters.ready.set(serving.scheduler.ready)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    # in a thread: collectors may ask the GPU's driver
    text = await asyncio.to_thread(encode, serving.meters.registry)
    return Response(text, headers={"content-type": content_type})
