"""What the emitter in a model server says of itself, on that server's own /metrics."""

from __future__ import annotations

from mlmon.catalog.base import declare

EMITTED = declare("mlmon_tap_events", "counter", "", (), "Events offered to the emitter.")
DROPPED = declare(
    "mlmon_tap_dropped_events",
    "counter",
    "",
    (),
    "Events that will never be sent: queue full, refused by the log, failed jobs, lost at exit.",
)
SENT = declare("mlmon_tap_sent_events", "counter", "", (), "Events in records that the log acknowledged.")
RECORDS = declare("mlmon_tap_sent_records", "counter", "", (), "Records that the log acknowledged.")
SINK_ERRORS = declare(
    "mlmon_tap_sink_errors", "counter", "", (), "Failed attempts to write a record; each is retried."
)
ERRORS = declare(
    "mlmon_tap_errors", "counter", "", (), "Exceptions in the tap or its hooks, kept from the requests."
)
TRUNCATED = declare(
    "mlmon_tap_truncated_bodies", "counter", "", (), "Captured bodies longer than max_body_bytes."
)
UNPARSED = declare("mlmon_tap_unparsed_bodies", "counter", "", (), "Captured bodies that are not JSON.")
QUEUE = declare("mlmon_tap_queue_events", "gauge", "", (), "Events waiting in the emitter's queue.")
QUEUE_BYTES = declare("mlmon_tap_queue_bytes", "gauge", "bytes", (), "Bytes waiting with them.")
