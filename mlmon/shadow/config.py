"""What a shadow evaluation is told: where the mirror is, whom it asks, what it reports and where to."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from mlmon.attach.kafka_sink import KafkaSinkConfig
from mlmon.attach.mirror_kafka import KafkaMirrorConfig
from mlmon.attach.mirror_spool import MirrorSpoolConfig
from mlmon.sources.spool_writer import SpoolWriterConfig

__all__ = ["ClientKind", "EndpointConfig", "EventsConfig", "MirrorPlace", "ShadowConfig", "ShadowFile"]

ClientKind = Literal["mlmon", "hf", "oip", "openai"]


class MirrorPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[shadow.mirror]`: where mirrored requests are read."""

    kind: Annotated[
        Literal["spool", "kafka"],
        msgspec.Meta(description="spool reads a directory, kafka a topic; keys stand in the table so named."),
    ] = "spool"
    spool: MirrorSpoolConfig = MirrorSpoolConfig(directory="mlmon-data/mirror")
    kafka: KafkaMirrorConfig = KafkaMirrorConfig()
    group: Annotated[
        str, msgspec.Meta(min_length=1, max_length=249, description="Consumer group of the Kafka mirror.")
    ] = "mlmon-shadow"


class EventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[shadow.events]`: the log that the evaluations go to, the one that the sidecar reads."""

    kind: Annotated[
        Literal["none", "spool", "kafka"],
        msgspec.Meta(description="none writes no events: the report is all there is."),
    ] = "spool"
    spool: SpoolWriterConfig = SpoolWriterConfig(directory="mlmon-data/spool")
    kafka: KafkaSinkConfig = KafkaSinkConfig()


class EndpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[shadow.reference]` and `[shadow.production]`: a server that answers replayed texts."""

    url: Annotated[
        str,
        msgspec.Meta(
            description="http or https address. mlmon, oip and openai: of the server; hf: of the route "
            "itself."
        ),
    ] = ""
    kind: Annotated[
        ClientKind,
        msgspec.Meta(
            description="mlmon: mlmon serve. hf: a route with `inputs` and `parameters`, as of Hugging "
            "Face's "
            "servers. oip: Open Inference Protocol V2, as of MLServer, KServe, Triton. openai: "
            "/v1/embeddings."
        ),
    ] = "mlmon"
    name: Annotated[
        str,
        msgspec.Meta(max_length=120, description="Name in the events; empty: model and version, or host."),
    ] = ""
    model: Annotated[str, msgspec.Meta(description="Name of the model, for oip and openai.")] = ""
    version: Annotated[str, msgspec.Meta(description="Its version, for oip; empty leaves it out.")] = ""
    input_name: Annotated[
        str, msgspec.Meta(min_length=1, description="Name of the input tensor, for oip.")
    ] = "inputs"
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=256, description="Requests under way at a time.")] = 4
    batch: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=256,
            description="Texts to a request. Above 1, and with concurrency, mix-ups within and between "
            "batches "
            "can show.",
        ),
    ] = 8
    timeout_seconds: Annotated[
        float, msgspec.Meta(gt=0, le=600, description="How long an answer is waited for.")
    ] = 30.0
    retries: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=20,
            description="Attempts after a 429, a 503 or a lost connection; Retry-After is kept to.",
        ),
    ] = 5
    token_env: Annotated[
        str | None, msgspec.Meta(description="Environment variable that holds a bearer token.")
    ] = None
    tls_ca_file: Annotated[
        str | None,
        msgspec.Meta(description="PEM file of the authority that signed the server's certificate."),
    ] = None

    def __post_init__(self) -> None:
        if not self.url:
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError(
                "url: expected an http or https address without a user; secrets belong into the variable "
                "that "
                "token_env names"
            )
        if self.kind in ("oip", "openai") and not self.model:
            raise ValueError(f"model: expected the model's name, which {self.kind} asks for")
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if self.token_env and parts.scheme == "http" and not local:
            raise ValueError("token_env would send a secret unencrypted: use an https url")


class ShadowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[shadow]`: what is compared, how, and where it is told."""

    top_k: Annotated[
        int, msgspec.Meta(ge=1, le=100, description="Best answers that are asked for and compared.")
    ] = 5
    self_labels: Annotated[
        Literal["none", "words", "tokens"],
        msgspec.Meta(
            description="What is masked of each text so that both servers can be asked for it; needs "
            "[shadow.production], and one more request to each. words: a word, by a fill-mask request; also "
            "gives the calibration error. tokens: several tokens, by the /score of mlmon serve on both "
            "sides; "
            "gives the exact loss."
        ),
    ] = "none"
    seed: Annotated[int, msgspec.Meta(ge=0, description="Of the choice which token is masked.")] = 0
    window_seconds: Annotated[
        float,
        msgspec.Meta(gt=0, le=86_400, description="Time of requests that one report speaks of."),
    ] = 300.0
    lot: Annotated[
        int, msgspec.Meta(ge=1, le=4096, description="Requests that are replayed before they are committed.")
    ] = 64
    agreement_target: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="Share of agreement below which a report says so.")
    ] = 0.9
    echo_target: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="Share of own texts below which a report says so.")
    ] = 0.999
    report: Annotated[
        str, msgspec.Meta(description="File that each window's report is appended to, as a line of JSON.")
    ] = ""
    mirror: MirrorPlace = MirrorPlace()
    reference: EndpointConfig = EndpointConfig()
    production: EndpointConfig = EndpointConfig()
    events: EventsConfig = EventsConfig()

    def __post_init__(self) -> None:
        if self.self_labels != "none" and not self.production.url:
            raise ValueError("self_labels: expected [shadow.production] with a url, whose model is asked")
        if self.self_labels == "tokens" and {self.reference.kind, self.production.kind} != {"mlmon"}:
            raise ValueError('self_labels: "tokens" needs the kind mlmon on both sides; use "words"')


class ShadowFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A configuration file of `mlmon shadow`."""

    shadow: ShadowConfig = ShadowConfig()
