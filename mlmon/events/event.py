"""One event as a typed object: what an emitter fills and what JSON and MessagePack records decode into.

The columnar `EventBatch` is what everything downstream sees; this is only how single events enter.
"""

from __future__ import annotations

import msgspec

__all__ = ["Event"]


class Event(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """An inference event; fields, types and units are those of `events.schema`, in its order.

    `event_time` and `request_time` are µs since 1970 UTC. `embedding` is a list of floats, or base64 of
    little-endian float16.
    """

    event_id: str
    event_time: int
    service: str
    model_name: str
    model_version: str | None = None
    model_digest: str | None = None
    tokenizer_version: str | None = None
    tokenizer_digest: str | None = None
    deployment: str | None = None
    instance: str | None = None
    task: str | None = None
    status: str | None = None
    latency_seconds: float | None = None
    queue_seconds: float | None = None
    tokenize_seconds: float | None = None
    inference_seconds: float | None = None
    batch_size: int | None = None
    gpu_utilization_ratio: float | None = None
    gpu_memory_used_bytes: float | None = None
    gpu_memory_total_bytes: float | None = None
    characters: int | None = None
    words: int | None = None
    tokens: int | None = None
    unknown_tokens: int | None = None
    continuation_tokens: int | None = None
    byte_fallback_tokens: int | None = None
    truncated_tokens: int | None = None
    masked_tokens: int | None = None
    input_hash: str | None = None
    token_ids: list[int] | None = None
    language: str | None = None
    prediction: str | None = None
    confidence: float | None = None
    entropy: float | None = None
    top_labels: list[str] | None = None
    top_scores: list[float] | None = None
    embedding: list[float] | str | None = None
    numeric_features: dict[str, float] | None = None
    categorical_features: dict[str, str] | None = None
    segments: dict[str, str] | None = None
    probe_id: str | None = None
    label: str | None = None
    request_time: int | None = None
    labelled_masked_tokens: int | None = None
    right_masked_tokens: int | None = None
    reference: str | None = None
    agreement: int | None = None
    topk_overlap: float | None = None
    rank_biased_overlap: float | None = None
    probability_difference: float | None = None
    kl_divergence: float | None = None
    echo: int | None = None
    embedding_cosine: float | None = None
    sampling_weight: float | None = None
    trace_id: str | None = None
    span_id: str | None = None
