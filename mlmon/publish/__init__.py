"""What mlmon knows, for others to fetch: Prometheus text over HTTP."""

from __future__ import annotations

from mlmon.publish.http import Health, HttpConfig, MetricsServer
from mlmon.publish.prometheus import Snapshot, SnapshotCollector
from mlmon.publish.readings import ReadingBoard

__all__ = ["Health", "HttpConfig", "MetricsServer", "ReadingBoard", "Snapshot", "SnapshotCollector"]
