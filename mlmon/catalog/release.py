"""What `mlmon release` says of planned releases, through node_exporter's textfile collector.

Only while one goes on. Where the scrape of node_exporter sets a label `service` of its own, it needs
`honor_labels: true`.
"""

from __future__ import annotations

from mlmon.catalog.base import declare

_SERVICE = ("service",)

ACTIVE = declare(
    "mlmon_release_active", "gauge", "", _SERVICE, "1 while a planned release of the service goes on."
)
END = declare(
    "mlmon_release_end_timestamp_seconds",
    "gauge",
    "seconds",
    _SERVICE,
    "Planned end of the release, since 1970 UTC; from then on nothing is excused.",
)
