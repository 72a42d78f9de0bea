"""What the reference server of masked language models says of itself, on its own /metrics.

Its requests also become events, and what the sidecar measures of those has names of its own. `lane` is
`interactive` or `shadow`; `route` is one of the server's routes, or `other`.
"""

from __future__ import annotations

from mlmon.catalog.base import declare

_L = ("lane",)

# --- Requests

REQUESTS = declare(
    "mlmon_server_requests",
    "counter",
    "",
    ("route", "lane", "code"),
    "Requests answered, by HTTP status; 499: the client had gone away.",
)
LATENCY = declare(
    "mlmon_server_request_duration_seconds",
    "histogram",
    "seconds",
    ("route", "lane"),
    "From a request's first byte in to its last byte out, of requests answered 200.",
)
TOKENIZE = declare(
    "mlmon_server_tokenize_seconds", "histogram", "seconds", _L, "Part of it spent tokenizing."
)
QUEUE = declare(
    "mlmon_server_queue_seconds", "histogram", "seconds", _L, "Part of it spent waiting for the first batch."
)
INFERENCE = declare(
    "mlmon_server_inference_seconds",
    "histogram",
    "seconds",
    _L,
    "Part of it between the first batch's start and the last batch's end.",
)
REQUESTS_OPEN = declare("mlmon_server_open_requests", "gauge", "", (), "Requests being worked on.")
REFUSED = declare(
    "mlmon_server_refused_requests",
    "counter",
    "",
    ("lane", "reason"),
    "Requests refused for want of room (reason: requests, jobs, tokens, stopping).",
)
GIVEN_UP = declare(
    "mlmon_server_given_up_jobs",
    "counter",
    "",
    ("lane", "reason"),
    "Accepted work given up, its place freed (reason: timeout, disconnect, starved, stopping).",
)
FAILED = declare(
    "mlmon_server_failed_jobs",
    "counter",
    "",
    ("lane", "reason"),
    "Accepted work that failed (reason: memory, error).",
)
TRUNCATED = declare(
    "mlmon_server_truncated_tokens", "counter", "tokens", (), "Tokens cut off because the request allowed it."
)
TRUNCATED_TEXTS = declare("mlmon_server_truncated_texts", "counter", "", (), "Texts that were cut.")
WINDOWED_TEXTS = declare(
    "mlmon_server_windowed_texts", "counter", "", (), "Texts that were read through several windows."
)

# --- Queue and batches

QUEUE_JOBS = declare("mlmon_server_queue_jobs", "gauge", "", _L, "Requests waiting for a batch.")
QUEUE_TOKENS = declare("mlmon_server_queue_tokens", "gauge", "tokens", _L, "Tokens waiting with them.")
TOKENS = declare(
    "mlmon_server_tokens", "counter", "tokens", _L, "Tokens that went through the model, special ones too."
)
SEQUENCES = declare("mlmon_server_sequences", "counter", "", _L, "Sequences that went through the model.")
BATCHES = declare("mlmon_server_batches", "counter", "", (), "Batches that went through the model.")
BATCH_TOKENS = declare("mlmon_server_batch_tokens", "histogram", "tokens", (), "Tokens in a batch.")
BATCH_BUDGET = declare(
    "mlmon_server_batch_budget_tokens",
    "gauge",
    "tokens",
    (),
    "Most tokens a batch may have now; below the configured number after the device ran out of memory.",
)
STARVED = declare(
    "mlmon_server_starved_batches",
    "counter",
    "",
    (),
    "Batches that had no room for the shadow work that was waiting.",
)
MEMORY_SPLITS = declare(
    "mlmon_server_memory_splits",
    "counter",
    "",
    (),
    "Batches that were split in two because the device ran out of memory.",
)

# --- Device and cost

BUSY = declare(
    "mlmon_server_device_busy_seconds",
    "counter",
    "seconds",
    _L,
    "Time the device worked, shared among lanes by tokens.",
)
ALLOCATED_COST = declare(
    "mlmon_server_allocated_cost",
    "counter",
    "",
    (),
    "Price of the time since start, in the currency of the price per GPU hour; absent without a price.",
)
USED_COST = declare(
    "mlmon_server_used_cost",
    "counter",
    "",
    _L,
    "Price of the time the device worked, in the same currency; absent without a price.",
)
GPU_MEMORY = declare(
    "mlmon_server_gpu_memory_used_bytes", "gauge", "bytes", (), "GPU memory in use, by whomever (NVML)."
)
GPU_MEMORY_TOTAL = declare(
    "mlmon_server_gpu_memory_total_bytes", "gauge", "bytes", (), "GPU memory there is (NVML)."
)
GPU_UTILIZATION = declare(
    "mlmon_server_gpu_utilization_ratio",
    "gauge",
    "ratio",
    (),
    "Part of NVML's last sample period in which the GPU worked, by whomever.",
)
GPU_ENERGY = declare(
    "mlmon_server_gpu_energy_joules", "counter", "joules", (), "Energy the GPU used since start (NVML)."
)

# --- State

READY = declare("mlmon_server_ready", "gauge", "", (), "1 while requests are taken, else 0.")
MODEL = declare(
    "mlmon_server_model",
    "info",
    "",
    ("model", "version", "digest", "tokenizer_digest", "architecture", "dtype", "device"),
    "What is being served.",
)
