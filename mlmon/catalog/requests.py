"""Metrics of the watched services: traffic, tokenizer, versions.

Three kinds. Counters and histograms are accumulated since the sidecar started and can be summed over
sidecars. Gauges are readings: what the newest closed window says; where a window has no data the gauge is
absent, never 0. Quantities that are sums over events (tokens, characters) carry Σ(w·x)² as their third
counter, from which the Horvitz-Thompson variance of a total comes.
"""

from __future__ import annotations

from mlmon.catalog.base import SERIES_LABELS, CounterTriple, counter_triple, declare

_S = SERIES_LABELS
#: One served version, told apart by everything an event says of it.
IDENTITY_LABELS = ("model_version", "model_digest", "tokenizer_version", "tokenizer_digest")
_SHARE = ("service", "model", "deployment", *IDENTITY_LABELS)


def _sum_triple(stem: str, unit: str, labels: tuple[str, ...], what: str) -> CounterTriple:
    """Declare the three counters of a quantity that is summed over events: Σx, Σwx and Σ(wx)²."""
    return CounterTriple(
        declare(f"mlmon_sampled_{stem}", "counter", unit, labels, f"{what}: in sampled events, as counted."),
        declare(
            f"mlmon_{stem}", "counter", unit, labels, f"{what}: estimated total over all traffic (Σw·x)."
        ),
        declare(f"mlmon_{stem}_weight_squared", "counter", unit, labels, f"{what}: Σ(w·x)², for error bars."),
    )


# --- traffic
REQUESTS = counter_triple("requests", "", (*_S, "status"), "Requests by status")
LATENCY = counter_triple(
    "request_latency_seconds",
    "seconds",
    (*_S, "part"),
    "Latency of requests (part: total, queue, tokenize, inference)",
    kind="histogram",
)
BATCH_SIZE = counter_triple(
    "batch_size", "requests", _S, "Requests that shared a forward pass", kind="histogram"
)
GPU_UTILIZATION = declare(
    "mlmon_gpu_utilization_ratio", "gauge", "ratio", _S, "GPU utilisation, mean of the window's requests."
)
GPU_UTILIZATION_LAST = declare(
    "mlmon_gpu_utilization_last_ratio", "gauge", "ratio", _S, "GPU utilisation at the window's last request."
)
GPU_MEMORY_USED = declare(
    "mlmon_gpu_memory_used_bytes", "gauge", "bytes", _S, "GPU memory in use, mean of the window's requests."
)
GPU_MEMORY_USED_LAST = declare(
    "mlmon_gpu_memory_used_last_bytes",
    "gauge",
    "bytes",
    _S,
    "GPU memory in use at the window's last request.",
)
GPU_MEMORY_TOTAL = declare(
    "mlmon_gpu_memory_total_bytes", "gauge", "bytes", _S, "GPU memory there is, at the window's last request."
)

# --- tokenizer
TOKENIZED_REQUESTS = counter_triple("tokenized_requests", "", _S, "Requests with a token count")
TRUNCATED_REQUESTS = counter_triple("truncated_requests", "", _S, "Requests that lost tokens to truncation")
TOKENS = _sum_triple("tokens", "tokens", _S, "Tokens of the input after truncation")
UNKNOWN_TOKENS = _sum_triple("unknown_tokens", "tokens", _S, "Tokens that are the unknown token")
CONTINUATION_TOKENS = _sum_triple("continuation_tokens", "tokens", _S, "Tokens that continue a word")
BYTE_FALLBACK_TOKENS = _sum_triple("byte_fallback_tokens", "tokens", _S, "Byte tokens of the form <0xNN>")
MASKED_TOKENS = _sum_triple("masked_tokens", "tokens", _S, "Mask tokens in the input")
TRUNCATED_TOKENS = _sum_triple("truncated_tokens", "tokens", _S, "Tokens cut off by truncation")
WORDS = _sum_triple("words", "words", _S, "Words of the input")
CHARACTERS = _sum_triple("characters", "characters", _S, "Characters of the input")
RATIO_NUMERATOR = _sum_triple(
    "token_ratio_numerator", "", (*_S, "ratio"), "Numerator of a token ratio, events with both parts only"
)
RATIO_DENOMINATOR = _sum_triple(
    "token_ratio_denominator", "", (*_S, "ratio"), "Denominator of a token ratio, events with both parts only"
)
RATIO_CROSS = declare(
    "mlmon_token_ratio_weight_squared_product",
    "counter",
    "",
    (*_S, "ratio"),
    "Σw²·numerator·denominator of a token ratio, for the error bar of the ratio.",
)
TOKENS_PER_REQUEST = counter_triple(
    "tokens_per_request", "tokens", _S, "Tokens of one request", kind="histogram"
)
UNKNOWN_TOKEN_RATIO = declare(
    "mlmon_unknown_token_ratio", "gauge", "ratio", _S, "Unknown tokens among the window's tokens."
)
BYTE_FALLBACK_RATIO = declare(
    "mlmon_byte_fallback_ratio", "gauge", "ratio", _S, "Byte-fallback tokens among the window's tokens."
)
CONTINUATION_RATIO = declare(
    "mlmon_continuation_ratio", "gauge", "ratio", _S, "Tokens that continue a word among the window's tokens."
)
TOKENS_PER_WORD = declare(
    "mlmon_tokens_per_word", "gauge", "", _S, "Fertility: tokens before truncation for each word."
)
CHARACTERS_PER_TOKEN = declare(
    "mlmon_characters_per_token", "gauge", "", _S, "Characters for each token before truncation."
)
TRUNCATION_RATIO = declare(
    "mlmon_truncation_ratio", "gauge", "ratio", _S, "Truncated requests among the window's requests."
)

# --- versions
VERSION_REQUESTS = counter_triple(
    "version_requests", "", (*_S, *IDENTITY_LABELS), "Requests by the version that answered them"
)
VERSION_FIRST_SEEN = declare(
    "mlmon_version_first_seen_timestamp_seconds",
    "gauge",
    "seconds",
    (*_S, *IDENTITY_LABELS),
    "Event time at which this sidecar first counted the version, since 1970 UTC.",
)
VERSION_LAST_SEEN = declare(
    "mlmon_version_last_seen_timestamp_seconds",
    "gauge",
    "seconds",
    (*_S, *IDENTITY_LABELS),
    "Event time at which this sidecar last counted the version, since 1970 UTC.",
)
VERSION_CHECKED = counter_triple(
    "version_checked_requests", "", _S, "Requests for which the registry expects a version"
)
VERSION_MISMATCHED = counter_triple(
    "version_mismatched_requests", "", _S, "Requests of which any part differed from what is expected"
)
VERSION_MISMATCHES = counter_triple(
    "version_mismatches",
    "",
    (*_S, "kind"),
    "Differences from the registry (kind: model_version, model_digest, tokenizer_version, tokenizer_digest, "
    "or unreported where the event does not say)",
)
VERSIONS_SERVING = declare(
    "mlmon_versions_serving",
    "gauge",
    "",
    ("service", "model", "kind"),
    "Different values of one part of the version in the window (kind as in mlmon_version_mismatches).",
)
VERSION_TRAFFIC = declare(
    "mlmon_version_traffic_ratio",
    "gauge",
    "ratio",
    _SHARE,
    "Share of the window's traffic of the service and model that this version answered.",
)
EXPECTED_VERSION = declare(
    "mlmon_expected_version", "gauge", "", _SHARE, "Always 1: the labels say what the registry expects."
)
VERSION_MISMATCH_RATIO = declare(
    "mlmon_version_mismatch_ratio",
    "gauge",
    "ratio",
    ("service", "model", "deployment"),
    "Share of the window's checked requests of which any part differed from what is expected.",
)
VERSION_SINCE = declare(
    "mlmon_version_since_timestamp_seconds",
    "gauge",
    "seconds",
    ("service", "model", "deployment", "version"),
    "Event time at which a model version that serves was first seen, over restarts of the sidecar.",
)
