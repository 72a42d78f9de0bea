"""`[server]`: how the reference server of masked language models is run. Loads neither torch nor FastAPI."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from mlmon.attach.kafka_sink import KafkaSinkConfig
from mlmon.attach.limits import EmitterConfig
from mlmon.attach.mirror import MirrorConfig
from mlmon.attach.mirror_kafka import KafkaMirrorConfig
from mlmon.attach.mirror_spool import MirrorSpoolConfig
from mlmon.events.privacy import PrivacyConfig
from mlmon.sources.spool_writer import SpoolWriterConfig

__all__ = [
    "BatchConfig",
    "EventsConfig",
    "LimitsConfig",
    "LoadingConfig",
    "LongInputs",
    "MirroringConfig",
    "Pooling",
    "ServerConfig",
    "ServerFile",
]

LongInputs = Literal["error", "truncate", "window"]
Pooling = Literal["mean", "cls"]

_Tokens = Annotated[int, msgspec.Meta(ge=16, le=1 << 24)]


class LoadingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server.loading]`: how the model is loaded."""

    device: Annotated[
        str, msgspec.Meta(min_length=1, description="cpu, cuda, cuda:1; auto takes a GPU where there is one.")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        msgspec.Meta(description="Of the weights; auto: bfloat16 on a GPU, float32 on a CPU."),
    ] = "auto"
    revision: Annotated[
        str | None,
        msgspec.Meta(
            description="Branch, tag or commit of a model from the hub. Name a commit: it can't move."
        ),
    ] = None
    offline: Annotated[
        bool, msgspec.Meta(description="Whether only files of this machine are used, never the hub.")
    ] = False
    cache_dir: Annotated[
        str | None,
        msgspec.Meta(description="Where models from the hub are kept; not set: the hub's default."),
    ] = None
    path: Annotated[
        Literal["auto", "packed", "plain"],
        msgspec.Meta(
            description="packed computes no padding and knows the BERT, RoBERTa and DistilBERT families; "
            "plain "
            "is the transformers library's own model; auto takes packed where it can."
        ),
    ] = "auto"
    compile: Annotated[
        bool, msgspec.Meta(description="Whether torch.compile is used: a slower start, faster batches.")
    ] = False
    max_logit_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1 << 16,
            le=1 << 40,
            description="Memory that scores of the vocabulary may take at once; less means more, smaller "
            "products.",
        ),
    ] = 256 * 1024 * 1024
    graph_tokens: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=1 << 20)], ...],
        msgspec.Meta(
            description="Sizes of batch, in tokens, for which CUDA graphs are recorded: small batches "
            "then cost "
            "one launch. Only for packed on a GPU."
        ),
    ] = ()
    flash: Annotated[
        str | None,
        msgspec.Meta(
            description="An implementation of Flash Attention to use, such as FA3; its package must be "
            "installed."
        ),
    ] = None
    cpu_threads: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1024)] | None,
        msgspec.Meta(
            description="Threads of one batch on a CPU; not set: one for each core that the process may use."
        ),
    ] = None


class BatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server.batch]`: how requests share the device, and how many may wait for it."""

    batch_tokens: Annotated[
        _Tokens | None,
        msgspec.Meta(
            description="Most tokens in a batch; not less than the model's longest input. Raising it "
            "gives more "
            "throughput until the device is full, and makes who comes meanwhile wait longer. Not set: "
            "4096 on "
            "a CPU, 65536 on a GPU."
        ),
    ] = None
    shadow_batch_tokens: Annotated[
        _Tokens | None,
        msgspec.Meta(
            description="Most tokens of a batch that shadow work may take, out of those that interactive "
            "work left. Raising it lets shadow work through faster; an interactive request that comes during "
            "such a batch waits for all of it. While interactive requests come, shadow work has a sixteenth "
            "of the device's time and batches of about 20 ms, whatever is set. Not set: a quarter of "
            "batch_tokens."
        ),
    ] = None
    queue_jobs: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=1_000_000,
            description="Interactive requests that may wait for a batch; more are answered 429.",
        ),
    ] = 1024
    queue_tokens: Annotated[
        _Tokens | None,
        msgspec.Meta(
            description="Tokens that may wait with them. It bounds the wait: at most about queue_tokens / "
            "throughput. Not set: 32 batches."
        ),
    ] = None
    shadow_queue_jobs: Annotated[
        int,
        msgspec.Meta(ge=1, le=1_000_000, description="Shadow requests that may wait; more are answered 429."),
    ] = 256
    shadow_queue_tokens: Annotated[
        _Tokens | None, msgspec.Meta(description="Tokens that may wait with them. Not set: 8 batches.")
    ] = None
    shadow_wait_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=3600,
            description="Shadow work that no batch had room for in this time is given up and answered 503: "
            "better no comparison than an old one.",
        ),
    ] = 30.0


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server.limits]`: what one request may ask for, and how many may be open."""

    open_requests: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=1_000_000,
            description="Requests worked on at once, from their first byte on; more are answered 429 unread.",
        ),
    ] = 2048
    body_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1024, le=1 << 30, description="Largest body of a request; larger ones are answered 413."
        ),
    ] = 4 * 1024 * 1024
    inputs: Annotated[
        int, msgspec.Meta(ge=1, le=100_000, description="Most texts in a request; more are answered 413.")
    ] = 512
    request_tokens: Annotated[
        int,
        msgspec.Meta(
            ge=16,
            le=1 << 30,
            description="Most tokens a request may bring through the model; more are answered 413. A "
            "pseudo-log-likelihood takes about the square of a text's tokens: 263,168 for the longest "
            "of 512.",
        ),
    ] = 300_000
    top_k: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="Most answers for a mask that may be asked for.")
    ] = 100
    targets: Annotated[
        int, msgspec.Meta(ge=1, le=100_000, description="Most targets that may be named in a request.")
    ] = 1000
    timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=3600,
            description="A request not answered in this time is given up and answered 504; one may ask "
            "for less, "
            "and not for more.",
        ),
    ] = 60.0
    long_inputs: Annotated[
        LongInputs,
        msgspec.Meta(
            description="What becomes of a text longer than the model takes, where the request does not say: "
            "error answers 422, truncate cuts it and counts that, window reads it in overlapping windows."
        ),
    ] = "error"


class EventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server.events]`: what mlmon is told of the requests, and where it is written."""

    kind: Annotated[
        Literal["none", "spool", "kafka"],
        msgspec.Meta(
            description="none writes no events, spool writes to a directory, kafka to a topic. Its own keys "
            "stand in the table of the same name."
        ),
    ] = "none"
    service: Annotated[str, msgspec.Meta(min_length=1, description="Name of the service in the events.")] = (
        "mlm"
    )
    deployment: Annotated[
        Literal["stable", "canary", "shadow"] | None,
        msgspec.Meta(
            description="What this server is for; not set means stable. Requests of the shadow lane are "
            "always "
            "`shadow`."
        ),
    ] = None
    instance: Annotated[
        str | None, msgspec.Meta(description="Name of this replica; not set: host name and process id.")
    ] = None
    sample_rate: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=1,
            description="Fraction of requests answered well that become events; errors and timeouts "
            "always do.",
        ),
    ] = 1.0
    embedding: Annotated[
        Literal["none", "mean", "cls"],
        msgspec.Meta(
            description="Which pooled embedding of the first text an event carries. Other than none it "
            "costs a "
            "little of every batch, and some 2 bytes a dimension in every event."
        ),
    ] = "none"
    top_k: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=100,
            description="How many of the best answers for the first mask an event carries, at most.",
        ),
    ] = 5
    spool: SpoolWriterConfig = SpoolWriterConfig(directory="mlmon-data/spool")
    kafka: KafkaSinkConfig = KafkaSinkConfig()
    emitter: EmitterConfig = EmitterConfig()
    privacy: PrivacyConfig = PrivacyConfig()


class MirroringConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server.mirror]`: whether a sample of texts is kept for shadow evaluation, and where."""

    kind: Annotated[
        Literal["none", "spool", "kafka"],
        msgspec.Meta(
            description="none keeps no text, spool writes to a private directory, kafka to a topic. Its own "
            "keys stand in the table of the same name. Needs events: of what is no event nothing is mirrored."
        ),
    ] = "none"
    budget: MirrorConfig = MirrorConfig()
    spool: MirrorSpoolConfig = MirrorSpoolConfig(directory="mlmon-data/mirror")
    kafka: KafkaMirrorConfig = KafkaMirrorConfig()


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server]`: what `mlmon serve` serves, where, and to whom."""

    model: Annotated[
        str | None,
        msgspec.Meta(
            description="Directory of a model with safetensors weights and a tokenizer.json, or its id "
            "on the "
            "hub."
        ),
    ] = None
    name: Annotated[
        str | None,
        msgspec.Meta(description="Name under which it is served; not set: the directory's or id's."),
    ] = None
    version: Annotated[
        str | None,
        msgspec.Meta(description="Version of it; not set: the first 12 digits of the digest of its weights."),
    ] = None
    host: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="Address to listen on. 0.0.0.0 or :: lets other machines in; then set a token, "
            "and TLS "
            "unless something in front has it.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65_535, description="Port to listen on; 0 lets the system choose one.")
    ] = 8300
    token_env: Annotated[
        str | None,
        msgspec.Meta(
            description="Name of the environment variable that holds the bearer token which requests "
            "must show."
        ),
    ] = None
    token_file: Annotated[
        str | None, msgspec.Meta(description="Path of a file that holds that token; read once, at start.")
    ] = None
    tls_cert_file: Annotated[
        str | None, msgspec.Meta(description="Path of the server's certificate chain, PEM; turns TLS on.")
    ] = None
    tls_key_file: Annotated[
        str | None, msgspec.Meta(description="Path of its private key, PEM, without passphrase.")
    ] = None
    tls_client_ca_file: Annotated[
        str | None,
        msgspec.Meta(description="Path of CA certificates, PEM. Clients must then show one that it signed."),
    ] = None
    shutdown_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=3600, description="How long requests that were accepted get to end after SIGTERM."
        ),
    ] = 30.0
    price_per_gpu_hour: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=1e6)] | None,
        msgspec.Meta(
            description="Price of an hour of the device, in a currency of your own: turns the cost "
            "metrics on."
        ),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        msgspec.Meta(description="The least severe messages that are written to standard error."),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        msgspec.Meta(description="text for people, json (one object to a line) for log collectors."),
    ] = "text"
    loading: LoadingConfig = LoadingConfig()
    batch: BatchConfig = BatchConfig()
    limits: LimitsConfig = LimitsConfig()
    events: EventsConfig = EventsConfig()
    mirror: MirroringConfig = MirroringConfig()

    def __post_init__(self) -> None:
        if self.mirror.kind != "none" and self.events.kind == "none":
            raise ValueError(
                "mirror: expected events beside it, since requests are mirrored as their events are made; "
                "set events.kind (--events-spool DIR), or leave the mirror out"
            )
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("token_env, token_file: expected at most one of them; remove the other")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file, tls_key_file: expected both or neither")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_client_ca_file: expected tls_cert_file and tls_key_file beside it")


class ServerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file that `mlmon serve --config` reads: the table `[server]` and those in it."""

    server: ServerConfig = ServerConfig()
