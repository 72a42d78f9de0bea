"""The Foundation SDK's parts that are used, imported in one place.

Its builder of classic dashboards warns at import that there is a newer kind (`dashboardv2`). The classic
model is meant: every Grafana from 10 on reads it, from files, through the API and by import, and the newer
kind is not provisioned from files everywhere yet. So that one warning is silenced, here and nowhere else.
"""

from __future__ import annotations

import warnings

from mlmon.errors import MissingExtraError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from grafana_foundation_sdk.builders import common as common_builders
        from grafana_foundation_sdk.builders import dashboard as dashboards
        from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.models import common, units
        from grafana_foundation_sdk.models import dashboard as model
        from grafana_foundation_sdk.models import heatmap as heatmap_model
        from grafana_foundation_sdk.models import prometheus as prometheus_model
except ImportError as error:
    raise MissingExtraError("grafana-foundation-sdk", "grafana") from error

__all__ = [
    "JSONEncoder",
    "common",
    "common_builders",
    "dashboards",
    "heatmap",
    "heatmap_model",
    "model",
    "prometheus",
    "prometheus_model",
    "stat",
    "table",
    "timeseries",
    "units",
]
