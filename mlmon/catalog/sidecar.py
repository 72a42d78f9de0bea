"""What mlmon says of itself: whether it keeps up, what it refused, and whether its state is safe."""

from __future__ import annotations

from mlmon.catalog.base import declare

_P = ("partition",)

EVENTS = declare("mlmon_events", "counter", "", _P, "Sampled events counted, late ones included.")
RECORDS = declare("mlmon_records", "counter", "", _P, "Log records read, bad ones included.")
LATE = declare(
    "mlmon_late_events", "counter", "", _P, "Events whose window was closed: counted, in no window."
)
DECODE_ERRORS = declare("mlmon_decode_errors", "counter", "", ("reason",), "Records and rows refused.")
DEAD_LETTERS = declare("mlmon_dead_letters", "counter", "", (), "Records and rows kept as dead letters.")
DROPPED = declare(
    "mlmon_dropped_events", "counter", "", (), "Events that emitters dropped because their queue was full."
)
LOST = declare(
    "mlmon_lost_records", "counter", "", _P, "Records that retention removed before they were read."
)
OVERFLOW = declare(
    "mlmon_label_overflow",
    "counter",
    "",
    ("kind",),
    "Events counted under `other`, windows closed early, or windows given up for the history, because a cap "
    "was reached (kind: series, segment, feature, window, partition, version, history).",
)
SERIES = declare("mlmon_series", "gauge", "", (), "Series kept at present.")
OPEN_WINDOWS = declare("mlmon_open_windows", "gauge", "", (), "Window states not yet closed.")
CLOSED_WINDOWS = declare("mlmon_closed_windows", "counter", "", (), "Windows closed and read.")
ASSIGNED = declare("mlmon_partitions_assigned", "gauge", "", (), "Partitions this sidecar reads.")
SPLIT_SERIES = declare(
    "mlmon_split_series",
    "gauge",
    "",
    (),
    "Series that also arrive in partitions of another sidecar: their window readings are partial.",
)
LAG_RECORDS = declare("mlmon_consumer_lag_records", "gauge", "", _P, "Log records not yet read.")
LAG_EVENTS = declare(
    "mlmon_consumer_lag_events", "gauge", "", _P, "Events not yet read, at the recent events per record."
)
LAG_SECONDS = declare(
    "mlmon_consumer_lag_seconds",
    "gauge",
    "seconds",
    _P,
    "Age of the last record read while more are waiting; 0 at the end of the log.",
)
WATERMARK_AGE = declare(
    "mlmon_watermark_age_seconds", "gauge", "seconds", (), "Wall clock less the event-time watermark."
)
CHECKPOINTS = declare("mlmon_checkpoints", "counter", "", (), "Checkpoints committed.")
CHECKPOINT_FAILURES = declare(
    "mlmon_checkpoint_failures", "counter", "", ("kind",), "Commits that failed (kind: fenced, error)."
)
CHECKPOINT_AGE = declare(
    "mlmon_checkpoint_age_seconds", "gauge", "seconds", (), "Time since the last commit or clean idle loop."
)
CHECKPOINT_SIZE = declare("mlmon_checkpoint_size_bytes", "gauge", "bytes", (), "Bytes of the last commit.")
CHECKPOINT_SECONDS = declare(
    "mlmon_checkpoint_duration_seconds", "gauge", "seconds", (), "Duration of the last commit."
)
SOURCE_ERRORS = declare("mlmon_source_errors", "counter", "", (), "Polls that failed and were retried.")
STATE_DISCARDED = declare(
    "mlmon_state_discarded",
    "counter",
    "",
    (),
    "Stored summaries left out because a monitor's parameters changed.",
)
REGISTRY_RELOADS = declare(
    "mlmon_registry_reloads",
    "counter",
    "",
    ("outcome",),
    "Changes of the version registry's file (outcome: ok, or refused where the file is broken).",
)
REGISTRY_ENTRIES = declare("mlmon_registry_entries", "gauge", "", (), "Entries of the version registry.")
TRAINING_FAILED = declare(
    "mlmon_training_failed",
    "gauge",
    "",
    ("service", "model"),
    "1 where the last training of a model failed, as the version registry's file says.",
)
TRAINING_TIME = declare(
    "mlmon_training_timestamp_seconds",
    "gauge",
    "seconds",
    ("service", "model"),
    "When the last training of a model ended, as the version registry's file says.",
)
HTTP_REFUSED = declare(
    "mlmon_http_refused_connections",
    "counter",
    "",
    (),
    "Connections to the metrics port answered 503 because too many were being served.",
)
READINGS_DROPPED = declare(
    "mlmon_dropped_readings", "counter", "", (), "Readings not shown because too many are kept."
)
BUILD = declare("mlmon_build", "info", "", ("version", "python", "source"), "What is running.")
