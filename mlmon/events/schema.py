"""The event contract, version 1: one table of fields, from which the Arrow schema and `docs/events.md` come.

An event describes one inference request. It carries numbers, names and digests; it has no field for raw text.
Only four fields are required, so that any server can begin with little and add what it knows. An event with
`request_time` is a label event: it says what is true of a request that was an event before; with `reference`
too it is an evaluation, which says how a reference answered that request.

Why Arrow structs for features: a service has a fixed set of them, and a struct column gives each feature a
NumPy view at no cost, where a map would need a hash look-up per value.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

__all__ = [
    "ALWAYS_READ",
    "DEPLOYMENTS",
    "FIELDS",
    "FIELD_BY_NAME",
    "SCHEMA_VERSION",
    "STATUSES",
    "TIMES",
    "Field",
    "arrow_type",
]

SCHEMA_VERSION = 1
STATUSES = ("ok", "client_error", "error", "timeout")
DEPLOYMENTS = ("stable", "canary", "shadow")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the contract.

    Attributes:
        name: the column's name.
        type: its Arrow type as decoded; None for the two feature structs, whose children vary.
        unit: of the value, in words; empty where it has none.
        required: an event without it is refused.
        filled_by: who knows it: `server`, `tap` (the ASGI middleware), `tokenizer`, `extractor`, `emitter` or
            `shadow` (the evaluator).
        help: one sentence.
    """

    name: str
    type: pa.DataType | None
    unit: str
    required: bool
    filled_by: str
    help: str


_STR, _F64, _F32, _I32 = pa.string(), pa.float64(), pa.float32(), pa.int32()


def _f(
    name: str, type_: pa.DataType | None, unit: str, by: str, text: str, *, required: bool = False
) -> Field:
    return Field(name, type_, unit, required, by, text)


FIELDS: tuple[Field, ...] = (
    _f("event_id", _STR, "", "tap", "Identity of the request; sampling hashes it.", required=True),
    _f(
        "event_time",
        pa.timestamp("us", tz="UTC"),
        "µs since 1970 UTC",
        "tap",
        "When the request arrived; windows are cut by it.",
        required=True,
    ),
    _f("service", _STR, "", "emitter", "Name of the service, as in its SLO and its pager.", required=True),
    _f("model_name", _STR, "", "emitter", "Name of the model.", required=True),
    _f("model_version", _STR, "", "emitter", "Version of the model that answered."),
    _f("model_digest", _STR, "hex", "server", "Digest of the weights that answered."),
    _f("tokenizer_version", _STR, "", "emitter", "Version of the tokenizer that was used."),
    _f("tokenizer_digest", _STR, "hex", "tokenizer", "Digest of the tokenizer file that was used."),
    _f("deployment", _STR, "", "emitter", "One of stable, canary, shadow; absent means stable."),
    _f("instance", _STR, "", "emitter", "Replica that answered, such as host and process."),
    _f("task", _STR, "", "emitter", "classification, ner, qa, fill-mask, embedding, or your own word."),
    _f("status", _STR, "", "tap", "One of ok, client_error, error, timeout; absent means ok."),
    _f("latency_seconds", _F64, "seconds", "tap", "From the request's first byte in to its last byte out."),
    _f("queue_seconds", _F64, "seconds", "server", "Part of the latency spent waiting for a batch."),
    _f("tokenize_seconds", _F64, "seconds", "server", "Part of the latency spent tokenizing."),
    _f("inference_seconds", _F64, "seconds", "server", "Part of the latency spent in the model."),
    _f("batch_size", _I32, "requests", "server", "How many requests shared the forward pass."),
    _f("gpu_utilization_ratio", _F64, "ratio", "server", "Utilisation of the GPU at the time, 0 to 1."),
    _f("gpu_memory_used_bytes", _F64, "bytes", "server", "GPU memory in use at the time."),
    _f("gpu_memory_total_bytes", _F64, "bytes", "server", "GPU memory there is."),
    _f("characters", _I32, "characters", "tokenizer", "Unicode characters of the input."),
    _f("words", _I32, "words", "tokenizer", "Words of the input as the pre-tokenizer splits it."),
    _f(
        "tokens",
        _I32,
        "tokens",
        "tokenizer",
        "Tokens of the input, special tokens not counted, after truncation.",
    ),
    _f("unknown_tokens", _I32, "tokens", "tokenizer", "Tokens that are the unknown token."),
    _f("continuation_tokens", _I32, "tokens", "tokenizer", "Tokens that continue a word."),
    _f(
        "byte_fallback_tokens",
        _I32,
        "tokens",
        "tokenizer",
        "Tokens of the form <0xNN> (SentencePiece byte fallback).",
    ),
    _f("truncated_tokens", _I32, "tokens", "tokenizer", "Tokens cut off because the input was too long."),
    _f("masked_tokens", _I32, "tokens", "tokenizer", "Mask tokens in the input."),
    _f("input_hash", _STR, "hex", "tap", "Keyed BLAKE2b of the input; equal inputs have equal hashes."),
    _f(
        "token_ids",
        pa.list_(_I32),
        "ids",
        "tokenizer",
        "Token ids; off by default, since they can be decoded.",
    ),
    _f("language", _STR, "BCP 47", "extractor", "Language of the input."),
    _f("prediction", _STR, "", "extractor", "The answer's label, or for fill-mask its first token."),
    _f("confidence", _F64, "probability", "extractor", "Probability of the prediction, 0 to 1."),
    _f("entropy", _F64, "nats", "extractor", "Entropy of the output distribution."),
    _f("top_labels", pa.list_(_STR), "", "extractor", "The k best labels, best first."),
    _f("top_scores", pa.list_(_F32), "probability", "extractor", "Their probabilities."),
    _f(
        "embedding",
        pa.list_(pa.float16()),
        "",
        "extractor",
        "Pooled embedding. On the wire a fixed-size list; in memory a list, so that dimensions can mix.",
    ),
    _f("numeric_features", None, "", "extractor", "Struct of named numbers."),
    _f("categorical_features", None, "", "extractor", "Struct of named strings."),
    _f(
        "segments",
        pa.map_(_STR, _STR),
        "",
        "extractor",
        "What the series are split by: language, tenant, route.",
    ),
    _f(
        "probe_id",
        _STR,
        "",
        "extractor",
        "Name of a golden probe: the same fixed text sent on a schedule; absent for traffic.",
    ),
    _f("label", _STR, "", "extractor", "The truth about the request, in the words of `prediction`."),
    _f(
        "request_time",
        pa.timestamp("us", tz="UTC"),
        "µs since 1970 UTC",
        "emitter",
        "Only in a label event: when the labelled request arrived. `event_time` is then when the label came. "
        "A row with it speaks of the truth alone; it is no request and is counted as none.",
    ),
    _f(
        "labelled_masked_tokens",
        _I32,
        "tokens",
        "extractor",
        "Masked tokens whose true token is known.",
    ),
    _f(
        "right_masked_tokens",
        _I32,
        "tokens",
        "extractor",
        "Those of them that were predicted right.",
    ),
    _f(
        "reference",
        _STR,
        "",
        "shadow",
        "Only in an evaluation: name of the model that the request was replayed to.",
    ),
    _f("agreement", _I32, "0 or 1", "shadow", "Whether the reference gave the same first answer."),
    _f("topk_overlap", _F64, "ratio", "shadow", "Share of the k best answers that both have."),
    _f(
        "rank_biased_overlap",
        _F64,
        "ratio",
        "shadow",
        "How alike the rankings of both are, the first ranks weighing most (persistence 0.9).",
    ),
    _f(
        "probability_difference",
        _F64,
        "probability",
        "shadow",
        "Largest difference of the probabilities that both gave to one answer.",
    ),
    _f(
        "kl_divergence",
        _F64,
        "nats",
        "shadow",
        "From the reference's distribution to the answer's, over the k best answers and all others as one.",
    ),
    _f("echo", _I32, "0 or 1", "shadow", "Whether the answer carries the request's own text."),
    _f(
        "embedding_cosine",
        _F64,
        "cosine",
        "shadow",
        "Cosine of the answer's embedding and the reference's.",
    ),
    _f("sampling_weight", _F64, "events", "emitter", "1 / inclusion probability; absent means 1."),
    _f("trace_id", _STR, "hex", "tap", "W3C trace id, 32 hex digits."),
    _f("span_id", _STR, "hex", "tap", "W3C span id, 16 hex digits."),
)

#: Fields that are points in time.
TIMES = tuple(field.name for field in FIELDS if field.type is not None and pa.types.is_timestamp(field.type))
#: Optional fields that are read whatever is asked for: they say what an event is.
ALWAYS_READ = frozenset({"request_time", "reference"})
FIELD_BY_NAME = {field.name: field for field in FIELDS}


def arrow_type(name: str) -> pa.DataType | None:
    """Return the decoded Arrow type of a field, or None for a feature struct.

    Example:
        >>> arrow_type("tokens")
        DataType(int32)
    """
    return FIELD_BY_NAME[name].type
