"""A small text-classification service, watched by mlmon. Runs with:  uvicorn app:app

    curl -s localhost:8000/classify -H 'content-type: application/json' -d '{"text": "my card was stolen"}'

The model is real and small: naive Bayes over WordPiece tokens. Tokenizer and model are trained at start-up,
in about a second, from query templates and from the standard library's docstrings; no torch. What mlmon needs
is the part between the two rulers; everything else would be your own service.

Settings come from the environment; see `Settings`. Another tokenizer file (MLMON_EXAMPLE_TOKENIZER) is what a
broken deployment looks like: the model goes on answering, from tokens it was not trained on.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mlmon.attach import (
    Emitter,
    HfTokenizerStatistics,
    MlmonMiddleware,
    SpoolSink,
    TapConfig,
    TapHooks,
    text_from,
)
from mlmon.attach.metrics import EmitterCollector
from mlmon.demo.corpus import docstring_sentences, labelled_queries
from mlmon.events.privacy import InputHasher, PrivacyConfig
from mlmon.sources.spool import SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from mlmon.attach import Sink

UNKNOWN = "[UNK]"
SPECIAL = ["[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]"]
MAX_TOKENS = 128


@dataclass(frozen=True)
class Settings:
    """What can be chosen, with the environment variable it comes from.

    Attributes:
        spool: directory events are written to (MLMON_EXAMPLE_SPOOL).
        kafka: host:port of brokers, comma-separated; wins over the spool (MLMON_EXAMPLE_KAFKA).
        topic: Kafka topic (MLMON_EXAMPLE_TOPIC).
        sample_rate: fraction of requests that become events (MLMON_EXAMPLE_SAMPLE_RATE).
        tokenizer: path of a tokenizer.json to serve with, instead of the one trained with the model
            (MLMON_EXAMPLE_TOKENIZER).
        service, model_name, model_version, tokenizer_version, deployment: names on every event
            (MLMON_EXAMPLE_SERVICE, ..._MODEL, ..._MODEL_VERSION, ..._TOKENIZER_VERSION, ..._DEPLOYMENT).
    """

    spool: str = "spool"
    kafka: str = ""
    topic: str = "mlmon.events"
    sample_rate: float = 1.0
    tokenizer: str = ""
    service: str = "support"
    model_name: str = "intent"
    model_version: str = "1"
    tokenizer_version: str = "1"
    deployment: str = "stable"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the variables that are set."""
        names = {field: f"MLMON_EXAMPLE_{field.upper()}" for field in cls.__dataclass_fields__}
        names["model_name"] = "MLMON_EXAMPLE_MODEL"
        found: dict[str, Any] = {
            field: environment[name] for field, name in names.items() if name in environment
        }
        if "sample_rate" in found:
            found["sample_rate"] = float(found["sample_rate"])
        return cls(**found)


# ---------------------------------------------------------------- the tap


def make_sink(settings: Settings) -> Sink:
    """Kafka where it is configured, otherwise a directory."""
    if settings.kafka:
        from mlmon.attach.kafka_sink import KafkaSink, KafkaSinkConfig

        servers = tuple(settings.kafka.split(","))
        return KafkaSink(KafkaSinkConfig(bootstrap_servers=servers, topic=settings.topic))
    return SpoolSink(SpoolWriterConfig(settings.spool))


def extract(_request: Any, response: Any) -> dict[str, Any]:
    """What an event says of an answer."""
    scores = response["scores"]
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
    return {
        "prediction": response["label"],
        "confidence": scores[response["label"]],
        "entropy": -sum(p * math.log(p) for p in scores.values() if p > 0),
        "top_labels": best,
        "top_scores": [scores[label] for label in best],
    }


def watch(app: FastAPI, settings: Settings, tokenizer: Tokenizer) -> Emitter:
    """Turn requests to /classify into events."""
    emitter = Emitter(make_sink(settings))
    config = TapConfig(
        service=settings.service,
        model_name=settings.model_name,
        model_version=settings.model_version,
        tokenizer_version=settings.tokenizer_version,
        deployment=settings.deployment,  # type: ignore[arg-type]  # checked by the tap
        task="classification",
        sample_rate=settings.sample_rate,
        paths=("/classify",),
    )
    hooks = TapHooks(
        text=text_from("text"),
        extract=extract,
        tokenizer=HfTokenizerStatistics(settings.tokenizer or tokenizer, max_tokens=MAX_TOKENS),
        # without the variable: a random key, so hashes compare within this process only
        hasher=InputHasher.from_config(
            PrivacyConfig(hash_key_env="MLMON_HASH_KEY" if "MLMON_HASH_KEY" in os.environ else None)
        ),
    )
    app.add_middleware(MlmonMiddleware, emitter=emitter, config=config, hooks=hooks)
    return emitter


# ---------------------------------------------------------------- the service


def train_tokenizer(texts: Iterable[str], vocabulary: int = 4000) -> Tokenizer:
    """A WordPiece tokenizer as BERT's, for these texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


class NaiveBayes:
    """Multinomial naive Bayes over token ids, with add-one smoothing."""

    def __init__(self, examples: Iterable[tuple[str, list[int]]]) -> None:
        counts: dict[str, Counter[int]] = {}
        prior: Counter[str] = Counter()
        for label, ids in examples:
            counts.setdefault(label, Counter()).update(ids)
            prior[label] += 1
        vocabulary = len(set().union(*counts.values()))
        self._prior = {label: math.log(n / prior.total()) for label, n in prior.items()}
        self._likelihood = {
            label: {i: math.log((n + 1) / (seen.total() + vocabulary)) for i, n in seen.items()}
            for label, seen in counts.items()
        }
        self._unseen = {label: math.log(1 / (seen.total() + vocabulary)) for label, seen in counts.items()}

    def scores(self, ids: list[int]) -> dict[str, float]:
        """Probability of each label."""
        logs = {}
        for label, prior in self._prior.items():
            likelihood, unseen = self._likelihood[label], self._unseen[label]
            logs[label] = prior + sum(likelihood.get(i, unseen) for i in ids)
        top = max(logs.values())
        weights = {label: math.exp(value - top) for label, value in logs.items()}
        total = sum(weights.values())
        return {label: weight / total for label, weight in weights.items()}


class Query(BaseModel):
    """A text to classify."""

    text: str = Field(min_length=1, max_length=20_000)


class Answer(BaseModel):
    """The most probable intent, and the probability of each."""

    label: str
    scores: dict[str, float]


def create_app(settings: Settings) -> FastAPI:
    """Train, and build the service. `app.state.tokenizer` is the tokenizer the model was trained with."""
    queries = labelled_queries()
    trained = train_tokenizer([*(text for _, text in queries), *docstring_sentences()])
    model = NaiveBayes((label, trained.encode(text, add_special_tokens=False).ids) for label, text in queries)
    serving = Tokenizer.from_file(settings.tokenizer) if settings.tokenizer else trained

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.emitter.close()

    app = FastAPI(title="mlmon example", lifespan=lifespan)
    app.state.tokenizer = trained
    app.state.emitter = watch(app, settings, trained)
    registry = CollectorRegistry()
    registry.register(EmitterCollector(app.state.emitter))

    @app.post("/classify")
    def classify(query: Query) -> Answer:
        ids = serving.encode(query.text, add_special_tokens=False).ids[: MAX_TOKENS - 2]
        scores = model.scores(ids)
        return Answer(label=max(scores, key=scores.__getitem__), scores=scores)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def __getattr__(name: str) -> FastAPI:
    """`app`, made when a server first asks for it: importing this module trains nothing."""
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = made = create_app(Settings.from_environment(os.environ))
    return made
