"""The server, put together: a loaded model, the device's thread, routes, events and metrics.

    server = build_server(load_model(...), ServerConfig())
    uvicorn.run(server.app)

The lifespan of `server.app` starts the device's thread, and ends it when what was accepted is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client import CollectorRegistry

from mlmon.attach.emitter import Emitter
from mlmon.attach.kafka_sink import KafkaSink
from mlmon.attach.metrics import EmitterCollector
from mlmon.attach.mirror import Mirror
from mlmon.attach.mirror_kafka import KafkaMirror
from mlmon.attach.mirror_metrics import MirrorCollector
from mlmon.attach.mirror_spool import MirrorFiles
from mlmon.attach.sinks import SpoolSink
from mlmon.attach.tap import Tap, TapConfig, TapHooks
from mlmon.errors import ConfigError, MissingExtraError
from mlmon.events.privacy import InputHasher
from mlmon.registry.tokenizers import parse_tokenizer
from mlmon.server.cost import CostCollector
from mlmon.server.meters import Meters
from mlmon.server.nvml import open_gpu
from mlmon.server.tracing import Tracing
from mlmon.server.watch import Counting, Watch
from mlmon.server.work.halving import is_out_of_memory
from mlmon.server.work.pieces import PieceBuilder
from mlmon.server.work.runner import Runner
from mlmon.server.work.scheduler import Budgets, Scheduler
from mlmon.server.work.task import Setting
from mlmon.server.work.text import Texts
from mlmon.server.work.waiting import Waiting

try:
    from mlmon.server.web.api import make_api
    from mlmon.server.web.guard import Guard, read_token
    from mlmon.server.web.routes import ROUTE_NAMES
    from mlmon.server.web.serving import Served, Serving
except ModuleNotFoundError as missing:
    raise MissingExtraError(missing.name or "fastapi", "server") from missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mlmon.server.config import BatchConfig, EventsConfig, MirroringConfig, ServerConfig
    from mlmon.server.model import LoadedModel, ModelInfo
    from mlmon.server.nvml import GpuCollector
    from mlmon.server.work.halving import Model

__all__ = ["Server", "budgets_of", "build_server"]

_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 4096, 65_536
_VERSION_DIGITS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """A server that is ready to be run.

    Attributes:
        app: the ASGI app.
        serving: the model, as the routes use it.
        registry: its metrics.
        emitter: of its events; None where none are written.
        mirror: of its texts; None where none are kept.
    """

    app: Callable[..., Any]
    serving: Serving
    registry: CollectorRegistry
    emitter: Emitter | None
    mirror: Mirror | None = None


def budgets_of(config: BatchConfig, device: str, longest: int) -> Budgets:
    """The bounds of queues and batches, with what the configuration leaves open filled in.

    Args:
        config: the configured ones.
        device: such as `cpu` or `cuda:0`.
        longest: tokens of the model's longest sequence.

    Raises:
        ConfigError: a batch has no room for one sequence, or shadow work would get more than there is.
    """
    default = _CPU_BATCH_TOKENS if device == "cpu" else _GPU_BATCH_TOKENS
    batch = config.batch_tokens or max(default, longest)
    if batch < longest:
        raise ConfigError(
            f"server.batch.batch_tokens = {batch}: expected room for the model's longest sequence, {longest} "
            "tokens; raise it, or leave it out"
        )
    shadow = config.shadow_batch_tokens or max(1, batch // 4)
    if shadow > batch:
        raise ConfigError(
            f"server.batch.shadow_batch_tokens = {shadow}: expected at most batch_tokens, {batch}; lower it"
        )
    return Budgets(
        batch_tokens=batch,
        shadow_batch_tokens=shadow,
        queue_jobs=config.queue_jobs,
        queue_tokens=config.queue_tokens or 32 * batch,
        shadow_queue_jobs=config.shadow_queue_jobs,
        shadow_queue_tokens=config.shadow_queue_tokens or 8 * batch,
        shadow_wait_seconds=config.shadow_wait_seconds,
        longest=longest,
    )


def build_server(
    loaded: LoadedModel,
    config: ServerConfig,
    *,
    registry: CollectorRegistry | None = None,
    runner: Model | None = None,
) -> Server:
    """Put a server together. Nothing runs before the app's lifespan begins.

    Args:
        loaded: the model; it is tried once, so that what cannot work fails here.
        config: how it is served.
        registry: where metrics are registered; None: a new one.
        runner: what brings batches through the model; None: `Runner`.

    Raises:
        ConfigError: the configuration cannot be used with this model, a secret is missing, or the mirror's
            place is not private or keeps texts too long.
        SourceError: the mirror's topic cannot be looked at.
    """
    info = loaded.info
    budgets = budgets_of(config.batch, info.device, info.max_length)
    token = read_token(config.token_env, config.token_file)
    model = runner or Runner(loaded.encoder, loaded.head)
    texts = Texts(loaded.tokenizer, loaded.special, info.max_length)
    _try(model, texts)
    meters = Meters(CollectorRegistry() if registry is None else registry, ROUTE_NAMES)
    served = Served(
        config.name or info.name,
        config.version or info.model_digest[:_VERSION_DIGITS],
        info.model_digest,
        info.tokenizer_digest,
        info.hidden_size,
        int(time.time()),
    )
    waiting = Waiting()
    scheduler = Scheduler(model, budgets, meters, waiting.deliver)
    setting = _setting(config, texts, info, budgets)
    serving = Serving(served, setting, config.limits, meters, (scheduler, waiting))
    emitter, mirror = _emitter(config.events), _mirror(config.mirror)
    gpu = open_gpu(info.device)
    _register(meters, config, info, served, gpu)
    events = None
    if emitter is not None:
        meters.registry.register(EmitterCollector(emitter))
        serving.on_error = emitter.count_tap_error
        tap = Tap(emitter, _tap_config(config.events, served), TapHooks(mirror=mirror))
        events = tap, _counting(loaded, config.events, gpu)
    if mirror is not None:
        meters.registry.register(MirrorCollector(mirror))
    life = partial(_lifespan, serving, waiting, (emitter, mirror), config.shutdown_seconds)
    guarded = Guard(make_api(serving, info, budgets, life), token)
    tracing = Tracing({"mlmon.model": served.name, "mlmon.version": served.version})
    return Server(Watch(guarded, meters, tracing, events), serving, meters.registry, emitter, mirror)


def _setting(config: ServerConfig, texts: Texts, info: ModelInfo, budgets: Budgets) -> Setting:
    events = config.events
    watched = None if events.kind == "none" or events.embedding == "none" else events.embedding
    return Setting(
        texts,
        info.vocabulary_size,
        budgets.batch_tokens,
        config.limits.request_tokens,
        watched,
        events.top_k,
    )


def _try(model: Model, texts: Texts) -> None:
    """Bring one mask through the model: it warms up, and what cannot work is known before anyone asks.

    Raises:
        ConfigError: the device has no memory even for that.
    """
    builder = PieceBuilder(small_tokens=1, most_tokens=1, top_k=1)
    sequence = texts.sequence(np.array([texts.special.mask], np.int64))
    builder.add(sequence[np.newaxis], top=np.array([len(texts.prefix)]), pool=np.arange(len(sequence)))
    try:
        model.begin(builder.build()).land()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            "the device has no memory for a single token beside the model; free some, or choose another with "
            "--device"
        ) from error


def _emitter(config: EventsConfig) -> Emitter | None:
    match config.kind:
        case "spool":
            return Emitter(SpoolSink(config.spool), config.emitter)
        case "kafka":
            return Emitter(KafkaSink(config.kafka), config.emitter)
        case _:
            return None


def _mirror(config: MirroringConfig) -> Mirror | None:
    match config.kind:
        case "spool":
            return Mirror(MirrorFiles(config.spool), config.budget)
        case "kafka":
            return Mirror(KafkaMirror(config.kafka), config.budget)
        case _:
            return None


def _tap_config(config: EventsConfig, served: Served) -> TapConfig:
    return TapConfig(
        service=config.service,
        model_name=served.name,
        model_version=served.version,
        model_digest=served.model_digest,
        deployment=config.deployment,
        instance=config.instance,
        sample_rate=config.sample_rate,
    )


def _counting(loaded: LoadedModel, config: EventsConfig, gpu: GpuCollector | None) -> Counting:
    table = parse_tokenizer(loaded.tokenizer.to_str().encode(), loaded.info.name).table
    hasher = InputHasher.from_config(config.privacy)
    return Counting(table, loaded.info.tokenizer_digest, hasher, gpu)


def _register(
    meters: Meters, config: ServerConfig, info: ModelInfo, served: Served, gpu: GpuCollector | None
) -> None:
    meters.model.info(
        {
            "model": served.name,
            "version": served.version,
            "digest": info.model_digest,
            "tokenizer_digest": info.tokenizer_digest,
            "architecture": info.architecture,
            "dtype": info.dtype,
            "device": info.device,
        }
    )
    if gpu is not None:
        meters.registry.register(gpu)
    if config.price_per_gpu_hour is not None:
        meters.registry.register(CostCollector(config.price_per_gpu_hour, meters))


@contextlib.asynccontextmanager
async def _lifespan(
    serving: Serving,
    waiting: Waiting,
    kept: tuple[Emitter | None, Mirror | None],
    seconds: float,
    _app: object,
) -> AsyncIterator[None]:
    """Start the device's thread; at the end let accepted work end, then write the events, then the texts."""
    waiting.bind(serving.scheduler)
    serving.scheduler.start()
    try:
        yield
    finally:
        await asyncio.to_thread(serving.scheduler.close, seconds)
        serving.close()
        for writer in kept:
            if writer is not None:  # events are made while they are written, and offered to the mirror then
                await asyncio.to_thread(writer.close)
